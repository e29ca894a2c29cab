"""Recordings and a model for the tests of replays; as a program: `onellm replay` with that model.

The model says a digest of what it was shown, so that two replays agree only if every sample does.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import hashlib
import os
from pathlib import Path
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from onellm_ros.config import NANO
from onellm_ros.modality import Modality
from onellm_ros.replay import command

S = 1_000_000_000
BASE = 1_700_000_000 * S
STORE = get_typestore(Stores.ROS2_JAZZY)
STORE.register(get_types_from_msg('uint8[] data', 'audio_common_msgs/msg/AudioData'))
KINDS = STORE.types


class FakeTensors(dict):
    left_out: Mapping[Modality, str] = {}


class FakeEngine:
    """Says what it was shown; ``REPLAY_DELAY`` makes it slow, ``REPLAY_BROKEN`` fail at some."""

    name, weights_hash, config = 'fake', '0123456789abcdef', NANO
    modalities = (Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.POINT, Modality.IMU,
                  Modality.AUDIO)

    def __init__(self) -> None:
        self.preprocessor = self
        self.asked = 0
        self.delay_s = float(os.environ.get('REPLAY_DELAY', '0'))

    def tensors(self, chosen: Mapping[Modality, Sequence[Any]], end_ns: int, strict: bool = True
                ) -> FakeTensors:
        assert not strict
        return FakeTensors({m: list(s) for m, s in chosen.items()})

    def encode(self, tensors: Mapping[Modality, Any]) -> Any:
        digest = hashlib.sha256()
        for modality, samples in tensors.items():
            for s in samples:
                digest.update(repr((modality.value, s.stamp_ns, s.topic, s.frame_id, s.rate_hz,
                                    s.intrinsics)).encode())
                digest.update(np.ascontiguousarray(s.data).tobytes())
        return SimpleNamespace(modalities=tuple(tensors), digest=digest.hexdigest()[:12],
                               expert_weights=dict.fromkeys(tensors, (0.25, 0.75)))

    def ask(self, prefix: Any, question: str, *, choices: Sequence[str] = (), max_tokens: int = 48,
            temperature: float = 0.0, cancel: Any = None, **_: Any) -> Any:
        self.asked += 1
        time.sleep(self.delay_s)
        if os.environ.get('REPLAY_BROKEN', '#') in prefix.digest:
            raise RuntimeError(f'no words for {prefix.digest}')
        text = f'{question} {prefix.digest} {" ".join(m.value for m in prefix.modalities)}'
        return SimpleNamespace(
            text=choices[1] if choices else text, tokens=3, finish_reason='stop',
            first_token_s=0.01, total_s=0.02, choice_index=1 if choices else -1, confidence=0.5,
            choice_probabilities=(0.25, 0.75) if choices else ())


ENGINES: list[FakeEngine] = []


def load_fake(config: Any) -> FakeEngine:
    """Return a fake engine, and keep it for those who count."""
    ENGINES.append(FakeEngine())
    return ENGINES[-1]


def header(ns: int, frame: str = 'f') -> Any:
    time_of = KINDS['builtin_interfaces/msg/Time'](sec=ns // S, nanosec=ns % S)
    return KINDS['std_msgs/msg/Header'](stamp=time_of, frame_id=frame)


def picture(ns: int, seed: int = 0, encoding: str = 'rgb8') -> Any:
    size = {'rgb8': 3, '16UC1': 2}[encoding]
    data = np.random.default_rng(seed).integers(1, 200, 24 * size).astype(np.uint8)
    return KINDS['sensor_msgs/msg/Image'](header=header(ns), height=4, width=6, is_bigendian=0,
                                          encoding=encoding, step=6 * size, data=data)


def imu(ns: int) -> Any:
    vector, cov = KINDS['geometry_msgs/msg/Vector3'], np.zeros(9)
    return KINDS['sensor_msgs/msg/Imu'](
        header=header(ns), orientation_covariance=cov, angular_velocity_covariance=cov,
        orientation=KINDS['geometry_msgs/msg/Quaternion'](x=0.0, y=0.0, z=0.0, w=1.0),
        angular_velocity=vector(x=0.1, y=0.0, z=ns % 977 / 977),
        linear_acceleration=vector(x=0.0, y=0.0, z=9.8), linear_acceleration_covariance=cov)


def camera(ns: int) -> Any:
    roi = KINDS['sensor_msgs/msg/RegionOfInterest'](
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return KINDS['sensor_msgs/msg/CameraInfo'](
        header=header(ns), height=8, width=12, distortion_model='', d=np.zeros(0), r=np.zeros(9),
        k=np.array([10.0, 0.0, 5.5, 0.0, 10.0, 3.5, 0.0, 0.0, 1.0]), p=np.zeros(12), binning_x=0,
        binning_y=0, roi=roi)


def cloud(ns: int, frame: str, shift: float = 0.0) -> Any:
    field = KINDS['sensor_msgs/msg/PointField']
    points = np.arange(30, dtype=np.float32).reshape(10, 3) + [1.0 + shift, 0.0, 0.0]
    return KINDS['sensor_msgs/msg/PointCloud2'](
        header=header(ns, frame), height=1, width=10, is_bigendian=False, point_step=12,
        row_step=120, is_dense=True, data=points.astype('<f4').view(np.uint8).reshape(-1),
        fields=[field(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate('xyz')])


def transform(parent: str, child: str, x: float) -> Any:
    pose = KINDS['geometry_msgs/msg/Transform'](
        translation=KINDS['geometry_msgs/msg/Vector3'](x=x, y=0.0, z=0.0),
        rotation=KINDS['geometry_msgs/msg/Quaternion'](x=0.0, y=0.0, z=0.0, w=1.0))
    return KINDS[TF](transforms=[KINDS['geometry_msgs/msg/TransformStamped'](
        header=header(BASE, parent), child_frame_id=child, transform=pose)])


CLOUD, TF = 'sensor_msgs/msg/PointCloud2', 'tf2_msgs/msg/TFMessage'
IMAGE, IMU, INFO = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/Imu', 'sensor_msgs/msg/CameraInfo')
AUDIO = 'audio_common_msgs/msg/AudioData'
Row = tuple[str, str, int, Any]     # topic, type, time of recording, message


def plain(seconds: float = 10.0, base: int = BASE) -> list[Row]:
    """Return a camera at 10 Hz and an IMU at 50 Hz with a little latency."""
    rows: list[Row] = []
    for i in range(round(seconds * 50)):
        ns = base + i * S // 50
        rows.append(('/imu', IMU, ns + 1_000_000, imu(ns)))
        if i % 5 == 0:
            rows.append(('/cam/image_raw', IMAGE, ns + 3_000_000, picture(ns, i)))
    return rows


def nasty(seconds: float = 60.0) -> list[Row]:
    """Return all that makes the windows hang on what was long ago.

    A calibration that came once, sound without stamps, a depth camera that falls silent for good,
    a camera that pauses and comes late, and time that jumps back.
    """
    rng = np.random.default_rng(5)
    rows: list[Row] = [('/cam/camera_info', INFO, BASE, camera(BASE))]
    for i in range(round(seconds * 20)):
        ns = BASE + i * S // 20
        own = ns if i < seconds * 14 else ns - 20 * S           # the clock of the stamps
        rows.append(('/imu', IMU, ns + int(rng.integers(0, 9_000_000)), imu(own)))
        if i % 4 == 0 and not 360 < i < 440:
            late = 900_000_000 if i % 148 == 0 else int(rng.integers(0, 30_000_000))
            rows.append(('/cam/image_raw', IMAGE, ns + late, picture(own, i)))
        if i % 10 == 0 and i < 400:
            rows.append(('/cam/depth', IMAGE, ns + 20_000_000, picture(own, i, '16UC1')))
        if i % 4 == 0:
            wave = (np.sin(np.arange(3200) * 0.1 + i) * 9000).astype('<i2').tobytes()
            rows.append(('/sound', AUDIO, ns + 200_000_000 + int(rng.integers(0, 20_000_000)),
                         KINDS[AUDIO](data=np.frombuffer(wave, np.uint8))))
    return sorted(rows, key=lambda row: row[2])


def write(path: Path, rows: Sequence[Row], plugin: StoragePlugin = StoragePlugin.MCAP) -> Path:
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections: dict[str, Any] = {}
        for topic, kind, ns, message in rows:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], ns, STORE.serialize_cdr(message, kind))
    return path


def replay(*words: object) -> int:
    """Run `onellm replay` with the fake model; returns its exit status."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]), load_fake)


if __name__ == '__main__':
    sys.exit(replay(*sys.argv[1:]))
