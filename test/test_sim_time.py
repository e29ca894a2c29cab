"""Simulated time: pauses, loops and jumps of /clock in both directions, with a real node."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
import time
from typing import Any

import pytest

from onellm_ros.modality import Modality

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('onellm_msgs.msg')

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from onellm_msgs.srv import Ask  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import Image, Imu  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from test_perception_node import (  # noqa: E402
    BASE_S,
    Bench,
    benches,  # noqa: F401
    imu_message,
    picture,
    seconds_of,
    stamp,
)

Make = Callable[..., Bench]
STEPS = 100     # a second


class Simulation:
    """Plays a robot's second after second on simulated time, some ten times as fast."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.heard: list[Header] = []
        bench.robot.create_subscription(Header, '/perception/heartbeat', self.heard.append, 100)
        bench.activate()
        bench.connect(clock=Clock, image=Image, imu=Imu)

    def tick(self, seconds: float) -> None:
        self.bench.publish('clock', Clock(clock=stamp(seconds)))

    def play(self, begin_s: float, end_s: float) -> None:
        """Publish the clock at 100 Hz, pictures at 20 Hz and IMU at 50 Hz of simulated time."""
        for i in range(round(begin_s * STEPS), round(end_s * STEPS)):
            self.tick(BASE_S + i / STEPS)
            if i % 5 == 0:
                self.bench.publish('image', picture(BASE_S + i / STEPS))
            if i % 2 == 0:
                self.bench.publish('imu', imu_message(BASE_S + i / STEPS))
            time.sleep(0.002)

    def window(self, end_s: float) -> Any:
        """Return the report of the window that ended then, None if there is none."""
        found = [w for w in self.bench.windows
                 if abs(seconds_of(w.window_end) - BASE_S - end_s) < 1e-3]
        return found[-1] if found else None


@pytest.fixture
def simulation(benches: Make) -> Simulation:  # noqa: F811
    return Simulation(benches(use_sim_time=True, heartbeat_hz=20.0))


def statuses(bench: Bench) -> dict[str, Any]:
    return {s.name.split(': ')[1]: s for s in bench.diagnostics[-1].status}


def test_a_pause_closes_no_window_and_makes_nothing_late(simulation: Simulation) -> None:
    bench = simulation.bench
    simulation.play(0, 0.5)
    bench.until(lambda: simulation.window(0.4))
    bench.until(lambda: bench.descriptions)
    time.sleep(2.5)             # the deadline is 0.1 s, an input is silent after 0.3 s
    assert simulation.window(0.6) is None
    bench.diagnostics.clear()
    bench.until(lambda: bench.diagnostics)
    found = statuses(bench)
    assert 'simulated time has stood still' in found['model'].message
    assert found['image'].level == found['imu'].level == DiagnosticStatus.OK
    answered = bench.ask('What?')                       # about what came before the pause
    assert answered.success and seconds_of(answered.window_end) == pytest.approx(BASE_S + 0.4)
    simulation.heard.clear()
    bench.until(lambda: len(simulation.heard) >= 3)     # timers go on
    assert all(seconds_of(h.stamp) == pytest.approx(BASE_S + 0.49) for h in simulation.heard)
    simulation.play(0.5, 1.2)
    bench.until(lambda: simulation.window(0.8))
    whole = simulation.window(0.6)
    assert {r.modality: r.count for r in whole.modalities} == {
        'image': 1, 'imu': 30}                          # the IMU reaches back to the beginning
    assert (whole.closed_by, bench.windows[-1].late, bench.windows[-1].time_jumps) == (
        'watermark', 0, 0)
    ends = [seconds_of(w.window_end) for w in bench.windows]
    assert all(b - a == pytest.approx(0.2) for a, b in pairwise(ends))


def test_loops_and_jumps_mix_nothing_and_stop_nothing(simulation: Simulation) -> None:
    bench = simulation.bench
    for begin_s in (100, 100, 5000, 100):               # a loop, a leap, and back again
        count = len(bench.descriptions)
        bench.windows.clear()
        simulation.play(begin_s, begin_s + 1.5)
        bench.until(lambda: simulation.window(begin_s + 1.2))  # noqa: B023
        bench.until(lambda: len(bench.descriptions) > count)  # noqa: B023
        simulation.heard.clear()
        bench.until(lambda: simulation.heard)
        answer = bench.ask('What?')
        assert answer.success, answer
        assert 0 < seconds_of(answer.window_end) - BASE_S - begin_s < 1.51
    # whatever was shown to the model is of one piece of time
    assert len(bench.engine.encoded) >= 4
    for shown in bench.engine.encoded:
        stamps = [s.stamp_ns for samples in shown.values() for s in samples]
        assert max(stamps) - min(stamps) < 2_200_000_000
    assert {m for shown in bench.engine.encoded for m in shown} >= {Modality.IMAGE, Modality.IMU}
    assert any(text.modalities for text in bench.descriptions)
    for text in bench.descriptions:
        for report in text.modalities:
            assert 0 <= seconds_of(text.window_end) - seconds_of(report.first_stamp) < 2.2


def test_a_clock_that_jumps_back_empties_what_is_kept(simulation: Simulation) -> None:
    bench = simulation.bench
    simulation.play(50, 51)
    bench.until(lambda: simulation.window(50.8))
    assert bench.ask('Before?', conversation='a').success
    worker = bench.node._worker
    assert worker.report().conversations == 1
    simulation.tick(BASE_S + 51.5)                      # forward: everything stays
    assert bench.ask('Now?').success
    simulation.tick(BASE_S + 2)                         # back, before any message says so
    bench.until(lambda: worker.report().kept == 0)
    assert worker.report().conversations == 0
    gone = bench.ask('What was there?', at=stamp(BASE_S + 51))
    assert gone.error_code == Ask.Response.NO_WINDOW
    simulation.play(2, 3)
    bench.until(lambda: simulation.window(2.8))
    assert bench.ask('And now?', conversation='a').success
    assert seconds_of(bench.ask('What?').window_end) < BASE_S + 3
