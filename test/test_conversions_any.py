"""Whatever a message holds, a conversion gives a sample in canonical form or a ConversionError."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np

from onellm_ros.ros.conversions import (
    COLOUR_ENCODINGS,
    AudioDecoder,
    AudioFormat,
    ConversionError,
    audio_sample,
    depth_sample,
    image_sample,
    normal_sample,
    point_sample,
)

HEADER = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0), frame_id='')
ENCODINGS = (*COLOUR_ENCODINGS, '16UC1', '32FC1', '32FC3', '64FC1', '32SC1', '', 'x')
LIMITS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def rubbish(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, max(size, 0), dtype=np.uint8)


@LIMITS
@given(st.sampled_from(ENCODINGS), st.integers(0, 6), st.integers(0, 6), st.integers(0, 60),
       st.sampled_from([0, 0, 0, 1, -1]), st.sampled_from([1, 1, 1.5, 3]), st.integers(0, 1))
def test_pictures(encoding: str, width: int, height: int, step: int, more: int, factor: float,
                  bigendian: int) -> None:
    message = SimpleNamespace(
        header=HEADER, width=width, height=height, encoding=encoding, is_bigendian=bigendian,
        step=step, data=rubbish(int(step * height * factor) + more, step))
    for convert, channels in ((image_sample, 3), (depth_sample, None), (normal_sample, 3)):
        try:
            data = convert(message).data
        except ConversionError as error:
            assert 'expected' in str(error) and 'found' in str(error)
        else:
            assert data.shape[1] == width and data.size
            assert data.ndim == 2 if channels is None else data.shape[2] == channels


@LIMITS
@given(st.binary(max_size=80), st.sampled_from(
    ['jpeg', 'png', '16UC1; compressedDepth png', '32FC1; compressedDepth rvl', '']))
def test_compressed_pictures(data: bytes, text: str) -> None:
    for lead in (b'', b'\xff\xd8\xff\xe0', b'\x89PNG\r\n\x1a\n', bytes(12) + b'\x89PNG\r\n\x1a\n'):
        message = SimpleNamespace(header=HEADER, format=text, data=lead + data)
        for convert in (image_sample, depth_sample, normal_sample):
            try:
                convert(message)
            except ConversionError as error:
                assert 'expected' in str(error)


fields = st.lists(st.builds(
    SimpleNamespace, name=st.sampled_from(['x', 'y', 'z', 'rgb', 'intensity', 'r', 'g', 'b', '']),
    offset=st.integers(0, 30), datatype=st.integers(0, 9), count=st.integers(0, 3)), max_size=8)
XYZ = [SimpleNamespace(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate('xyz')]


@LIMITS
@given(fields, st.booleans(), st.integers(0, 4), st.integers(0, 3), st.integers(0, 40),
       st.integers(0, 130), st.integers(-1, 1), st.booleans())
def test_clouds(extra: list[Any], with_xyz: bool, width: int, height: int, step: int,
                row_step: int, more: int, bigendian: bool) -> None:
    message = SimpleNamespace(
        header=HEADER, width=width, height=height, fields=(XYZ if with_xyz else []) + extra,
        point_step=step, row_step=row_step, is_bigendian=bigendian, is_dense=True,
        data=rubbish(max(row_step, width * step) * height + more, step))
    try:
        data = point_sample(message).data
    except ConversionError as error:
        assert 'expected' in str(error) and 'found' in str(error)
    else:
        assert data.shape[1] == 6 and 0 < len(data) <= width * height
        assert np.isfinite(data).all()
        assert ((data[:, 3:] >= 0) & (data[:, 3:] <= 1)).all()


@LIMITS
@given(st.binary(max_size=64), st.sampled_from(['S16LE', 'F32LE', 'U8', 'F64BE', 'mp3']),
       st.integers(1, 3), st.integers(0, 2**40))
def test_audio(data: bytes, form: str, channels: int, receive_ns: int) -> None:
    message = SimpleNamespace(data=data)
    format_ = AudioFormat(16000, channels, form)
    for convert in (lambda: audio_sample(message, format_),
                    lambda: AudioDecoder(format_).add(message, receive_ns)):
        try:
            sample = convert()
        except ConversionError as error:
            assert 'expected' in str(error)
        else:
            assert sample is None or (np.abs(sample.data) <= 1).all()
