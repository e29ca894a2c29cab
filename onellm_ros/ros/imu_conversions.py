"""Inertial measurements: sensor_msgs Imu -> samples, and one stream out of split gyro and accel.

Some drivers (Intel RealSense by default) publish the gyroscope and the accelerometer as two Imu
topics at different rates, the other part zero. `ImuMerger` makes one stream of 6-vectors of them,
as the driver's own ``unite_imu_method: linear_interpolation`` does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
import math
from typing import Any

import numpy as np

from onellm_ros.modality import Sample
from onellm_ros.ros.message_fields import ConversionError, frame_id, require, stamp_ns

Vector = tuple[float, float, float]
_ZERO: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class ImuParts:
    """What one Imu message measured; a part that it does not have is None.

    :param accelerometer: x, y, z in m/s^2.
    :param gyroscope: x, y, z in rad/s.
    :param gyroscope_zero: the gyroscope is exactly zero: at rest without noise, or not there.
    """

    stamp_ns: int
    frame_id: str
    accelerometer: Vector | None
    gyroscope: Vector | None
    gyroscope_zero: bool = False


def _vector(message: Any, name: str, covariance_name: str) -> Vector | None:
    """Return a vector field, or None if its covariance starts with -1."""
    covariance = getattr(message, covariance_name, None)
    if covariance is not None and len(covariance) and float(covariance[0]) == -1.0:
        return None
    value = getattr(message, name)
    vector = float(value.x), float(value.y), float(value.z)
    if not math.isfinite(sum(vector)) and not all(map(math.isfinite, vector)):
        raise ConversionError(f'found {name} {list(vector)} in an Imu; expected finite '
                              'numbers; a part that is not measured is marked by -1 as the '
                              'first number of its covariance')
    return vector


def imu_parts(message: Any) -> ImuParts:
    """Return the parts that an Imu message measured.

    A part is absent when its covariance starts with -1 (the convention of sensor_msgs), and the
    accelerometer also when it is exactly zero, which no accelerometer at rest or in motion shows.

    :raises ConversionError: for NaN or infinity, and when both parts are absent.
    """
    require(message, 'a sensor_msgs Imu', 'linear_acceleration', 'angular_velocity')
    accelerometer = _vector(message, 'linear_acceleration', 'linear_acceleration_covariance')
    gyroscope = _vector(message, 'angular_velocity', 'angular_velocity_covariance')
    if accelerometer is not None and not any(accelerometer):
        accelerometer = None
    zero = gyroscope is not None and not any(gyroscope)
    if accelerometer is None and (gyroscope is None or zero):
        raise ConversionError('found neither an acceleration nor an angular velocity in an Imu '
                              '(zero, or covariance -1); expected at least one; an Imu that only '
                              'carries an orientation cannot be used')
    return ImuParts(stamp_ns(message), frame_id(message), accelerometer, gyroscope, zero)


def _sample(stamp: int, frame: str, accelerometer: Vector | None, gyroscope: Vector | None,
            topic: str) -> Sample:
    """Return a 6-vector; an absent part is zero."""
    data = np.array((accelerometer or _ZERO) + (gyroscope or _ZERO))
    return Sample(stamp, data, frame, topic=topic)


def imu_sample(message: Any, topic: str = '') -> Sample:
    """Convert one Imu message by itself; an absent part becomes zeros.

    A node should use `ImuMerger`, which fills it from a second topic and tells what is absent.

    :param topic: name to keep in the sample.
    :returns: an IMU sample, float64 [6]: accelerometer m/s^2, gyroscope rad/s.
    :raises ConversionError: for NaN, and when both parts are absent.
    """
    parts = imu_parts(message)
    return _sample(parts.stamp_ns, parts.frame_id, parts.accelerometer, parts.gyroscope, topic)


@dataclass
class ImuMerger:
    """One stream of 6-vectors out of complete, gyro-only and accelerometer-only Imu messages.

    Complete messages pass at once. Gyro-only messages wait until accelerometer values lie on both
    sides of their stamp, and leave with the acceleration interpolated to it. If none comes within
    ``patience_ns`` they leave with the newest acceleration known within that time, else with
    zeros, and `missing` says so. Accelerometer-only messages without any gyroscope leave with
    zeros too.
    Time that jumps back by more than ``patience_ns`` starts anew.

    :param patience_ns: how long (in stamps) a part waits for the other.
    """

    patience_ns: int = 500_000_000
    missing: str = ''
    _gyros: deque[ImuParts] = field(default_factory=lambda: deque(maxlen=4096))
    _accels: deque[ImuParts] = field(default_factory=lambda: deque(maxlen=4096))
    _newest_ns: int = 0
    _gyro_only_ns: int | None = None

    def clear(self) -> None:
        """Forget everything that was received."""
        self._gyros.clear()
        self._accels.clear()
        self._gyro_only_ns = None
        self._newest_ns = 0
        self.missing = ''

    def add(self, message: Any, topic: str = '') -> list[Sample]:
        """Take one Imu message.

        :param topic: name to keep in the samples.
        :returns: the samples that are complete now, ordered by stamp; often one, possibly none.
        :raises ConversionError: for a message that is not understood.
        """
        parts = imu_parts(message)
        if parts.stamp_ns < self._newest_ns - self.patience_ns:
            self.clear()
        self._newest_ns = max(self._newest_ns, parts.stamp_ns)
        if parts.accelerometer is None:
            self._gyro_only_ns = parts.stamp_ns
            self._gyros.append(parts)
        elif parts.gyroscope is None or (parts.gyroscope_zero and self._split(parts.stamp_ns)):
            self._accels.append(parts)
        else:
            self.missing = ''
            return [_sample(parts.stamp_ns, parts.frame_id, parts.accelerometer, parts.gyroscope,
                            topic)]
        return self._gyro_samples(topic) + self._lonely_accelerations(topic)

    def flush(self) -> list[Sample]:
        """Return what still waits, at the end of a recording; the acceleration is held."""
        if not self._gyros and not self._accels:
            return []
        self._newest_ns = max(p.stamp_ns for p in (*self._gyros, *self._accels)) \
            + self.patience_ns + 1
        ready = self._gyro_samples('')
        self.clear()
        return ready

    def _split(self, stamp: int) -> bool:
        """Tell whether gyro-only messages have been coming lately."""
        return (self._gyro_only_ns is not None
                and abs(stamp - self._gyro_only_ns) <= self.patience_ns)

    def _gyro_samples(self, topic: str) -> list[Sample]:
        """Return the waiting gyro messages whose acceleration is known or too late."""
        ready: list[Sample] = []
        times = [a.stamp_ns for a in self._accels]
        while self._gyros:
            gyro = self._gyros[0]
            waited = self._newest_ns - gyro.stamp_ns > self.patience_ns
            if not (times and times[-1] >= gyro.stamp_ns) and not waited:
                break
            self._gyros.popleft()
            acceleration = self._acceleration_at(gyro.stamp_ns, times)
            self.missing = 'accelerometer' if acceleration is None else ''
            ready.append(_sample(gyro.stamp_ns, gyro.frame_id, acceleration, gyro.gyroscope,
                                 topic))
        if ready:
            while len(self._accels) > 2 and self._accels[1].stamp_ns < ready[-1].stamp_ns:
                self._accels.popleft()
        return ready

    def _acceleration_at(self, stamp: int, times: list[int]) -> Vector | None:
        """Return the acceleration at a stamp: interpolated, or held from within the patience."""
        near = [(t, a.accelerometer) for t, a in zip(times, self._accels, strict=True)
                if abs(t - stamp) <= self.patience_ns and a.accelerometer is not None]
        if not near:
            return None
        stamps = np.array([t - stamp for t, _ in near], np.float64)
        values = np.array([a for _, a in near])
        order = np.argsort(stamps, kind='stable')
        x, y, z = (float(np.interp(0.0, stamps[order], values[order, i])) for i in range(3))
        return x, y, z

    def _lonely_accelerations(self, topic: str) -> list[Sample]:
        """Return accelerations that waited too long for any gyroscope, with zeros in its place."""
        ready: list[Sample] = []
        if self._gyros or self._split(self._newest_ns):
            return ready
        while self._accels and self._newest_ns - self._accels[0].stamp_ns > self.patience_ns:
            parts = self._accels.popleft()
            self.missing = 'gyroscope'
            ready.append(_sample(parts.stamp_ns, parts.frame_id, parts.accelerometer, None, topic))
        return ready
