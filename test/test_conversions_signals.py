"""IMU, audio and fMRI messages, and which modality a topic carries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onellm_ros.modality import Modality
from onellm_ros.ros.conversions import (
    AudioDecoder,
    AudioFormat,
    ConversionError,
    ImuMerger,
    audio_format,
    audio_sample,
    fmri_sample,
    guess_audio_format,
    imu_sample,
    modality_of_message,
    modality_of_type,
    reason_unused,
)

NAN = float('nan')
MS = 1_000_000


def header(ns: int) -> Any:
    stamp = SimpleNamespace(sec=ns // 10**9, nanosec=ns % 10**9)
    return SimpleNamespace(stamp=stamp, frame_id='f')


def imu(ns: int, accel: Any = (0, 0, 0), gyro: Any = (0, 0, 0), accel_cov: float = 0,
        gyro_cov: float = 0) -> Any:
    def vector(values: Any) -> Any:
        return SimpleNamespace(x=float(values[0]), y=float(values[1]), z=float(values[2]))
    return SimpleNamespace(
        header=header(ns), linear_acceleration=vector(accel), angular_velocity=vector(gyro),
        linear_acceleration_covariance=[accel_cov] + [0.0] * 8,
        angular_velocity_covariance=[gyro_cov] + [0.0] * 8)


def test_a_complete_imu_passes_at_once() -> None:
    merger = ImuMerger()
    for i in range(5):
        (sample,) = merger.add(imu(i * 5 * MS, (0, 0, 9.81), (0.1, 0.2, 0.3)), 'imu')
        np.testing.assert_array_equal(sample.data, [0, 0, 9.81, 0.1, 0.2, 0.3])
        assert sample.stamp_ns == i * 5 * MS and sample.data.dtype == np.float64
    assert merger.missing == ''


def test_a_noiseless_imu_at_rest_is_complete() -> None:
    assert len(ImuMerger().add(imu(0, (0, 0, 9.81), (0, 0, 0)))) == 1


def test_split_gyro_and_accel_become_one_stream_at_the_rate_of_the_gyro() -> None:
    merger, found = ImuMerger(), []
    for ns in range(0, 1000 * MS, 5 * MS):  # 200 Hz gyroscope, 62.5 Hz accelerometer
        found += merger.add(imu(ns, gyro=(ns * 1e-9 + 1e-6, 0, 1)))
        if ns % (16 * MS) < 5 * MS:
            at = ns // (16 * MS) * 16 * MS
            found += merger.add(imu(at, accel=(at * 1e-9, 0, 9.81)))
    found += merger.flush()
    assert len(found) == 200
    stamps = np.array([s.stamp_ns for s in found])
    assert (np.diff(stamps) == 5 * MS).all()
    data = np.stack([s.data for s in found])
    np.testing.assert_allclose(data[:-4, 0], stamps[:-4] * 1e-9, atol=1e-9)
    np.testing.assert_allclose(data[:, 3], stamps * 1e-9 + 1e-6)
    assert merger.missing == ''


def test_a_gyroscope_alone_leaves_with_zeros_and_says_so() -> None:
    merger, found = ImuMerger(), []
    for ns in range(0, 2000 * MS, 10 * MS):
        found += merger.add(imu(ns, gyro=(0, 0, 1), accel_cov=-1))
    assert 140 <= len(found) <= 150 and merger.missing == 'accelerometer'
    np.testing.assert_array_equal(found[0].data, [0, 0, 0, 0, 0, 1])


def test_an_accelerometer_alone_leaves_with_zeros_and_says_so() -> None:
    merger, found = ImuMerger(), []
    for ns in range(0, 2000 * MS, 10 * MS):
        found += merger.add(imu(ns, accel=(0, 0, 9.8), gyro_cov=-1))
    assert 140 <= len(found) <= 150 and merger.missing == 'gyroscope'
    np.testing.assert_array_equal(found[0].data, [0, 0, 9.8, 0, 0, 0])


def test_time_that_jumps_back_starts_anew() -> None:
    merger = ImuMerger()
    merger.add(imu(10**12, gyro=(0, 0, 1)))
    assert merger.add(imu(5 * 10**9, gyro=(0, 0, 2))) == []
    merger.add(imu(5 * 10**9 - MS, accel=(0, 0, 9)))
    found = merger.add(imu(5 * 10**9 + MS, accel=(0, 0, 9)))
    assert [s.stamp_ns for s in found] == [5 * 10**9]


@pytest.mark.parametrize('message', [
    imu(0), imu(0, (NAN, 0, 0), (1, 1, 1)), imu(0, (0, 0, 9), (np.inf, 0, 0)),
    imu(0, (1, 1, 1), (1, 1, 1), -1, -1), SimpleNamespace(header=header(0))])
def test_an_imu_that_cannot_be_used(message: Any) -> None:
    with pytest.raises(ConversionError, match='expected'):
        imu_sample(message)


# --------------------------------------------------------------------------------------- audio

def chunk(samples: Any, rate: int = 16000, channels: int = 1) -> Any:
    return SimpleNamespace(header=header(7), sample_rate_hz=rate, channels=channels,
                           samples=np.asarray(samples, np.int16))


def test_our_own_message() -> None:
    sample = audio_sample(chunk([16384, -16384, 0, 32767], 48000, 2))
    np.testing.assert_allclose(sample.data, [0, 32767 / 65536])
    assert (sample.rate_hz, sample.stamp_ns, sample.data.dtype) == (48000, 7, np.float32)


@pytest.mark.parametrize('rate', [0, 1, 2**32 - 1])
def test_rates_that_no_microphone_has(rate: int) -> None:
    with pytest.raises(ConversionError, match='1000 to 1000000'):
        audio_sample(chunk([0] * 10, rate))


@pytest.mark.parametrize('form,values', [
    ('S16LE', np.array([16384, -32768], '<i2')), ('S16BE', np.array([16384, -32768], '>i2')),
    ('S32LE', np.array([2**30, -2**31], '<i4')), ('F32LE', np.array([0.5, -1], '<f4')),
    ('F64LE', np.array([0.5, -1], '<f8')), ('S8', np.array([64, -128], 'i1')),
    ('U8', np.array([192, 0], 'u1'))])
def test_bare_bytes_of_every_format(form: str, values: np.ndarray) -> None:
    plain = SimpleNamespace(data=np.frombuffer(values.tobytes(), np.uint8))
    stamped = SimpleNamespace(header=header(9), audio=plain)
    for message, stamp in ((plain, 10**9 - 2 * 125000), (stamped, 9)):
        sample = audio_sample(message, AudioFormat(8000, 1, form), receive_ns=10**9)
        np.testing.assert_allclose(sample.data, [0.5, -1])
        assert sample.stamp_ns == stamp


@pytest.mark.parametrize('code,name,values', [
    (1, 'float32_data', [0.5, -1.0]), (2, 'int32_data', [2**30, -2**31]),
    (8, 'int16_data', [16384, -32768]), (16, 'int8_data', [64, -128]),
    (32, 'uint8_data', [192, 0])])
def test_the_other_audio_common_msgs(code: int, name: str, values: list[float]) -> None:
    arrays: dict[str, Any] = {f'{n}_data': [] for n in ('float32', 'int32', 'int16', 'int8',
                                                        'uint8')}
    arrays[name] = values
    info = SimpleNamespace(format=code, channels=1, rate=44100, chunk=2)
    audio = SimpleNamespace(audio_data=SimpleNamespace(**arrays), info=info)
    sample = audio_sample(SimpleNamespace(header=header(3), audio=audio))
    np.testing.assert_allclose(sample.data, [0.5, -1])
    assert sample.rate_hz == 44100


@pytest.mark.parametrize('message', [
    chunk([], 16000), chunk([1, 2, 3], 16000, 2), chunk([1], 0), chunk([1], 16000, 0),
    SimpleNamespace(data=b'123'), SimpleNamespace(data=b''), SimpleNamespace(words='hello')])
def test_audio_that_cannot_be_used(message: Any) -> None:
    with pytest.raises(ConversionError, match='expected'):
        audio_sample(message)


def test_stamps_without_header_are_continuous() -> None:
    decoder = AudioDecoder(AudioFormat(16000))
    jitter = np.random.default_rng(0).integers(0, 60 * MS, 50)
    message = SimpleNamespace(data=bytes(3200))  # 100 ms
    samples = [decoder.add(message, 10**12 + i * 100 * MS + int(j)) for i, j in enumerate(jitter)]
    stamps = [s.stamp_ns for s in samples if s is not None]
    assert set(np.diff(stamps)) == {100 * MS}
    late = decoder.add(message, 10**12 + 60 * 10**9)
    assert late is not None and late.stamp_ns == 10**12 + 60 * 10**9 - 100 * MS


def test_mp3_packets_are_decoded() -> None:
    av = pytest.importorskip('av')
    encoder = av.CodecContext.create('libmp3lame', 'w')
    encoder.sample_rate, encoder.layout, encoder.format = 16000, 'mono', 's16p'
    encoder.bit_rate = 64000
    wave = (np.sin(np.arange(576 * 40) * 2 * np.pi * 440 / 16000) * 16000).astype(np.int16)
    packets = []
    for i in range(40):
        frame = av.AudioFrame.from_ndarray(wave[None, i * 576:(i + 1) * 576], 's16p', 'mono')
        frame.sample_rate, frame.pts = 16000, i * 576
        packets += [bytes(p) for p in encoder.encode(frame)]
    decoder, total = AudioDecoder(), []
    for i, packet in enumerate(packets):
        sample = decoder.add(SimpleNamespace(data=np.frombuffer(packet, np.uint8)),
                             10**12 + i * 36 * MS)
        if sample is not None:
            assert sample.rate_hz == 16000
            total.append(sample.data)
    data = np.concatenate(total)[4000:12000]
    peak = np.abs(np.fft.rfft(data)).argmax() * 16000 / len(data)
    assert abs(peak - 440) < 4


def test_audio_formats() -> None:
    info = SimpleNamespace(channels=2, sample_rate=44100, sample_format='S16LE',
                           coding_format='wave')
    assert audio_format(info) == AudioFormat(44100, 2, 'S16LE')
    info.coding_format = 'mp3'
    assert audio_format(info).sample_format == 'mp3'
    info.coding_format = 'opus'
    with pytest.raises(ConversionError, match='opus'):
        audio_format(info)
    assert guess_audio_format(176400, 1.0) == AudioFormat(44100, 2)
    assert guess_audio_format(32000 * 5, 5.01) == AudioFormat(16000, 1)
    with pytest.raises(ConversionError, match='give the rate'):
        guess_audio_format(1234, 1.0)
    with pytest.raises(ConversionError, match='expected'):
        AudioFormat(0)


# ---------------------------------------------------------------------------------------- fmri

def test_fmri() -> None:
    sample = fmri_sample(SimpleNamespace(data=np.arange(5, dtype=np.float32)), 'fmri')
    np.testing.assert_array_equal(sample.data, np.arange(5))
    assert sample.stamp_ns == 0
    for data in ([], [1.0, NAN]):
        with pytest.raises(ConversionError, match='expected'):
            fmri_sample(SimpleNamespace(data=data))


# --------------------------------------------------------------------------------------- types

@pytest.mark.parametrize('kind,topic,expected', [
    ('sensor_msgs/msg/Image', '/camera/color/image_raw', Modality.IMAGE),
    ('sensor_msgs/Image', '/camera/depth/image_rect', Modality.DEPTH),
    ('sensor_msgs/msg/Image', '/camera/aligned_depth_to_color/image_raw', Modality.DEPTH),
    ('sensor_msgs/msg/Image', '/normals', Modality.NORMAL),
    ('sensor_msgs/msg/Image', '/segmentation/mask', None),
    ('sensor_msgs/msg/CompressedImage', '/cam/image_raw/compressed', Modality.IMAGE),
    ('sensor_msgs/msg/CompressedImage', '/depth/image_raw/compressedDepth', Modality.DEPTH),
    ('sensor_msgs/msg/PointCloud2', '/camera/depth/points', Modality.POINT),
    ('sensor_msgs/msg/Imu', '/imu', Modality.IMU),
    ('audio_common_msgs/msg/AudioStamped', '/mic', Modality.AUDIO),
    ('onellm_msgs/msg/AudioChunk', '/mic', Modality.AUDIO),
    ('std_msgs/msg/Float32MultiArray', '/fmri', Modality.FMRI),
    ('std_msgs/msg/Float32MultiArray', '/wheel_speeds', None),
    ('sensor_msgs/msg/LaserScan', '/scan', None)])
def test_types(kind: str, topic: str, expected: Modality | None) -> None:
    assert modality_of_type(kind, topic) is expected
    if expected is None:
        assert kind in reason_unused(kind, topic)


def test_the_first_message_decides_more_than_the_name() -> None:
    kind = 'sensor_msgs/msg/Image'
    for encoding, topic, expected in (
            ('16UC1', '/camera/image_raw', Modality.DEPTH),
            ('rgb8', '/depthai/rgb', Modality.IMAGE),
            ('mono16', '/depth/image', Modality.DEPTH), ('mono16', '/thermal', Modality.IMAGE),
            ('32FC3', '/x', Modality.NORMAL), ('32SC1', '/ids', None)):
        message = SimpleNamespace(encoding=encoding)
        assert modality_of_message(kind, topic, message) is expected, (encoding, topic)
    compressed = 'sensor_msgs/msg/CompressedImage'
    message = SimpleNamespace(format='16UC1; compressedDepth png')
    assert modality_of_message(compressed, '/x', message) is Modality.DEPTH
