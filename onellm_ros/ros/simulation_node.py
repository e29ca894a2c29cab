"""The node ``simulation``: a simulated robot whose sensors speak on the inputs of ``perception``.

This module owns the topics, the parameters and the threads; the world itself is
``onellm_ros.simulation``, the messages are made by ``messages_out.py``, their times by
``simulation_feeds.py``. Whole seconds of the stamps are whole seconds of the world: at each of
them the truth of the window that ends there is published. The fMRI-like vector is synthetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
import signal
import sys
import threading
import time
from typing import Any

from onellm_msgs.msg import AudioChunk, Description
from rcl_interfaces.msg import ParameterDescriptor
import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, Imu, PointCloud2
from std_msgs.msg import Float32MultiArray, String

from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality
from onellm_ros.ros import messages_out as out
from onellm_ros.ros.simulation_feeds import Feed, run_at_once, run_live
from onellm_ros.ros.truth_json import truth_to_json
from onellm_ros.simulation.language import caption
from onellm_ros.simulation.render import Camera
from onellm_ros.simulation.world import LiveWorld

SECOND_NS = 1_000_000_000
IMU_HZ, AUDIO_CHUNK_S, WINDOW_S = 200.0, 0.1, 1.0
# Instants before the whole seconds: what a window shows is as near to its end as can be.
CAMERA_PHASE_S, CLOUD_PHASE_S, FMRI_PHASE_S = -0.01, -0.02, -0.1
IMU_BLOCK_S = 0.1
CAMERA_FRAME, BASE_FRAME = 'camera_optical_frame', 'base_link'
IMU_FRAME, MICROPHONE_FRAME = 'imu_link', 'microphone'
TOLD = frozenset((Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.POINT, Modality.IMU,
                  Modality.AUDIO))


def _setting(default: Any, text: str, low: float = 0.0, high: float = 0.0) -> Any:
    return field(default=default, metadata={'text': text, 'low': low, 'high': high})


@dataclass(frozen=True)
class SimulationConfig:
    """What the simulation can be told; its ROS parameters derive from this."""

    seed: int = _setting(0, 'Everything in the world follows from it.', 0, 2 ** 31 - 1)
    realtime: bool = _setting(
        True, 'Keep to the wall clock; false: as fast as possible, with the time on /clock.')
    camera_width: int = _setting(640, 'Pixels.', 32, 1920)
    camera_height: int = _setting(480, 'Pixels.', 24, 1080)
    camera_rate_hz: float = _setting(
        5.0, 'Pictures a second; some are left out when the CPU cannot keep up.', 0.1, 60.0)
    normals: bool = _setting(False, 'Publish surface normals too.')
    cloud_points: int = _setting(4096, 'Points of a cloud.', 16, 200_000)
    cloud_rate_hz: float = _setting(5.0, 'Clouds a second.', 0.1, 30.0)

    @property
    def camera(self) -> Camera:
        """The robot's camera."""
        return Camera(self.camera_width, self.camera_height)


def read_config(node: Node) -> SimulationConfig:
    """Declare the parameters and return their values.

    :raises ConfigError: for a value of another type or out of its range.
    """
    values: dict[str, Any] = {}
    for item in fields(SimulationConfig):
        low, high = item.metadata['low'], item.metadata['high']
        limits = f' {low:g} to {high:g}.' if high else ''
        found = node.declare_parameter(item.name, item.default, ParameterDescriptor(
            description=item.metadata['text'] + limits, read_only=True,
            dynamic_typing=True)).value
        kind = type(item.default)
        if kind is float and type(found) is int:
            found = float(found)
        if type(found) is not kind:
            raise ConfigError(f'{item.name}: found {found!r}, expected a {kind.__name__}')
        if high and not low <= found <= high:
            raise ConfigError(f'{item.name}: found {found}, expected {low:g} to {high:g}')
        values[item.name] = found
    return SimulationConfig(**values)


class SimulationNode(Node):
    """Publishes what the sensors of a simulated robot measure, and the truth about it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('simulation', **kwargs)
        self.config = read_config(self)
        if self.get_parameter('use_sim_time').value:
            raise ConfigError('use_sim_time: found true, expected false: this node makes the '
                              'time itself; set realtime to false to have it on /clock')
        deep = QoSProfile(depth=200)
        self._image = self.create_publisher(Image, 'image', 5)
        self._camera_info = self.create_publisher(CameraInfo, 'camera_info', 5)
        self._depth = self.create_publisher(Image, 'depth', 5)
        self._normal = self.create_publisher(Image, 'normal', 5) if self.config.normals else None
        self._points = self.create_publisher(PointCloud2, 'points', 5)
        self._imu = self.create_publisher(Imu, 'imu', deep)
        self._audio = self.create_publisher(AudioChunk, 'audio', 50)
        self._fmri = self.create_publisher(Float32MultiArray, 'fmri', 5)
        self._truth = self.create_publisher(Description, '/simulation/truth', 20)
        self._truth_json = self.create_publisher(String, '/simulation/truth_json', 20)
        self._clock_topic = None if self.config.realtime else self.create_publisher(
            Clock, '/clock', 20)
        self._base_ns = 0
        self._start_s = 0.0
        self.feeds: list[Feed] = []

    def warm_up(self) -> None:
        """Compile what renders (some seconds at the very first start) before time begins."""
        world, camera = LiveWorld(self.config.seed), self.config.camera
        world.observe_camera(0.0, camera)
        world.cloud(0.0, self.config.cloud_points)
        world.truth(0.0)

    def begin(self, stop: threading.Event) -> list[Callable[[], None]]:
        """Start the world's time at the next whole second; return the loops that serve it.

        Each loop has a world of its own, and all are the same: the seed decides.
        """
        groups = [self._signals(), self._camera(), self._clouds(), self._senses()]
        self.feeds = [feed for group in groups for feed in group]
        now_ns = self.get_clock().now().nanoseconds
        self._base_ns = -(-(now_ns + SECOND_NS // 20) // SECOND_NS) * SECOND_NS
        self._start_s = time.monotonic() + (self._base_ns - now_ns) / SECOND_NS
        if not self.config.realtime:
            return [lambda: run_at_once(self.feeds, self._tell_clock, stop)]
        return [lambda group=group: run_live(group, self._now_s, stop)  # type: ignore[misc]
                for group in groups]

    def _now_s(self) -> float:
        return time.monotonic() - self._start_s

    def _stamp(self, t_s: float) -> int:
        return self._base_ns + round(t_s * SECOND_NS)

    def _tell_clock(self, t_s: float) -> None:
        assert self._clock_topic is not None
        message = Clock()
        out.set_stamp(message.clock, self._stamp(t_s))
        self._clock_topic.publish(message)

    # -- sensors ------------------------------------------------------------------------------

    def _signals(self) -> list[Feed]:
        """Return the IMU and the microphone: never skipped."""
        world = LiveWorld(self.config.seed)
        message = out.empty_imu_message(IMU_FRAME)
        block: dict[int, Any] = {}

        def imu(t_s: float) -> Callable[[], None]:
            number = round(t_s * IMU_HZ)
            if number not in block:
                block.clear()
                end = number + round(IMU_BLOCK_S * IMU_HZ)
                stamps, values = world.imu_between(number / IMU_HZ, end / IMU_HZ, IMU_HZ)
                block.update(zip((round(s * IMU_HZ) for s in stamps), values, strict=True))
            out.fill_imu(message, self._stamp(t_s), block[number])
            return lambda: self._imu.publish(message)

        def audio(t_s: float) -> Callable[[], None]:
            begin_s = max(0.0, t_s - AUDIO_CHUNK_S)
            wave = world.audio_between(begin_s, t_s)
            chunk = out.audio_message(self._stamp(begin_s), MICROPHONE_FRAME, wave,
                                      world.audio_rate_hz)
            return lambda: self._audio.publish(chunk)
        return [Feed('imu', IMU_HZ, imu),
                Feed('audio', 1.0 / AUDIO_CHUNK_S, audio, phase_s=AUDIO_CHUNK_S)]

    def _camera(self) -> list[Feed]:
        """Return the camera: picture, CameraInfo, depth and perhaps normals of one instant."""
        world, camera = LiveWorld(self.config.seed), self.config.camera

        def look(t_s: float) -> Callable[[], None]:
            stamp_ns = self._stamp(t_s)
            view = world.observe_camera(t_s, camera)
            assert view.image is not None
            info = out.camera_info_message(stamp_ns, CAMERA_FRAME, (camera.width, camera.height),
                                           camera.intrinsics)
            pairs = [(self._camera_info, info),
                     (self._image, out.image_message(stamp_ns, CAMERA_FRAME, view.image)),
                     (self._depth, out.image_message(stamp_ns, CAMERA_FRAME, view.depth))]
            if self._normal is not None:
                pairs.append((self._normal, out.image_message(stamp_ns, CAMERA_FRAME,
                                                              view.normal)))
            return lambda: _publish(pairs)
        return [Feed('camera', self.config.camera_rate_hz, look, CAMERA_PHASE_S, may_skip=True)]

    def _clouds(self) -> list[Feed]:
        """Return the laser scanner."""
        world = LiveWorld(self.config.seed)

        def scan(t_s: float) -> Callable[[], None]:
            cloud = out.coloured_cloud_message(
                self._stamp(t_s), BASE_FRAME, world.cloud(t_s, self.config.cloud_points))
            return lambda: self._points.publish(cloud)
        return [Feed('points', self.config.cloud_rate_hz, scan, CLOUD_PHASE_S, may_skip=True)]

    def _senses(self) -> list[Feed]:
        """Return the synthetic fMRI-like vector and the truth, once a second."""
        world = LiveWorld(self.config.seed)
        small = Camera()

        def fmri(t_s: float) -> Callable[[], None]:
            voxels = out.synthetic_voxels_message(world.fmri(t_s, small))
            return lambda: self._fmri.publish(voxels)

        def truth(t_s: float) -> Callable[[], None]:
            stamp_ns, true = self._stamp(t_s), world.truth(t_s, small)
            told = Description(text=caption(true, TOLD, style='plain'), prompt='ground truth',
                               model='simulation', finish_reason='stop')
            told.header.frame_id = BASE_FRAME
            for moment, ns in ((told.header.stamp, stamp_ns), (told.window_end, stamp_ns),
                               (told.window_start, self._stamp(t_s - WINDOW_S))):
                out.set_stamp(moment, ns)
            line = String(data=truth_to_json(stamp_ns, true))
            return lambda: _publish([(self._truth_json, line), (self._truth, told)])
        return [Feed('fmri', 1.0, fmri, FMRI_PHASE_S),
                Feed('truth', 1.0, truth, phase_s=WINDOW_S)]


def _publish(pairs: Sequence[tuple[Any, Any]]) -> None:
    for publisher, message in pairs:
        publisher.publish(message)


def serve(node: SimulationNode, stop: threading.Event) -> None:
    """Run the world until stopped; parameters and the like are answered meanwhile.

    :raises Exception: whatever a loop failed with.
    """
    node.warm_up()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    loops = node.begin(stop)
    node.get_logger().info(f'world {node.config.seed} has begun')
    with ThreadPoolExecutor(len(loops), 'simulation') as pool:
        running: list[Future[None]] = [pool.submit(loop) for loop in loops]
        try:
            while not stop.is_set() and not any(f.done() for f in running):
                executor.spin_once(timeout_sec=0.2)
        finally:
            stop.set()
    executor.shutdown(timeout_sec=0.2)
    for loop in running:
        loop.result()
    counts = ', '.join(f'{f.name} {f.sent}' + (f' ({f.skipped} left out)' if f.skipped else '')
                       for f in node.feeds)
    node.get_logger().info(f'ended; messages sent: {counts}')


def main(args: Sequence[str] | None = None) -> int:
    """Run the node ``simulation`` until SIGINT or SIGTERM.

    :returns: exit code.
    """
    rclpy.init(args=None if args is None else list(args),
               signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    node: SimulationNode | None = None

    def end(*_: Any) -> None:
        stop.set()
        if node is None or not node.feeds:
            raise SystemExit(0)      # compiling what renders takes longer than one may wait

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        node = SimulationNode()
        serve(node, stop)
    except (ConfigError, ParameterException) as error:
        print(f'simulation: {error}', file=sys.stderr)
        return 2
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
