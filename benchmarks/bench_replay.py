"""Measure `onellm replay` against real time: one process and several, the same words from each.

The recording is made here: a simulated robot's camera (jpeg, 640x480, 10 Hz), depth (640x480,
5 Hz), clouds (8192 points, 5 Hz), IMU (200 Hz) and sound, written as a rosbag2 (mcap). Its
pictures repeat themselves; what they show does not change the cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import json
from pathlib import Path
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from _report import Report, Timing, arguments
import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from onellm_ros.simulation.render import Camera
from onellm_ros.simulation.world import LiveWorld

S = 1_000_000_000
BEGIN = 1_700_000_000 * S
GOAL = '>= 5'
FRAMES = 8              # different pictures and clouds, shown in turn
STORE = get_typestore(Stores.ROS2_JAZZY)
STORE.register(get_types_from_msg('uint8[] data', 'audio_common_msgs/msg/AudioData'))
Row = tuple[str, str, int, Any]     # topic, type, time, message


def message(kind: str, **fields: Any) -> Any:
    """Return a message of a type."""
    return STORE.types[kind](**fields)


def header(ns: int, frame: str) -> Any:
    """Return a header."""
    return message('std_msgs/msg/Header', frame_id=frame, stamp=message(
        'builtin_interfaces/msg/Time', sec=ns // S, nanosec=ns % S))


def pictures(world: LiveWorld, seconds: float) -> Iterator[Row]:
    """Yield what camera, depth camera and lidar deliver."""
    camera = Camera(640, 480)
    views = [world.observe_camera(i * 0.4, camera) for i in range(FRAMES)]
    jpegs = [np.asarray(cv2.imencode('.jpg', view.image[..., ::-1])[1]).reshape(-1)
             for view in views]
    depths = [np.nan_to_num(view.depth * 1000).astype('<u2').view(np.uint8).reshape(-1)
              for view in views]
    clouds = [world.cloud(i * 0.4)[:, :3].astype('<f4') for i in range(FRAMES)]
    fields = [message('sensor_msgs/msg/PointField', name=n, offset=4 * i, datatype=7, count=1)
              for i, n in enumerate('xyz')]
    for i in range(round(seconds * 10)):
        ns = BEGIN + i * S // 10
        yield ('/camera/image_raw/compressed', 'sensor_msgs/msg/CompressedImage', ns + 3_000_000,
               message('sensor_msgs/msg/CompressedImage', header=header(ns, 'camera'),
                       format='jpeg', data=jpegs[i % FRAMES]))
        if i % 2:
            continue
        place = i // 2 % FRAMES
        yield ('/camera/depth/image_raw', 'sensor_msgs/msg/Image', ns + 5_000_000,
               message('sensor_msgs/msg/Image', header=header(ns, 'camera'), height=480, width=640,
                       encoding='16UC1', is_bigendian=0, step=1280, data=depths[place]))
        yield ('/lidar/points', 'sensor_msgs/msg/PointCloud2', ns + 8_000_000,
               message('sensor_msgs/msg/PointCloud2', header=header(ns, 'base_link'), height=1,
                       width=len(clouds[place]), fields=fields, is_bigendian=False, point_step=12,
                       row_step=12 * len(clouds[place]), is_dense=True,
                       data=clouds[place].view(np.uint8).reshape(-1)))


def signals(world: LiveWorld, seconds: float) -> Iterator[Row]:
    """Yield what IMU and microphone deliver."""
    covariance, vector = np.zeros(9), STORE.types['geometry_msgs/msg/Vector3']
    turn = message('geometry_msgs/msg/Quaternion', x=0.0, y=0.0, z=0.0, w=1.0)
    stamps, values = world.imu_between(0.0, seconds)
    for stamp, row in zip(stamps, values.tolist(), strict=True):
        ns = BEGIN + round(float(stamp) * S)
        yield ('/imu/data', 'sensor_msgs/msg/Imu', ns + 1_000_000, message(
            'sensor_msgs/msg/Imu', header=header(ns, 'imu'), orientation=turn,
            orientation_covariance=covariance, angular_velocity=vector(*row[3:]),
            angular_velocity_covariance=covariance, linear_acceleration=vector(*row[:3]),
            linear_acceleration_covariance=covariance))
    for i in range(round(seconds * 10)):
        sound = (world.audio_between(i / 10, (i + 1) / 10) * 32767).astype('<i2')
        yield ('/audio', 'audio_common_msgs/msg/AudioData', BEGIN + (i + 1) * S // 10, message(
            'audio_common_msgs/msg/AudioData', data=sound.view(np.uint8)))


def record(path: Path, seconds: float) -> int:
    """Write the recording; returns the number of its messages."""
    world = LiveWorld(0)
    rows = sorted([*pictures(world, seconds), *signals(world, seconds)], key=lambda row: row[2])
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for topic, kind, ns, content in rows:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], ns, STORE.serialize_cdr(content, kind))
    return len(rows)


def cpu_s() -> float:
    """Return the seconds of CPU that processes started here have taken to their ends."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def replay(bag: Path, out: Path, options: list[str]
           ) -> tuple[float, float, list[dict[str, Any]]]:
    """Run the command; returns its seconds, those of CPU, and the lines of its results."""
    out.unlink(missing_ok=True)
    started, before = time.perf_counter(), cpu_s()
    done = subprocess.run(
        [sys.executable, '-m', 'onellm_ros.cli', 'replay', str(bag), '--out', str(out), *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    spent = time.perf_counter() - started
    if done.returncode:
        sys.exit(f'onellm replay ended with {done.returncode}:\n{done.stderr}')
    lines = out.read_text(encoding='utf-8').splitlines()
    return spent, cpu_s() - before, [json.loads(line) for line in lines]


def words(lines: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    """Return when each window began, and what was said."""
    return [(line['start_ns'], line.get('text')) for line in lines if 'start_ns' in line]


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    arguments(parser, repeats=3)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--seconds', type=float, default=90, help='of the recording')
    parser.add_argument('--processes', type=int, default=2, help='beside one')
    parser.add_argument('--ray', metavar='ADDRESS', help='a Ray cluster, too (needs ray)')
    args = parser.parse_args()
    repeats, seconds = (1, min(args.seconds, 12.0)) if args.quick else (args.repeats, args.seconds)
    report = Report('Replay of a recording against real time', 'torch', 'rosbags')
    with tempfile.TemporaryDirectory() as folder:
        bag, out = Path(folder) / 'bag', Path(folder) / 'out.jsonl'
        count = record(bag, seconds)
        size = sum(f.stat().st_size for f in bag.iterdir()) / 1e6
        print(f'{seconds:g} s, {count} messages, {size:.0f} MB; {args.model}, medians of '
              f'{repeats} repeats (lowest to highest)')
        base = ['--model', args.model, '--device', 'cpu']
        cases = {'1 process': base}
        several = ['--segment', f'{seconds / (2 * args.processes):g}']
        if args.processes > 1:
            cases[f'{args.processes} processes'] = [
                *base, '--processes', str(args.processes), *several]
        if args.ray:
            cases[f'Ray, {args.processes} workers'] = [
                *base, '--ray', args.ray, '--processes', str(args.processes), *several]
        said: list[tuple[Any, Any]] = []
        alone: Timing | None = None
        for name, options in cases.items():
            runs = [replay(bag, out, options) for _ in range(repeats)]
            found = words(runs[-1][2])
            if said and found != said:
                sys.exit(f'{name}: other windows or words than with one process')
            said = found
            going = Timing(tuple(seconds / summary(lines)['wall_s'] for *_, lines in runs))
            report.add(f'times real time, {name}', going, alone,
                       goal='' if alone else GOAL, unit='x',
                       more_is_better=True)
            alone = alone or going
            report.add(f'  the whole command, {name}',
                       Timing(tuple(seconds / spent for spent, *_ in runs)), unit='x')
            report.add(f'  CPU of the whole command, {name}',
                       Timing(tuple(cpu / seconds for _, cpu, _ in runs)), unit='s/s')
        report.note(f'{len(said)} windows, the same words from each; reference: one process')
    report.finish(args.json)


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the last line of the results."""
    return next(value if isinstance(value, dict) else line for line in reversed(lines)
                for value in line.values()
                if 'wall_s' in (value if isinstance(value, dict) else line))


if __name__ == '__main__':
    main()
