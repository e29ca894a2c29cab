"""Spans of videos and sounds, sound tracks of videos, and depth files that need explaining."""

from __future__ import annotations

from pathlib import Path
import struct

import numpy as np
from PIL import Image
import pytest
from senses_files import RATE, clip, tone
import torch

from onellm_ros.config import NANO, PRESETS
from onellm_ros.datasets.depths import DepthSignal, read_depth_signal
from onellm_ros.datasets.rows import Signal
from onellm_ros.datasets.signals import read_signal, sound_start
from onellm_ros.files import FileError, read_video
from onellm_ros.files.recordings import SilentError, has_sound, read_track
from onellm_ros.modality import Modality
from onellm_ros.preprocess import (
    PreprocessError,
    depth_tensor,
    normal_tensor,
    normals_from_depth,
)

KINDS = {'mp4': ('mpeg4', 'aac'), 'mkv': ('mpeg4', 'pcm_s16le'), 'avi': ('mpeg4', 'pcm_s16le')}


@pytest.fixture(scope='module', params=KINDS)
def film(request, tmp_path_factory) -> Path:
    """Return a video of 8 s with sound, in a container."""
    video, sound = KINDS[request.param]
    return clip(tmp_path_factory.mktemp('film') / f'a.{request.param}', 8.0, sound, video)


def loudness(wave: np.ndarray) -> list[float]:
    """Return the amplitude of each whole second of a tone."""
    seconds = [wave[at:at + RATE] for at in range(0, len(wave) - RATE // 2, RATE)]
    return [float(np.sqrt(2) * np.std(second[2000:-2000])) for second in seconds]


def test_sound_track_of_a_video(film):
    assert has_sound(film)
    sound = read_track(film)
    assert sound.rate_hz == RATE and sound.stamp_ns == 0 and sound.data.dtype == np.float32
    # Half of the left channel, as the right one is silent; coding costs aac a little.
    assert np.allclose(loudness(sound.data), 0.05 * np.arange(1, 9), rtol=0.05)
    n = min(len(sound.data), 8 * RATE)
    assert abs(len(sound.data) - 8 * RATE) < 0.1 * RATE
    assert np.corrcoef(sound.data[:n], tone(8)[:n])[0, 1] > 0.99      # neither late nor early


def test_spans_of_sound_and_video_belong_together(film):
    sound = read_track(film, (5.0, 7.0))
    assert len(sound.data) == 2 * RATE and sound.stamp_ns == 5_000_000_000
    assert np.allclose(loudness(sound.data), [0.3, 0.35], rtol=0.05)
    assert np.corrcoef(sound.data, tone(8)[5 * RATE:7 * RATE])[0, 1] > 0.99
    assert len(read_track(film, (5.0, 7.0), seconds=0.5).data) == RATE // 2
    frames = read_video(film, 5, (4.0, 4.5))
    assert np.allclose([f.data.mean() for f in frames], 5 * np.arange(40, 45), atol=4)
    if film.suffix != '.avi':                               # its frames have no times
        assert [round(f.stamp_ns / 1e8) for f in frames] == [40, 41, 42, 43, 44]
    frames = read_video(film, 3, (0.0, 100.0))
    assert np.allclose([f.data.mean() for f in frames], [0, 5 * 40, 5 * 29], atol=4)
    with pytest.raises(FileError, match=r'no frame from 9 to 10 s, .*; the file lasts 8'):
        read_video(film, 3, (9.0, 10.0))
    with pytest.raises(SilentError, match='no sound from 9 s on'):
        read_track(film, (9.0, 10.0))


def test_a_span_between_frames_shows_the_one_before(film, tmp_path):
    (frame,) = read_video(film, 4, (3.01, 3.05))            # as in slides, or a frame a second
    assert abs(frame.data.mean() - 5 * 30) < 6
    (frame,) = read_video(film, 4, (8.3, 9.3))              # annotated of a longer copy
    assert abs(frame.data.mean() - 5 * 29) < 6              # frame 79, grey 395 - 250
    if film.suffix == '.mkv':                               # what is lost is not what lasts
        whole = film.read_bytes()
        (tmp_path / 'cut.mkv').write_bytes(whole[:len(whole) // 2])
        with pytest.raises(FileError, match=r'cut.mkv: found no frame from 6.01 to 6.05 s'):
            read_video(tmp_path / 'cut.mkv', 4, (6.01, 6.05))


def test_videos_that_are_cut_short(film, tmp_path):
    content, cut = film.read_bytes(), tmp_path / f'cut{film.suffix}'
    if film.suffix == '.mp4':                               # as streamed: the index stands first
        at = content.index(b'moov') - 4
        cut.write_bytes(content[:at])
        with pytest.raises(FileError, match='no video that is understood'):
            read_signal(Modality.VIDEO, Signal(cut), NANO)
        return
    cut.write_bytes(content[:len(content) // 2])
    for window in (None, (2.0, 7.5)):
        with pytest.raises(FileError, match=rf'cut{film.suffix}: found nothing behind .* s, exp'):
            read_signal(Modality.VIDEO, Signal(cut, window_s=window), NANO)
    assert len(read_video(cut, 4)) == 4                     # elsewhere, what it holds is shown
    read_signal(Modality.VIDEO, Signal(cut, window_s=(1.0, 2.0)), NANO)      # all of that is there


@pytest.mark.parametrize('name', ['a.mkv', 'a.ts'])
def test_a_video_whose_times_begin_late_is_whole(name, tmp_path):
    import av

    with av.open(str(tmp_path / name), 'w') as container:
        stream = container.add_stream('mpeg2video', rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), 'rgb24')
            frame.pts = number + 60                         # from the sixth second on
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for window in (None, (2.0, 3.0)):
        read_signal(Modality.VIDEO, Signal(tmp_path / name, window_s=window), NANO)


def test_a_streamed_video_that_is_cut_short(tmp_path):
    import av

    path = tmp_path / 'a.mp4'
    rng = np.random.default_rng(0)
    with av.open(str(path), 'w', options={'movflags': 'faststart'}) as container:
        stream = container.add_stream('mpeg4', rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for _ in range(60):
            noise = rng.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, 'rgb24')))
        container.mux(stream.encode())
    assert read_signal(Modality.VIDEO, Signal(path), NANO).shape == (4, 3, 112, 112)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(FileError, match=r'a.mp4: found nothing behind 3.000 s, .* until 6.000 s'):
        read_signal(Modality.VIDEO, Signal(path), NANO)


def test_videos_are_turned_upright(tmp_path):
    import av

    path = tmp_path / 'a.mp4'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('mpeg4', rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        lying = np.zeros((48, 64, 3), np.uint8)
        lying[:, :32] = 255                                 # held upright, this half is above
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(lying, format='rgb24')))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    at = content.find(b'tkhd') + 44                         # the track's matrix: a quarter turn
    content[at:at + 36] = struct.pack('>9i', 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(content)
    for frame in (*read_video(path, 2), *read_video(path, 2, (0.0, 0.5))):
        assert frame.data.shape == (64, 48, 3) and frame.data.flags.c_contiguous
        assert frame.data[:28].mean() > 250 and frame.data[36:].mean() < 5


def test_a_track_that_starts_late_is_silent_before(tmp_path):
    path = clip(tmp_path / 'late.mkv', 3.0, 'pcm_s16le', late_s=1.0)
    sound = read_track(path)
    assert not sound.data[:RATE - 50].any()
    assert np.allclose(loudness(sound.data)[1:], [0.1, 0.15], rtol=0.05)


def test_videos_without_sound_and_broken_ones(tmp_path):
    silent = clip(tmp_path / 'silent.mp4', 1.0, sound='')
    assert not has_sound(silent)
    with pytest.raises(SilentError, match='silent.mp4: the file holds no sound track'):
        read_track(silent)
    with pytest.raises(SilentError, match='no sound track'):
        read_signal(Modality.AUDIO, Signal(silent), NANO)
    whole = clip(tmp_path / 'a.mkv', 4.0, 'pcm_s16le').read_bytes()
    (tmp_path / 'cut.mkv').write_bytes(whole[:len(whole) // 2])
    with pytest.raises(FileError, match=r'cut.mkv: found \d\.\d+ s of sound, expected .* cut'):
        read_track(tmp_path / 'cut.mkv')
    (tmp_path / 'noise.mp4').write_bytes(bytes(range(256)) * 20)
    for read in (read_track, has_sound):
        with pytest.raises(FileError, match='noise.mp4: found no video that is understood'):
            read(tmp_path / 'noise.mp4')
        with pytest.raises(FileError, match='no such file'):
            read(tmp_path / 'missing.mp4')


def test_signals_of_spans(film, tmp_path):
    whole = read_signal(Modality.AUDIO, Signal(film), NANO)
    part = read_signal(Modality.AUDIO, Signal(film, window_s=(4.0, 6.0)), NANO)
    assert whole.shape == part.shape == (1, 128, 256)
    assert float(part[..., :150].amax()) > float(whole[..., :50].amax()) + 0.1   # it is louder
    assert float(part[..., 210:].std()) < 1e-6                      # 2 s, then nothing
    video = read_signal(Modality.VIDEO, Signal(film, window_s=(2.0, 3.0)), NANO)
    assert video.shape == (4, 3, 112, 112)
    assert torch.equal(video.mean((1, 2, 3)).argsort(), torch.arange(4))


def test_spans_of_sound_files(tmp_path):
    import soundfile

    path = tmp_path / 'a.flac'
    soundfile.write(path, tone(4), RATE)
    part = sound_start(path, 1.5, (2.0, 9.0))
    assert part.stamp_ns == 2_000_000_000 and abs(len(part.data) - 1.5 * RATE) <= 1
    assert np.allclose(part.data, tone(4)[2 * RATE:2 * RATE + len(part.data)], atol=1e-3)
    assert len(sound_start(path, 9.0, (3.0, 3.5)).data) in (RATE // 2, RATE // 2 + 1)
    with pytest.raises(FileError, match='no sound from 4.5 s on, expected some; the file lasts 4'):
        sound_start(path, 1.0, (4.5, 5.0))
    soundfile.write(path, tone(0.01), RATE)
    with pytest.raises(PreprocessError, match=r'a.flac: audio: found 10.00 ms, expected at least'):
        read_signal(Modality.AUDIO, Signal(path), NANO)


def test_depth_as_sun_rgbd_stores_it_and_normals_of_depth(tmp_path):
    millimetres = np.full((60, 80), 2000, np.uint16) + np.arange(80, dtype=np.uint16) * 10
    millimetres[:4] = 0
    Image.fromarray((millimetres << 3) | (millimetres >> 13)).save(tmp_path / 'd.png')
    Image.fromarray(np.full((60, 80, 3), 99, np.uint8)).save(tmp_path / 'c.png')
    eye = (70.0, 70.0, 40.0, 30.0)
    signal = DepthSignal(tmp_path / 'd.png', tmp_path / 'c.png', rotated=True, intrinsics=eye)
    metres = read_depth_signal(signal).data
    assert np.isnan(metres[:4]).all() and np.allclose(metres[4:], millimetres[4:] / 1e3)
    rgb = np.full((60, 80, 3), 99, np.uint8)
    assert torch.equal(read_signal(Modality.DEPTH, signal, PRESETS['onellm_7b']),
                       depth_tensor(metres, 224, 'crop', 'relative', rgb))
    expected = normal_tensor(normals_from_depth(metres, eye), 112, 'squash', rgb)
    assert torch.equal(read_signal(Modality.NORMAL, signal, NANO), expected)
    with pytest.raises(FileError, match='without intrinsics, expected fx'):
        read_signal(Modality.NORMAL, DepthSignal(tmp_path / 'd.png', tmp_path / 'c.png'), NANO)
    np.save(tmp_path / 'm.npy', millimetres / 1e3)
    with pytest.raises(FileError, match='no 16-bit ones'):
        read_depth_signal(DepthSignal(tmp_path / 'm.npy', rotated=True))
    Image.fromarray(np.full((60, 80), 200, np.uint8)).save(tmp_path / 'b.png')
    for rotated in (True, False):
        with pytest.raises(FileError, match='b.png: found a picture of 8 bits, expected depth'):
            read_depth_signal(DepthSignal(tmp_path / 'b.png', rotated=rotated))
