"""The report of a replay as HTML: its pictures, its structure, escaping, kills and resumption."""

from __future__ import annotations

import base64
from collections.abc import Iterator
import hashlib
from html.parser import HTMLParser
import io
import json
from pathlib import Path
import re
import time
from typing import Any

import numpy as np
from PIL import Image
import pytest

from onellm_ros.modality import Modality, Sample
from onellm_ros.report.html import HtmlReport, ReportError, thumbnails
from onellm_ros.report.html_thumbnails import MOST_BYTES
from onellm_ros.report.html_traces import heard, imu_svg, value_grid
from onellm_ros.report.html_window import clock, moment
from onellm_ros.simulation.world import World

SECOND = 10 ** 9
BEGIN = 1_714_560_000 * SECOND
HOSTILE = '</script><script>alert(1)</script><!-- "\'&\x00\ud800\r\nnew line'
HEADER = {'onellm_replay': 1, 'model': 'nano@1a2b3c4d', 'bags': ['/data/kitchen'],
          'settings': {'window_s': 1.0, 'from': None}, 'questions': ['Is the way clear?']}
VOID = {'meta', 'link', 'br', 'img', 'input'}


class Page(HTMLParser):
    """A page read back: its windows, what they say, and the JSON in it; tags must be paired."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.windows: list[str] = []
        self.json: list[Any] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.tags.append(tag)
        if tag == 'article':
            self.windows.append('')

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ['script']:
            kind = self.seen[-1][1].get('type')
            self.scripts += [] if kind else [data]
            self.json += [json.loads(data)] if kind else []
        elif 'article' in self.tags:
            self.windows[-1] += data + '\n'


def read(path: Path) -> Page:
    return Page(path.read_text(encoding='utf-8'))


def record(number: int, text: str = 'A red box.', **more: Any) -> dict[str, Any]:
    """Return a line of a replay as it comes from JSON."""
    start = BEGIN + number * SECOND
    return {
        'window': number, 'start_ns': start, 'end_ns': start + SECOND, 'closed_by': 'watermark',
        'silent': [], 'left_out': {'point': 'no lidar'}, 'prompt': 'Describe.', 'text': text,
        'finish_reason': 'stop', 'tokens': 4, 'confidence': 0.93, 'encode_s': 0.1,
        'first_token_s': 0.02, 'total_s': 0.3,
        'modalities': [{'modality': 'image', 'topics': ['/cam'], 'count': 2,
                        'first_ns': start, 'last_ns': start + SECOND - 12_345_678,
                        'max_skew_ns': 0, 'late': 0, 'dropped': 1, 'expert_weights': [0.5, 0.5]}],
        'answers': [{'question': 'Is the way clear?', 'answer': f'yes {number}', 'error': 'NONE',
                     'error_msg': '', 'confidence': 0.8, 'choice_index': -1,
                     'choice_probabilities': []}], **more}


@pytest.fixture(scope='module')
def samples() -> dict[Modality, list[Sample]]:
    return World(3).sample().chosen()


@pytest.fixture(scope='module')
def pictures(samples: dict[Modality, list[Sample]]) -> dict[str, bytes]:
    return thumbnails(samples)


# ---- pictures -----------------------------------------------------------------------------------

def opened(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert('RGB'))


def test_every_modality_has_a_small_picture_in_little_time(
        samples: dict[Modality, list[Sample]], pictures: dict[str, bytes]) -> None:
    start = time.process_time()
    for _ in range(5):
        thumbnails(samples)
    assert (time.process_time() - start) / 5 < 0.06          # measured: 0.013
    assert list(pictures) == [m.value for m in samples] and len(pictures) == 8
    for name, picture in pictures.items():
        assert len(picture) <= MOST_BYTES
        if name != 'imu':
            assert opened(picture).std() > 10, name
    image = opened(pictures['image'])
    assert image.shape[1] <= 240 and image.shape[0] <= 180
    difference = image.astype(int) - np.asarray(Image.fromarray(
        samples[Modality.IMAGE][0].data).resize((image.shape[1], image.shape[0])))
    assert np.abs(difference).mean() < 8
    video = opened(pictures['video'])
    assert video.shape[1] > 3 * video.shape[0]


def test_large_and_noisy_samples_stay_small() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    chosen = {
        Modality.IMAGE: [Sample(0, noise, topic=f'/cam{i}') for i in range(6)],
        Modality.NORMAL: [Sample(0, rng.normal(size=(480, 640, 3)).astype(np.float32))],
        Modality.POINT: [Sample(0, rng.uniform(-9, 9, (200_000, 6)).astype(np.float32))],
        Modality.IMU: [Sample(i, rng.normal(size=6)) for i in range(4000)],
        Modality.AUDIO: [Sample(0, rng.normal(0, 0.3, 480_000).astype(np.float32),
                                rate_hz=48_000.0)],
        Modality.FMRI: [Sample(0, rng.normal(size=15_724))]}
    for name, picture in thumbnails(chosen).items():
        assert len(picture) <= MOST_BYTES, name
    one = thumbnails({Modality.IMAGE: [Sample(0, noise)]})['image']
    assert opened(thumbnails(chosen)['image']).shape[1] > 2 * opened(one).shape[1]


def test_awkward_samples_are_drawn_all_the_same() -> None:
    nothing = np.full((8, 8), np.nan, np.float32)
    chosen = {
        Modality.IMAGE: [Sample(0, np.zeros((1, 3000, 3), np.uint8))],
        Modality.DEPTH: [Sample(0, nothing)],
        Modality.NORMAL: [Sample(0, np.repeat(nothing[..., None], 3, axis=2))],
        Modality.POINT: [Sample(0, np.full((5, 6), np.nan, np.float32))],
        Modality.VIDEO: [Sample(0, np.zeros((3, 200, 3), np.uint8))],
        Modality.IMU: [Sample(0, np.full(6, np.nan))], Modality.FMRI: [Sample(0, np.zeros(0))],
        Modality.AUDIO: [Sample(0, np.zeros(0, np.float32), rate_hz=16000.0),
                         Sample(5, np.full(3, np.nan, np.float32), rate_hz=8000.0)],
        Modality('scan'): [Sample(0, np.array([[0.0, 2.0], [1.0, np.inf]], np.float32))]}
    assert set(thumbnails(chosen)) == {m.value for m in chosen}
    assert thumbnails({Modality.IMU: []}) == {}
    with pytest.raises(ValueError, match='rate'):
        thumbnails({Modality.AUDIO: [Sample(0, np.zeros(9, np.float32))]})


def test_motion_is_a_line_that_spans_its_range_and_breaks_where_nothing_was_measured() -> None:
    rows = np.zeros((100, 6))
    rows[:, 2], rows[40:60, 0] = np.linspace(0, 9.81, 100), np.nan
    drawing = imu_svg([Sample(i * 10 ** 7, row) for i, row in enumerate(rows)])
    assert '0 … 9.81 m/s²' in drawing
    traces = re.findall(r"stroke='#\w{6}' d='(M[^']*l[^']*)'", drawing)
    assert len(traces) == 6 and [t.count('M') for t in traces] == [2, 1, 1, 1, 1, 1]
    spike = np.zeros((2000, 6))
    spike[777, 5] = 3.0
    tall = imu_svg([Sample(i * 10 ** 6, row) for i, row in enumerate(spike)])
    assert re.search(r'l\d+ -[5-9]\d', tall)                # it is not thinned away


def test_sound_keeps_its_newest_minute() -> None:
    old = Sample(0, np.ones(1000, np.float32), rate_hz=1000.0)
    new = Sample(3600 * SECOND, np.full(4000, 0.5, np.float32), rate_hz=2000.0)
    wave, rate = heard([old, new])
    assert rate == 2000.0 and len(wave) == 120_000
    assert (wave[-4000:] == 0.5).all() and not wave[:-4000].any()
    assert value_grid(np.arange(15_724)).size <= 1024 * 3


# ---- the file -----------------------------------------------------------------------------------

def test_a_report_holds_all_words_and_pictures(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    path = tmp_path / 'r.html'
    report = HtmlReport.begin(path, HEADER)
    report.add(record(0), pictures)
    failed = record(1, error='the model failed: no memory', answers=[
        {'question': 'Is the way clear?', 'answer': '', 'error': 'TIMEOUT',
         'error_msg': 'no answer within 2 s', 'confidence': float('nan')}])
    del failed['text']
    report.add(failed, {})
    report.close({'windows': 2, 'speed': {'times real time': 3.5}})
    page = read(path)
    assert not page.tags                                    # all closed
    first, second = page.windows
    for words in ('A red box.', 'Is the way clear?', 'yes 0 (0.80)', '0:00.000 – 0:01.000',
                  '2024-05-01 10:40:01.000 UTC', 'image 2', 'point left out: no lidar'):
        assert words in first
    assert 'no memory' in second and 'no answer within 2 s' in second and 'nan' not in second
    state, view, shown, error, none = page.json
    assert state['header'] == HEADER and none == {} and error['error'] == failed['error']
    assert view['modalities'] == [{
        'modality': 'image', 'topics': ['/cam'], 'count': 2, 'dropped': 1,
        'expert_weights': [0.5, 0.5], 'age_s': pytest.approx(0.012345678),
        'span_s': pytest.approx(0.987654322), 'skew_s': 0}]
    assert set(shown) == set(pictures)
    for name, (kind, data) in shown.items():
        assert base64.b64decode(data) == pictures[name]
        assert kind == {'imu': 'image/svg+xml', 'point': 'image/png',
                        'fmri': 'image/png'}.get(name, 'image/jpeg')
    assert 'speed.times real time' in path.read_text()


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    HtmlReport.begin(tmp_path / 'r.html', HEADER).close({})
    page = read(tmp_path / 'r.html')
    policy = next(a['content'] or '' for t, a in page.seen if a.get('http-equiv'))
    script, = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    assert not [a for _, a in page.seen if a.get('src') or (a.get('href') or 'data:,') != 'data:,']
    assert not re.search(r'innerHTML|outerHTML|insertAdjacentHTML|eval\(|fetch\(|https?:', script)


def test_nothing_in_a_record_becomes_markup(tmp_path: Path) -> None:
    path = tmp_path / 'r.html'
    report = HtmlReport.begin(path, {
        'model': HOSTILE, 'bags': [HOSTILE], 'settings': {HOSTILE: HOSTILE},
        'questions': [HOSTILE]})
    bad = record(0, HOSTILE, window=HOSTILE, left_out={HOSTILE: HOSTILE}, silent=[HOSTILE])
    bad['modalities'][0] |= {'modality': HOSTILE, 'topics': [HOSTILE]}
    bad['answers'][0] |= {'question': HOSTILE, 'answer': HOSTILE}
    report.add(bad, {HOSTILE: b'<svg/>'})
    report.add(record(1, error=HOSTILE))
    report.close({HOSTILE: HOSTILE})
    page = read(path)
    assert len(page.scripts) == 1 and len(page.windows) == 2
    assert sum(tag == 'script' for tag, _ in page.seen) == 2 + 2 * 2
    shown = HOSTILE.replace('\x00', '\ufffd').replace('\ud800', '\ufffd').replace('\r', '')
    assert page.windows[0].count(shown) >= 4 and shown in page.windows[1]
    assert page.json[1]['text'] == HOSTILE                  # whole, for the script
    assert len([line for line in path.read_bytes().split(b'\n')
                if line.startswith(b'<article')]) == 2      # a window stays one line
    resumed = HtmlReport.resume(path, BEGIN + SECOND)
    assert resumed.windows == 1
    resumed.abandon()


def whole(path: Path, count: int, pictures: dict[str, bytes]) -> bytes:
    report = HtmlReport.begin(path, HEADER)
    for number in range(count):
        report.add(record(number), pictures)
    report.close({'windows': count})
    return path.read_bytes()


def cuts(text: bytes) -> Iterator[int]:
    """Yield lengths at which a kill may have left the file, within windows and behind them."""
    starts = [found.start() for found in re.finditer(b'<article', text)]
    for start in starts:
        yield from (start, start + 5, start + 300, start + 9000)
    yield from (text.index(b'</main>'), text.index(b'</main>') + 20, len(text))


def test_a_report_goes_on_after_a_kill_anywhere(
        tmp_path: Path, pictures: dict[str, bytes]) -> None:
    path = tmp_path / 'r.html'
    text = whole(path, 4, pictures)
    for cut in cuts(text):
        path.write_bytes(text[:cut])
        there = text[:cut].count(b'</article>\n')
        report = HtmlReport.resume(path, BEGIN + 3 * SECOND)
        assert report.windows == min(there, 3) and report.header == HEADER
        assert report.last_end_ns == (BEGIN + report.windows * SECOND if there else None)
        for number in range(report.windows, 4):
            report.add(record(number), pictures)
        report.close({'windows': 4})
        assert path.read_bytes() == text


def test_what_is_in_the_file_after_each_window_is_readable(
        tmp_path: Path, pictures: dict[str, bytes]) -> None:
    path = tmp_path / 'r.html'
    report = HtmlReport.begin(path, HEADER)
    for number in range(3):
        report.add(record(number, f'words {number}'), pictures)
        page = read(path)
        assert len(page.windows) == number + 1 and f'words {number}' in page.windows[number]
        assert page.tags == ['html', 'body', 'main']         # nothing within is open
    report.abandon()
    text = path.read_bytes()
    half = Page(text[:text.rindex(b'words 2') + 4].decode())
    assert 'words 1' in half.windows[1] and 'word' in half.windows[2]


def test_pictures_thin_out_evenly_before_a_report_grows_too_large(
        tmp_path: Path, pictures: dict[str, bytes]) -> None:
    path = tmp_path / 'r.html'

    def shown(count: int, **limits: Any) -> list[bool]:
        report = HtmlReport.begin(path, HEADER, **limits)
        for number in range(count):
            report.add(record(number), pictures)
        report.close({})
        return ['pictures_left_out' not in view for view in read(path).json[1::2]]

    size = len(whole(path, 1, pictures))
    assert all(shown(30, expected_windows=30))
    even = shown(30, expected_windows=30, most_bytes=10 * size)
    assert path.stat().st_size < 11 * size and 12 <= sum(even) <= 20
    assert even[0] and any(even[:10]) and any(even[10:20]) and any(even[20:])
    unknown = shown(30, most_bytes=10 * size)
    assert path.stat().st_size < 12 * size
    assert unknown == sorted(unknown, reverse=True) and 12 <= sum(unknown) < 30
    assert len(read(path).windows) == 30 and 'yes 29' in read(path).windows[29]


def test_several_recordings_have_each_its_own_time(tmp_path: Path) -> None:
    path = tmp_path / 'r.html'
    head = HEADER | {'bags': ['/data/kitchen', '/data/hall']}
    given = [record(4), record(5), record(0, bag=1), record(2, bag=1)]
    report = HtmlReport.begin(path, head)
    for one in given:
        report.add(one)
    report.close({})
    text, page = path.read_bytes(), read(path)
    for window, name, times in zip(page.windows, ('kitchen', 'kitchen', 'hall', 'hall'), (
            '0:00.000 – 0:01.000', '0:01.000 – 0:02.000', '0:00.000 – 0:01.000',
            '0:02.000 – 0:03.000'), strict=True):
        assert f'{name}, {times}' in window
    assert [view['bag'] for view in page.json[1::2]] == ['kitchen', 'kitchen', 'hall', 'hall']
    for there in (1, 2, 3):                     # where each begins is known again after a kill
        path.write_bytes(text[:text.index(b'<article class="w" id="w%d"' % there) + 9])
        report = HtmlReport.resume(path, BEGIN + 9 * SECOND)
        assert report.windows == there
        for one in given[there:]:
            report.add(one)
        report.close({})
        assert path.read_bytes() == text
    HtmlReport.begin(path, HEADER | {'bags': ['/day1/bag', '/day2/bag']}).close({})
    assert '<h1>/day1/bag, /day2/bag</h1>' in path.read_text()


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / 'r.html'
    with pytest.raises(ReportError, match='No such file'):
        HtmlReport.resume(path, 0)
    with pytest.raises(ReportError, match='can be written'):
        HtmlReport.begin(tmp_path / 'none' / 'r.html', HEADER)
    path.write_text('<html><p>holiday</p></html>')
    with pytest.raises(ReportError, match='found no report'):
        HtmlReport.resume(path, 0)
    assert 'holiday' in path.read_text()                    # and is left alone
    report = HtmlReport.begin(path, HEADER)
    with pytest.raises(ReportError, match='end_ns'):
        report.add({'window': 3, 'start_ns': 5})
    with pytest.raises(ValueError, match='JPEG, PNG or SVG'):
        report.add(record(0), {'image': b'GIF89a'})
    report.add(record(0))
    report.close({})
    assert len(read(path).windows) == 1
    path.write_text(path.read_text().replace('"onellm_report":1', '"onellm_report":7', 1))
    with pytest.raises(ReportError, match='format 7, expected 1'):
        HtmlReport.resume(path, 0)


def test_times_for_people() -> None:
    assert clock(3725.5) == '1:02:05.500' and clock(-0.25) == '-0:00.250'
    assert clock(59.9996) == '1:00.000' and moment(12_345_678_901) == '12.345 s'
    assert moment(BEGIN + 999_999_999) == '2024-05-01 10:40:00.999 UTC'
