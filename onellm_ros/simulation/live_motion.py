"""An endless drive of the robot through a room, for the live simulator.

Owns :class:`LivePlan`: a deterministic sequence of segments (drive, turn, stop, rough ground,
bump, lift) that stays inside the room and clear of obstacles, with the pose, the true motion and
the IMU at any time, the same whatever the boundaries of the calls. The room is centred on the
origin.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onellm_ros.simulation.motion import (
    ImuModel,
    Pose,
    Profile,
    Trajectory,
    impact,
    integrate,
    lift_height,
    shake,
    smooth_step,
    sway,
    wander,
)

ROBOT_RADIUS_M = 0.25
MARGIN_M = 0.45                 # wanted between the robot's centre and whatever stands there
STOP_WAY_S = 0.75               # times the speed: the way in which the robot surely stops
NOISE_BLOCK = 256
KEPT_SEGMENTS = 48
KEPT_BLOCKS = 64

# Short events count for more than the plain driving around them when a window is named.
LABEL_WEIGHTS = {
    'standing still': 1.0, 'driving straight': 1.0, 'driving over rough ground': 1.6,
    'turning left': 2.0, 'turning right': 2.0, 'speeding up': 2.2, 'slowing down': 2.2,
    'being lifted': 3.0, 'hitting an obstacle': 20.0}


@dataclass(frozen=True)
class _State:
    pose: Pose
    speed: float
    wheel_phase: float
    last: str = ''              # label of the segment before


@dataclass(frozen=True)
class _Choice:
    """A candidate segment: its profile, the speed at its end, and (start, end, label) parts."""

    profile: Profile
    speed: float
    labels: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class _Segment:
    start_s: float
    end_s: float
    state: _State
    labels: tuple[tuple[float, float, str], ...]


class LivePlan:
    """What the robot does from t = 0 on, without end.

    :param seed: everything follows from it (and from the room).
    :param room_size_xy: metres; the room spans -size/2 .. size/2 on both axes.
    :param obstacles: (x, y, radius) discs in metres.
    :param start: pose at t = 0; a random free spot if None.
    :raises ValueError: if the room has no free spot for the robot.
    """

    def __init__(self, seed: int, room_size_xy: tuple[float, float],
                 obstacles: Sequence[tuple[float, float, float]], start: Pose | None = None):
        self._seed = int(seed)
        self._half = np.asarray(room_size_xy, dtype=np.float64) / 2.0
        self._discs = np.asarray(obstacles, dtype=np.float64).reshape(-1, 3)
        rng = np.random.default_rng([self._seed, 1])
        self._imu = ImuModel.draw(rng)
        first = _State(self._free_spot(rng) if start is None else start, 0.0, 0.0)
        self._next = first
        self._segments: list[_Segment] = []
        self._dense: OrderedDict[int, Trajectory] = OrderedDict()
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()

    # ---- questions --------------------------------------------------------------------------

    def pose(self, t_s: float | np.ndarray) -> Pose:
        """Return the pose at ``t_s`` seconds (0 and up), shaped like it."""
        times = np.atleast_1d(np.asarray(t_s, dtype=np.float64))
        out = np.empty((6, times.size))
        for index, mine in self._split(times.ravel()):
            local = times.ravel()[mine] - self._segments[index].start_s
            out[:, mine] = np.asarray(self._trajectory(index).pose(local))
        if np.ndim(t_s) == 0:
            return Pose(*(float(v) for v in out[:, 0]))
        return Pose(*(row.reshape(times.shape) for row in out))

    def motion(self, t0_s: float, t1_s: float) -> str:
        """Return the one of ``truth.MOTIONS`` that names the time from ``t0_s`` to ``t1_s``."""
        _check_span(t0_s, t1_s)
        self._extend(t1_s)
        score: dict[str, float] = {}
        for segment in self._segments[self._find(t0_s):]:
            if segment.start_s >= t1_s:
                break
            for a, b, label in segment.labels:
                shared = min(t1_s, segment.start_s + b) - max(t0_s, segment.start_s + a)
                if shared > 0.0:
                    score[label] = score.get(label, 0.0) + shared * LABEL_WEIGHTS[label]
        return max(score, key=lambda label: score[label])

    def imu_between(self, t0_s: float, t1_s: float, rate_hz: float = 200.0
                    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the IMU samples at k / rate_hz with t0_s <= k / rate_hz < t1_s.

        :returns: stamps [n] in seconds, values [n, 6] as :func:`motion.imu`.
        :raises ValueError: for a time below 0 or an empty span.
        """
        _check_span(t0_s, t1_s)
        first, last = (int(np.ceil(t * rate_hz - 1e-6)) for t in (t0_s, t1_s))
        index = np.arange(first, last)
        stamps = index / rate_hz
        felt = np.empty((len(index), 11))
        for number, mine in self._split(stamps):
            felt[mine] = self._trajectory(number).at(stamps[mine] - self._segments[number].start_s)
        return stamps, self._imu.measure(felt, self._white(first, last))

    # ---- bookkeeping ------------------------------------------------------------------------

    def _find(self, t_s: float) -> int:
        starts = [s.start_s for s in self._segments]
        return max(0, int(np.searchsorted(starts, t_s, side='right')) - 1)

    def _split(self, times: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Return (segment number, indices into times) pairs that cover all times."""
        if times.size == 0:
            return []
        if times.min() < 0.0:
            raise ValueError(f'time {times.min()} s: the live plan starts at 0')
        self._extend(float(times.max()))
        starts = np.array([s.start_s for s in self._segments])
        owner = np.searchsorted(starts, times, side='right') - 1
        return [(int(n), np.flatnonzero(owner == n)) for n in np.unique(owner)]

    def _white(self, first: int, last: int) -> np.ndarray:
        parts = []
        for block in range(first // NOISE_BLOCK, (max(first, last - 1)) // NOISE_BLOCK + 1):
            if block not in self._blocks:
                rng = np.random.default_rng([self._seed, 2, block])
                self._blocks[block] = rng.standard_normal((NOISE_BLOCK, 12))
                if len(self._blocks) > KEPT_BLOCKS:
                    self._blocks.popitem(last=False)
            parts.append(self._blocks[block])
        offset = first // NOISE_BLOCK * NOISE_BLOCK
        return np.concatenate(parts)[first - offset:last - offset]

    def _extend(self, t_s: float) -> None:
        while not self._segments or self._segments[-1].end_s <= t_s:
            number = len(self._segments)
            start = self._segments[-1].end_s if self._segments else 0.0
            state = self._next
            choice, trajectory = self._plan(number, state)
            self._segments.append(
                _Segment(start, start + trajectory.seconds, state, choice.labels))
            self._keep(number, trajectory)
            x, y, z = trajectory.position[-1]
            yaw = float(np.angle(np.exp(1j * trajectory.angles[-1, 0])))
            self._next = _State(
                state.pose._replace(x=float(x), y=float(y), z=float(z), yaw=yaw),
                choice.speed, float(trajectory.wheel_phase[-1]), choice.labels[-1][2])

    def _trajectory(self, number: int) -> Trajectory:
        if number not in self._dense:
            self._keep(number, self._plan(number, self._segments[number].state)[1])
        return self._dense[number]

    def _keep(self, number: int, trajectory: Trajectory) -> None:
        self._dense[number] = trajectory
        if len(self._dense) > KEPT_SEGMENTS:
            self._dense.popitem(last=False)

    # ---- space ------------------------------------------------------------------------------

    def clearance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return metres from points to the nearest wall or obstacle (negative inside)."""
        free = np.minimum(self._half[0] - np.abs(x), self._half[1] - np.abs(y))
        for ox, oy, radius in self._discs:
            free = np.minimum(free, np.hypot(x - ox, y - oy) - radius)
        return free

    def _free_ahead(self, pose: Pose, yaw: np.ndarray, margin: float) -> np.ndarray:
        """Return how far the robot can drive in each direction before the margin is broken."""
        way = np.arange(0.0, 4.0, 0.04)
        x = pose.x + np.cos(yaw)[:, None] * way
        y = pose.y + np.sin(yaw)[:, None] * way
        blocked = self.clearance(x, y) < margin
        return np.where(blocked.any(axis=1), way[blocked.argmax(axis=1)], way[-1])

    def _free_spot(self, rng: np.random.Generator) -> Pose:
        spots = rng.uniform(-1.0, 1.0, (400, 2)) * self._half
        free = self.clearance(spots[:, 0], spots[:, 1])
        good = np.flatnonzero(free > MARGIN_M)
        if not len(good):
            raise ValueError(
                f'no free spot of {MARGIN_M} m radius in a room of {2 * self._half} m with '
                f'{len(self._discs)} obstacles: expected a larger room or fewer obstacles')
        best = good[np.argmax(free[good][:40])]
        return Pose(float(spots[best, 0]), float(spots[best, 1]), 0.0,
                    float(rng.uniform(-np.pi, np.pi)))

    def _fits(self, choice: _Choice, trajectory: Trajectory, state: _State) -> bool:
        x, y = trajectory.position[::20, :2].T
        yaw = trajectory.angles[-1, 0]
        way = np.linspace(0.0, STOP_WAY_S * choice.speed, 8)
        x = np.append(x, trajectory.position[-1, 0] + np.cos(yaw) * way)
        y = np.append(y, trajectory.position[-1, 1] + np.sin(yaw) * way)
        here = self.clearance(np.array(state.pose.x), np.array(state.pose.y))
        return bool((self.clearance(x, y) >= min(MARGIN_M, float(here) - 0.005)).all())

    # ---- planning ---------------------------------------------------------------------------

    def _plan(self, number: int, state: _State) -> tuple[_Choice, Trajectory]:
        """Return segment ``number``, which starts in ``state``."""
        rng = np.random.default_rng([self._seed, 3, number])
        for _ in range(6):
            choice = self._draw_moving(rng, state) if state.speed else self._draw_resting(
                rng, state)
            trajectory = self._integrated(choice, state)
            if choice.labels[-1][2] == 'hitting an obstacle' or \
                    self._fits(choice, trajectory, state):
                return choice, trajectory
        choice = _brake(rng, state.speed) if state.speed else self._turn_to_space(rng, state.pose)
        return choice, self._integrated(choice, state)

    def _integrated(self, choice: _Choice, state: _State) -> Trajectory:
        return integrate(choice.profile, choice.labels[0][2], state.pose, state.wheel_phase)

    def _draw_moving(self, rng: np.random.Generator, state: _State) -> _Choice:
        v = state.speed
        ahead = float(self._free_ahead(state.pose, np.array([state.pose.yaw]), ROBOT_RADIUS_M)[0])
        if 0.5 * v < ahead < 2.2 * v and rng.random() < 0.12:
            return _bump(rng, v, (ahead - 0.06) / v)
        kind = rng.choice(4, p=(0.42, 0.3, 0.22, 0.06))
        seconds = float(rng.uniform(1.2, 3.0))
        if kind == 3:
            return _brake(rng, v)
        profile = _drive(rng, seconds, v)
        if kind == 0:
            return _Choice(profile, v, ((0.0, seconds, 'driving straight'),))
        if kind == 1:
            rate = float(rng.uniform(0.45, 0.9) * rng.choice((-1.0, 1.0)))
            profile = replace(profile, yaw_rate=profile.yaw_rate + rate * _fade(profile.t_s, 0.3))
            return _Choice(profile, v, ((0.0, seconds, _side(rate)),))
        profile = shake(rng, profile, _fade(profile.t_s, 0.25))
        return _Choice(profile, v, ((0.0, seconds, 'driving over rough ground'),))

    def _draw_resting(self, rng: np.random.Generator, state: _State) -> _Choice:
        kind = rng.random()
        if not state.last or kind < 0.2 and state.last != 'standing still':
            seconds = float(rng.uniform(1.6, 3.0))
            return _Choice(Profile.still(seconds), 0.0, ((0.0, seconds, 'standing still'),))
        if kind > 0.95 and state.last != 'being lifted':
            return _lift(rng)
        ahead = self._free_ahead(state.pose, np.array([state.pose.yaw]), MARGIN_M - 0.05)
        if ahead[0] < 1.3 and not state.last.startswith('turning'):
            return self._turn_to_space(rng, state.pose)
        length, speed = float(rng.uniform(0.8, 1.2)), float(rng.uniform(0.45, 0.8))
        wait = float(rng.uniform(0.3, 0.8))
        profile = Profile.still(wait + length)
        profile = _with_speed(profile, speed * smooth_step(profile.t_s, wait, length))
        return _Choice(profile, speed, ((0.0, wait, 'standing still'),
                                        (wait, wait + length, 'speeding up')))

    def _turn_to_space(self, rng: np.random.Generator, pose: Pose) -> _Choice:
        """Return a turn on the spot towards one of the freest directions."""
        angle = rng.uniform(0.6, np.pi, 12) * rng.choice((-1.0, 1.0), 12)
        free = self._free_ahead(pose, pose.yaw + angle, MARGIN_M - 0.05)
        turn = float(angle[np.argmax(np.minimum(free, 2.5) + rng.uniform(0.0, 0.3, 12))])
        seconds = abs(turn) / float(rng.uniform(0.6, 1.2)) + 0.35
        profile = Profile.still(seconds)
        shape = _fade(profile.t_s, 0.35)
        rate = shape * (turn / (shape.sum() * profile.t_s[1]))
        return _Choice(replace(profile, yaw_rate=rate), 0.0, ((0.0, seconds, _side(turn)),))


def _side(turn: float) -> str:
    return 'turning left' if turn > 0 else 'turning right'


def _fade(t: np.ndarray, length: float) -> np.ndarray:
    """Return 1 with smooth ends of ``length`` seconds that go to 0."""
    return smooth_step(t, 0.0, length) * (1.0 - smooth_step(t, t[-1] - length, length))


def _with_speed(profile: Profile, speed: np.ndarray) -> Profile:
    squat = -0.006 * np.gradient(speed, profile.t_s[1])
    return replace(profile, speed=speed, pitch=profile.pitch + squat)


def _drive(rng: np.random.Generator, seconds: float, speed: float) -> Profile:
    profile = Profile.still(seconds)
    t = profile.t_s
    drift = wander(rng, t, rng.uniform(0.005, 0.03), 0.2, 0.8, 3) * _fade(t, 0.3)
    return replace(_with_speed(profile, np.full_like(t, speed)), yaw_rate=drift)


def _brake(rng: np.random.Generator, speed: float) -> _Choice:
    length, rest = float(rng.uniform(0.8, 1.1)), float(rng.uniform(0.3, 1.0))
    profile = Profile.still(length + rest)
    profile = _with_speed(profile, speed * (1.0 - smooth_step(profile.t_s, 0.0, length)))
    return _Choice(profile, 0.0, ((0.0, length, 'slowing down'),
                                  (length, length + rest, 'standing still')))


def _bump(rng: np.random.Generator, speed: float, when: float) -> _Choice:
    rest = float(rng.uniform(1.2, 1.8))
    profile = impact(rng, _drive(rng, when + rest, speed), when)
    end = profile.t_s[-1]
    settle = 1.0 - smooth_step(profile.t_s, end - 0.2, 0.2)
    profile = replace(profile, speed=profile.speed * settle, yaw_rate=profile.yaw_rate * settle)
    return _Choice(profile, 0.0, ((0.0, when, 'driving straight'),
                                  (when + 0.3, end, 'standing still'),
                                  (when, when + 0.3, 'hitting an obstacle')))


def _lift(rng: np.random.Generator) -> _Choice:
    up, hold, down = (float(rng.uniform(a, b)) for a, b in ((0.75, 1.2), (0.5, 1.5), (0.9, 1.4)))
    profile = Profile.still(up + hold + down + 0.4)
    t = profile.t_s
    rise = smooth_step(t, 0.2, up) * (1.0 - smooth_step(t, 0.2 + up + hold, down))
    return _Choice(sway(rng, profile, rise, lift_height(rng)), 0.0,
                   ((0.0, t[-1], 'being lifted'),))


def _check_span(t0_s: float, t1_s: float) -> None:
    if not 0.0 <= t0_s < t1_s:
        raise ValueError(f'span {t0_s} .. {t1_s} s: expected 0 <= start < end')
