"""The annotated picture: any mixture of senses, awkward data and words, any size, and its time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
import shutil
import time

import cv2
import numpy as np
import pytest

from onellm_ros.modality import Modality, Sample
from onellm_ros.report import annotated_fonts, annotated_insets
from onellm_ros.report.annotated import Shown, annotated_picture
from onellm_ros.report.annotated_insets import insets_of
from onellm_ros.report.annotated_text import (
    AMBER,
    BACK,
    INK,
    PALE,
    cut,
    font,
    font_path,
    lines_that_fit,
)
from onellm_ros.report.annotated_traces import WAVE, traces_of
from onellm_ros.report.panels import scan_cloud

S = 1_000_000_000
RNG = np.random.default_rng(0)
RED, GREEN = (250, 10, 20), (15, 240, 30)


def plain(colour: tuple[int, int, int], shape: tuple[int, int] = (480, 640), topic: str = '/image'
          ) -> Sample:
    return Sample(S, np.full((*shape, 3), colour, np.uint8), 'camera', topic=topic)


def samples() -> dict[Modality, list[Sample]]:
    """Return something of every modality, as much as a robot sends in three seconds."""
    depth = RNG.uniform(0.5, 5.0, (480, 640)).astype(np.float32)
    depth[:90] = np.nan
    normal = RNG.normal(size=(480, 640, 3)).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    cloud = RNG.uniform(0.0, 1.0, (20000, 6)).astype(np.float32) * [4, 4, 2, 1, 1, 1]
    scan = np.stack([np.linspace(-2, 2, 400), np.full(400, 3.0)], axis=1).astype(np.float32)
    return {
        Modality.IMAGE: [plain(RED), plain(GREEN, topic='/rear')],
        Modality.DEPTH: [Sample(S, depth, topic='/depth')],
        Modality.NORMAL: [Sample(S, normal, topic='/normal')],
        Modality.POINT: [Sample(S, cloud.astype(np.float32), 'base_link', topic='/points')],
        Modality.IMU: [Sample(i * S // 200, RNG.normal(size=6), topic='/imu') for i in range(600)],
        Modality.AUDIO: [Sample(i * S // 10, RNG.normal(0, 0.1, 1600).astype(np.float32),
                                rate_hz=16000.0, topic='/audio') for i in range(30)],
        Modality.FMRI: [Sample(S, RNG.normal(size=512).astype(np.float32), 'synthetic')],
        Modality('scan'): [Sample(S, scan, 'laser')]}


def area(picture: np.ndarray, colour: tuple[int, int, int], near: int = 0) -> int:
    """Return how many pixels have a colour."""
    return int((np.abs(picture.astype(int) - colour).max(axis=2) <= near).sum())


def test_beams_that_met_nothing_are_no_points() -> None:
    beams = [[0.0, 2.0], [np.pi / 2, 3.0], [0.1, np.inf], [0.2, np.nan], [0.3, 0.0], [0.4, -1.0]]
    cloud = scan_cloud(np.array(beams, np.float32))
    np.testing.assert_allclose(cloud[:, :3], [[2, 0, 0], [0, 3, 0]], atol=1e-6)


def test_a_full_picture_is_drawn_in_time_and_shows_all() -> None:
    shown = Shown(samples(), 'A red box.', 'nano says', facts=[('window ended 0.2 s ago', False)])
    annotated_picture(shown)                     # warms the fonts
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        times = []
        for _ in range(5):
            start = time.process_time()
            picture = annotated_picture(shown)
            times.append(time.process_time() - start)
    finally:
        cv2.setNumThreads(threads)
    assert min(times) < 0.1
    assert picture.shape == (540, 960, 3) and picture.dtype == np.uint8
    assert area(picture, RED) > 0.15 * 540 * 960, 'the first camera is large'
    assert 1000 < area(picture, GREEN) < area(picture, RED), 'the second is an inset'
    assert area(picture, WAVE) > 500
    for modality, found in shown.samples.items():
        if modality is not Modality.IMAGE:
            without = {m: s for m, s in shown.samples.items() if m is not modality}
            assert (annotated_picture(replace(shown, samples=without)) != picture).any(), found


@pytest.mark.parametrize('modality', [*Modality, Modality('scan')])
def test_one_sense_alone_takes_the_room(modality: Modality) -> None:
    found = samples().get(modality, [])
    picture = annotated_picture(Shown({modality: found}, 'words'))
    nothing = annotated_picture(Shown({}, 'words'))
    if modality is Modality.VIDEO:               # its frames are the camera's
        assert (picture == nothing).all()
        return
    middle = picture[30:420]
    filled = (middle != BACK).any(axis=2).mean()
    assert filled > 0.35, 'not even a square that is as high as the room'
    assert (picture != nothing).any()


def test_absent_senses_leave_their_room_to_the_camera() -> None:
    everything = samples()
    areas = []
    for left_out in ((), (Modality.IMU, Modality.AUDIO)):
        kept = {m: s for m, s in everything.items() if m not in left_out}
        areas.append(area(annotated_picture(Shown(kept)), RED))
    areas.append(area(annotated_picture(Shown({Modality.IMAGE: [plain(RED)]})), RED))
    assert areas[0] < areas[1] <= areas[2]


@pytest.mark.parametrize('shape', [(1, 1), (1, 3000), (3000, 1), (2, 3), (33, 47), (4000, 6000)])
def test_pictures_of_any_size_are_shown_whole(shape: tuple[int, int]) -> None:
    data = np.zeros((*shape, 3), np.uint8)
    data[:, :] = RED
    data[-1:, -1:] = data[:1, :1] = RED
    picture = annotated_picture(Shown({Modality.IMAGE: [Sample(S, data)]}))
    fits = min(944 / shape[1], 380 / shape[0])
    expected = max(1, fits * shape[0]) * max(1, fits * shape[1])
    if min(shape) * fits >= 2:                   # else it is a line that nobody would see
        assert 0.8 * expected < area(picture, RED) < 1.2 * expected


@pytest.mark.parametrize('size', [(320, 240), (640, 360), (240 * 16, 240 * 9), (320, 2160),
                                  (3840, 240)])
def test_any_size_of_picture(size: tuple[int, int]) -> None:
    shown = Shown(samples(), 'word ' * 300, 'head ' * 50, True, [('fact ' * 40, True)] * 9)
    assert annotated_picture(shown, size).shape == (size[1], size[0], 3)
    assert annotated_picture(Shown(), size).shape == (size[1], size[0], 3)


@pytest.mark.parametrize('size', [(319, 240), (960, 239), (3841, 540), (0, 0)])
def test_a_size_that_cannot_be_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match='expected 320 x 240 to 3840 x 2160'):
        annotated_picture(Shown(), size)


def test_awkward_data_is_drawn_all_the_same() -> None:
    nothing = np.full((8, 8), np.nan, np.float32)
    awkward = {
        Modality.IMAGE: [Sample(0, np.zeros((1, 1, 3), np.uint8))],
        Modality.DEPTH: [Sample(0, nothing), Sample(0, np.full((3, 3), np.inf, np.float32)),
                         Sample(0, np.full((3, 3), 2.0, np.float32))],
        Modality.NORMAL: [Sample(0, np.repeat(nothing[..., None], 3, axis=2))],
        Modality.POINT: [Sample(0, np.full((5, 6), np.nan, np.float32)),
                         Sample(0, np.zeros((1, 6), np.float32), 'optical')],
        Modality.IMU: [Sample(0, np.full(6, np.nan)), Sample(0, np.full(6, 1e30))],
        Modality.AUDIO: [Sample(0, np.zeros(0, np.float32), rate_hz=16000.0),
                         Sample(5, np.full(3, np.nan, np.float32), rate_hz=8000.0),
                         Sample(5, np.zeros(3, np.float32), rate_hz=0.0)],
        Modality.FMRI: [Sample(0, np.zeros(1, np.float32)), Sample(0, np.zeros(0, np.float32))],
        Modality('scan'): [Sample(0, np.full((4, 2), np.inf, np.float32))]}
    for modality, found in awkward.items():
        assert annotated_picture(Shown({modality: found}, 'x')).std() > 1, modality
    assert annotated_picture(Shown(awkward, '')).shape == (540, 960, 3)


@pytest.mark.parametrize('text', [
    'word ' * 5000, 'W' * 3000, 'a\n\n\nb\r\nc\td', 'Größe: 3 m², привет, 你好 \U0001f916 عربى',
    '\x00\x07\x1b[31m \ud800 \ufeff', '', '\n' * 500, ' '])
def test_texts_of_any_kind(text: str) -> None:
    shown = Shown({Modality.IMAGE: [plain(RED)]}, text, 'nano says')
    picture = annotated_picture(shown)
    strip = picture[430:, 30:940]
    lower = annotated_picture(replace(shown, text=''))[430:, 30:940]
    assert (strip != lower).any() == bool(text.strip('\n \x00')), 'the words are not to be seen'
    assert (annotated_picture(shown)[534:] == BACK).all(), 'the words leave their box'


def test_words_are_wrapped_and_cut_by_their_width() -> None:
    lines, pixels = lines_that_fit('one two three four five six seven', 120, 60, 20.0)
    assert len(lines) > 1 and ' '.join(lines).startswith('one two')
    assert all(font(pixels).getlength(line) <= 120 for line in lines)
    long, smaller = lines_that_fit('many words here ' * 99, 120, 60, 20.0)
    assert smaller < 20.0 and long[-1].endswith('…')
    assert all(font(smaller).getlength(line) <= 121 for line in long)
    assert cut('short', 500, 12) == 'short'
    short = cut('x' * 400, 50, 12)
    assert short.endswith('…') and font(12).getlength(short) <= 50
    assert cut('words', 1, 12) == ''


def test_a_long_text_gets_more_room() -> None:
    camera = {Modality.IMAGE: [plain(RED)]}
    short, long = (area(annotated_picture(Shown(camera, 'some words ' * n)), RED)
                   for n in (3, 150))
    assert long < 0.8 * short
    lines, _ = lines_that_fit('some words ' * 90, 900, 150, 19.0)
    assert not lines[-1].endswith('…'), '990 letters fit'


def test_pictures_of_another_moment_than_the_newest_say_so() -> None:
    depth = np.full((48, 64), 2.0, np.float32)

    def notes(image_ns: int, *depth_ns: int) -> list[str]:
        camera, insets = insets_of({
            Modality.IMAGE: [replace(plain(RED), stamp_ns=image_ns)],
            Modality.DEPTH: [Sample(ns, depth) for ns in depth_ns]})
        assert camera is not None
        return [i.note.partition(' behind')[0] for i in (camera, *insets) if 'behind' in i.note]
    now = 1_700_000_000 * S
    assert notes(now, now, now - S // 5) == []
    assert notes(now - S, now, now - 2 * S) == ['1.0 s', '2.0 s']
    assert notes(now, 0, 7 * S) == [], 'no stamp, or of another clock'


@pytest.mark.parametrize('shape', [(480, 640), (1080, 1920), (1280, 720), (120, 160)])
def test_camera_and_insets_stand_in_the_middle(shape: tuple[int, int]) -> None:
    shown = Shown({Modality.IMAGE: [plain(RED, shape)],
                   Modality.DEPTH: [Sample(S, np.full((480, 640), 2.0, np.float32))]})
    columns = np.flatnonzero((annotated_picture(shown)[200:300] != BACK).any(axis=(0, 2)))
    left, right = columns[0], 959 - columns[-1]
    assert abs(left - right) <= 2, (left, right)


def test_the_title_of_a_slim_camera_is_whole() -> None:
    shown = {t: Shown({Modality.IMAGE: [plain(RED, (1280, 720), t)],
                       Modality.DEPTH: [Sample(S, np.full((480, 640), 2.0, np.float32))]})
             for t in ('/camera/colour/image_raw', '/camera/colour/image_rav')}
    one, other = (annotated_picture(s) for s in shown.values())
    assert (one != other).any(), 'its last letter is to be seen'


def test_the_picture_that_a_text_is_about_stands_beside_it() -> None:
    camera = {Modality.IMAGE: [plain(RED)]}
    shown = Shown(camera, 'A green wall. ' * 6, '3.0 s ago', about=plain(GREEN, (240, 320)))
    picture, without = (annotated_picture(s) for s in (shown, replace(shown, about=None)))
    assert area(picture, GREEN) > 80 * 60 and area(without, GREEN) == 0
    assert area(picture, RED) == area(without, RED), 'the newest one stays large'
    rows, columns = np.nonzero((picture == GREEN).all(axis=2))
    assert rows.min() > 430 and columns.min() > 700
    assert abs((columns.max() - columns.min()) / (rows.max() - rows.min()) - 4 / 3) < 0.05
    words = (picture == INK).all(axis=2)[430:]
    assert words.any() and not words[:, columns.min() - 4:].any(), 'no words over it'
    titles = set()
    for shape in ((400, 30), (4, 3), (30, 4000), (480, 640)):
        slim = annotated_picture(replace(shown, about=plain(GREEN, shape)))
        assert area(slim, GREEN) > 100
        titles.add(area(slim[432:452, 700:], PALE))
    assert len(titles) == 1 and titles.pop() > 5, 'the line above it is whole'


@pytest.fixture
def system_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A system with a font that has Chinese letters: DejaVu's under other numbers."""
    ttlib = pytest.importorskip('fontTools.ttLib')
    made = ttlib.TTFont(font_path(False))
    for table in made['cmap'].tables:
        if table.isUnicode():
            table.cmap.update({ord(c): table.cmap[ord('A')] for c in '左边有箱子'})
    path = tmp_path / 'fonts' / 'Chinese Sans.ttf'
    path.parent.mkdir()
    made.save(path)
    (tmp_path / 'fonts.conf').write_text(
        f'<?xml version="1.0"?><fontconfig><dir>{path.parent}</dir>'
        f'<cachedir>{tmp_path}/cache</cachedir></fontconfig>', encoding='utf-8')
    monkeypatch.setenv('FONTCONFIG_FILE', str(tmp_path / 'fonts.conf'))
    known = (annotated_fonts._system_fonts, annotated_fonts._font_with)
    for each in known:
        each.cache_clear()
    yield str(path)
    for each in known:
        each.cache_clear()


@pytest.mark.skipif(not shutil.which('fc-list'), reason='needs fontconfig')
def test_a_font_of_the_system_is_found_for_letters_that_dejavu_lacks(system_font: str) -> None:
    assert annotated_fonts.lacking('左边有 a\nbox ü') == set('左边有')
    assert annotated_fonts.font_for('Größe: привет') == ''
    assert annotated_fonts.font_for('左边有箱子 box') == system_font
    assert annotated_fonts.font_for('ロボット') == '', 'none has them'
    chinese, latin = (annotated_picture(Shown({}, t)) for t in ('左', 'A'))
    assert (chinese == latin).all(), 'it looks like an A in this font, and nothing is warned of'


def test_letters_that_no_font_has_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotated_fonts, '_system_fonts', lambda: ())
    annotated_fonts._font_with.cache_clear()
    known = annotated_picture(Shown({}, 'a box'))
    assert area(known, AMBER) == 0
    assert area(annotated_picture(Shown({}, 'ロボット')), AMBER) > 100
    annotated_fonts._font_with.cache_clear()


def test_what_fontconfig_lists_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ['0\tFalse\t/f/Serif.ttf\t20-7e 4f60', '0\tFalse\t/f/Bold Sans.ttf\t20-7e 4f60',
             '0\tTrue\t/f/Colour.ttf\t4f60', '1\tFalse\t/f/More.ttc\t4f60', 'nonsense',
             '0\tFalse\t/f/NotoSansCJK.ttc\t20-7e 4e00-9fff', '0\tFalse\t/f/x.ttf\tzz']
    monkeypatch.setattr(annotated_fonts, '_listed', lambda: '\n'.join(lines))
    annotated_fonts._system_fonts.cache_clear()
    try:
        assert [path for path, _ in annotated_fonts._system_fonts()] == [
            '/f/NotoSansCJK.ttc', '/f/Serif.ttf', '/f/Bold Sans.ttf']
        assert annotated_fonts._system_fonts()[0][1] == ((0x20, 0x7e), (0x4e00, 0x9fff))
    finally:
        annotated_fonts._system_fonts.cache_clear()


def test_what_is_old_or_silent_is_amber() -> None:
    shown = Shown({Modality.IMAGE: [plain(RED)]}, 'A red wall.', 'nano says')
    fresh = area(annotated_picture(shown), AMBER)
    assert fresh == 0
    assert area(annotated_picture(replace(shown, old=True)), AMBER) > 300
    silent = annotated_picture(replace(shown, silent_s={'/image': 2.5}))
    assert area(silent, AMBER) > 1000, 'a frame about the picture that does not move'
    assert area(annotated_picture(replace(shown, silent_s={'/other': 2.5})), AMBER) == 0


def test_traces_show_the_last_seconds_only() -> None:
    calm = [Sample(i * S // 100, np.array([0, 0, 9.8, 0, 0, 0])) for i in range(300)]
    shaken = [Sample(-5 * S, np.array([90.0, 0, 9.8, 9.0, 0, 0])), *calm]
    accelerometer, gyroscope = traces_of({Modality.IMU: shaken}, 2.0)
    assert float(accelerometer.high) < 12 and float(gyroscope.high) < 1
    wide, _ = traces_of({Modality.IMU: shaken}, 30.0)
    assert float(wide.high) > 80
    broken = [Sample(t * S // 10, np.array([0, 0, 9.8, 0, 0, 0])) for t in (0, 1, 2, 28, 29, 30)]
    picture = np.zeros((41, 301, 3), np.uint8)
    traces_of({Modality.IMU: broken}, 3.0)[0].draw(picture)
    drawn = (picture.max(axis=2) > 80).any(axis=0)
    assert drawn[2:18].all() and drawn[282:298].all() and not drawn[30:270].any()
    quiet = [Sample(0, np.zeros(16000, np.float32), rate_hz=16000.0, topic='/left')]
    loud = [Sample(S, np.full(8000, 0.5, np.float32), rate_hz=16000.0, topic='/left')]
    trace, = traces_of({Modality.AUDIO: quiet + loud}, 3.0)
    picture = np.zeros((41, 300, 3), np.uint8)
    trace.draw(picture)
    heard = (picture == WAVE).all(axis=2)
    assert heard[:5, 252:].any() and not heard[:15, :248].any(), 'loud in the last half second'
    other = [replace(s, topic='/right') for s in quiet]
    assert len(traces_of({Modality.AUDIO: quiet + other}, 3.0)) == 2


def test_a_great_cloud_is_thinned() -> None:
    cloud = RNG.uniform(-5, 5, (400_000, 6)).astype(np.float32)
    shown = Shown({Modality.POINT: [Sample(S, cloud, 'base_link')]})
    start = time.process_time()
    annotated_picture(shown)
    assert time.process_time() - start < 1.0
    assert annotated_insets._CLOUD_POINTS < len(cloud)
