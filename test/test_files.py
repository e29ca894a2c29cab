"""Readers of picture, depth, cloud, sound, video and voxel files."""

from __future__ import annotations

import os
from pathlib import Path
import wave

import numpy as np
from PIL import Image
import pytest

from onellm_ros.files import (
    FileError,
    read_audio,
    read_depth,
    read_fmri,
    read_image,
    read_points,
    read_video,
)

SHARED = Path(os.environ.get('ONELLM_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def recording(name: str) -> Path:
    """Return a real recording, or skip the test."""
    path = SHARED / 'recordings' / name
    if not path.exists():
        pytest.skip(f'{path} is not there (set ONELLM_SHARED)')
    return path


@pytest.mark.parametrize('suffix', ['png', 'tiff', 'bmp', 'webp'])
def test_image_formats(tmp_path, suffix):
    path = tmp_path / f'a.{suffix}'
    Image.fromarray(RGB).save(path, **({'lossless': True} if suffix == 'webp' else {}))
    sample = read_image(path)
    assert np.array_equal(sample.data, RGB) and sample.data.flags.writeable


def test_image_kinds(tmp_path):
    smooth = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None], 24, 0)
    Image.fromarray(smooth).save(tmp_path / 'grey.png')
    assert np.array_equal(read_image(tmp_path / 'grey.png').data, np.dstack([smooth] * 3))
    Image.fromarray(smooth.astype(np.uint16) * 257).save(tmp_path / 'grey16.png')
    assert np.array_equal(read_image(tmp_path / 'grey16.png').data, np.dstack([smooth] * 3))
    rgba = np.dstack([RGB, np.zeros((24, 32), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / 'clear.png')
    assert not read_image(tmp_path / 'clear.png').data.any()
    Image.fromarray(RGB).convert('P').save(tmp_path / 'palette.gif')
    assert read_image(tmp_path / 'palette.gif').data.shape == (24, 32, 3)
    Image.fromarray(np.dstack([smooth] * 3)).save(tmp_path / 'a.jpg', quality=95)
    assert np.abs(read_image(tmp_path / 'a.jpg').data.astype(int)[..., 0] - smooth).max() < 12
    exif = Image.Exif()
    exif[0x0112] = 6                                        # to be turned by 90 degrees
    Image.fromarray(RGB).save(tmp_path / 'turned.png', exif=exif)
    assert np.array_equal(read_image(tmp_path / 'turned.png').data, np.rot90(RGB, -1))
    for name, array in (('u8', RGB), ('f', RGB / 255), ('f255', RGB.astype(float))):
        np.save(tmp_path / f'{name}.npy', array)
        assert np.array_equal(read_image(tmp_path / f'{name}.npy').data, RGB), name


def test_real_pictures():
    assert read_image(recording('photos/skimage_astronaut.png')).data.shape == (512, 512, 3)
    assert read_image(recording('rgbd/pcl_laptop_0_rgb.tiff')).data.shape == (480, 640, 3)
    depth = read_depth(recording('rgbd/pcl_laptop_0_depth.tiff'), intrinsics=(525, 525, 320, 240))
    assert depth.data.shape == (480, 640) and depth.intrinsics == (525, 525, 320, 240)
    valid = depth.data[np.isfinite(depth.data)]
    assert 0.3 < valid.min() and valid.max() < 2 and 0.7 < np.median(valid) < 1.2
    with pytest.raises(FileError, match='colour'):
        read_depth(recording('photos/skimage_coffee.png'))


def test_depth_units_and_missing_pixels(tmp_path):
    metres = RNG.uniform(0.5, 4, (24, 32)).astype(np.float32)
    metres[0, :4] = 0
    expected = np.where(metres > 0, metres, np.nan)
    millimetres = np.round(metres * 1000).astype(np.uint16)
    for suffix in ('png', 'tiff'):
        Image.fromarray(millimetres).save(tmp_path / f'd.{suffix}')
        found = read_depth(tmp_path / f'd.{suffix}').data
        assert found.dtype == np.float32
        assert np.allclose(found, expected, atol=6e-4, equal_nan=True)
    Image.fromarray(metres).save(tmp_path / 'f.tiff')
    np.save(tmp_path / 'f.npy', metres.astype('>f8'))
    np.save(tmp_path / 'mm.npy', millimetres)
    assert np.allclose(read_depth(tmp_path / 'f.tiff').data, expected, equal_nan=True)
    assert np.allclose(read_depth(tmp_path / 'f.npy').data, expected, equal_nan=True)
    assert np.allclose(read_depth(tmp_path / 'mm.npy').data, expected, atol=6e-4, equal_nan=True)
    tum = read_depth(tmp_path / 'd.png', scale=1 / 5000).data
    assert np.allclose(tum * 5, expected, atol=3e-3, equal_nan=True)
    metres[1, :3] = np.nan, np.inf, -1
    np.save(tmp_path / 'bad.npy', metres)
    assert np.isnan(read_depth(tmp_path / 'bad.npy').data[1, :3]).all()
    millimetres[2, 2] = 65535
    Image.fromarray(millimetres).save(tmp_path / 'd.png')
    assert np.isnan(read_depth(tmp_path / 'd.png').data[2, 2])


def test_depth_errors(tmp_path):
    Image.fromarray(RGB[..., 0]).save(tmp_path / 'eight.png')
    with pytest.raises(FileError, match='--depth-scale'):
        read_depth(tmp_path / 'eight.png')
    assert np.nanmax(read_depth(tmp_path / 'eight.png', 0.01).data) <= 2.55
    with pytest.raises(FileError, match='scale of -1'):
        read_depth(tmp_path / 'eight.png', -1.0)
    np.save(tmp_path / 'line.npy', np.zeros(5))
    with pytest.raises(FileError, match='expected one channel'):
        read_depth(tmp_path / 'line.npy')


READERS = {'image': read_image, 'depth': read_depth, 'points': read_points, 'audio': read_audio,
           'fmri': read_fmri, 'video': lambda path: read_video(path, 4)}


@pytest.mark.parametrize('name', READERS)
def test_broken_files_say_so(tmp_path, name):
    read = READERS[name]
    with pytest.raises(FileError, match='no such file'):
        read(tmp_path / 'missing')
    with pytest.raises(FileError, match='directory'):
        read(tmp_path)
    for content in (b'', b'hello', b'\x93NUMPY\x01', bytes(range(256)) * 8, b'ply\n',
                    b'# .PCD v0.7\n', b'RIFF\x00\x00\x00\x00WAVE', b'\x89PNG\r\n\x1a\n',
                    b'II*\x00\x08\x00\x00\x00', b'\xff\xd8\xff\xe0'):
        path = tmp_path / 'broken'
        path.write_bytes(content)
        with pytest.raises(FileError) as caught:
            read(path)
        assert str(path) in str(caught.value) and '\n' not in str(caught.value)


def test_truncated_pictures(tmp_path):
    for suffix in ('png', 'jpg', 'tiff'):
        Image.fromarray(RGB).save(tmp_path / f'a.{suffix}')
        content = (tmp_path / f'a.{suffix}').read_bytes()
        (tmp_path / f'a.{suffix}').write_bytes(content[:len(content) // 2])
        with pytest.raises(FileError, match='damaged|understood'):
            read_image(tmp_path / f'a.{suffix}')
    np.save(tmp_path / 'a.npy', RGB)
    (tmp_path / 'a.npy').write_bytes((tmp_path / 'a.npy').read_bytes()[:-7])
    with pytest.raises(FileError, match='damaged'):
        read_image(tmp_path / 'a.npy')
    (tmp_path / 'a.npy').write_bytes(b'\x93NUMPY\x01\x00\x10\x00' + b'{(((' + b' ' * 40)
    with pytest.raises(FileError, match='damaged'):
        read_points(tmp_path / 'a.npy')
    np.save(tmp_path / 'o.npy', np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FileError, match='damaged'):
        read_points(tmp_path / 'o.npy')


def test_fmri(tmp_path):
    np.save(tmp_path / 'a.npy', np.arange(12, dtype=np.int16).reshape(3, 4))
    assert np.array_equal(read_fmri(tmp_path / 'a.npy').data, np.float32([4, 5, 6, 7]))
    np.save(tmp_path / 'a.npy', np.zeros((2, 2, 2)))
    with pytest.raises(FileError, match=r'\[repeats, V\]'):
        read_fmri(tmp_path / 'a.npy')


def write_wav(path, rate, channels, samples):
    """Write 16-bit PCM with the standard library."""
    with wave.open(str(path), 'wb') as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, dtype='<i2').tobytes())


def test_audio(tmp_path):
    left = np.arange(-500, 500) * 30
    write_wav(tmp_path / 'a.wav', 8000, 2, np.stack([left, left // 2], 1))
    sample = read_audio(tmp_path / 'a.wav')
    assert sample.rate_hz == 8000 and sample.data.dtype == np.float32
    assert np.allclose(sample.data, (left + left // 2) / 2 / 32768, atol=1e-6)
    tail = read_audio(tmp_path / 'a.wav', seconds=0.025)
    assert tail.stamp_ns == 100_000_000 and np.array_equal(tail.data, sample.data[-200:])
    write_wav(tmp_path / 'a.wav', 8000, 1, [])
    with pytest.raises(FileError, match='no sound'):
        read_audio(tmp_path / 'a.wav')
    import soundfile
    tone = np.sin(np.arange(4800) / 10) * 0.5
    for suffix, tolerance in (('flac', 1e-4), ('ogg', 0.1), ('aiff', 1e-4)):
        soundfile.write(tmp_path / f'a.{suffix}', tone, 48000)
        found = read_audio(tmp_path / f'a.{suffix}')
        assert found.rate_hz == 48000 and np.abs(found.data - tone).max() < tolerance
    horn = read_audio(recording('audio/scaper_car_horn_1.wav'))
    assert horn.rate_hz == 44100 and horn.data.ndim == 1 and np.abs(horn.data).max() > 0.05


def write_video(path, codec, count, rate=10, gop=12):
    """Write frames whose brightness tells their number."""
    av = pytest.importorskip('av')
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        stream.codec_context.gop_size = gop
        for number in range(count):
            frame = np.full((48, 64, 3), 5 * number % 250, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


@pytest.mark.parametrize('suffix, codec', [('mp4', 'mpeg4'), ('avi', 'mpeg4'), ('mkv', 'mpeg4'),
                                           ('m4v', 'mpeg4')])
def test_video_frames_are_spread(tmp_path, suffix, codec):
    path = tmp_path / f'a.{suffix}'
    write_video(path, codec, 41)
    found = read_video(path, 5)
    assert [round(float(s.data.mean()) / 5) for s in found] == [0, 10, 20, 30, 40]
    assert found[0].data.shape == (48, 64, 3) and found[0].data.dtype == np.uint8
    stamps = [sample.stamp_ns for sample in found]
    assert stamps == sorted(set(stamps)) and stamps[0] == 0
    if suffix in ('mp4', 'mkv'):
        assert np.allclose(np.diff(stamps), 1e9, atol=2e6)
    assert len(read_video(path, 100)) == 41
    assert round(float(read_video(path, 1)[0].data.mean()) / 5) == 40


def test_long_video_is_sought(tmp_path):
    write_video(tmp_path / 'a.mp4', 'mpeg4', 49, rate=1)
    found = read_video(tmp_path / 'a.mp4', 4)
    assert [round(float(s.data.mean()) / 5) for s in found] == [0, 16, 32, 48]


def test_video_errors(tmp_path):
    write_wav(tmp_path / 'a.wav', 8000, 1, np.zeros(8000))
    with pytest.raises(FileError, match='no video stream'):
        read_video(tmp_path / 'a.wav', 4)
    write_video(tmp_path / 'a.mp4', 'mpeg4', 20)
    content = (tmp_path / 'a.mp4').read_bytes()
    (tmp_path / 'a.mp4').write_bytes(content[:len(content) // 2])
    with pytest.raises(FileError, match='a.mp4'):
        read_video(tmp_path / 'a.mp4', 4)
    with pytest.raises(FileError, match='0 frames'):
        read_video(tmp_path / 'a.mp4', 0)
