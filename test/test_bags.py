"""Recordings of every kind: whole, bare, compressed, split, cut off, and of unknown types."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
import sqlite3
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from onellm_ros.modality import Modality
from onellm_ros.replay.bags import BagError, open_bag
from onellm_ros.replay.matching import match_topics, samples

JAZZY = get_typestore(Stores.ROS2_JAZZY)
NOETIC = get_typestore(Stores.ROS1_NOETIC)
COUNT = 40
AUDIO_DATA = 'audio_common_msgs/msg/AudioData'


def header(store: Any, ns: int) -> Any:
    kinds = store.types
    extra = {'seq': 0} if store is not JAZZY else {}
    return kinds['std_msgs/msg/Header'](
        stamp=kinds['builtin_interfaces/msg/Time'](sec=ns // 10**9, nanosec=ns % 10**9),
        frame_id='f', **extra)


def picture(store: Any, ns: int, encoding: str = 'rgb8') -> Any:
    size = {'rgb8': 3, 'mono8': 1, '16UC1': 2, '32SC1': 4}[encoding]
    return store.types['sensor_msgs/msg/Image'](
        header=header(store, ns), height=4, width=6, encoding=encoding, is_bigendian=0,
        step=6 * size, data=np.full(24 * size, 7, np.uint8))


def imu(store: Any, ns: int) -> Any:
    kinds = store.types
    vector, cov = kinds['geometry_msgs/msg/Vector3'], np.zeros(9)
    return kinds['sensor_msgs/msg/Imu'](
        header=header(store, ns), orientation_covariance=cov, angular_velocity_covariance=cov,
        orientation=kinds['geometry_msgs/msg/Quaternion'](x=0.0, y=0.0, z=0.0, w=1.0),
        angular_velocity=vector(x=0.1, y=0.0, z=0.0), linear_acceleration_covariance=cov,
        linear_acceleration=vector(x=0.0, y=0.0, z=9.8))


def script(store: Any) -> list[tuple[str, str, int, Any]]:
    """Return (topic, type, stamp, message) of a small recording."""
    out = []
    for i in range(COUNT):
        ns = 10**12 + i * 50_000_000
        out.append(('/cam/image_raw', 'sensor_msgs/msg/Image', ns, picture(store, ns)))
        out.append(('/cam/depth', 'sensor_msgs/msg/Image', ns, picture(store, ns, '16UC1')))
        out.append(('/imu', 'sensor_msgs/msg/Imu', ns + 1, imu(store, ns)))
        out.append(('/chatter', 'std_msgs/msg/String', ns + 2,
                    store.types['std_msgs/msg/String'](data='hello')))
    return out


def write2(path: Path, storage: StoragePlugin = StoragePlugin.SQLITE3,
           compression: CompressionMode | None = None) -> Path:
    writer = Writer2(path, version=9, storage_plugin=storage)
    if compression:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for topic, kind, ns, message in script(JAZZY):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=JAZZY)
            writer.write(connections[topic], ns, JAZZY.serialize_cdr(message, kind))
    return path


def write1(path: Path, store: Any = NOETIC, rows: Any = None) -> Path:
    with Writer1(path) as writer:
        connections: dict[str, Any] = {}
        for topic, kind, ns, message in rows or script(store):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], ns, store.serialize_ros1(message, kind))
    return path


def check_whole(path: Path, problems: int = 0) -> None:
    with open_bag(path) as bag:
        assert {t.name: t.count for t in bag.topics()} == dict.fromkeys(
            ('/cam/image_raw', '/cam/depth', '/imu', '/chatter'), COUNT)
        stamps = [m.stamp_ns for m in bag.messages()]
        assert len(stamps) == 4 * COUNT and stamps == sorted(stamps)
        assert (bag.start_ns, bag.end_ns) == (10**12, 10**12 + 39 * 50_000_000 + 3)
        assert len(bag.problems) == problems, bag.problems
        match = match_topics(bag)
        assert match.used == {'/cam/image_raw': Modality.IMAGE, '/cam/depth': Modality.DEPTH,
                              '/imu': Modality.IMU}
        assert 'std_msgs/msg/String' in match.unused['/chatter']
        counts = Counter(kind for kind, _ in samples(bag, match))
        assert set(counts.values()) == {COUNT}


@pytest.mark.parametrize('storage', list(StoragePlugin))
@pytest.mark.parametrize('compression', [None, CompressionMode.MESSAGE, CompressionMode.FILE])
def test_rosbag2(tmp_path: Path, storage: StoragePlugin, compression: CompressionMode | None
                 ) -> None:
    path = write2(tmp_path / 'bag', storage, compression)
    check_whole(path)
    (file,) = (f for f in path.iterdir() if f.suffix != '.yaml')
    check_whole(file)
    (path / 'metadata.yaml').unlink()
    check_whole(path)
    check_whole(file)


def test_rosbag1(tmp_path: Path) -> None:
    check_whole(write1(tmp_path / 'bag.bag'))
    check_whole(tmp_path)


def test_broken_metadata_is_said_and_not_needed(tmp_path: Path) -> None:
    path = write2(tmp_path / 'bag')
    (path / 'metadata.yaml').write_text('rosbag2_bagfile_information: [')
    check_whole(path, problems=1)


@pytest.mark.parametrize('kind', ['mcap', 'bag', 'db3'])
@pytest.mark.parametrize('part', [0.5, 0.9])
def test_cut_files_are_read_as_far_as_they_go(tmp_path: Path, kind: str, part: float
                                              ) -> None:
    if kind == 'bag':
        with Writer1(tmp_path / 'whole.bag') as writer:
            writer.chunk_threshold = 2048
            connection = writer.add_connection('/imu', 'sensor_msgs/msg/Imu', typestore=NOETIC)
            for i in range(400):
                writer.write(connection, 10**12 + i, NOETIC.serialize_ros1(
                    imu(NOETIC, i), 'sensor_msgs/msg/Imu'))
        whole = tmp_path / 'whole.bag'
    else:
        storage = StoragePlugin.MCAP if kind == 'mcap' else StoragePlugin.SQLITE3
        with Writer2(tmp_path / 'whole', version=9, storage_plugin=storage) as writer2:
            connection2 = writer2.add_connection('/imu', 'sensor_msgs/msg/Imu', typestore=JAZZY)
            for i in range(8000 if kind == 'mcap' else 2000):
                writer2.write(connection2, 10**12 + i, JAZZY.serialize_cdr(
                    imu(JAZZY, i), 'sensor_msgs/msg/Imu'))
        whole = next((tmp_path / 'whole').glob(f'*.{kind}'))
    data = whole.read_bytes()
    cut = tmp_path / f'cut.{kind}'
    cut.write_bytes(data[:int(len(data) * part)])
    with open_bag(cut) as bag:
        (topic,) = bag.topics()
        read = list(bag.messages())
        assert len(read) == topic.count and topic.count > 100
        assert [m.stamp_ns for m in read] == sorted(m.stamp_ns for m in read)
        assert any('not whole' in p for p in bag.problems)
        assert match_topics(bag).used == {'/imu': Modality.IMU}


@pytest.mark.parametrize('name,data,words', [
    ('a.mcap', b'', 'nothing to read'), ('a.bag', b'rubbish', 'nothing to read'),
    ('a.db3', b'\0' * 100, 'nothing to read'), ('a.txt', b'x', 'rosbag2 folder'),
    ('a.mcap.zstd', b'x', 'damaged')])
def test_files_without_anything(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BagError, match=words) as error:
        open_bag(tmp_path / name)
    assert 'expected' in str(error.value)


def test_no_such_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='check the path'):
        open_bag(tmp_path / 'none')
    with pytest.raises(BagError, match='ros2 bag record'):
        open_bag(tmp_path)


def test_types_that_only_the_bag_knows(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg('uint8[] data', AUDIO_DATA))
    store.register(get_types_from_msg(
        'uint8 channels\nuint32 sample_rate\nstring sample_format\nuint32 bitrate\n'
        'string coding_format', 'audio_common_msgs/msg/AudioInfo'))
    wave = (np.sin(np.arange(800) * 0.2) * 9000).astype('<i2')
    rows = [('/audio', AUDIO_DATA, 10**12 + i * 50_000_000,
             store.types[AUDIO_DATA](data=np.frombuffer(wave.tobytes(), np.uint8)))
            for i in range(20)]
    with open_bag(write1(tmp_path / 'bare.bag', store, rows)) as bag:
        match = match_topics(bag)
        assert match.audio is not None and match.audio.rate_hz == 16000
        assert 'bytes a second' in ' '.join(match.notes)
        found = [s for _, s in samples(bag, match)]
        assert len(found) == 20 and len(found[0].data) == 800
        assert len({s.stamp_ns for s in found}) == 20
    info = store.types['audio_common_msgs/msg/AudioInfo'](
        channels=2, sample_rate=8000, sample_format='S16LE', bitrate=0, coding_format='wave')
    rows.insert(0, ('/audio_info', 'audio_common_msgs/msg/AudioInfo', 10**12, info))
    with open_bag(write1(tmp_path / 'info.bag', store, rows)) as bag:
        match = match_topics(bag)
        assert match.audio is not None and match.audio.channels == 2
        assert 'audio_info' in ' '.join(match.notes)


def test_unknown_types_are_left_out_with_a_reason(tmp_path: Path) -> None:
    path = write2(tmp_path / 'bag')
    (file,) = path.glob('*.db3')
    with sqlite3.connect(file) as database:
        database.execute("UPDATE topics SET type='secret_msgs/msg/Thing' WHERE name='/chatter'")
    (path / 'metadata.yaml').unlink()
    with open_bag(path) as bag:
        assert '/chatter' not in [t.name for t in bag.topics()]
        assert any('secret_msgs/msg/Thing is unknown' in p for p in bag.problems)
        assert len(list(bag.messages())) == 3 * COUNT


def test_messages_that_do_not_fit_their_type_are_counted(tmp_path: Path) -> None:
    with Writer2(tmp_path / 'bag', version=9) as writer:
        connection = writer.add_connection('/imu', 'sensor_msgs/msg/Imu', typestore=JAZZY)
        good = JAZZY.serialize_cdr(imu(JAZZY, 5), 'sensor_msgs/msg/Imu')
        for i in range(6):
            writer.write(connection, 10**12 + i, good if i % 2 else bytes(good[:40]))
    with open_bag(tmp_path / 'bag') as bag:
        assert len(list(bag.messages())) == 3
        assert any('3 message(s) could not be read' in p for p in bag.problems)


def test_choices_and_overrides(tmp_path: Path) -> None:
    rows = []
    for i in range(6):
        ns = 10**12 + i
        for topic, encoding in (('/left', 'mono8'), ('/right', 'mono8'), ('/colour', 'rgb8'),
                                ('/seen', '32SC1')):
            if topic != '/colour' or i < 3:
                rows.append((topic, 'sensor_msgs/msg/Image', ns, picture(NOETIC, ns, encoding)))
    with open_bag(write1(tmp_path / 'bag.bag', NOETIC, rows)) as bag:
        match = match_topics(bag)
        assert match.used == {'/colour': Modality.IMAGE}  # colour beats the number of messages
        assert 'another topic' in match.unused['/left'] and '/seen' in match.unused
        assert any('/left' in line and 'not used' in line for line in match.lines())
        assert match_topics(bag, {'right': 'image'}).used == {'/right': Modality.IMAGE}
        assert match_topics(bag, {'/colour': 'none'}).used == {'/left': Modality.IMAGE}
        assert '16UC1' in match_topics(bag, {'/left': 'depth'}).unused['/left']
        with pytest.raises(BagError, match='expected one of /left'):
            match_topics(bag, {'/nothing': 'image'})
        with pytest.raises(ValueError, match='unknown modality'):
            match_topics(bag, {'/left': 'smell'})


@pytest.mark.parametrize('name,used,count', [
    ('husky_imu_odom_gps', {'/imu/data': 'imu'}, 11865),
    ('luminar_cloud', {'/luminar_pointcloud': 'point'}, 5),
    ('soccer_goal', {'/camera/image_raw': 'image'}, 2),
    ('kapture_t265', {'/camera/gyro/sample': 'imu', '/camera/accel/sample': 'imu',
                      '/camera/fisheye1/image_raw': 'image'}, 22),
    ('jsk_audio_applause.bag', {'/audio': 'audio'}, 1603)])
def test_real_recordings(recordings: Path, name: str, used: dict[str, str], count: int) -> None:
    with open_bag(recordings / 'bags' / name) as bag:
        match = match_topics(bag)
        assert match.used == used
        problems: dict[str, str] = {}
        found = list(samples(bag, match, problems))
        assert len(found) == count and not problems and not bag.problems
        for kind, sample in found:
            assert sample.stamp_ns > 0 and np.isfinite(sample.data).all()
            if kind is Modality.IMU:
                assert 9 < np.linalg.norm(sample.data[:3]) < 40 or name != 'kapture_t265'
            if kind is Modality.AUDIO:
                assert sample.rate_hz == 44100
