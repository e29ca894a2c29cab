"""message_filters' ApproximateTimeSynchronizer as a peer, wherever it can be found.

The module is that of ROS 2, with rclpy's times, or of ROS 1 (Debian's python3-message-filters),
whose times are genpy's (python3-genpy, python3-genmsg); where rospy is missing, a stand-in has
these times, the wall clock and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import importlib
from pathlib import Path
import signal
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

S = 1_000_000_000
LIMIT_S = 20.0


class Stopped(Exception):
    """A measurement that took too long."""


class Peer:
    """message_filters' ApproximateTimeSynchronizer.

    :param module: message_filters. :param name: of what is measured, with what stands in.
    :param stamp: makes a header's stamp of nanoseconds.
    """

    def __init__(self, module: ModuleType, name: str, stamp: Callable[[int], Any]) -> None:
        self.module, self.name, self.stamp = module, name, stamp

    def run(self, messages: Sequence[tuple[int, Any]], streams: int, queue: int, slop_s: float,
            limit_s: float = LIMIT_S) -> tuple[float, int, int]:
        """Return CPU microseconds a message, sets delivered and messages taken.

        It is stopped after ``limit_s``: a single message can cost it the product of its queues.

        :param messages: (number of the stream, message with a header), in order of arrival.
        """
        filters = [self.module.SimpleFilter() for _ in range(streams)]
        sync = self.module.ApproximateTimeSynchronizer(filters, queue, slop_s)
        sets, taken = 0, 0

        def deliver(*_: Any) -> None:
            nonlocal sets
            sets += 1

        def stop(*_: Any) -> None:
            raise Stopped

        sync.registerCallback(deliver)
        feeds = [one.signalMessage for one in filters]
        before = signal.signal(signal.SIGALRM, stop)
        start = time.process_time()
        try:
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            for index, message in messages:
                feeds[index](message)
                taken += 1
        except Stopped:
            taken = max(taken, 1)
        finally:
            spent = time.process_time() - start
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return spent / taken * 1e6, sets, taken


def load_peer(folder: Path | None) -> Peer | None:
    """Return the peer, if there is one.

    :raises SystemExit: if the folder that was named does not hold it.
    """
    if folder is not None:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module('message_filters')
    except ModuleNotFoundError as error:
        if error.name == 'message_filters':
            if folder is not None:
                sys.exit(f'--message-filters {folder}: expected a folder with the module '
                         'message_filters, found none there')
            return None
        if error.name != 'rospy':
            raise
        sys.modules['rospy'] = stand_in()
        module = importlib.import_module('message_filters')
    if hasattr(module, 'rospy'):
        told = '' if hasattr(module.rospy, '__file__') else "; genpy's times stand in for rospy's"
        return Peer(module, f'of ROS 1, {module.__file__}{told}',
                    lambda ns: module.rospy.Time(*divmod(ns, S)))
    from builtin_interfaces.msg import Time

    def stamp(ns: int) -> Time:
        return Time(sec=ns // S, nanosec=ns % S)
    return Peer(module, f"of ROS 2, {module.__file__}, with rclpy's times", stamp)


def stand_in() -> ModuleType:
    """Return what message_filters uses of rospy, whose times are genpy's.

    :raises SystemExit: without genpy.
    """
    try:
        genpy = importlib.import_module('genpy')
    except ModuleNotFoundError as error:
        sys.exit(f"--message-filters: this is ROS 1's; expected rospy or, beside it, genpy "
                 f'(python3-genpy, python3-genmsg); {error}')

    class Time(genpy.Time):  # type: ignore[misc, name-defined]
        @classmethod
        def now(cls) -> Time:
            return cls.from_sec(time.time())

    rospy: Any = ModuleType('rospy')
    rospy.Time, rospy.Duration = Time, genpy.Duration
    rospy.rostime = SimpleNamespace(is_wallclock=lambda: True)
    rospy.logwarn = rospy.loginfo = rospy.logdebug = print
    return rospy
