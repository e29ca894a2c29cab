"""Random scenes: a room, the things in it, where they stand, and what moves.

Owns the records of a scene and its random composition. Kinds, colours and places (left, ahead,
right) are drawn independently and evenly, so none tells of another. World frame: the room's
middle is the origin, z up. No rendering, no robot motion.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import math

import numpy as np

from onellm_ros.simulation.motion import WINDOW_S
from onellm_ros.simulation.rooms import Room, random_room
from onellm_ros.simulation.shapes import SIZES, Colour
from onellm_ros.simulation.truth import COLOURS, FURNITURE, KINDS, MOVERS, PLACES, SMALL

MOVER_SHARE = 0.4
_SUPPORTS = ('table', 'cabinet')
_WALL_KINDS = ('shelf', 'cabinet', 'sofa')
_ROBOT_RADIUS_M = 0.32
_GAP_M = 0.06
_BEARINGS = {'left': (0.34, 0.60), 'ahead': (-0.20, 0.20), 'right': (-0.60, -0.34)}
_HEADINGS = (math.pi / 2, -math.pi / 2, math.pi, 0.0)      # as truth.DIRECTIONS


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    :param object_id: 1 and up, its id in the instance picture.
    :param tint: its colour as displayed (the named one, varied by up to 10 %).
    :param size: outer length (along its front), width, height in metres.
    :param x, y, z: its place at the window's end; :param yaw: where its front looks.
    :param speed: m/s along its yaw; 0 for a thing at rest.
    :param reach_m: a mover goes to and fro over this distance, its place being the turn.
    """

    object_id: int
    kind: str
    colour: str
    tint: Colour
    size: tuple[float, float, float]
    variant: int
    x: float
    y: float
    z: float
    yaw: float
    speed: float = 0.0
    reach_m: float = 0.0

    def at(self, late_s: float) -> tuple[float, float, float, float]:
        """Return (x, y, yaw, way in metres) ``late_s`` seconds after the window's end."""
        if self.speed == 0.0:
            return self.x, self.y, self.yaw, 0.0
        way = self.speed * late_s
        lap = (way + self.reach_m) % (2 * self.reach_m)
        back = abs(lap - self.reach_m) if lap > self.reach_m else self.reach_m - lap
        returning = lap > self.reach_m
        return (self.x - back * math.cos(self.yaw), self.y - back * math.sin(self.yaw),
                self.yaw + (math.pi if returning else 0.0), way)


@dataclass(frozen=True)
class Scene:
    """A room, its things (object ids 1, 2, ... in order) and where the robot looks from."""

    room: Room
    things: tuple[Thing, ...]
    view: tuple[float, float, float]          # x, y, yaw of the robot at the window's end

    def thing(self, object_id: int) -> Thing:
        """Return the thing with this id."""
        return self.things[object_id - 1]

    def discs(self) -> list[tuple[float, float, float]]:
        """Return (x, y, radius) discs that cover what stands on the floor or moves over it."""
        out = []
        for thing in self.things:
            if thing.z > 0.0:
                continue
            length, width = thing.size[0] + thing.reach_m, thing.size[1]
            c, s = math.cos(thing.yaw), math.sin(thing.yaw)
            x, y = thing.x - c * thing.reach_m / 2, thing.y - s * thing.reach_m / 2
            if width > length:
                length, width, c, s = width, length, -s, c
            count = math.ceil(length / width)
            radius = math.hypot(width, length / count) / 2
            for i in range(count):
                along = length * ((i + 0.5) / count - 0.5)
                out.append((x + c * along, y + s * along, radius))
        return out


@dataclass(frozen=True)
class Block:
    """A rectangle on the floor that something occupies."""

    x: float
    y: float
    yaw: float
    half_length: float
    half_width: float

    def corners(self) -> list[tuple[float, float]]:
        """Return the four corners."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return [(self.x + c * u - s * v, self.y + s * u + c * v)
                for u in (-self.half_length, self.half_length)
                for v in (-self.half_width, self.half_width)]

    def overlaps(self, other: Block, gap: float = _GAP_M) -> bool:
        """Whether the two come nearer than about ``gap`` metres (separating axes)."""
        dx, dy = other.x - self.x, other.y - self.y
        reach = (math.hypot(self.half_length, self.half_width)
                 + math.hypot(other.half_length, other.half_width) + gap)
        if dx * dx + dy * dy >= reach * reach:
            return False
        turn = other.yaw - self.yaw
        c, s = abs(math.cos(turn)), abs(math.sin(turn))
        for one, two in ((self, other), (other, self)):
            cy, sy = math.cos(one.yaw), math.sin(one.yaw)
            if (abs(cy * dx + sy * dy) >= one.half_length + gap + c * two.half_length
                    + s * two.half_width):
                return False
            if (abs(cy * dy - sy * dx) >= one.half_width + gap + s * two.half_length
                    + c * two.half_width):
                return False
        return True


class _Composer:
    """Places things one after the other into a room."""

    def __init__(self, rng: np.random.Generator, room: Room, view: tuple[float, float, float],
                 taken: list[Block]) -> None:
        self.rng, self.room, self.view, self.taken = rng, room, view, taken
        self.things: list[Thing] = []
        self.on_top: dict[int, list[Thing]] = {}
        self.arcs: list[tuple[float, float]] = []      # (bearing, half angle) of things in view

    def look(self, kind: str, x: float, y: float, yaw: float, z: float = 0.0, *,
             size: tuple[float, float, float], speed: float = 0.0, reach_m: float = 0.0) -> Thing:
        """Return a thing of random colour (drawn now) that stands there."""
        rng = self.rng
        colour = list(COLOURS)[rng.integers(len(COLOURS))]
        tint = np.clip(np.array(COLOURS[colour]) * rng.uniform(0.9, 1.1)
                       + rng.uniform(-0.02, 0.02, 3), 0.02, 0.97)
        return Thing(len(self.things) + 1, kind, colour,
                     (float(tint[0]), float(tint[1]), float(tint[2])), size,
                     int(rng.integers(2 ** 16)), x, y, z, yaw, speed, reach_m)

    def size(self, kind: str) -> tuple[float, float, float]:
        """Return a random size: the whole +-17 %, each side another +-3 %."""
        scale = self.rng.uniform(0.83, 1.17) * self.rng.uniform(0.97, 1.03, 3)
        if kind in ('ball', 'cup', 'bottle', 'lamp', 'plant', 'cone'):
            scale[1] = scale[0]
        length, width, height = (float(v) for v in np.array(SIZES[kind]) * scale)
        if kind == 'ball':
            length = width = height
        if kind == 'person':
            height = float(SIZES[kind][2] * (0.9 + 0.15 * self.rng.random()))
        return length, width, height

    def bearing(self, x: float, y: float) -> tuple[float, float]:
        """Return (bearing, distance) of a point from the viewpoint."""
        dx, dy = x - self.view[0], y - self.view[1]
        angle = math.atan2(dy, dx) - self.view[2]
        return math.atan2(math.sin(angle), math.cos(angle)), math.hypot(dx, dy)

    def fits(self, block: Block) -> bool:
        """Whether the block lies in the room and overlaps nothing placed so far."""
        if not all(self.room.inside(x, y, 0.05) for x, y in block.corners()):
            return False
        return not any(block.overlaps(other) for other in self.taken)

    def keep(self, thing: Thing, block: Block) -> None:
        """Add a thing that stands on the floor."""
        self.things.append(thing)
        self.taken.append(block)

    # ---- one thing ---------------------------------------------------------------------------

    def in_view(self, kind: str, place: str) -> bool:
        """Put a thing of this kind into the view at this place; False if there is no room."""
        rng, size = self.rng, self.size(kind)
        if kind in ('cup', 'bottle', 'box', 'ball') and rng.random() < 0.4:
            for support in self.things:
                if support.kind in _SUPPORTS and self._place_of(support) == place:
                    if self.on_support(kind, support, size):
                        return True
        near = rng.random() < 0.5
        low, middle, high = (0.85, 1.85, 2.9) if kind in SMALL else (1.2, 2.2, 5.0)
        for attempt in range(48):
            if attempt == 24:
                near = not near
            bearing = rng.uniform(*_BEARINGS[place])
            distance = rng.uniform(low, middle) if near else rng.uniform(middle, high)
            angle = self.view[2] + bearing
            x = self.view[0] + distance * math.cos(angle)
            y = self.view[1] + distance * math.sin(angle)
            turn = rng.uniform(-0.9, 0.9) if kind not in SMALL else rng.uniform(-3.14, 3.14)
            block = Block(x, y, angle + math.pi + turn, size[0] / 2, size[1] / 2)
            half = math.atan2(0.5 * math.hypot(size[0], size[1]), distance)
            if attempt < 36 and any(abs(bearing - b) < 0.6 * max(half, h) for b, h in self.arcs):
                continue
            if self.fits(block):
                self.keep(self.look(kind, x, y, block.yaw, size=size), block)
                self.arcs.append((bearing, half))
                return True
        return False

    def _place_of(self, thing: Thing) -> str:
        bearing, _ = self.bearing(thing.x, thing.y)
        if abs(bearing) > 0.6:
            return ''
        return next((p for p, (a, b) in _BEARINGS.items() if a <= bearing <= b), '')

    def on_support(self, kind: str, support: Thing, size: tuple[float, float, float]) -> bool:
        """Put a small thing on a table or cabinet; False if its top is full."""
        rng = self.rng
        half = 0.5 * max(size[0], size[1])
        others = self.on_top.setdefault(support.object_id, [])
        spare = (support.size[0] / 2 - half - 0.02, support.size[1] / 2 - half - 0.02)
        if support.kind == 'table':
            spare = (spare[0] * 0.75, spare[1] * 0.75)
        if min(spare) <= 0.0:
            return False
        for _ in range(8):
            u, v = rng.uniform(-1, 1, 2) * spare
            if support.variant % 3 == 0 and support.kind == 'table':
                v = v * spare[0] / max(spare)
            c, s = math.cos(support.yaw), math.sin(support.yaw)
            x, y = support.x + c * u - s * v, support.y + s * u + c * v
            if all(math.hypot(x - o.x, y - o.y) > half + 0.5 * max(o.size[:2]) + 0.03
                   for o in others):
                thing = self.look(kind, x, y, float(rng.uniform(-math.pi, math.pi)),
                                  support.size[2], size=size)
                self.things.append(thing)
                others.append(thing)
                return True
        return False

    def _beside_wall(self, away: float) -> tuple[float, float, float]:
        """Return a random (x, y, yaw) at this distance from a wall, its back to it."""
        room, side = self.room, int(self.rng.integers(4))
        along = self.rng.uniform(-0.5, 0.5)
        return ((-room.length / 2 + away, along * room.width, 0.0),
                (room.length / 2 - away, along * room.width, math.pi),
                (along * room.length, -room.width / 2 + away, math.pi / 2),
                (along * room.length, room.width / 2 - away, -math.pi / 2))[side]

    def anywhere(self, kind: str, *, hidden: bool = False, aside: bool = False) -> bool:
        """Put a thing somewhere in the room; False if no place was found.

        :param hidden: where the robot does not look. :param aside: near a wall.
        """
        rng, size, room = self.rng, self.size(kind), self.room
        for _ in range(24):
            if kind in _WALL_KINDS:
                x, y, yaw = self._beside_wall(size[0] / 2 + 0.09)
            elif aside:
                x, y, yaw = self._beside_wall(size[0] / 2 + 0.2 + rng.exponential(0.35))
                yaw += rng.uniform(-0.8, 0.8)
            else:
                x, y = rng.uniform(-0.5, 0.5) * room.length, rng.uniform(-0.5, 0.5) * room.width
                yaw = rng.uniform(-math.pi, math.pi)
            bearing, distance = self.bearing(x, y)
            if hidden and abs(bearing) < 0.78 + math.atan2(max(size[:2]) / 2, distance):
                continue
            block = Block(x, y, yaw, size[0] / 2, size[1] / 2)
            if self.fits(block):
                self.keep(self.look(kind, x, y, yaw, size=size), block)
                return True
        return False

    def mover(self, reach_s: float) -> bool:
        """Put a moving thing into the view; False if there is no way free for it."""
        rng = self.rng
        kind = MOVERS[rng.integers(len(MOVERS))]
        size = self.size(kind)
        heading = _HEADINGS[rng.integers(len(_HEADINGS))]
        place = PLACES[rng.integers(len(PLACES))]
        for _ in range(80):
            speed = rng.uniform(0.25, 1.0)
            angle = self.view[2] + rng.uniform(*_BEARINGS[place])
            distance = rng.uniform(1.2, 2.6 if kind == 'ball' else 4.5)
            x = self.view[0] + distance * math.cos(angle)
            y = self.view[1] + distance * math.sin(angle)
            yaw = self.view[2] + heading + rng.uniform(-0.2, 0.2)
            reach = speed * reach_s
            c, s = math.cos(yaw), math.sin(yaw)
            before, away = self.bearing(x - 1.2 * speed * c, y - 1.2 * speed * s)
            if abs(before) > 0.62 or away < 0.7:
                continue
            way = Block(x - c * reach / 2, y - s * reach / 2, yaw,
                        reach / 2 + size[0] / 2 + 0.05, size[1] / 2 + 0.05)
            if self.fits(way):
                self.keep(self.look(kind, x, y, yaw, size=size, speed=float(speed),
                                    reach_m=reach), way)
                self.arcs.append((angle - self.view[2],
                                  math.atan2(size[1] / 2, distance)))
                return True
        return False


def _viewpoint(rng: np.random.Generator, room: Room, path: np.ndarray
               ) -> tuple[float, float, float]:
    """Return where the robot stands at the end, its path [n, 2] (end at 0, ahead +x) inside."""
    best, best_free = (0.0, 0.0, 0.0), -1.0
    for _ in range(60):
        x, y = (float(v) for v in rng.uniform(-0.5, 0.5, 2) * np.array(room.size))
        yaw = float(rng.uniform(-math.pi, math.pi))
        c, s = math.cos(yaw), math.sin(yaw)
        px, py = x + c * path[:, 0] - s * path[:, 1], y + s * path[:, 0] + c * path[:, 1]
        gap = min(room.length / 2 - np.abs(px).max(), room.width / 2 - np.abs(py).max())
        if gap < 0.4:
            continue
        free = 99.0
        for turn in (-0.45, 0.0, 0.45):
            cx, cy = math.cos(yaw + turn), math.sin(yaw + turn)
            free = min(free, (math.copysign(room.length / 2, cx) - x) / (cx or 1e-9),
                       (math.copysign(room.width / 2, cy) - y) / (cy or 1e-9))
        if free >= 2.6:
            return x, y, yaw
        if free > best_free:
            best, best_free = (x, y, yaw), free
    return best


def compose(rng: np.random.Generator, path: np.ndarray, *, reach_s: float = WINDOW_S,
            mover_share: float = MOVER_SHARE) -> Scene:
    """Return a random scene around a robot that drives along ``path``.

    :param rng: source of every choice.
    :param path: [n, 2] metres, the robot's places relative to the last one, which looks along +x.
    :param reach_s: how long a mover goes one way before it turns, seconds.
    :param mover_share: probability of a moving thing.
    :returns: a scene with 4 to 14 things (fewer only if the room is full), 0 to 5 of them put
        where the robot looks.
    """
    room = random_room(rng)
    view = _viewpoint(rng, room, path)
    c, s = math.cos(view[2]), math.sin(view[2])
    way = [Block(view[0] + c * px - s * py, view[1] + s * px + c * py, 0.0, _ROBOT_RADIUS_M,
                 _ROBOT_RADIUS_M) for px, py in _thin(path)]
    composer = _Composer(rng, room, view, way)
    seen = int(rng.choice(6, p=(0.04, 0.18, 0.24, 0.24, 0.18, 0.12)))
    total = int(rng.integers(max(4, seen), 15))
    if seen and rng.random() < mover_share:
        composer.mover(reach_s)
    order = [(KINDS[rng.integers(len(KINDS))], PLACES[rng.integers(len(PLACES))])
             for _ in range(max(0, seen - len(composer.things)))]
    order.sort(key=lambda item: item[0] not in FURNITURE)
    for kind, place in order:
        composer.in_view(kind, place)
    for _ in range(3 * (total - len(composer.things))):
        if len(composer.things) >= total:
            break
        composer.anywhere(KINDS[rng.integers(len(KINDS))], hidden=True)
    while len(composer.things) < 4:
        before = len(composer.things)
        composer.anywhere(SMALL[rng.integers(len(SMALL))])
        if len(composer.things) == before and rng.random() < 0.1:
            break
    return Scene(room, tuple(composer.things), view)


def furnish(rng: np.random.Generator, *, reach_s: float, mover_share: float = 0.8) -> Scene:
    """Return a random scene to drive around in: 9 to 14 things along the walls.

    :param reach_s: how long a mover goes one way before it turns, seconds.
    """
    room = random_room(rng)
    view = _viewpoint(rng, room, np.zeros((1, 2)))
    composer = _Composer(rng, room, view, [Block(view[0], view[1], 0.0, 0.55, 0.55)])
    if rng.random() < mover_share:
        composer.mover(reach_s)
    for _ in range(int(rng.integers(9, 15)) - len(composer.things)):
        composer.anywhere(KINDS[rng.integers(len(KINDS))], aside=True)
    return Scene(room, tuple(composer.things), view)


def _thin(path: np.ndarray) -> Iterable[tuple[float, float]]:
    """Yield points of the path about 0.25 m apart, the last and the first one always."""
    last = path[-1]
    yield float(last[0]), float(last[1])
    yield float(path[0, 0]), float(path[0, 1])
    for point in path[::-1]:
        if math.hypot(point[0] - last[0], point[1] - last[1]) >= 0.25:
            last = point
            yield float(last[0]), float(last[1])
