"""Plays a recording into the inputs of the perception node, at its recorded rate.

Any bag that `onellm_ros.replay.bags` reads: rosbag2 (sqlite3, mcap) and ROS 1. Topics are matched
to the inputs by message type and content and published under the names of the inputs. Messages
whose type is the installed one are passed on as recorded bytes; others are copied by field names.
Audio of any package becomes onellm_msgs/AudioChunk, compressed depth becomes 32FC1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import signal
import sys
import threading
import time
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock

from onellm_ros.modality import Modality, Sample
from onellm_ros.replay.bag_sources import BagError
from onellm_ros.replay.bags import Bag, RawMessage, open_bag
from onellm_ros.replay.matching import TopicMatch, match_topics
from onellm_ros.ros import messages_out as out
from onellm_ros.ros.conversions import (
    AudioDecoder,
    AudioFormat,
    ConversionError,
    depth_sample,
    fmri_sample,
    normal_sample,
    point_sample,
)
from onellm_ros.ros.message_copy import fill_message, message_class

QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100,
                 reliability=ReliabilityPolicy.RELIABLE)
CLOCK_PERIOD_S = 0.01
_INPUTS = {
    Modality.IMAGE: 'image', Modality.DEPTH: 'depth', Modality.NORMAL: 'normal',
    Modality.POINT: 'points', Modality.IMU: 'imu', Modality.AUDIO: 'audio', Modality.FMRI: 'fmri'}
_DIRECT = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/PointCloud2', 'sensor_msgs/msg/Imu',
           'std_msgs/msg/Float32MultiArray', 'onellm_msgs/msg/AudioChunk',
           'sensor_msgs/msg/CameraInfo')
# What messages of other types are converted to: type, message -> sample, sample -> message.
_MADE: dict[Modality | None, tuple[str, Callable[[Any], Sample], Callable[..., Any]]] = {
    Modality.DEPTH: ('sensor_msgs/msg/Image', depth_sample, out.image_message),
    Modality.NORMAL: ('sensor_msgs/msg/Image', normal_sample, out.image_message),
    Modality.POINT: ('sensor_msgs/msg/PointCloud2', point_sample, out.exact_cloud_message),
    Modality.FMRI: ('std_msgs/msg/Float32MultiArray', fmri_sample,
                    lambda stamp_ns, frame, values: out.vector_message(values))}


@dataclass
class PlayReport:
    """What was played.

    :param published: input topic -> messages.
    :param failed: bag topic -> (messages left out, text of the first).
    :param seconds: wall time.
    :param late_s: largest delay of a message behind its time.
    """

    published: dict[str, int] = field(default_factory=dict)
    failed: dict[str, tuple[int, str]] = field(default_factory=dict)
    seconds: float = 0.0
    late_s: float = 0.0

    def lines(self) -> list[str]:
        """Return the report as lines for people."""
        counts = ', '.join(f'{n} on {topic}' for topic, n in self.published.items()) or 'nothing'
        lines = [f'played {counts} in {self.seconds:.1f} s (at most {self.late_s:.3f} s late)']
        return lines + [f'{topic}: {count} message(s) left out: {text}'
                        for topic, (count, text) in self.failed.items()]


@dataclass
class _Route:
    """Where one bag topic goes, and how: ``convert`` is None for passing bytes on."""

    publisher: Any
    name: str
    type_name: str
    convert: Callable[[Any, int], Any] | None


def input_name(match: TopicMatch, topic: str) -> str:
    """Return the input of the perception node that a matched topic feeds."""
    if topic == match.camera_info:
        return 'camera_info'
    modality = match.used[topic]
    if modality is Modality.IMAGE and match.types[topic].endswith('/CompressedImage'):
        return 'image/compressed'
    return _INPUTS[modality]


def _converter(topic: str, type_name: str, modality: Modality | None, match: TopicMatch
               ) -> tuple[str, Callable[[Any, int], Any]]:
    """Return the type to publish and the function that makes it from a bag's message."""
    if modality is Modality.AUDIO and type_name not in _DIRECT:
        decoder = AudioDecoder(match.audio)

        def audio(message: Any, recorded_ns: int) -> Any:
            sample = decoder.add(message, recorded_ns, topic)
            return None if sample is None else out.audio_message(
                sample.stamp_ns, sample.frame_id, sample.data, sample.rate_hz)
        return 'onellm_msgs/msg/AudioChunk', audio
    if type_name not in _DIRECT and modality in _MADE:
        made_type, sample_of, message_of = _MADE[modality]

        def convert(message: Any, _: int) -> Any:
            sample = sample_of(message)
            return message_of(sample.stamp_ns, sample.frame_id, sample.data)
        return made_type, convert
    made = message_class(type_name)
    return type_name, lambda message, _: fill_message(made(), message)


def _routes(bag: Bag, node: Node, match: TopicMatch) -> dict[str, _Route]:
    """Create the publishers.

    :raises BagError: when a message package that is needed is not installed.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    routes: dict[str, _Route] = {}
    publishers: dict[str, Any] = {}
    for topic in [*match.used, *([match.camera_info] if match.camera_info else [])]:
        kind, name = match.types[topic], input_name(match, topic)
        try:
            published, convert = _converter(topic, kind, match.used.get(topic), match)
            made = message_class(published)
        except ImportError as error:
            raise BagError(f'found no installed message for {topic} ({kind}): {error}; expected '
                           'its package; build or install it') from error
        same = published == kind and kind in store.fielddefs \
            and bag.type_hash(topic) == store.hash_rihs01(kind)
        if name not in publishers:
            publishers[name] = node.create_publisher(made, name, QOS)
        routes[topic] = _Route(publishers[name], name, published, None if same else convert)
    return routes


def wait_for_subscribers(routes: Sequence[Any], stop: threading.Event, seconds: float
                         ) -> list[str]:
    """Wait until every publisher has a subscriber.

    :param routes: publishers.
    :returns: names of the topics that still have none.
    """
    end = time.monotonic() + seconds
    while not stop.is_set():
        lonely = [p.topic_name for p in routes if p.get_subscription_count() == 0]
        if not lonely or time.monotonic() >= end:
            return lonely
        stop.wait(0.05)
    return []


class _Pace:
    """Holds messages back until their time, and publishes /clock meanwhile."""

    def __init__(self, rate: float, stop: threading.Event, clock: Any) -> None:
        """Start with the first message."""
        self.rate, self.stop, self.clock = rate, stop, clock
        self.bag_zero: int | None = None
        self.wall_zero = 0.0
        self.late_s = 0.0

    def wait_until(self, stamp_ns: int) -> bool:
        """Wait for the time of a stamp; false when stopped."""
        if self.bag_zero is None:
            self.bag_zero, self.wall_zero = stamp_ns, time.monotonic()
        target = self.wall_zero + (stamp_ns - self.bag_zero) * 1e-9 / self.rate
        while (left := target - time.monotonic()) > 0 and not self.stop.is_set():
            if self.clock is not None:
                self._tell(stamp_ns - int(left * self.rate * 1e9))
                left = min(left, CLOCK_PERIOD_S)
            self.stop.wait(left)
        self.late_s = max(self.late_s, time.monotonic() - target)
        if self.clock is not None:
            self._tell(stamp_ns)
        return not self.stop.is_set()

    def _tell(self, stamp_ns: int) -> None:
        """Publish the time of the recording."""
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(stamp_ns, 10**9)
        self.clock.publish(message)


def play(bag: Bag, node: Node, mapping: TopicMatch, rate: float = 1.0,
         stop_event: threading.Event | None = None, *, start_s: float = 0.0, loop: bool = False,
         clock: bool = False, wait_s: float = 10.0) -> PlayReport:
    """Publish the matched topics of a recording; blocks until its end.

    :param mapping: from `match_topics`.
    :param rate: speed; 2.0 plays twice as fast.
    :param stop_event: set it from another thread to stop.
    :param start_s: seconds to leave out at the begin.
    :param loop: begin again at the end, until stopped (stamps jump back, as with ros2 bag play).
    :param clock: publish the recorded time on /clock.
    :param wait_s: how long to wait for a subscriber of each topic before the first message.
    :returns: what was published, and what could not be.
    :raises BagError: for a rate that is not positive, or a message type that is not installed.
    """
    if not rate > 0:
        raise BagError(f'found the rate {rate}; expected a number above zero; 1 is as recorded')
    stop = stop_event or threading.Event()
    routes = _routes(bag, node, mapping)
    ticks = node.create_publisher(Clock, '/clock', 10) if clock else None
    report = PlayReport()
    try:
        lonely = wait_for_subscribers([r.publisher for r in routes.values()], stop, wait_s)
        if lonely:
            node.get_logger().warning(f'nobody listens to {", ".join(sorted(set(lonely)))}; '
                                      'playing anyway')
        begin = time.monotonic()
        while not stop.is_set():
            pace = _Pace(rate, stop, ticks)
            _play_once(bag, routes, pace, bag.start_ns + int(start_s * 1e9), report)
            report.late_s = max(report.late_s, pace.late_s)
            if not loop or not report.published:
                break
        report.seconds = time.monotonic() - begin
        _drain(routes, stop)
    finally:
        for publisher in {id(r.publisher): r.publisher for r in routes.values()}.values():
            node.destroy_publisher(publisher)
        if ticks is not None:
            node.destroy_publisher(ticks)
    return report


def _drain(routes: dict[str, _Route], stop: threading.Event) -> None:
    """Give the last messages time to arrive before the publishers go."""
    if not stop.is_set():
        for route in routes.values():
            route.publisher.wait_for_all_acked(Duration(seconds=1.0))


def _play_once(bag: Bag, routes: dict[str, _Route], pace: _Pace, start_ns: int,
               report: PlayReport) -> None:
    """Publish the recording once."""
    for raw in bag.raw_messages(list(routes), start_ns):
        if not pace.wait_until(raw.stamp_ns):
            return
        route = routes[raw.topic]
        try:
            message = raw.raw if route.convert is None else _converted(bag, route, raw)
        except (ConversionError, BagError) as error:
            count, first = report.failed.get(raw.topic, (0, str(error)))
            report.failed[raw.topic] = (count + 1, first)
            continue
        if message is not None:
            route.publisher.publish(message)
            report.published[route.name] = report.published.get(route.name, 0) + 1


def _converted(bag: Bag, route: _Route, raw: RawMessage) -> Any:
    """Return the message to publish; None if a codec still waits for more."""
    assert route.convert is not None
    return route.convert(bag.decode(raw), raw.stamp_ns)


def parse_audio_format(text: str) -> AudioFormat:
    """Read ``RATE[:CHANNELS[:FORMAT]]``, for example ``44100:2:S16LE``.

    :raises ConversionError: for values that cannot be.
    :raises ValueError: for a rate or channels that are no numbers.
    """
    parts = text.split(':')
    return AudioFormat(int(parts[0]), int(parts[1]) if len(parts) > 1 else 1,
                       parts[2].upper().replace('MP3', 'mp3') if len(parts) > 2 else 'S16LE')


def _parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog='bag_player', description='Play a recording into the inputs of the perception node.')
    parser.add_argument('bag', help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag file')
    parser.add_argument('--map', action='append', default=[], metavar='TOPIC=MODALITY',
                        help='use a topic as image, depth, normal, point, imu, audio, fmri, none')
    parser.add_argument('--rate', type=float, default=1.0, help='speed (default 1)')
    parser.add_argument('--start', type=float, default=0.0, help='seconds left out at the begin')
    parser.add_argument('--loop', action='store_true', help='begin again at the end')
    parser.add_argument('--clock', action='store_true', help='publish /clock')
    parser.add_argument('--wait', type=float, default=10.0,
                        help='seconds to wait for subscribers (default 10)')
    parser.add_argument('--audio-format', metavar='RATE:CHANNELS:FORMAT', type=parse_audio_format,
                        help='what audio bytes without a format are, e.g. 44100:2:S16LE')
    parser.add_argument('--list', action='store_true', help='only say what would be played')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = list(sys.argv if argv is None else ['bag_player', *argv])
    options = _parser().parse_args(remove_ros_args(words)[1:])
    overrides = dict(item.rpartition('=')[::2] for item in options.map)
    stop = threading.Event()
    try:
        with open_bag(options.bag) as bag:
            match = match_topics(bag, overrides, options.audio_format)
            print(f'{bag.path}: {(bag.end_ns - bag.start_ns) * 1e-9:.1f} s')
            for line in [*match.lines(), *(f'  problem: {p}' for p in bag.problems)]:
                print(line)
            if not match.used:
                raise BagError('found no topic that the model could use; see the reasons above; '
                               'give --map TOPIC=MODALITY to insist')
            if options.list:
                return 0
            sys.stdout.flush()
            return _run(bag, match, options, words, stop)
    except (BagError, ValueError) as error:
        print(f'bag_player: {error}', file=sys.stderr)
        return 1


def _run(bag: Bag, match: TopicMatch, options: argparse.Namespace, words: list[str],
         stop: threading.Event) -> int:
    """Play with a node of its own until the end or a signal."""
    rclpy.init(args=words, signal_handler_options=SignalHandlerOptions.NO)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    node = Node('bag_player')
    try:
        report = play(bag, node, match, options.rate, stop, start_s=options.start,
                      loop=options.loop, clock=options.clock, wait_s=options.wait)
        known = set(bag.problems)
        for line in [*report.lines(), *known]:
            print(line)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
