"""Scenes: deterministic, nothing inside anything else, even and independent in what they hold."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
import math

import numpy as np
import pytest

from onellm_ros.simulation.rooms import HEIGHT_M
from onellm_ros.simulation.scene import Block, Scene, Thing, compose, furnish
from onellm_ros.simulation.shapes import BUILDERS, SIZES, Look, draw
from onellm_ros.simulation.tracing import ELLIPSOID
from onellm_ros.simulation.truth import COLOURS, FLOORS, KINDS, PLACE_LIMIT_RAD

WORLDS = 500
PATH = np.stack([np.linspace(-1.0, 0.0, 40), np.zeros(40)], axis=1)


@pytest.fixture(scope='module')
def scenes() -> list[Scene]:
    return [compose(np.random.default_rng([7, seed]), PATH) for seed in range(WORLDS)]


def in_view(scene: Scene) -> list[tuple[Thing, float, float]]:
    """Return things whose middle lies in the 80 degree view: (thing, bearing, distance)."""
    out = []
    for thing in scene.things:
        dx, dy = thing.x - scene.view[0], thing.y - scene.view[1]
        bearing = math.remainder(math.atan2(dy, dx) - scene.view[2], 2 * math.pi)
        if abs(bearing) < 0.66:
            out.append((thing, bearing, math.hypot(dx, dy)))
    return out


def footprint(thing: Thing) -> Block:
    reach = thing.reach_m
    return Block(thing.x - math.cos(thing.yaw) * reach / 2,
                 thing.y - math.sin(thing.yaw) * reach / 2, thing.yaw,
                 (thing.size[0] + reach) / 2, thing.size[1] / 2)


def test_the_same_seed_gives_the_same_scene(scenes):
    for seed in (0, 3, 11):
        assert compose(np.random.default_rng([7, seed]), PATH) == scenes[seed]
    assert scenes[0] != scenes[1]


def test_rooms_and_counts_are_as_promised(scenes):
    for scene in scenes:
        assert 4.5 <= min(scene.room.size) and max(scene.room.size) <= 9.0
        assert 3 <= len(scene.things) <= 14
        assert [t.object_id for t in scene.things] == list(range(1, len(scene.things) + 1))
        for thing in scene.things:
            assert all(scene.room.inside(x, y, 0.0) for x, y in footprint(thing).corners()) \
                or thing.z > 0.0
            assert thing.z + thing.size[2] < HEIGHT_M
            usual = SIZES[thing.kind]
            assert all(0.79 * u <= s <= 1.21 * u for s, u in zip(thing.size, usual, strict=True))
            assert np.abs(np.array(thing.tint) - COLOURS[thing.colour]).max() < 0.12
    assert sum(len(s.things) >= 4 for s in scenes) >= 0.97 * WORLDS
    assert {s.room.floor for s in scenes} == set(FLOORS)


def test_nothing_stands_in_anything_or_in_the_robots_way(scenes):
    for scene in scenes:
        floor = [footprint(t) for t in scene.things if t.z == 0.0]
        assert not any(a.overlaps(b, 0.0) for a, b in combinations(floor, 2))
        x, y, yaw = scene.view
        c, s = math.cos(yaw), math.sin(yaw)
        for px, py in PATH[::8]:
            robot = Block(x + c * px - s * py, y + s * px + c * py, yaw, 0.2, 0.2)
            assert not any(robot.overlaps(b, 0.0) for b in floor)
            assert scene.room.inside(robot.x, robot.y, 0.25)
        tops = [t for t in scene.things if t.z > 0.0]
        for a, b in combinations(tops, 2):
            assert math.hypot(a.x - b.x, a.y - b.y) > 0.25 * (a.size[0] + b.size[0])
        for thing in tops:
            assert any(math.isclose(t.size[2], thing.z) for t in scene.things
                       if t.kind in ('table', 'cabinet'))


def test_what_is_in_view_is_even_and_independent(scenes):
    seen = [item for scene in scenes for item in in_view(scene)]
    assert 1.5 < len(seen) / WORLDS < 4.0
    place = [('ahead' if abs(b) < PLACE_LIMIT_RAD else 'left' if b > 0 else 'right')
             for _, b, _ in seen]
    for count in Counter(place).values():
        assert 0.26 < count / len(seen) < 0.41
    colours = Counter(t.colour for t, _, _ in seen)
    assert set(colours) == set(COLOURS)
    assert all(abs(n / len(seen) - 1 / 8) < 0.04 for n in colours.values())
    kinds = Counter(t.kind for t, _, _ in seen)
    assert set(kinds) == set(KINDS)
    assert max(kinds.values()) < 4 * min(kinds.values())
    # Cramer's V of kind and colour, kind and place: chance level for so many is below 0.1.
    for names in ([t.colour for t, _, _ in seen], place):
        assert cramers_v([t.kind for t, _, _ in seen], names) < 0.16
    near = Counter(t.kind for t, _, d in seen if d < 2.0)
    assert all(0.1 < near[k] / kinds[k] < 0.9 for k in KINDS)


def cramers_v(one: list[str], two: list[str]) -> float:
    rows, columns = sorted(set(one)), sorted(set(two))
    table = np.zeros((len(rows), len(columns)))
    for a, b in zip(one, two, strict=True):
        table[rows.index(a), columns.index(b)] += 1
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    chi = ((table - expected) ** 2 / expected).sum()
    return math.sqrt(chi / table.sum() / (min(table.shape) - 1))


def test_movers_go_all_ways_on_a_free_way(scenes):
    movers = [(s, t) for s in scenes for t in s.things if t.speed > 0.0]
    assert 0.28 < len(movers) / WORLDS < 0.45
    ways = Counter()
    for scene, thing in movers:
        assert thing.kind in ('person', 'robot', 'ball') and 0.25 <= thing.speed <= 1.0
        now, before = thing.at(0.0), thing.at(-2.0)
        assert math.hypot(now[0] - before[0], now[1] - before[1]) == pytest.approx(
            2 * thing.speed)
        ways[round(math.remainder(thing.yaw - scene.view[2], 2 * math.pi) / (math.pi / 2)) % 4] \
            += 1
    assert len(ways) == 4 and min(ways.values()) > 0.12 * len(movers)


def test_a_mover_goes_to_and_fro():
    thing = Thing(1, 'robot', 'red', (0.8, 0.1, 0.1), (0.5, 0.5, 0.6), 0, 2.0, 1.0, 0.0, 0.0,
                  speed=0.5, reach_m=1.0)
    assert thing.at(0.0)[:2] == (2.0, 1.0)
    assert thing.at(-1.0)[0] == pytest.approx(1.5)
    assert thing.at(1.0)[0] == pytest.approx(1.5)
    assert thing.at(2.0)[0] == pytest.approx(1.0)
    assert thing.at(4.0)[0] == pytest.approx(2.0)
    assert math.cos(thing.at(1.0)[2]) == pytest.approx(-1.0)
    assert math.cos(thing.at(3.0)[2]) == pytest.approx(1.0)


@pytest.mark.parametrize('kind', sorted(BUILDERS))
def test_shapes_fill_their_size_and_little_more(kind):
    size = SIZES[kind]
    for variant in range(8):
        rows = draw(kind, Look((0.5, 0.5, 0.5), *size, variant)).rows
        low, high = np.full(3, 9.0), np.full(3, -9.0)
        for row in rows:
            turn = np.eye(3) if row[5] is None else row[5]
            axes = turn * np.array(row[2]) * (max(1.0, row[4]), max(1.0, row[4]), 1)
            spread = (np.linalg.norm(axes, axis=1) if row[0] == ELLIPSOID
                      else np.abs(axes).sum(1))
            low, high = np.minimum(low, row[1] - spread), np.maximum(high, row[1] + spread)
        assert low[2] > -0.02
        assert 0.85 * size[2] < high[2] < 1.35 * size[2]
        assert (high - low)[:2].max() < 1.75 * max(size[:2])


def test_furnished_rooms_have_much_to_see_and_space_to_drive():
    for seed in range(20):
        scene = furnish(np.random.default_rng(seed), reach_s=4.0)
        assert 6 <= len(scene.things) <= 14
        x, y, _ = scene.view
        assert all(math.hypot(x - a, y - b) > r + 0.1 for a, b, r in scene.discs())
