"""Worlds: deterministic whole observations, truth and signals that belong together."""

from __future__ import annotations

from dataclasses import fields
import math

import numpy as np
import pytest

from onellm_ros.modality import Modality
from onellm_ros.simulation.motion import MOTIONS
from onellm_ros.simulation.render import Camera
from onellm_ros.simulation.sensors import VOXELS, frame_times, seen_features
from onellm_ros.simulation.truth import COLOURS, DIRECTIONS, KINDS, PLACES, SOUNDS
from onellm_ros.simulation.world import LiveWorld, Observation, World

LEAN = {'cloud_points': 256, 'video': (3, 32, 24)}
SIGNALS = ('image', 'depth', 'normal', 'ids', 'cloud', 'imu_stamps_ns', 'imu', 'audio', 'video',
           'fmri')


def same(one: Observation, two: Observation, names=SIGNALS) -> bool:
    return one.truth == two.truth and all(
        getattr(one, n).tobytes() == getattr(two, n).tobytes() for n in names)


def test_a_seed_gives_the_same_bytes_and_another_seed_others():
    first = World(5).sample(**LEAN)
    assert same(first, World(5).sample(**LEAN))
    for other in (World(6), World(5, held_out=True)):
        sample = other.sample(**LEAN)
        assert sample.image.tobytes() != first.image.tobytes()
        assert sample.audio.tobytes() != first.audio.tobytes()


def test_parts_change_nothing_but_what_is_there():
    world = World(9)
    whole = world.sample(**LEAN)
    for part in Modality:
        lean = World(9).sample(parts=(part,), **LEAN)
        assert lean.truth == whole.truth
        name = 'cloud' if part is Modality.POINT else part.value
        assert getattr(lean, name).tobytes() == getattr(whole, name).tobytes()
        absent = [n for n in SIGNALS if getattr(lean, n) is None]
        assert len(absent) == (7 if part is Modality.IMU else 8)
    assert same(whole, world.sample(parts=[p.value for p in Modality], **LEAN))
    assert World(9).truth() == whole.truth


def test_shapes_types_and_times():
    o = World(2).sample(cloud_points=500, video=(4, 40, 30))
    assert o.image.shape == (168, 224, 3) and o.image.dtype == np.uint8
    assert o.depth.shape == o.ids.shape == (168, 224) and o.depth.dtype == np.float32
    assert o.normal.shape == (168, 224, 3) and o.ids.dtype == np.int16
    assert o.cloud.shape == (500, 6) and o.cloud.dtype == np.float32
    assert o.imu.shape == (400, 6) and o.imu_stamps_ns.dtype == np.int64
    assert o.audio.shape == (32000,) and o.audio.dtype == np.float32
    assert o.audio_rate_hz == 16000
    assert o.video.shape == (4, 30, 40, 3) and o.video.dtype == np.uint8
    assert o.fmri.shape == (VOXELS,) and o.fmri.dtype == np.float32
    assert o.stamp_ns == 2_560_000_000 == o.imu_stamps_ns[-1] == o.video_stamps_ns[-1]
    assert (np.diff(o.imu_stamps_ns) == 5_000_000).all()
    assert o.video_stamps_ns[0] == 560_000_000
    chosen = o.chosen()
    assert set(chosen) == set(Modality)
    assert len(chosen[Modality.VIDEO]) == 4 and len(chosen[Modality.IMU]) == 400
    assert chosen[Modality.AUDIO][0].stamp_ns == 560_000_000
    assert chosen[Modality.DEPTH][0].intrinsics == o.intrinsics
    assert {f.name for f in fields(o)} >= set(SIGNALS)


def test_truth_belongs_to_the_picture():
    for seed in range(12):
        world = World(seed)
        o = world.sample(parts=('normal',))
        ids, counts = np.unique(o.ids[o.ids > 0], return_counts=True)
        large = {int(i) for i, n in zip(ids, counts, strict=True) if n >= 0.002 * o.ids.size}
        assert {s.object_id for s in o.truth.seen} == large
        assert [s.pixels for s in o.truth.seen] == sorted((s.pixels for s in o.truth.seen),
                                                          reverse=True)
        for s in o.truth.seen:
            thing = world.scene.thing(s.object_id)
            assert (s.kind, s.colour) == (thing.kind, thing.colour)
            assert s.kind in KINDS and s.colour in COLOURS and s.place in PLACES
            assert s.direction in ('', *DIRECTIONS) and 0.0 < s.visible <= 1.0
            x, y, _, yaw, *_ = world.pose(world.seconds)
            at = thing.at(0.0)
            bearing = math.remainder(math.atan2(at[1] - y, at[0] - x) - yaw, 2 * math.pi)
            half = math.atan2(0.6 * max(thing.size[:2]), math.hypot(at[0] - x, at[1] - y)) + 0.1
            assert abs(bearing - s.bearing_rad) < half or s.visible < 0.9
        assert 0.0 < o.truth.clear_m <= 10.0
        assert (o.truth.motion, o.truth.sound) == (world.motion, world.sound)


def test_a_direction_is_that_of_the_mover_in_the_film():
    checked = 0
    for seed in range(60):
        world = World(seed, motion='standing still')
        movers = [t for t in world.scene.things if t.speed > 0.0]
        said = {s.object_id: s.direction for s in world.truth().seen if s.direction}
        assert set(said) <= {t.object_id for t in movers}
        for thing in movers:
            if thing.object_id not in said:
                continue
            checked += 1
            x, y, _, yaw, *_ = world.pose(world.seconds)
            c, s = math.cos(yaw), math.sin(yaw)
            (nx, ny, *_), (bx, by, *_) = thing.at(0.0), thing.at(-2.0)
            ahead, left = c * (nx - bx) + s * (ny - by), c * (ny - by) - s * (nx - bx)
            expected = {'to the left': left, 'to the right': -left, 'away from the robot': ahead,
                        'towards the robot': -ahead}
            assert said[thing.object_id] == max(expected, key=lambda k: expected[k])
    assert checked >= 8


@pytest.mark.parametrize('motion', MOTIONS)
def test_motion_and_sound_can_be_chosen_and_the_robot_stays_in_the_room(motion):
    for seed in range(3):
        world = World(seed, motion=motion, sound='a bell', camera=Camera(40, 30))
        truth = world.truth()
        assert (truth.motion, truth.sound) == (motion, 'a bell')
        for t in np.linspace(0.0, world.seconds, 9):
            pose = world.pose(float(t))
            assert world.scene.room.inside(pose.x, pose.y, 0.2)


def test_all_motions_sounds_and_surfaces_occur_evenly():
    worlds = [World(seed) for seed in range(200)]
    for values, known in (([w.motion for w in worlds], MOTIONS),
                          ([w.sound for w in worlds], SOUNDS)):
        assert set(values) == set(known)
        assert max(values.count(k) for k in known) < 2.2 * len(worlds) / len(known)


def test_the_fmri_vector_is_a_code_of_what_is_seen():
    world = World(4)
    o = world.sample(parts=('fmri',))
    assert len(seen_features(o.truth.seen)) == (len(KINDS) + len(COLOURS)) * 3 + 2
    again = World(4).sample(parts=('fmri',))
    assert np.array_equal(o.fmri, again.fmri)
    blank = np.std(World(4).sample(parts=('fmri',)).fmri)
    assert blank > 0.35 or not o.truth.seen


def test_wrong_requests_are_named():
    with pytest.raises(ValueError, match='0 or more'):
        World(-1)
    with pytest.raises(ValueError, match='unknown: expected one of standing still'):
        World(0, motion='dancing')
    with pytest.raises(ValueError, match='unknown modality'):
        World(0).sample(parts=('smell',))
    with pytest.raises(ValueError, match=r'expected 2\.0 to 2\.56'):
        World(0).sample(9.0)
    with pytest.raises(ValueError, match='at least 1'):
        frame_times(0, 2.0)
    with pytest.raises(ValueError, match='0 or more'):
        LiveWorld(-1)


def test_an_earlier_end_gives_an_earlier_window():
    o = World(3).sample(2.2, **LEAN)
    assert o.stamp_ns == 2_200_000_000 == o.imu_stamps_ns[-1] and o.imu.shape == (400, 6)


def test_the_live_world_answers_the_same_in_any_order():
    one, two = LiveWorld(3), LiveWorld(3)
    camera = Camera(48, 36)
    late = one.observe_camera(12.5, camera)
    for t in (0.0, 4.0, 8.0):
        two.observe_camera(t, camera)
    again = two.observe_camera(12.5, camera)
    for name in ('image', 'depth', 'normal', 'ids'):
        assert getattr(late, name).tobytes() == getattr(again, name).tobytes()
    assert np.array_equal(one.cloud(7.0, 128), two.cloud(7.0, 128))
    stamps, values = one.imu_between(3.0, 4.0)
    assert len(stamps) == 200 and values.shape == (200, 6)
    assert len(one.audio_between(2.0, 2.5)) == 0.5 * one.audio_rate_hz
    assert one.step_to(9.0) == two.pose(9.0)
    assert one.truth(9.0, camera) == two.truth(9.0, camera)
    assert one.fmri(9.0, camera).shape == (VOXELS,)


def test_the_live_robot_drives_on_in_its_room_and_sees_things():
    for seed in range(3):
        world = LiveWorld(seed)
        poses = [world.pose(float(t)) for t in np.arange(0.0, 60.0, 0.5)]
        assert all(world.scene.room.inside(p.x, p.y, 0.2) for p in poses)
        assert np.ptp([p.x for p in poses]) + np.ptp([p.y for p in poses]) > 2.0
        truths = [world.truth(float(t), Camera(64, 48)) for t in range(0, 60, 4)]
        assert len({t.motion for t in truths}) >= 3
        assert sum(bool(t.seen) for t in truths) >= 6
