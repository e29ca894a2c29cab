"""How the robot moves in a window of a few seconds, and what its IMU feels of it.

Owns the pose, the densely sampled trajectory, one plan per name in ``truth.MOTIONS`` (given by the
pose at its end) and the IMU. Frames follow REP-103: x forward, y left, z up; radians; a positive
pitch lowers the nose. NumPy only, deterministic by the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from onellm_ros.simulation.truth import MOTIONS

GRAVITY = 9.81
DENSE_HZ = 400.0
WINDOW_S = 2.56
IMU_S = 2.0
MIN_LIFT_M = 0.1


class Pose(NamedTuple):
    """Where the robot is: metres and radians; numbers, or arrays of one shape."""

    x: float | np.ndarray
    y: float | np.ndarray
    z: float | np.ndarray = 0.0
    yaw: float | np.ndarray = 0.0
    pitch: float | np.ndarray = 0.0
    roll: float | np.ndarray = 0.0


@dataclass(frozen=True, eq=False)
class Profile:
    """Commands and disturbances of a stretch of motion on a uniform grid, all of shape [n].

    :param t_s: times from 0; :param speed: m/s forward; :param yaw_rate: rad/s.
    :param z: metres, :param pitch: and :param roll: radians, added to the base pose.
    :param ground: 1 while the wheels carry the robot, 0 in the air (no wheel vibration).
    """

    t_s: np.ndarray
    speed: np.ndarray
    yaw_rate: np.ndarray
    z: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray
    ground: np.ndarray

    @classmethod
    def still(cls, seconds: float) -> Profile:
        """Return a profile of ``seconds`` in which nothing moves."""
        if not seconds > 0:
            raise ValueError(f'seconds is {seconds}: expected a positive length')
        t = np.linspace(0.0, seconds, int(np.ceil(seconds * DENSE_HZ)) + 1)
        zero = np.zeros_like(t)
        return cls(t, zero, zero, zero, zero, zero, np.ones_like(t))


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A smooth motion over [0, seconds], sampled densely.

    :param t_s: [n] times; :param position: [n, 3] metres; :param velocity: [n, 3] m/s;
    :param acceleration: [n, 3] m/s^2, all in the world frame.
    :param angles: [n, 3] yaw, pitch, roll; :param rates: [n, 3] body angular rates, rad/s.
    :param drive: [n] how much the wheels turn, 0 at rest, about 1 at full speed.
    :param wheel_phase: [n] integral of the drive (seconds at full speed), for the vibration.
    """

    motion: str
    t_s: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    angles: np.ndarray
    rates: np.ndarray
    drive: np.ndarray
    wheel_phase: np.ndarray

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return float(self.t_s[-1])

    @property
    def travel_m(self) -> float:
        """Length of the way in metres."""
        return float(np.linalg.norm(np.diff(self.position, axis=0), axis=1).sum())

    def pose(self, t_s: float | np.ndarray) -> Pose:
        """Return the pose at ``t_s`` (seconds from the start, held outside), shaped like it."""
        cols = [*self.position.T, *self.angles.T]
        values = [np.interp(t_s, self.t_s, c) for c in cols]
        return Pose(*(float(v) for v in values)) if np.ndim(t_s) == 0 else Pose(*values)

    def at(self, t_s: np.ndarray) -> np.ndarray:
        """Return [n, 11] world acceleration, angles, body rates, drive and wheel phase."""
        cols = [*self.acceleration.T, *self.angles.T, *self.rates.T, self.drive, self.wheel_phase]
        return np.stack([np.interp(t_s, self.t_s, c) for c in cols], axis=1)


def smooth_step(t: np.ndarray, start: float, length: float) -> np.ndarray:
    """Return a step from 0 to 1 over [start, start + length] without jerk at its ends."""
    u = np.clip((t - start) / length, 0.0, 1.0)
    return u * u * u * (10.0 + u * (6.0 * u - 15.0))


def integrate(profile: Profile, motion: str, start: Pose, wheel_phase: float = 0.0) -> Trajectory:
    """Return the trajectory that a profile gives from a start pose.

    :param start: base pose at t = 0; the profile's z, pitch and roll are added to it.
    :param wheel_phase: phase of the wheels at t = 0.
    """
    t = profile.t_s
    dt = t[1] - t[0]
    yaw = float(start.yaw) + _cumulate(profile.yaw_rate, dt)
    direction = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    across = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    z = float(start.z) + profile.z
    vz = np.gradient(z, dt)
    flat = profile.speed[:, None] * direction
    velocity = np.column_stack([flat, vz])
    acceleration = np.column_stack([
        np.gradient(profile.speed, dt)[:, None] * direction
        + (profile.speed * profile.yaw_rate)[:, None] * across,
        np.gradient(vz, dt)])
    position = np.column_stack([float(start.x) + _cumulate(flat[:, 0], dt),
                                float(start.y) + _cumulate(flat[:, 1], dt), z])
    pitch, roll = float(start.pitch) + profile.pitch, float(start.roll) + profile.roll
    angles = np.stack([yaw, pitch, roll], axis=1)
    drive = profile.ground * np.minimum(
        np.hypot(profile.speed / 0.6, 0.25 * profile.yaw_rate), 1.6)
    return Trajectory(motion, t, position, velocity, acceleration, angles,
                      _body_rates(profile.yaw_rate, angles, dt), drive,
                      wheel_phase + _cumulate(drive, dt))


def _cumulate(values: np.ndarray, dt: float) -> np.ndarray:
    out = np.zeros_like(values)
    np.cumsum((values[1:] + values[:-1]) * (0.5 * dt), out=out[1:])
    return out


def _body_rates(yaw_rate: np.ndarray, angles: np.ndarray, dt: float) -> np.ndarray:
    pitch, roll = angles[:, 1], angles[:, 2]
    dp, dr = np.gradient(pitch, dt), np.gradient(roll, dt)
    cp, sr, cr = np.cos(pitch), np.sin(roll), np.cos(roll)
    return np.stack([dr - yaw_rate * np.sin(pitch), dp * cr + yaw_rate * cp * sr,
                     yaw_rate * cp * cr - dp * sr], axis=1)


# ---- profiles of the motions --------------------------------------------------------------------

def wander(rng: np.random.Generator, t: np.ndarray, size: float, low: float, high: float,
           parts: int = 5) -> np.ndarray:
    """Return a random sum of sines in [low, high] Hz, rms ``size``, zero at the last time."""
    frequency = rng.uniform(low, high, parts)
    weight = rng.uniform(0.5, 1.0, parts) * rng.choice((-1.0, 1.0), parts)
    weight *= size / np.sqrt(0.5 * np.sum(weight ** 2))
    return weight @ np.sin(2 * np.pi * frequency[:, None] * (t - t[-1])[None, :])


def shake(rng: np.random.Generator, profile: Profile, envelope: np.ndarray | float = 1.0
          ) -> Profile:
    """Return the profile with rough ground below: bumps in z, pitch and roll."""
    t, level = profile.t_s, float(rng.uniform(0.7, 1.5))
    z = sum(wander(rng, t, level * 1.1 / (2 * np.pi * f) ** 2, 0.8 * f, 1.2 * f, 2)
            for f in rng.uniform(3.0, 12.0, 5))
    return replace(profile, z=profile.z + envelope * z,
                   pitch=profile.pitch + envelope * wander(rng, t, 0.022 * level, 1.2, 5.0),
                   roll=profile.roll + envelope * wander(rng, t, 0.016 * level, 1.0, 4.0))


def impact(rng: np.random.Generator, profile: Profile, when: float) -> Profile:
    """Return the profile stopped by an obstacle at ``when`` seconds: spike, rebound, ringing."""
    t = profile.t_s
    before = float(np.interp(when, t, profile.speed))
    back = before * rng.uniform(0.12, 0.3)
    crush = rng.uniform(0.03, 0.06)
    after = -back * (1.0 - smooth_step(t, when + crush, rng.uniform(0.15, 0.3)))
    hit = smooth_step(t, when, crush)
    since = np.maximum(t - when, 0.0)
    ring = before * np.exp(-since / rng.uniform(0.04, 0.09)) * (1.0 - np.exp(-since / 0.008))
    kick = rng.uniform(-0.6, 0.6) * before * (since / 0.03) * np.exp(1.0 - since / 0.03)
    return replace(
        profile, speed=profile.speed * (1.0 - hit) + after * hit,
        yaw_rate=profile.yaw_rate * (1.0 - hit) + kick * np.exp(-since / 0.1),
        z=profile.z + 3e-4 * ring * np.sin(2 * np.pi * rng.uniform(22, 40) * since),
        pitch=profile.pitch + 0.02 * ring * np.sin(2 * np.pi * rng.uniform(7, 14) * since),
        roll=profile.roll + 0.008 * ring * np.sin(2 * np.pi * rng.uniform(7, 14) * since))


def sway(rng: np.random.Generator, profile: Profile, rise: np.ndarray, height: float) -> Profile:
    """Return the profile carried up by ``height`` along ``rise`` (0..1), swaying in the air."""
    t = profile.t_s
    pitch = wander(rng, t, rng.uniform(0.02, 0.07), 0.5, 1.6, 3)
    roll = wander(rng, t, rng.uniform(0.02, 0.07), 0.5, 1.6, 3)
    turn = wander(rng, t, rng.uniform(0.05, 0.25), 0.3, 1.2, 3)
    return replace(profile, z=profile.z + height * rise, pitch=profile.pitch + rise * pitch,
                   roll=profile.roll + rise * roll, yaw_rate=profile.yaw_rate + rise * turn,
                   ground=profile.ground * (1.0 - smooth_step(rise, 0.0, 0.02)))


def _cruise(rng: np.random.Generator, profile: Profile, speed: np.ndarray | float) -> Profile:
    """Return the profile driving at ``speed`` with a slightly wandering heading."""
    t = profile.t_s
    speed = np.zeros_like(t) + speed
    drift = wander(rng, t, rng.uniform(0.005, 0.03), 0.2, 0.8, 3)
    squat = -0.006 * np.gradient(speed, t[1])
    return replace(profile, speed=speed + 0.01 * speed * wander(rng, t, 1.0, 0.5, 2.0, 3),
                   yaw_rate=drift * np.minimum(1.0, speed / 0.2), pitch=profile.pitch + squat)


def _window_profile(rng: np.random.Generator, motion: str, seconds: float, lift: float) -> Profile:
    """Return the profile of one motion, its event well inside the last two seconds."""
    profile = Profile.still(seconds)
    t, begin = profile.t_s, seconds - IMU_S
    if motion == 'standing still':
        return profile
    if motion == 'being lifted':
        start = begin + rng.uniform(0.1, 0.7)
        return sway(rng, profile, smooth_step(t, start, rng.uniform(0.75, 1.2)), lift)
    if motion in ('speeding up', 'slowing down'):
        low = rng.choice((0.0, rng.uniform(0.05, 0.3)))
        gain = rng.uniform(0.45, 0.95)
        step = smooth_step(t, begin + rng.uniform(0.1, 0.7), rng.uniform(0.7, 1.2))
        return _cruise(rng, profile,
                       low + gain * (step if motion == 'speeding up' else 1.0 - step))
    if motion in ('turning left', 'turning right'):
        speed = rng.choice((0.0, rng.uniform(0.1, 0.5)))
        start = rng.uniform(-0.5, begin + 0.6)
        rate = rng.uniform(0.45, 1.4) * smooth_step(t, start, rng.uniform(0.2, 0.5))
        if start < begin + 0.3 and rng.random() < 0.4:
            rate = rate * (1.0 - smooth_step(t, begin + rng.uniform(1.2, 1.6), 0.35))
        profile = _cruise(rng, profile, speed)
        return replace(profile, yaw_rate=profile.yaw_rate
                       + (rate if motion == 'turning left' else -rate))
    profile = _cruise(rng, profile, rng.uniform(0.25, 0.9))
    if motion == 'driving over rough ground':
        return shake(rng, profile)
    if motion == 'hitting an obstacle':
        return impact(rng, profile, begin + rng.uniform(0.4, 1.5))
    return profile


def plan_window(rng: np.random.Generator, motion: str, end_pose: Pose, seconds: float = WINDOW_S,
                ground_z: float = 0.0) -> Trajectory:
    """Return a random trajectory of the named motion that ends exactly at ``end_pose``.

    :param rng: source of every random choice.
    :param motion: one of ``truth.MOTIONS``.
    :param end_pose: pose at the window's end, numbers; 'being lifted' ends in the air, so its z
        is at least MIN_LIFT_M above ``ground_z`` (draw one with :func:`lift_height`).
    :param seconds: length of the window, at least 2.2 (the event lies in the last two seconds).
    :param ground_z: z of the pose when the robot stands on the floor.
    :raises ValueError: for an unknown motion, a window too short or a lift without height.
    """
    if motion not in MOTIONS:
        raise ValueError(f'unknown motion {motion!r}: expected one of {", ".join(MOTIONS)}')
    if seconds < IMU_S:
        raise ValueError(f'window of {seconds} s: expected at least {IMU_S} s')
    lift = 0.0
    if motion == 'being lifted':
        lift = float(end_pose.z) - ground_z
        if lift < MIN_LIFT_M:
            raise ValueError(
                f'end pose is {lift:.2f} m above the ground: being lifted ends at least '
                f'{MIN_LIFT_M} m above it; add lift_height(rng) to z')
    profile = _window_profile(rng, motion, seconds, lift)
    if motion == 'being lifted':            # level on the floor, tilted as asked in the air
        rise = profile.z / lift
        profile = replace(profile, z=profile.z - lift,
                          pitch=profile.pitch + (rise - 1.0) * float(end_pose.pitch),
                          roll=profile.roll + (rise - 1.0) * float(end_pose.roll))
    else:
        profile = replace(profile, z=profile.z - profile.z[-1],
                          pitch=profile.pitch - profile.pitch[-1],
                          roll=profile.roll - profile.roll[-1])
    trial = integrate(profile, motion, end_pose._replace(x=0.0, y=0.0, yaw=0.0))
    yaw = float(end_pose.yaw) - trial.angles[-1, 0]
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    shift = np.array([end_pose.x, end_pose.y, end_pose.z]) - trial.position[-1] @ turn.T
    return replace(trial, position=trial.position @ turn.T + shift,
                   velocity=trial.velocity @ turn.T, acceleration=trial.acceleration @ turn.T,
                   angles=trial.angles + np.array([yaw, 0.0, 0.0]))


def lift_height(rng: np.random.Generator) -> float:
    """Return a random height in metres to which somebody lifts the robot."""
    return float(rng.uniform(0.15, 0.5))


# ---- the IMU ------------------------------------------------------------------------------------

@dataclass(frozen=True, eq=False)
class ImuModel:
    """Errors of one IMU: constant bias, white noise, misalignment, wheel vibration.

    :param bias: [6]; :param noise: [6] standard deviations; :param mounting: [3, 3] rotation.
    :param tones: [k] vibration frequencies (Hz at full speed); :param levels: [k, 6] amplitudes;
    :param phases: [k, 6] their phases; :param grain: [6] broadband vibration at full speed.
    """

    bias: np.ndarray
    noise: np.ndarray
    mounting: np.ndarray
    tones: np.ndarray
    levels: np.ndarray
    phases: np.ndarray
    grain: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> ImuModel:
        """Return a random IMU of the usual cheap kind."""
        accel, gyro = np.array([1.0, 1.0, 1.0, 0, 0, 0]), np.array([0, 0, 0, 1.0, 1.0, 1.0])
        bias = rng.uniform(-0.08, 0.08, 6) * accel + rng.uniform(-0.01, 0.01, 6) * gyro
        noise = rng.uniform(0.02, 0.05) * accel + rng.uniform(0.002, 0.006) * gyro
        a, b, c = rng.uniform(-0.015, 0.015, 3)
        mounting = np.linalg.qr(np.array([[1, -a, b], [a, 1, -c], [-b, c, 1]]))[0]
        mounting = mounting * np.sign(np.diag(mounting))
        shape = np.array([0.5, 0.4, 1.0, 0.04, 0.04, 0.02]) * rng.uniform(0.2, 0.5)
        tones = rng.uniform(18.0, 70.0, 3)
        return cls(bias, noise, mounting, tones, rng.uniform(0.3, 1.0, (3, 6)) * shape,
                   rng.uniform(0, 2 * np.pi, (3, 6)), 0.6 * shape)

    def measure(self, felt: np.ndarray, white: np.ndarray) -> np.ndarray:
        """Return what the IMU says.

        :param felt: [n, 11] as :meth:`Trajectory.at` returns.
        :param white: [n, 12] standard normal numbers (noise, broadband vibration).
        :returns: [n, 6] accelerometer m/s^2 (gravity included) and gyroscope rad/s.
        """
        force = _to_body(felt[:, :3] + np.array([0.0, 0.0, GRAVITY]), felt[:, 3:6])
        drive, wheel = felt[:, 9], felt[:, 10]
        angle = 2 * np.pi * wheel[:, None] * self.tones[None, :]
        tremor = np.sin(angle) @ (self.levels * np.cos(self.phases))
        tremor += np.cos(angle) @ (self.levels * np.sin(self.phases))
        tremor += white[:, 6:] * self.grain
        strength = np.sqrt(np.minimum(drive, 1.6))[:, None]
        clean = np.concatenate([force @ self.mounting.T, felt[:, 6:9] @ self.mounting.T], axis=1)
        return clean + tremor * strength + self.bias + white[:, :6] * self.noise


def _to_body(vectors: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Return world vectors [n, 3] in the body frame given by yaw, pitch, roll [n, 3]."""
    (cy, cp, cr), (sy, sp, sr) = np.cos(angles).T, np.sin(angles).T
    x, y, z = vectors.T
    ahead, left = cy * x + sy * y, cy * y - sy * x
    up = sp * ahead + cp * z
    return np.stack([cp * ahead - sp * z, cr * left + sr * up, cr * up - sr * left], axis=1)


def imu(trajectory: Trajectory, rng: np.random.Generator, rate_hz: float = 200.0,
        seconds: float = IMU_S) -> tuple[np.ndarray, np.ndarray]:
    """Return what an IMU measures in the last ``seconds`` of a trajectory.

    :returns: stamps [n] in the trajectory's time (the last is its end) and values [n, 6]:
        accelerometer x y z (m/s^2, +9.81 on z when level at rest), gyroscope x y z (rad/s).
    :raises ValueError: if the trajectory is shorter than ``seconds``.
    """
    if seconds > trajectory.seconds + 1e-9:
        raise ValueError(f'{seconds} s of IMU asked of a trajectory of {trajectory.seconds} s')
    count = round(seconds * rate_hz)
    stamps = trajectory.seconds - np.arange(count - 1, -1, -1) / rate_hz
    model = ImuModel.draw(rng)
    return stamps, model.measure(trajectory.at(stamps), rng.standard_normal((count, 12)))
