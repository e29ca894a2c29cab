"""The robot's motion: exact end poses, consistent derivatives, an IMU that tells the motions."""

from __future__ import annotations

import numpy as np
import pytest

from onellm_ros.simulation.live_motion import LivePlan
from onellm_ros.simulation.motion import GRAVITY, Pose, Trajectory, imu, lift_height, plan_window
from onellm_ros.simulation.truth import MOTIONS


def window(seed: int, motion: str) -> tuple[Trajectory, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = lift_height(rng) if motion == 'being lifted' else 0.0
    end = Pose(1.5, -2.0, z, rng.uniform(-3, 3), 0.01, -0.01)
    trajectory = plan_window(rng, motion, end)
    got = trajectory.pose(trajectory.seconds)
    assert np.allclose(got, end, atol=1e-9)
    return trajectory, imu(trajectory, rng)[1]


def named(values: np.ndarray) -> str:
    """Name the motion by rules on [400, 6]: what a person would look for in the traces."""
    middle = values - np.median(values, axis=0)
    slow = np.stack([np.convolve(c, np.full(60, 1 / 60), 'valid') for c in middle.T], axis=1)
    raw = np.convolve(values[:, 0] - np.mean(values[:, 0]), np.full(60, 1 / 60), 'valid')
    if middle[:, 0].min() < -5.0:
        return 'hitting an obstacle'
    if middle[:, 3:5].std() > 0.15 and np.diff(values[:, 2]).std() > 0.3:
        return 'driving over rough ground'
    if np.abs(slow[:, 2]).max() > 0.35 and np.diff(values[:60, 2]).std() < 0.1:
        return 'being lifted'
    if abs(values[:, 5].mean()) > 0.12:
        return 'turning left' if values[:, 5].mean() > 0 else 'turning right'
    if max(raw.max(), -raw.min()) > 0.28:
        return 'speeding up' if raw.max() > -raw.min() else 'slowing down'
    return 'driving straight' if np.diff(values[:, 2]).std() > 0.09 else 'standing still'


@pytest.mark.parametrize('motion', MOTIONS)
def test_a_window_is_deterministic_finite_and_smooth(motion: str) -> None:
    first, felt = window(3, motion)
    again, felt_again = window(3, motion)
    assert np.array_equal(first.position, again.position) and np.array_equal(felt, felt_again)
    assert felt.shape == (400, 6) and np.isfinite(felt).all()
    dt = first.t_s[1] - first.t_s[0]
    assert np.allclose(np.gradient(first.position, dt, axis=0)[1:-1], first.velocity[1:-1],
                       atol=0.05)
    moved = np.cumsum(first.acceleration, axis=0) * dt
    assert np.allclose(moved[-1], first.velocity[-1] - first.velocity[0], atol=0.05)
    assert first.travel_m < 2.6


def test_poses_are_scalar_or_vectorised_alike() -> None:
    trajectory, _ = window(5, 'turning left')
    times = np.linspace(0.0, trajectory.seconds, 7)
    many = trajectory.pose(times)
    assert np.shape(many.x) == (7,)
    assert [p[3] for p in zip(*many)] == [trajectory.pose(float(t)).yaw for t in times]
    assert many.yaw[-1] > many.yaw[0]


def test_the_imu_at_rest_reads_gravity_and_keeps_its_stamps() -> None:
    rng = np.random.default_rng(0)
    trajectory = plan_window(rng, 'standing still', Pose(0.0, 0.0))
    stamps, values = imu(trajectory, rng, rate_hz=100.0, seconds=1.5)
    assert len(stamps) == 150 and stamps[-1] == trajectory.seconds
    assert np.allclose(np.diff(stamps), 0.01)
    assert np.allclose(values.mean(axis=0), [0, 0, GRAVITY, 0, 0, 0], atol=0.3)


def test_tilt_moves_gravity_as_rep_103_says() -> None:
    rng = np.random.default_rng(0)
    for pose, axis, sign in ((Pose(0, 0, 0, 0, 0.3, 0), 0, -1), (Pose(0, 0, 0, 0, 0, 0.3), 1, 1)):
        values = imu(plan_window(rng, 'standing still', pose), rng)[1].mean(axis=0)
        assert values[axis] == pytest.approx(sign * GRAVITY * np.sin(0.3), abs=0.3)


def test_a_turn_to_the_left_is_a_positive_rate_and_pulls_to_the_left() -> None:
    for seed in range(20):
        trajectory, values = window(seed, 'turning left')
        assert values[:, 5].max() > 0.4
        assert trajectory.rates[:, 2].max() > 0.4
        if trajectory.travel_m > 0.3:
            bend = np.cross(trajectory.velocity, trajectory.acceleration)[:, 2]
            assert bend.mean() > 0.0


def test_the_motions_can_be_told_from_the_imu_alone() -> None:
    asked = [(seed, motion) for seed in range(20) for motion in MOTIONS]
    right = sum(named(window(seed, motion)[1]) == motion for seed, motion in asked)
    assert right / len(asked) > 0.93


def test_refusals_say_what_to_do() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match='unknown motion'):
        plan_window(rng, 'flying', Pose(0.0, 0.0))
    with pytest.raises(ValueError, match='lift_height'):
        plan_window(rng, 'being lifted', Pose(0.0, 0.0))
    with pytest.raises(ValueError, match='at least'):
        plan_window(rng, 'standing still', Pose(0.0, 0.0), seconds=1.0)
    with pytest.raises(ValueError, match='IMU'):
        imu(plan_window(rng, 'standing still', Pose(0.0, 0.0)), rng, seconds=5.0)


OBSTACLES = [(1.5, 1.0, 0.5), (-2.0, -1.0, 0.4), (0.5, -2.0, 0.3)]


def test_the_live_plan_is_the_same_whatever_the_calls() -> None:
    plan, again = (LivePlan(4, (7.0, 6.0), OBSTACLES) for _ in range(2))
    stamps, values = plan.imu_between(0.0, 40.0)
    assert values.shape == (8000, 6) and np.isfinite(values).all()
    again.imu_between(300.0, 301.0)                 # far ahead first, then in uneven pieces
    cuts = [0.0, 0.003, 1.117, 9.0, 9.0051, 22.2, 40.0]
    pieces = [again.imu_between(a, b) for a, b in zip(cuts, cuts[1:])]
    assert np.array_equal(np.concatenate([p[0] for p in pieces]), stamps)
    assert np.allclose(np.concatenate([p[1] for p in pieces]), values, atol=1e-9)
    assert plan.pose(3.7) == again.pose(3.7)
    assert not np.allclose(LivePlan(5, (7.0, 6.0), OBSTACLES).imu_between(0, 40)[1], values)


@pytest.mark.parametrize('seed', range(4))
def test_the_live_plan_stays_clear_smooth_and_varied(seed: int) -> None:
    plan = LivePlan(seed, (7.0, 6.0), OBSTACLES)
    times = np.arange(0.0, 300.0, 0.05)
    path = plan.pose(times)
    assert plan.clearance(path.x, path.y).min() > 0.2
    step = np.hypot(np.diff(path.x), np.diff(path.y))
    assert step.max() < 0.06 and step.sum() > 30.0
    assert np.abs(np.angle(np.exp(1j * np.diff(path.yaw)))).max() < 0.12
    assert {plan.motion(t, t + 2.0) for t in range(1, 290, 2)} >= {
        'standing still', 'driving straight', 'speeding up', 'slowing down', 'turning left',
        'turning right', 'driving over rough ground'}


def test_the_live_imu_agrees_with_its_truth() -> None:
    plan = LivePlan(11, (8.0, 8.0), OBSTACLES)
    pairs = [(plan.motion(t, t + 2.0), named(plan.imu_between(t, t + 2.0)[1]))
             for t in np.arange(0.5, 400.0, 1.0)]
    assert np.mean([true == felt for true, felt in pairs]) > 0.8


def test_the_live_plan_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match='no free spot'):
        LivePlan(0, (0.5, 0.5), [])
    plan = LivePlan(0, (5.0, 5.0), [])
    with pytest.raises(ValueError, match='starts at 0'):
        plan.pose(-1.0)
    with pytest.raises(ValueError, match='start < end'):
        plan.motion(2.0, 1.0)
