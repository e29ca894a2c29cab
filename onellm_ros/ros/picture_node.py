"""The node ``perception_picture``: what the robot senses and says as one picture, for people.

A debug node in a process of its own, so that drawing costs the perception node nothing. It reads
the perception node's ``description`` and ``window`` and learns from them which topics the samples
came from; to these it listens, and it draws, only while ``~/image`` has subscribers.

``~/image`` (sensor_msgs/Image, rgb8) has the stamp of the newest window's end and the frame of the
camera; between windows it is drawn again with the camera's newest picture. ``~/markers``
(visualization_msgs/MarkerArray) is the newest text above the robot's base frame, and its age.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import numpy as np
from onellm_msgs.msg import Description, WindowReport
import rclpy
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality
from onellm_ros.report.annotated import Shown, annotated_picture
from onellm_ros.ros import picture_settings, picture_words
from onellm_ros.ros.conversions import stamp_ns
from onellm_ros.ros.once import Once
from onellm_ros.ros.picture_cameras import Cameras
from onellm_ros.ros.picture_frames import Frames
from onellm_ros.ros.picture_inputs import MALFORMED, PictureInputs
from onellm_ros.ros.subscriptions import FollowingSubscription

SECOND_NS = 1_000_000_000
POLL_S, REST_S = 0.05, 0.25     # between looks at the publishers; while nobody subscribes
CHECK_S = 1.0
_SAME_CLOCK_S = 3600.0      # stamps that differ more from the node's clock have another origin


@dataclass(frozen=True)
class _Heard:
    """A message of the perception node.

    :param end_ns: end of its window. :param arrival_s: when it came, on the steady clock.
    """

    message: Any
    end_ns: int
    arrival_s: float


class PictureNode(Node):
    """Draws what the robot senses and says, while someone looks."""

    def __init__(self, name: str = 'perception_picture', **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.config = picture_settings.declare(self)
        self.drawn, self.draw_ms, self.jumps = 0, 0.0, 0
        self._window: _Heard | None = None
        self._text: _Heard | None = None
        self._warn = Once(self.get_logger().warning)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._image = self.create_publisher(Image, '~/image', QoSProfile(depth=2))
        self._markers = self.create_publisher(MarkerArray, '~/markers', QoSProfile(depth=2))
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.inputs = PictureInputs(self, self.config.audio, self._warn, self.config.trace_s,
                                    Cameras(self, self.config.perception, self._warn))
        self._frame, self._rest_until_s = '', 0.0
        self._frames = Frames()
        self._outputs = [
            FollowingSubscription(self, kind, self.resolve_topic_name(
                f'{self.config.perception}/{topic}'), receive, self._warn)
            for kind, topic, receive in ((Description, 'description', self._on_description),
                                         (WindowReport, 'window', self._on_window))]
        self._jump = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=lambda _: self._on_jump("the node's clock jumped back"))
        self._draw_timer: Any = None
        self._poller = self.create_timer(REST_S, self._poll, clock=self._steady)
        self.create_timer(CHECK_S, self._check, clock=self._steady)
        self.add_on_set_parameters_callback(lambda p: picture_settings.check(self, p))
        self.add_post_set_parameters_callback(self._on_parameters_set)

    def destroy_node(self) -> None:
        """Destroy the node; nothing may spin it any more."""
        self._jump.unregister()
        self.inputs.close()
        for each in self._outputs:
            each.close()
        self._outputs = []
        super().destroy_node()

    # -- what the perception node says --------------------------------------------------------

    def _on_window(self, message: WindowReport) -> None:
        heard = _Heard(message, stamp_ns(message.window_end), time.monotonic())
        if self._window is not None and heard.end_ns < self._window.end_ns:
            self._on_jump('the windows jumped back')
        self._window = heard
        self._frames.note(heard.end_ns, message.modalities)
        self._learn(message)

    def _on_description(self, message: Description) -> None:
        heard = _Heard(message, stamp_ns(message.window_end), time.monotonic())
        if self._text is not None and heard.end_ns < self._text.end_ns:
            self._on_jump('the descriptions jumped back')
        self._text = heard
        self._frames.hold(heard.end_ns, message.modalities)
        self._learn(message)
        self._publish_markers()

    def _learn(self, message: Any) -> None:
        """Take the topics from a message, and listen to new ones at once."""
        self.inputs.expect(message.modalities)
        self.inputs.follow()

    def _on_jump(self, text: str) -> None:
        """Forget everything: it is of another time."""
        self.get_logger().info(f'{text}: everything is forgotten', throttle_duration_sec=5.0)
        self.jumps += 1
        if self._text is not None and self._markers.get_subscription_count():
            self._markers.publish(picture_words.no_markers(
                self._base_frame(self._text.message), self.get_name()))
        self._window = self._text = None
        self._frame = ''
        self._frames.clear()
        self.inputs.clear()

    def _age_s(self, heard: _Heard) -> float:
        """Return how long ago a window ended, or a message came where clocks do not agree."""
        age_s = (self.get_clock().now().nanoseconds - heard.end_ns) / SECOND_NS
        if -1.0 < age_s < _SAME_CLOCK_S:
            return max(age_s, 0.0)
        return time.monotonic() - heard.arrival_s

    # -- who looks ----------------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """Someone subscribes to the picture, as far as was seen at the last look."""
        return self.inputs.is_open

    def _poll(self) -> None:
        for each in self._outputs:
            each.poll()
        self.inputs.poll()

    def _check(self) -> None:
        """See who subscribes; begin or end listening and drawing."""
        wanted = self._image.get_subscription_count() > 0
        if wanted and not self.watched:
            self.inputs.open()
            self._poller.timer_period_ns = round(POLL_S * SECOND_NS)
            self._restart_drawing()
        elif not wanted and self.watched:
            self.inputs.close()
            self._frames.clear()
            self._poller.timer_period_ns = round(REST_S * SECOND_NS)
            self._stop_drawing()
        self.inputs.follow()
        self._publish_markers()
        self._publish_diagnostics()

    def _stop_drawing(self) -> None:
        if self._draw_timer is not None:
            self.destroy_timer(self._draw_timer)
            self._draw_timer = None

    def _restart_drawing(self) -> None:
        self._stop_drawing()
        self._draw_timer = self.create_timer(1.0 / self.config.rate_hz, self._draw,
                                             clock=self._steady)

    def _on_parameters_set(self, changes: Sequence[Parameter]) -> None:
        """Take over changed settings."""
        if not any(p.name in picture_settings.FIELDS for p in changes):
            return
        before, self.config = self.config, picture_settings.read(self)
        self.inputs.trace_s = self.config.trace_s
        if self.watched and before.rate_hz != self.config.rate_hz:
            self._restart_drawing()

    # -- the picture --------------------------------------------------------------------------

    def _draw(self) -> None:
        """Draw the picture and publish it.

        At most half of the time is spent so, however busy the machine is: messages come between.
        """
        if not self._image.get_subscription_count() or time.perf_counter() < self._rest_until_s:
            return
        start_s = time.perf_counter()
        try:
            picture = annotated_picture(self._shown(), (self.config.width, self.config.height))
        except MALFORMED as error:
            self.inputs.errors += 1
            self._warn('picture', f'cannot be drawn: {type(error).__name__}: {error}')
            return
        self._image.publish(self._image_message(picture))
        self.drawn += 1
        end_s = time.perf_counter()
        self.draw_ms = 1e3 * (end_s - start_s)
        self._rest_until_s = end_s + (end_s - start_s)

    def _shown(self) -> Shown:
        """Return what the picture is to show now."""
        config, window, text = self.config, self._window, self._text
        samples = self.inputs.samples(config.camera)
        images = samples.get(Modality.IMAGE, ())
        self._frame = images[0].frame_id if images else ''
        self._frames.see(images)
        newest = window or text
        facts = [] if newest is None else picture_words.facts_of(
            None if window is None else window.message, None if text is None else text.message,
            self._age_s(newest), config.stale_s, self.inputs.errors)
        if newest is not None and not self.count_publishers(self._outputs[1].topic):
            facts.insert(0, (f'the perception node is gone: no publisher on '
                             f'{self._outputs[1].topic}', True))
        words, head, old = self._waiting(), '', False
        if text is not None:
            age_s = self._age_s(text)
            old = age_s > config.stale_s
            words = picture_words.said(text.message)
            head = picture_words.head_of(text.message, age_s, old)
        return Shown(samples, words, head, old, facts, self.inputs.silent_s(config.stale_s),
                     config.trace_s, config.font,
                     self._frames.about(images[0]) if images and text is not None else None)

    def _waiting(self) -> str:
        """Return why there is no text yet."""
        description, window = (each.topic for each in self._outputs)
        if self._window is not None:
            return f'No text yet: windows come, but nothing has come on {description}.'
        if not self.count_publishers(window):
            return (f'No publisher on {window}: start the perception node, or set the parameter '
                    '"perception" to its name.')
        return f'No window yet on {window}: is the node active, and do its inputs publish?'

    def _image_message(self, picture: np.ndarray) -> Image:
        ends = [heard.end_ns for heard in (self._window, self._text) if heard is not None]
        message = Image(encoding='rgb8', is_bigendian=0)
        message.header.frame_id = self._frame
        if ends:
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(max(ends), SECOND_NS)
        else:
            message.header.stamp = self.get_clock().now().to_msg()
        message.height, message.width = picture.shape[:2]
        message.step = 3 * message.width
        data = array.array('B')
        data.frombytes(np.ascontiguousarray(picture).tobytes())
        message.data = data         # an array is taken as it is, bytes would be checked one by one
        return message

    # -- the markers --------------------------------------------------------------------------

    def _base_frame(self, text: Description) -> str:
        if not text.header.frame_id:
            self._warn('markers', "found a description without frame_id, expected the robot's "
                       'base frame: set base_frame of the perception node; base_link is taken')
        return text.header.frame_id or 'base_link'

    def _publish_markers(self) -> None:
        """Publish the text and its age, if someone looks and it has not had its time."""
        if self._text is None or not self._markers.get_subscription_count():
            return
        config, age_s = self.config, self._age_s(self._text)
        left_s = config.marker_lifetime_s - (time.monotonic() - self._text.arrival_s)
        if left_s > 0:
            self._markers.publish(picture_words.markers_of(
                self._text.message, age_s, age_s > config.stale_s, left_s,
                self._base_frame(self._text.message), self.get_name(), config.marker_height_m,
                config.marker_letter_m))

    # -- diagnostics --------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        errors = self.inputs.errors
        name = self.get_fully_qualified_name().strip('/')
        values = {
            'image_subscribers': self._image.get_subscription_count(),
            'marker_subscribers': self._markers.get_subscription_count(),
            'topics': ', '.join(self.inputs.topics), 'drawn': self.drawn,
            'draw_ms': f'{self.draw_ms:.1f}', 'unusable_messages': errors,
            'last_error': self.inputs.last_error, 'time_jumps': self.jumps}
        level = DiagnosticStatus.WARN if errors else DiagnosticStatus.OK
        message = DiagnosticArray(status=[DiagnosticStatus(
            level=level, name=f'{name}: picture',
            message='drawing' if self.watched else 'nobody subscribes to the picture',
            values=[KeyValue(key=k, value=str(v)) for k, v in values.items()])])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node ``perception_picture`` until SIGINT or SIGTERM.

    :returns: exit code.
    """
    rclpy.init(args=list(args) if args is not None else None)
    node, executor, code = None, SingleThreadedExecutor(), 0
    try:
        node = PictureNode()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ConfigError, ParameterException) as error:
        print(f'perception_picture: {error}', file=sys.stderr)
        code = 2
    except rclpy_implementation.RCLError:
        if rclpy.ok():
            raise                   # else it was interrupted in the midst of something
    finally:
        executor.shutdown(timeout_sec=0.2)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return code


if __name__ == '__main__':
    sys.exit(main())
