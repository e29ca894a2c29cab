"""The room of a simulated world: size, surfaces, what hangs on its walls, its light.

Owns the room record, its random choice, the drawing of its fittings and the surroundings table
that the tracer reads. The room's middle is the origin of the world frame; the floor is z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from onellm_ros.simulation.shapes import METAL, Colour, Sketch
from onellm_ros.simulation.textures import NAMES
from onellm_ros.simulation.tracing import ART, GRAIN, SKY, Surroundings
from onellm_ros.simulation.truth import FLOORS

HEIGHT_M = 2.6
FITTINGS_ID = -6

WALL_COLOURS: dict[str, Colour] = {
    'white': (0.90, 0.90, 0.88), 'beige': (0.88, 0.81, 0.68), 'grey': (0.68, 0.69, 0.70),
    'light blue': (0.66, 0.77, 0.87), 'light green': (0.70, 0.83, 0.69),
    'pink': (0.90, 0.74, 0.75)}

_FLOOR_TINTS: dict[str, tuple[Colour, ...]] = {
    'wood': ((0.86, 0.62, 0.40), (0.70, 0.48, 0.30), (0.92, 0.76, 0.56), (0.55, 0.38, 0.27)),
    'tile': ((0.95, 0.94, 0.92), (0.80, 0.78, 0.74), (0.88, 0.68, 0.54), (0.66, 0.72, 0.78)),
    'carpet': ((0.62, 0.60, 0.60), (0.46, 0.54, 0.66), (0.68, 0.50, 0.44), (0.54, 0.60, 0.48)),
    'concrete': ((0.66, 0.66, 0.66), (0.58, 0.57, 0.55), (0.72, 0.71, 0.68))}


@dataclass(frozen=True)
class Room:
    """A box-shaped room around the origin.

    :param length, width: inner size along x and y, metres.
    :param floor: one of FLOORS; :param wall_colour: a key of WALL_COLOURS.
    :param floor_tint, wall_tint: colours as displayed, 0..1.
    :param turn: direction of the floor pattern, radians.
    :param light: position of the lamp; :param power: its colour; :param ambient: RGB.
    :param fill: direction towards the weak second light.
    :param fittings_seed: draws doors, windows and pictures.
    """

    length: float
    width: float
    floor: str
    wall_colour: str
    floor_tint: Colour
    wall_tint: Colour
    turn: float
    light: tuple[float, float, float]
    power: Colour
    ambient: Colour
    fill: tuple[float, float, float]
    fittings_seed: int

    @property
    def size(self) -> tuple[float, float]:
        """(length, width) in metres."""
        return self.length, self.width

    def inside(self, x: float, y: float, margin: float) -> bool:
        """Whether (x, y) lies in the room, at least ``margin`` metres from every wall."""
        return (abs(x) <= self.length / 2 - margin) and (abs(y) <= self.width / 2 - margin)

    def surroundings(self) -> Surroundings:
        """Return the room as the tracer reads it."""
        x, y = self.length / 2, self.width / 2
        return Surroundings(
            (-x, -y, 0.0), (x, y, HEIGHT_M), _triple(np.square(self.wall_tint)),
            _triple(np.square(self.floor_tint)), NAMES.index(self.floor),
            (math.cos(self.turn), math.sin(self.turn)), self.light, self.power, self.ambient,
            self.fill)


def random_room(rng: np.random.Generator) -> Room:
    """Return a random room of 4.5 to 9 m a side with random surfaces and light."""
    length, width = (float(v) for v in rng.uniform(4.5, 9.0, 2))
    floor = FLOORS[rng.integers(len(FLOORS))]
    wall = list(WALL_COLOURS)[rng.integers(len(WALL_COLOURS))]
    tints = _FLOOR_TINTS[floor]
    tint = np.array(tints[rng.integers(len(tints))]) * rng.uniform(0.92, 1.05)
    warmth, bright = rng.uniform(-0.07, 0.07), rng.uniform(0.72, 1.15)
    spot = rng.uniform(-0.28, 0.28, 2) * (length, width)
    ambient = rng.uniform(0.26, 0.38) * np.array([1.0 - warmth / 2, 1.0, 1.0 + warmth / 2])
    around = rng.uniform(0, 2 * math.pi)
    fill = np.array([math.cos(around), math.sin(around), 0.45])
    fill /= np.linalg.norm(fill)
    return Room(
        length, width, floor, wall, _triple(np.minimum(tint, 1.0)),
        _triple(np.clip(np.array(WALL_COLOURS[wall]) * rng.uniform(0.96, 1.04, 3), 0, 1)),
        float(rng.choice((0.0, math.pi / 2))),
        (float(spot[0]), float(spot[1]), HEIGHT_M - 0.18),
        _triple(bright * np.array([1.0 + warmth, 1.0, 1.0 - warmth])), _triple(ambient),
        _triple(fill), int(rng.integers(2 ** 31)))


def _triple(values: np.ndarray) -> Colour:
    return float(values[0]), float(values[1]), float(values[2])


def _door(s: Sketch, y: float, tint: Colour) -> None:
    frame = (0.94, 0.93, 0.90)
    s.box(0.012, y, 0.0, 0.03, 0.92, 2.05, tint, pattern=GRAIN)
    for side in (-1, 1):
        s.box(0.03, y + side * 0.50, 0.0, 0.07, 0.09, 2.14, frame)
    s.box(0.03, y, 2.05, 0.07, 0.92, 0.09, frame)
    for z in (0.25, 1.12):
        s.box(0.028, y, z, 0.012, 0.62, 0.70, _darker(tint), pattern=GRAIN)
    s.ball(0.07, y + 0.36, 1.0, 0.03, 0.03, 0.03, METAL, gloss=0.6)


def _darker(colour: Colour) -> Colour:
    return colour[0] * 0.88, colour[1] * 0.88, colour[2] * 0.88


def _window(s: Sketch, y: float, wide: float) -> None:
    frame = (0.95, 0.95, 0.94)
    low, tall = 0.95, 1.15
    s.box(0.006, y, low, 0.02, wide, tall, (0.7, 0.8, 0.95), pattern=SKY, glow=0.55)
    for side in (-1, 0, 1):
        s.box(0.02, y + side * wide / 2, low - 0.03, 0.05, 0.06, tall + 0.06, frame)
    for z in (low - 0.03, low + tall / 2 - 0.02, low + tall - 0.03):
        s.box(0.02, y, z, 0.045, wide, 0.06, frame)
    s.box(0.08, y, low - 0.07, 0.18, wide + 0.16, 0.04, frame)


def _picture(s: Sketch, y: float, wide: float, tall: float, frame: Colour) -> None:
    s.box(0.015, y, 1.55 - tall / 2, 0.03, wide, tall, frame)
    s.box(0.031, y, 1.55 - tall / 2 + 0.05, 0.006, wide - 0.1, tall - 0.1, (0.8, 0.8, 0.7),
          pattern=ART)


def fittings(room: Room) -> list[tuple[Sketch, float, float, float]]:
    """Return what is fixed to the walls and the ceiling: (sketch, x, y, yaw), one a wall."""
    rng = np.random.default_rng(room.fittings_seed)
    tints = ((0.52, 0.36, 0.22), (0.90, 0.88, 0.84), (0.38, 0.27, 0.20))
    door, tint = int(rng.integers(4)), tints[rng.integers(3)]
    out = []
    for side in range(4):
        long = room.width if side < 2 else room.length
        s = Sketch()
        s.box(0.01, 0, 0, 0.024, long, 0.10, (0.92, 0.91, 0.88))
        slots = rng.permutation(np.array([-0.3, 0.0, 0.3])) * long
        if side == door:
            _door(s, float(slots[0]), tint)
            _picture(s, float(slots[1]), 0.7, 0.5, (0.25, 0.18, 0.12))
        elif rng.random() < 0.5:
            _window(s, float(slots[0]), float(rng.uniform(1.0, 1.4)))
        else:
            for y in slots[:rng.integers(1, 3)]:
                wide, tall = rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.7)
                _picture(s, float(y), float(wide), float(tall),
                         ((0.2, 0.15, 0.1), (0.85, 0.8, 0.7))[rng.integers(2)])
        x, y, yaw = ((-room.length / 2, 0.0, 0.0), (room.length / 2, 0.0, math.pi),
                     (0.0, -room.width / 2, math.pi / 2),
                     (0.0, room.width / 2, -math.pi / 2))[side]
        out.append((s, x, y, yaw))
    lamp = Sketch()
    lamp.ball(0, 0, HEIGHT_M - 0.02, 0.2, 0.2, 0.07, (1.0, 0.98, 0.92), glow=1.2)
    out.append((lamp, room.light[0], room.light[1], 0.0))
    return out
