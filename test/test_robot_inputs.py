"""A robot's own sources and frames in the running node, named by parameters."""

from __future__ import annotations

from collections.abc import Callable
import math
from pathlib import Path
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality, Sample
from onellm_ros.node_config import NodeConfig

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('rclpy.action')
pytest.importorskip('onellm_msgs.msg')

from geometry_msgs.msg import TransformStamped  # noqa: E402
from onellm_msgs.srv import Ask  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from rclpy.time import Time  # noqa: E402
from sensor_msgs.msg import Image, Imu, PointCloud2, PointField  # noqa: E402
from std_msgs.msg import Header, String  # noqa: E402
from test_perception_node import (  # noqa: E402
    BASE_S,
    Bench,
    FakeEngine,
    benches,  # noqa: F401
    imu_message,
    picture,
    stamp,
)
import yaml  # noqa: E402

from onellm_ros.perception.params_file import flat  # noqa: E402
from onellm_ros.perception.robot_params import with_robot  # noqa: E402
from onellm_ros.perception.sources import source_table  # noqa: E402
from onellm_ros.ros import parameters  # noqa: E402
from onellm_ros.ros.frames import Frames, Tf  # noqa: E402
from onellm_ros.ros.perception_node import PerceptionNode  # noqa: E402
from onellm_ros.ros.resolving import Resolver  # noqa: E402

Make = Callable[..., Bench]
TWO_CAMERAS = """
sources: ['front', 'rear']
source:
  front: {topic: '/front/image_raw', modality: 'image'}
  rear: {topic: '/rear/image_raw', type: 'sensor_msgs/msg/Image', modality: 'image',
         reliability: 'reliable'}
"""


def cloud(seconds: float, *points: tuple[float, float, float], frame: str = 'lidar'
          ) -> PointCloud2:
    data = np.asarray(points, np.float32)
    fields = [PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate('xyz')]
    return PointCloud2(header=Header(stamp=stamp(seconds), frame_id=frame), height=1,
                       width=len(data), fields=fields, point_step=12, row_step=12 * len(data),
                       data=data.tobytes())


def status(bench: Bench, name: str) -> dict[str, str]:
    found = next(s for s in bench.diagnostics[-1].status if s.name == f'perception: {name}')
    return {'': found.message, **{v.key: v.value for v in found.values}}


def test_two_cameras_of_which_the_first_falls_silent(benches: Make) -> None:  # noqa: F811
    bench = benches(**flat(yaml.safe_load(TWO_CAMERAS)))
    bench.activate()
    heard: list[Any] = []
    worker = bench.node._worker
    submit = worker.submit
    worker.submit = lambda selection: (heard.append(selection), submit(selection))
    topics = {'/front/image_raw': Image, '/rear/image_raw': Image}
    bench.connect(**topics)
    assert set(bench.node._inputs.intake._camera_of.values()) == {
        '/front/camera_info', '/rear/camera_info'}
    for i in range(60):
        at = BASE_S + i / 20
        for topic in topics:
            if topic.startswith('/rear') or i < 20:
                bench.publish(topic, picture(at))
        bench.until(lambda: bench.node._inputs.intake.feeds[-1].received == i + 1)
    bench.until(lambda: len(heard) >= 13)
    taken = [s.reports[0].sources for s in heard]
    assert taken[:5] == [('front',)] * 5 and set(taken[5:]) == {('rear',)}
    both = heard[2]
    assert set(both.of_sources(['rear']).samples) <= {Modality.IMAGE, Modality.VIDEO}
    assert both.of_sources(['rear']).reports[0].topics == ('/rear/image_raw',)
    answer = bench.ask('What is behind?', sources=['rear'])
    assert answer.success and list(answer.modalities[0].topics) == ['/rear/image_raw']
    wrong = bench.ask('What is left?', sources=['left'])
    assert wrong.error_code == Ask.Response.INVALID_SOURCE and 'front, rear' in wrong.error_msg


def test_types_that_only_the_publisher_knows(benches: Make) -> None:  # noqa: F811
    engine = FakeEngine()
    engine.modalities = (*FakeEngine.modalities, Modality.POINT)
    bench = benches(engine, **{
        'sources': ['eye', 'range', 'words', 'front'], 'source.eye.topic': '/eye',
        'source.range.topic': '/range', 'source.words.topic': '/words',
        'source.front.topic': 'front', 'source.front.modality': 'image'})
    bench.activate()
    inputs = bench.node._inputs
    assert set(inputs.intake.synchronizer.stats()) == {'front'}
    assert 'eye: no publisher on /eye' in inputs.silence()
    bench.publish('front', picture(BASE_S))
    bench.until(lambda: inputs.intake.feeds)
    bench.robot.create_publisher(String, '/words', 10)
    bench.connect(**{'/range': PointCloud2, '/eye': Image})
    before = inputs.intake.synchronizer
    bench.until(lambda: 'range' in before.stats())
    bench.until(lambda: any('words' in w and 'not one of the inputs' in w for w in bench.warnings))

    def publish(i: int) -> None:
        at = BASE_S + i / 20
        bench.publish('front', picture(at))
        bench.publish('/range', cloud(at, (i, 0, 0)))
        bench.publish('/eye', picture(at, encoding='32FC1', step=24,
                                      data=np.ones(24, np.float32).tobytes()))
    count = 0

    def known() -> bool:
        nonlocal count
        publish(count)
        count += 1
        return 'eye' in before.stats()
    bench.until(known)                      # the encoding says depth, not the name
    assert inputs.intake.synchronizer is before  # the windows of the others went on
    assert list(bench.node._choice.streams) == ['eye', 'range', 'front']
    assert bench.node._modality_of['eye'] is Modality.DEPTH
    for i in range(count, count + 40):
        publish(i)
        bench.until(lambda: inputs.intake.synchronizer.stats()['front'].received > 0)
    bench.until(lambda: any({'image', 'depth', 'point'} <= {
        r.modality for r in w.modalities if r.count} for w in bench.windows))
    bench.until(lambda: bench.diagnostics and any(
        s.name == 'perception: words' for s in bench.diagnostics[-1].status))
    assert 'String' in status(bench, 'words')['']


def test_publishers_of_several_types_and_of_another_one_later() -> None:
    sends = {'/front': ['std_msgs/msg/String', 'sensor_msgs/msg/CompressedImage'],
             '/mic': ['sensor_msgs/msg/Imu', 'onellm_msgs/msg/AudioChunk'],
             '/odd': ['nobody_msgs/msg/Thing']}
    said: list[str] = []
    node = SimpleNamespace(
        resolve_topic_name=lambda name: name,
        get_logger=lambda: SimpleNamespace(info=said.append),
        get_publishers_info_by_topic=lambda topic: [
            SimpleNamespace(topic_type=kind) for kind in sends[topic]])
    config = with_robot(NodeConfig(), {
        'sources': ['front', 'mic', 'odd'], 'source.front.topic': '/front',
        'source.front.modality': 'image', 'source.mic.topic': '/mic',
        'source.mic.modality': 'audio', 'source.odd.topic': '/odd'})
    found: list[Any] = []
    resolver = Resolver(node, source_table(config, list(Modality)), list(Modality),
                        lambda kind, text: said.append(f'{kind}: {text}'), found.append)

    def look() -> None:
        resolver._look_s = 0.0
        resolver.poll()
    look()
    assert [s.topics[0] for s in found] == [
        ('/front', 'sensor_msgs/msg/CompressedImage'), ('/mic', 'onellm_msgs/msg/AudioChunk')]
    assert 'front: publishers of /front send std_msgs/msg/String, sensor_msgs/msg/' \
        'CompressedImage; sensor_msgs/msg/CompressedImage is taken' in said
    assert any('nobody_msgs/msg/Thing is not installed' in text for text in said)
    assert set(resolver.waiting()) == {'odd'} and 'not installed' in resolver.waiting()['odd'][1]
    count = len(said)
    look()
    assert len(found) == 2 and len(said) == count + 1  # the odd one again; it is said once
    sends['/front'] = ['sensor_msgs/msg/Image']         # another driver took over
    look()
    assert found[2].topics == (('/front', 'sensor_msgs/msg/Image'),)
    sends['/front'] = ['sensor_msgs/msg/PointCloud2']
    look()
    assert len(found) == 3 and 'expected Image or CompressedImage' in said[-2] + said[-1]


def test_a_publisher_that_cannot_be_heard_is_named(benches: Make) -> None:  # noqa: F811
    bench = benches(**{'sources': ['front'], 'source.front.topic': '/front',
                       'source.front.modality': 'image', 'source.front.reliability': 'reliable'})
    bench.activate()
    bench.robot.create_publisher(Image, '/front', qos_profile_sensor_data)
    bench.until(lambda: any(
        'QoS' in w and '/robot (RELIABILITY: offers BEST_EFFORT, requested RELIABLE)' in w
        and 'source.front.reliability to auto' in w for w in bench.warnings))
    bench.until(lambda: len(bench.node._inputs._subscriptions) == 2)
    health = next(h for h in bench.node._inputs.health() if h.stream == 'front')
    assert health.incompatible.startswith('/front: /robot (RELIABILITY')
    assert health.stamps == 'header' and health.publishers == 1


def test_a_driver_with_another_clock_under_each_policy(benches: Make) -> None:  # noqa: F811
    policies = {'far': 'header', 'late': 'receive', 'moved': 'shift', 'out': 'refuse'}
    bench = benches(**{
        'sources': ['front', *policies], 'source.front.topic': '/front',
        'source.front.modality': 'image', 'source.front.type': 'sensor_msgs/msg/Image',
        **{f'source.{n}.topic': f'/{n}' for n in policies},
        **{f'source.{n}.type': 'sensor_msgs/msg/Imu' for n in policies},
        **{f'source.{n}.stamps': p for n, p in policies.items()}})
    bench.activate()
    bench.connect(**{'/front': Image, **{f'/{n}': Imu for n in policies}})
    heard: list[set[str]] = []
    submit = bench.node._worker.submit
    bench.node._worker.submit = lambda selection: (
        heard.append({o.source for o in selection.offers}), submit(selection))
    stats = bench.node._inputs.intake.synchronizer.stats

    def publish() -> bool:
        now_s = time.time()
        bench.publish('/front', picture(now_s))
        for name in policies:
            bench.publish(f'/{name}', imu_message(now_s - 3600))
        time.sleep(0.02)
        return stats()['far'].foreign and len(heard) > 5 and {'front', 'late', 'moved'} in heard
    bench.until(publish)
    bench.until(lambda: len([w for w in bench.warnings if '-3600.0' in w]) >= 5)
    told = '\n'.join(bench.warnings)
    assert 'while those of front agree' in told and 'they are corrected by that' in told
    assert 'the time of receipt is taken instead' in told and 'are refused' in told
    bench.diagnostics.clear()
    bench.until(lambda: bench.diagnostics)
    for name in policies:
        assert abs(float(status(bench, name)['clock_offset_s']) + 3600) < 1, name
    assert int(status(bench, 'out')['conversion_errors']) > 5
    assert int(status(bench, 'moved')['conversion_errors']) == 0


def test_a_cloud_of_a_turned_lidar_arrives_in_the_base_frame(
        benches: Make) -> None:  # noqa: F811
    engine = FakeEngine()
    engine.modalities = (Modality.POINT,)
    bench = benches(engine, **{
        'sources': ['low', 'high'], 'source.low.topic': '/low', 'source.high.topic': '/high',
        'source.low.type': 'sensor_msgs/msg/PointCloud2', 'source.low.frame': 'low_link',
        'source.high.type': 'sensor_msgs/msg/PointCloud2', 'window.merge_points': True,
        'extrinsics': ['low_link', 'roof'], 'extrinsic.low_link.xyz': [1.0, 0.0, 0.5],
        'extrinsic.low_link.rpy': [0.0, 0.0, math.pi / 2],
        'extrinsic.roof.frame': 'lidar', 'extrinsic.roof.xyz': [0.0, 0.0, 2.0]})
    bench.activate()
    bench.connect(**{'/low': PointCloud2, '/high': PointCloud2})
    for i in range(12):
        bench.publish('/low', cloud(BASE_S + i / 10, (1.0, 0.0, 0.0), frame=''))
        bench.publish('/high', cloud(BASE_S + i / 10 + 0.01, (0.0, 1.0, 0.0)))
    bench.until(lambda: any(len(e.get(Modality.POINT, ())) >= 2 for e in engine.encoded))
    shown = next(e[Modality.POINT] for e in engine.encoded if len(e[Modality.POINT]) >= 2)
    assert {s.frame_id for s in shown} == {'base_link'}
    found = {s.topic: s.data[0, :3] for s in shown}
    np.testing.assert_allclose(found['/low'], (1.0, 1.0, 0.5), atol=1e-6)
    np.testing.assert_allclose(found['/high'], (0.0, 1.0, 2.0), atol=1e-6)
    assert bench.warnings == []


class Buffer:
    """Stands in for tf2_ros.Buffer: one moving frame, one static one."""

    def __init__(self) -> None:
        self.cleared = 0
        self.asked: list[tuple[str, str, int]] = []

    def lookup_transform(self, target: str, source: str, at: Time) -> TransformStamped:
        self.asked.append((target, source, at.nanoseconds))
        newest = {'static': 0, 'broken': 0, 'moving': 100 * 10**9}.get(source)
        if newest is None:
            raise KeyError(f'{source} does not exist')
        if newest and at.nanoseconds > newest:
            raise KeyError('extrapolation into the future')
        message = TransformStamped(header=Header(stamp=Time(nanoseconds=newest).to_msg()))
        message.transform.translation.z = 3.0
        message.transform.rotation.w = float('nan') if source == 'broken' else 1.0
        return message

    def clear(self) -> None:
        self.cleared += 1


def test_transforms_of_tf2() -> None:
    buffer, made, said = Buffer(), [], []

    def listen(node: Any) -> Tf:
        made.append(node)
        return Tf(buffer, (KeyError,), lambda: made.append('closed'))
    node = SimpleNamespace()
    frames = Frames(node, NodeConfig(), lambda kind, text: said.append(text), listen)

    def at(frame: str, seconds: float) -> tuple[float, str]:
        sample = Sample(round(seconds * 1e9), np.zeros((1, 6), np.float32), frame)
        placed = frames(Modality.POINT, sample)
        return float(placed.data[0, 2]), placed.frame_id
    assert at('base_link', 1.0) == (0.0, 'base_link') and made == []  # nothing asked of tf2
    assert at('static', 1e9) == (3.0, 'base_link') and made == [node]
    assert at('/moving', 99.0) == (3.0, 'base_link')
    assert at('moving', 100.4) == (3.0, 'base_link')    # the newest, which is near
    assert buffer.asked[-1] == ('base_link', 'moving', 0)
    assert at('moving', 105.0) == (0.0, 'moving')
    assert 'the newest one is -5.0 s from the stamp: ' in said[0]
    assert at('unknown', 1.0) == (0.0, 'unknown') and len(said) == 1  # it may be on its way
    frames._asked_s -= 10
    assert at('unknown', 1.0) == (0.0, 'unknown')
    assert 'tf2' in said[1] and 'unknown does not exist' in said[1]
    assert at('broken', 1.0) == (0.0, 'broken') and 'expected finite numbers' in said[2]
    frames.clear()
    frames.close()
    assert buffer.cleared == 1 and made == [node, 'closed']
    assert at('static', 1.0) == (3.0, 'base_link') and made == [node, 'closed', node]
    without = Frames(node, NodeConfig(), lambda kind, text: said.append(text), lambda node: None)
    assert without(Modality.POINT, Sample(0, np.zeros((1, 6)), 'static')).frame_id == 'static'
    assert 'tf2_ros is not installed' in said[-1]


def test_parameters_of_a_file_and_of_a_running_node(tmp_path: Path) -> None:
    file = tmp_path / 'robot.yaml'
    tree = {**yaml.safe_load(TWO_CAMERAS), 'extrinsics': ['lidar'],
            'extrinsic': {'lidar': {'xyz': [1, 2, 3], 'rpy': [0.0, 0.0, 1.5]}}}
    tree['source'] = {**tree['source'], 'spare': {'topic': '/spare'}}
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': tree}}), encoding='utf-8')
    context = rclpy.Context()
    rclpy.init(context=context)
    node = PerceptionNode(loader=lambda model, device: FakeEngine(), context=context,
                          cli_args=['--ros-args', '--params-file', str(file)])
    try:
        config = parameters.read(node)
        assert [(s.name, s.topic, s.reliability) for s in config.sources] == [
            ('front', '/front/image_raw', ''), ('rear', '/rear/image_raw', 'reliable')]
        assert config.extrinsics[0].xyz == (1.0, 2.0, 3.0)
        assert 'source.spare' in parameters.without_effect(node)[0]
        descriptor = node.describe_parameter('source.front.stamps')
        assert 'inputs.stamp_policy' in descriptor.description

        def change(name: str, value: Any) -> Any:
            return node.set_parameters([Parameter(name, value=value)])[0]
        assert 'twice' in change('sources', ['a', 'a']).reason
        assert 'expected one of header' in change('source.front.stamps', 'guess').reason
        assert change('sources', ['front', 'top']).successful
        with pytest.raises(ConfigError, match="expected the topic of the source 'top'"):
            parameters.read(node)
        assert change('source.top.topic', 'two words').successful  # declared with its name
        with pytest.raises(ConfigError, match='expected the name of a topic'):
            parameters.read(node)
        assert change('source.top.topic', '/top').successful
        assert change('source.top.type', 'nobody_msgs/msg/Image').successful
        assert change('source.top.modality', 'image').successful
        assert node.trigger_configure() != rclpy.lifecycle.TransitionCallbackReturn.SUCCESS
        assert change('source.top.type', '').successful
        assert node.trigger_configure() == rclpy.lifecycle.TransitionCallbackReturn.SUCCESS
        assert 'clean it up' in change('source.top.topic', '/other').reason
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
