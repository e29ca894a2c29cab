"""The renderer against slow, independent geometry, and its promises at the edges."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest

from onellm_ros.simulation.motion import Pose
from onellm_ros.simulation.render import (
    Camera,
    Placed,
    Stage,
    join,
    pack,
    place_thing,
    render,
)
from onellm_ros.simulation.scene import Scene, Thing, compose
from onellm_ros.simulation.seeing import clear_way, outlines, seen_things
from onellm_ros.simulation.sensors import measured_depth, scan
from onellm_ros.simulation.shapes import Sketch, tilt
from onellm_ros.simulation.tracing import BOX, ELLIPSOID, FRUSTUM

SMALL = Camera(56, 42)
PATH = np.zeros((1, 2))


@pytest.fixture(scope='module')
def scene() -> Scene:
    return compose(np.random.default_rng(43), PATH, mover_share=0.0)


@pytest.fixture(scope='module')
def stage(scene) -> Stage:
    return Stage(scene)


def pose(scene: Scene) -> Pose:
    return Pose(scene.view[0], scene.view[1], 0.0, scene.view[2])


def bodies() -> list[tuple]:
    """Return (kind, centre, half, turn, taper) of hand-made bodies in front of the origin."""
    yaw = np.array([[math.cos(0.5), -math.sin(0.5), 0], [math.sin(0.5), math.cos(0.5), 0],
                    [0, 0, 1.0]])
    return [(BOX, (2.0, 0.6, 0.4), (0.3, 0.2, 0.4), yaw, 1.0),
            (ELLIPSOID, (1.7, -0.5, 0.5), (0.2, 0.35, 0.5), tilt(0.6), 1.0),
            (FRUSTUM, (2.6, -0.1, 0.5), (0.4, 0.4, 0.5), np.eye(3), 0.3),
            (FRUSTUM, (1.6, 0.1, 0.15), (0.15, 0.15, 0.15), np.eye(3), 1.0)]


def inside(kind, centre, half, turn, taper, points):
    """Whether points lie in a body, straight from its definition (another way than the tracer)."""
    local = (points - np.array(centre)) @ turn
    x, y, z = local.T
    if kind == BOX:
        return (abs(x) <= half[0]) & (abs(y) <= half[1]) & (abs(z) <= half[2])
    if kind == ELLIPSOID:
        return (x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2 <= 1.0
    share = (z + half[2]) / (2 * half[2])
    radius = half[0] * (1.0 + (taper - 1.0) * share)
    return (abs(z) <= half[2]) & (x ** 2 + y ** 2 <= radius ** 2)


def march(at, direction, size):
    """Return (t, body index or -1 floor, -2 other room surface) by marching and bisection."""
    t = np.arange(0.05, 8.0, 0.002)

    def what(values):
        points = at + values[:, None] * direction
        out = np.full(len(values), -9)
        out[(np.abs(points) > size).any(1)] = -2
        out[points[:, 2] < 0.0] = -1
        for i, body in enumerate(bodies()):
            out[inside(*body, points)] = i
        return out
    first = int(np.argmax(what(t) != -9))
    low, high = t[first] - 0.002, t[first]
    for _ in range(30):
        middle = np.array([(low + high) / 2])
        if what(middle)[0] == -9:
            low = middle[0]
        else:
            high = middle[0]
    return high, int(what(np.array([high]))[0])


def test_depth_normals_and_ids_agree_with_marching_through_the_definitions(scene):
    room = Stage(Scene(replace(scene.room, length=7.0, width=6.0), (), (0, 0, 0))).room
    placed = []
    for i, (kind, centre, half, turn, taper) in enumerate(bodies()):
        sketch = Sketch()
        sketch.add(kind, centre, half, (0.5, 0.5, 0.5), taper=taper, turn=turn)
        placed.append(Placed(sketch, 0.0, 0.0, 0.0, 0.0, i + 1))
    prims = pack(placed)
    base, camera = Pose(0.0, 0.0, 0.1, 0.05, 0.02, -0.03), Camera(64, 48)
    view = render(prims, room, camera, base, colour=False)
    at, axes = camera.placed(base)
    fx, fy, cx, cy = camera.intrinsics
    size = np.array([3.5, 3.0, 2.6])
    rng = np.random.default_rng(0)
    wrong, hits = 0, set()
    for v, u in zip(rng.integers(0, 48, 120), rng.integers(0, 64, 120), strict=True):
        direction = axes @ np.array([(u - cx) / fx, (v - cy) / fy, 1.0])
        t, what = march(at, direction, size)
        expected = what + 1 if what >= 0 else {-1: 0, -2: -2}[what]
        if min(int(view.ids[v, u]), expected) < 0:
            assert view.ids[v, u] < 0 and expected < 0
        elif view.ids[v, u] != expected:
            wrong += 1                       # a ray that only touches a rim within the step
            continue
        hits.add(expected)
        assert view.depth[v, u] == pytest.approx(t, abs=1e-5)
        if what >= 0:
            check_normal(bodies()[what], at + t * direction, axes @ view.normal[v, u])
    assert wrong <= 1 and hits >= {0, 1, 2, 3, 4}


def check_normal(body, point, normal):
    """A small step along the normal leaves the body, one against it enters."""
    assert not inside(*body, (point + 1e-3 * normal)[None])[0]
    assert inside(*body, (point - 1e-3 * normal)[None])[0]
    kind, centre, half, turn, _ = body
    if kind == ELLIPSOID:
        local = (point - np.array(centre)) @ turn
        gradient = turn @ (local / np.square(half))
        assert np.allclose(normal, gradient / np.linalg.norm(gradient), atol=1e-4)
    if kind == BOX:
        assert np.abs(normal @ turn).max() == pytest.approx(1.0, abs=1e-5)


def test_normals_face_the_camera_and_fit_the_depth(scene, stage):
    camera = Camera(160, 120)
    view = render(stage.primitives(), stage.room, camera, pose(scene), colour=False)
    fx, fy, cx, cy = camera.intrinsics
    u, v = np.meshgrid(np.arange(160), np.arange(120))
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u, float)], axis=-1)
    assert np.allclose(np.linalg.norm(view.normal, axis=-1), 1.0, atol=1e-5)
    assert ((rays * view.normal).sum(-1) < 1e-6).all()
    points = rays * view.depth[..., None]
    at, axes = camera.placed(pose(scene))
    up = view.normal[view.ids == 0] @ axes.T
    assert np.allclose(up, [0, 0, 1], atol=1e-5)
    floor = points[view.ids == 0] @ axes.T + at
    assert np.abs(floor[:, 2]).max() < 1e-5
    for wall in (-2, -3, -4, -5):
        mine = view.ids == wall
        if mine.any():
            plane = (points[mine] * view.normal[mine]).sum(-1)
            assert np.ptp(plane) < 1e-4
    # neighbours on the same flat piece lie in the plane that the normal spans
    same = (view.ids[:, 1:] == view.ids[:, :-1]) & (
        (view.normal[:, 1:] * view.normal[:, :-1]).sum(-1) > 1 - 1e-9) & (view.ids[:, 1:] > 0)
    off = ((points[:, 1:] - points[:, :-1]) * view.normal[:, 1:]).sum(-1)[same]
    assert np.mean(np.abs(off) < 1e-3) > 0.95


def test_the_same_view_has_the_same_bytes_with_any_number_of_threads(scene, stage):
    views = [render(stage.primitives(), stage.room, Camera(96, 72), pose(scene),
                    supersample=True, threads=threads) for threads in (1, 1, 2, 3)]
    other = render(Stage(scene).primitives(), stage.room, Camera(96, 72), pose(scene),
                   supersample=True)
    for view in (*views[1:], other):
        for name in ('image', 'depth', 'normal', 'ids'):
            assert getattr(view, name).tobytes() == getattr(views[0], name).tobytes()


@pytest.mark.parametrize('where', [(30.0, 0.0, 0.0), (0.0, -20.0, 0.0), (0.0, 0.0, 9.0),
                                   (0.0, 0.0, -5.0), (1e6, 1e6, 0.0)])
@pytest.mark.parametrize('yaw', [0.0, 2.0, math.pi, 5.0])
def test_a_camera_outside_the_room_sees_the_sky_or_into_the_room(stage, where, yaw):
    base = Pose(*where, yaw, 0.3, 0.2)
    view = render(stage.primitives(), stage.room, SMALL, base, supersample=True)
    nothing = view.ids == -9
    assert nothing.any()
    assert np.isnan(view.depth[nothing]).all() and np.isnan(view.normal[nothing]).all()
    assert (view.image[nothing] != 0).all()
    assert np.isfinite(view.depth[~nothing]).all()
    assert np.isnan(measured_depth(view, SMALL, np.random.default_rng(0))[nothing]).all()
    cloud = scan(stage.primitives(), stage.room, base, 200, np.random.default_rng(0))
    assert cloud.shape[1] == 6 and np.isfinite(cloud).all()


def test_a_camera_inside_a_thing_or_touching_a_wall_gives_finite_pictures(scene, stage):
    thing = next(t for t in scene.things if t.z == 0.0)
    for base in (Pose(thing.x, thing.y, thing.size[2] / 2 - 0.6, 1.0),
                 Pose(scene.room.length / 2, 0.0, 0.0, 0.0),
                 Pose(0.0, 0.0, 0.0, 0.3, math.pi / 2)):
        view = render(stage.primitives(), stage.room, SMALL, base)
        assert view.image.shape == (42, 56, 3)


def test_shadows_darken_and_smooth_edges_change_only_edges(scene, stage):
    camera = Camera(112, 84)
    plain, bare, smooth = (
        render(stage.primitives(), stage.room, camera, pose(scene), shadows=s, supersample=f)
        for s, f in ((True, False), (False, False), (True, True)))
    assert (plain.image <= bare.image).all() and (plain.image < bare.image).any()
    changed = (plain.image != smooth.image).any(-1).mean()
    assert 0.0 < changed < 0.35
    assert np.array_equal(plain.depth, smooth.depth)


def test_joined_tables_draw_as_one(scene):
    fixed, rest = Stage(replace(scene, things=scene.things[:2])), scene.things[2:]
    whole = Stage(scene)
    table = join(fixed.primitives(), pack([place_thing(t) for t in rest]))
    one = render(table, whole.room, SMALL, pose(scene))
    two = render(whole.primitives(), whole.room, SMALL, pose(scene))
    assert np.array_equal(one.ids, two.ids) and np.array_equal(one.image, two.image)


def hand_made(scene: Scene) -> Scene:
    """Return a scene with a box 2 m ahead that hides half of a ball, and a cone to the left."""
    room = replace(scene.room, length=8.0, width=8.0)

    def thing(number, kind, colour, size, x, y, z=0.0):
        return Thing(number, kind, colour, (0.5, 0.5, 0.5), size, 0, x, y, z, 0.0)
    return Scene(room, (thing(1, 'box', 'red', (0.4, 0.4, 0.4), 1.7, 0.0),
                        thing(2, 'ball', 'blue', (0.4, 0.4, 0.4), 2.7, 0.3),
                        thing(3, 'cone', 'green', (0.36, 0.36, 0.52), 1.8, 1.0)),
                 (-0.5, 0.0, 0.0))


def test_truth_of_a_hand_made_scene(scene):
    made = hand_made(scene)
    stage, camera, base = Stage(made), Camera(224, 168), Pose(-0.5, 0.0)
    prims = stage.primitives()
    view = render(prims, stage.room, camera, base, colour=False)
    seen = {s.object_id: s for s in seen_things(made, prims, view, camera, base, {})}
    assert set(seen) == {1, 2, 3}
    assert (seen[1].kind, seen[1].colour, seen[1].place) == ('box', 'red', 'ahead')
    assert seen[1].bearing_rad == pytest.approx(0.0, abs=0.02)
    assert 1.9 < seen[1].distance_m < 2.2
    assert seen[3].place == 'left'
    assert seen[3].bearing_rad == pytest.approx(math.atan2(1.0, 2.3), abs=0.03)
    assert seen[1].visible > 0.9 and seen[3].visible > 0.9
    alone = Stage(replace(made, things=(replace(made.things[1], object_id=1),)))
    free = render(alone.primitives(), alone.room, camera, base, colour=False)
    share = (view.ids == 2).sum() / (free.ids == 1).sum()
    assert seen[2].visible == pytest.approx(share, abs=0.08) and share < 0.95
    assert seen[1].pixels == pytest.approx((view.ids == 1).mean())
    assert clear_way(view, camera, base) == pytest.approx(2.0, abs=0.03)
    empty = Stage(replace(made, things=()))
    far = render(empty.primitives(), empty.room, camera, base, colour=False)
    assert clear_way(far, camera, base) == pytest.approx(4.5, abs=0.08)


def test_outlines_count_what_hangs_out_of_the_picture(scene):
    made = hand_made(scene)
    cut = replace(made, things=(replace(made.things[0], y=1.85),))
    stage, camera, base = Stage(cut), Camera(224, 168), Pose(-0.5, 0.0)
    view = render(stage.primitives(), stage.room, camera, base, colour=False)
    turned = render(stage.primitives(), stage.room, camera, base._replace(yaw=0.3), colour=False)
    whole = outlines(stage.primitives(), camera, base)[1]
    assert 0 < (view.ids == 1).sum() < 0.9 * whole
    assert whole > 0.8 * (turned.ids == 1).sum()


def test_the_scan_lies_on_the_surfaces_and_has_their_colours(scene, stage):
    base = pose(scene)._replace(z=0.2, pitch=0.05)
    cloud = scan(stage.primitives(), stage.room, base, 3000, np.random.default_rng(5))
    assert cloud.shape == (3000, 6) and cloud.dtype == np.float32
    assert (cloud[:, 0] > 0).mean() > 0.99 and ((cloud[:, 3:] >= 0) & (cloud[:, 3:] <= 1)).all()
    camera = Camera(400, 300, hfov_deg=110.0, pitch_deg=0.0)
    view = render(stage.primitives(), stage.room, camera, base, shadows=False)
    fx, fy, cx, cy = camera.intrinsics
    u = np.round(cx - cloud[:, 1] / cloud[:, 0] * fx).astype(int)
    v = np.round(cy - (cloud[:, 2] - camera.mount_m) / cloud[:, 0] * fy).astype(int)
    good = (u >= 0) & (u < 400) & (v >= 0) & (v < 300) & (cloud[:, 0] > 0.3)
    error = view.depth[v[good], u[good]] - cloud[good, 0]
    assert good.sum() > 1500
    assert np.mean(np.abs(error) < 0.06) > 0.93
    colours = view.image[v[good], u[good]] / 255.0 - cloud[good, 3:]
    assert np.median(np.abs(colours)) < 0.03


def test_the_depth_camera_has_noise_holes_and_a_range(scene, stage):
    camera = Camera(224, 168)
    view = render(stage.primitives(), stage.room, camera, pose(scene), colour=False)
    measured = measured_depth(view, camera, np.random.default_rng(1))
    good = np.isfinite(measured)
    assert measured.dtype == np.float32 and 0.6 < good.mean() < 1.0
    assert measured[good].min() >= 0.3 and measured[good].max() <= 10.0
    error = np.abs(measured - view.depth)[good]
    assert 0.0 < np.median(error) < 0.02
    near = good & (view.depth < 1.5)
    far = good & (view.depth > 3.0)
    assert np.std((measured - view.depth)[near]) < np.std((measured - view.depth)[far])
