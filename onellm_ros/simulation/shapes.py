"""What the things of the simulated world look like: each kind as a handful of primitives.

Owns the builders (one a kind) that draw a thing in its own frame: origin on the floor below its
middle, +x its front, z up, metres. No placing, no rendering.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import math

import numpy as np

from onellm_ros.simulation.tracing import BOX, ELLIPSOID, FABRIC, FRUSTUM, GRAIN, PLAIN, SEAMS

Colour = tuple[float, float, float]
WOOD: Colour = (0.55, 0.38, 0.22)
METAL: Colour = (0.62, 0.63, 0.65)
DARK: Colour = (0.10, 0.10, 0.11)
SKIN = ((0.93, 0.75, 0.62), (0.80, 0.58, 0.42), (0.55, 0.36, 0.25), (0.36, 0.24, 0.17))
HAIR = ((0.10, 0.08, 0.07), (0.30, 0.19, 0.10), (0.70, 0.55, 0.30), (0.55, 0.54, 0.52))


@dataclass
class Sketch:
    """A growing list of primitives in one thing's own frame."""

    rows: list[tuple] = field(default_factory=list)

    def add(self, kind: int, centre: tuple[float, float, float],
            half: tuple[float, float, float], colour: Colour, *, taper: float = 1.0,
            turn: np.ndarray | None = None, gloss: float = 0.0, glow: float = 0.0,
            pattern: int = PLAIN, owner: int = 0) -> None:
        """Add a primitive; ``turn`` is its rotation (3x3), ``colour`` as displayed (0..1)."""
        self.rows.append((kind, centre, half, colour, taper, turn, gloss, glow, pattern, owner))

    def box(self, x: float, y: float, z: float, length: float, width: float, height: float,
            colour: Colour, **more) -> None:
        """Add a box with its centre at x, y and its underside at z; sizes along x, y, z."""
        self.add(BOX, (x, y, z + height / 2), (length / 2, width / 2, height / 2), colour, **more)

    def pillar(self, x: float, y: float, z: float, radius: float, height: float, colour: Colour,
               *, top: float | None = None, **more) -> None:
        """Add a standing cylinder, or with ``top`` (its upper radius) a cone, underside at z."""
        taper = 1.0 if top is None else top / radius
        self.add(FRUSTUM, (x, y, z + height / 2), (radius, radius, height / 2), colour,
                 taper=taper, **more)

    def ball(self, x: float, y: float, z: float, rx: float, ry: float, rz: float,
             colour: Colour, **more) -> None:
        """Add an ellipsoid with its centre at x, y, z and these half axes."""
        self.add(ELLIPSOID, (x, y, z), (rx, ry, rz), colour, **more)

    def limb(self, start: tuple[float, float, float], end: tuple[float, float, float],
             radius: float, colour: Colour, *, top: float | None = None, **more) -> None:
        """Add a cylinder from ``start`` to ``end`` (``top``: radius there)."""
        a, b = np.asarray(start), np.asarray(end)
        axis = b - a
        length = float(np.linalg.norm(axis))
        axis = axis / length
        side = np.cross(axis, (0.0, 1.0, 0.0) if abs(axis[1]) < 0.9 else (1.0, 0.0, 0.0))
        side /= np.linalg.norm(side)
        turn = np.stack([side, np.cross(axis, side), axis], axis=1)
        self.add(FRUSTUM, tuple((a + b) / 2), (radius, radius, length / 2), colour,
                 taper=1.0 if top is None else top / radius, turn=turn, **more)


@dataclass(frozen=True)
class Look:
    """What a thing's drawing depends on besides its kind.

    :param colour: the colour of most of it, as displayed, 0..1.
    :param length, width, height: outer size along its x, y, z, metres.
    :param variant: random integer; ones of a kind differ by it.
    :param phase: radians of the walking cycle (person only).
    """

    colour: Colour
    length: float
    width: float
    height: float
    variant: int = 0
    phase: float = 0.0


def tilt(angle: float) -> np.ndarray:
    """Return the rotation about y that leans a thing's top towards its +x by ``angle``."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _shade(colour: Colour, factor: float) -> Colour:
    """Return the colour darker (below 1) or nearer to white (above 1)."""
    if factor <= 1.0:
        return (colour[0] * factor, colour[1] * factor, colour[2] * factor)
    mix = factor - 1.0
    return (colour[0] + (1 - colour[0]) * mix, colour[1] + (1 - colour[1]) * mix,
            colour[2] + (1 - colour[2]) * mix)


def _table(s: Sketch, k: Look) -> None:
    x, y, h = k.length / 2, k.width / 2, k.height
    if k.variant % 3 == 0:                                     # round, on one leg
        r = min(x, y)
        s.pillar(0, 0, h - 0.04, r, 0.04, k.colour, gloss=0.25, pattern=GRAIN)
        s.pillar(0, 0, 0.03, 0.045, h - 0.07, _shade(k.colour, 0.8))
        s.pillar(0, 0, 0, r * 0.55, 0.03, _shade(k.colour, 0.8))
        return
    s.box(0, 0, h - 0.045, k.length, k.width, 0.045, k.colour, gloss=0.2, pattern=GRAIN)
    s.box(0, 0, h - 0.12, k.length * 0.9, k.width * 0.88, 0.075, _shade(k.colour, 0.85))
    for sx in (-1, 1):
        for sy in (-1, 1):
            s.box(sx * (x - 0.05), sy * (y - 0.05), 0, 0.06, 0.06, h - 0.045,
                  _shade(k.colour, 0.9), pattern=GRAIN)


def _chair(s: Sketch, k: Look) -> None:
    x, y, h = k.length / 2, k.width / 2, k.height
    seat = 0.48 * h
    frame = _shade(k.colour, 0.85)
    s.box(0.01, 0, seat - 0.05, k.length * 0.94, k.width * 0.94, 0.05, k.colour, pattern=FABRIC)
    for sx in (-1, 1):
        for sy in (-1, 1):
            s.box(sx * (x - 0.04), sy * (y - 0.04), 0, 0.045, 0.045, seat - 0.04, frame)
    lean = tilt(-0.12)
    for sy in (-1, 1):
        s.add(BOX, (-x + 0.015, sy * (y - 0.04), seat + (h - seat) / 2),
              (0.022, 0.022, (h - seat) / 2), frame, turn=lean)
    if k.variant % 2:
        s.add(BOX, (-x + 0.01, 0, seat + 0.62 * (h - seat)), (0.02, y - 0.03, 0.33 * (h - seat)),
              k.colour, turn=lean, pattern=FABRIC)
    else:
        for at in (0.3, 0.58, 0.86):
            s.add(BOX, (-x + 0.015 - (at - 0.5) * 0.03, 0, seat + at * (h - seat)),
                  (0.014, y - 0.03, 0.08 * (h - seat)), k.colour, turn=lean)


def _sofa(s: Sketch, k: Look) -> None:
    x, y, h = k.length / 2, k.width / 2, k.height
    seat, arm = 0.42 * h, 0.16
    more = {'pattern': FABRIC}
    s.box(0, 0, 0.09, k.length, k.width, seat - 0.16, _shade(k.colour, 0.85), **more)
    s.add(BOX, (-x + 0.13, 0, 0.09 + (h - 0.09) / 2), (0.11, y - 0.02, (h - 0.09) / 2), k.colour,
          turn=tilt(-0.1), **more)
    for sy in (-1, 1):
        side = sy * (y - arm / 2)
        s.box(0, side, 0.09, k.length, arm, 0.62 * h - 0.14, k.colour, **more)
        s.add(FRUSTUM, (0, side, 0.62 * h - 0.05), (arm / 2 + 0.015, arm / 2 + 0.015, x),
              k.colour, turn=tilt(math.pi / 2), **more)
    cushions = 2 if k.width < 1.7 else 3
    wide = (k.width - 2 * arm) / cushions
    for i in range(cushions):
        at = -y + arm + (i + 0.5) * wide
        s.box(0.1, at, seat - 0.07, k.length - 0.24, wide - 0.02, 0.13, _shade(k.colour, 1.12),
              **more)
        s.add(BOX, (-x + 0.27, at, seat + 0.2), (0.06, wide / 2 - 0.02, 0.16),
              _shade(k.colour, 1.12), turn=tilt(-0.15), **more)
    for sx in (-1, 1):
        for sy in (-1, 1):
            s.pillar(sx * (x - 0.08), sy * (y - 0.08), 0, 0.03, 0.1, WOOD)


BOOKS = ((0.45, 0.20, 0.18), (0.22, 0.28, 0.38), (0.62, 0.55, 0.40), (0.30, 0.34, 0.24),
         (0.75, 0.72, 0.64), (0.36, 0.28, 0.36))


def _shelf(s: Sketch, k: Look) -> None:
    x, y, h = k.length / 2, k.width / 2, k.height
    more = {'pattern': GRAIN}
    s.box(-x + 0.01, 0, 0, 0.02, k.width, h, _shade(k.colour, 0.8), **more)
    for sy in (-1, 1):
        s.box(0, sy * (y - 0.02), 0, k.length, 0.04, h, k.colour, **more)
    levels = 3 + k.variant % 2
    rng = np.random.default_rng(k.variant)
    for i in range(levels + 1):
        z = i * (h - 0.05) / levels
        s.box(0.005, 0, z, k.length, k.width - 0.08, 0.05, k.colour, **more)
        if i == levels or i == k.variant // 2 % (levels + 2):
            continue
        at, end = -y + 0.06, -y + 0.06 + (k.width - 0.12) * rng.uniform(0.35, 0.9)
        while at < end:
            thick = rng.uniform(0.05, 0.10)
            tall = min(rng.uniform(0.55, 0.85) * h / levels, h / levels - 0.09)
            s.box(0.0, at + thick / 2, z + 0.05, k.length * 0.7, thick - 0.008, tall,
                  BOOKS[rng.integers(len(BOOKS))])
            at += thick


def _cabinet(s: Sketch, k: Look) -> None:
    x, h = k.length / 2, k.height
    s.box(0, 0, 0, k.length * 0.9, k.width * 0.96, 0.06, DARK)
    s.box(0, 0, 0.06, k.length, k.width, h - 0.09, k.colour, pattern=GRAIN)
    s.box(0.01, 0, h - 0.03, k.length + 0.03, k.width + 0.03, 0.03, _shade(k.colour, 0.85),
          gloss=0.2)
    front = _shade(k.colour, 1.14)
    if k.variant % 2:                                          # two doors
        for sy in (-1, 1):
            s.box(x, sy * k.width / 4, 0.1, 0.024, k.width / 2 - 0.035, h - 0.17, front,
                  pattern=GRAIN)
            s.box(x + 0.024, sy * 0.05, 0.52 * h, 0.025, 0.018, 0.13, METAL, gloss=0.6)
        return
    rows = 3
    for i in range(rows):                                      # drawers
        tall = (h - 0.17) / rows
        s.box(x, 0, 0.1 + i * tall, 0.024, k.width - 0.06, tall - 0.025, front, pattern=GRAIN)
        s.box(x + 0.024, 0, 0.1 + (i + 0.5) * tall, 0.025, 0.16, 0.018, METAL, gloss=0.6)


def _lamp(s: Sketch, k: Look) -> None:
    h, r = k.height, k.width / 2
    s.pillar(0, 0, 0, r * 0.75, 0.035, _shade(k.colour, 0.75), gloss=0.4)
    s.pillar(0, 0, 0.03, 0.022, h - 0.3, METAL, gloss=0.5)
    s.pillar(0, 0, h - 0.36, r, 0.34, k.colour, top=r * 0.58, glow=0.55)
    s.pillar(0, 0, h - 0.365, r + 0.006, 0.022, _shade(k.colour, 0.7))
    s.ball(0, 0, h, 0.02, 0.02, 0.03, METAL, gloss=0.5)


def _plant(s: Sketch, k: Look) -> None:
    h, r = k.height, k.width / 2
    pot = 0.46 * h
    s.pillar(0, 0, 0, r * 0.62, pot * 0.86, k.colour, top=r * 0.84, gloss=0.3)
    s.pillar(0, 0, pot * 0.86, r * 0.92, pot * 0.14, _shade(k.colour, 0.9), gloss=0.3)
    s.pillar(0, 0, pot, r * 0.8, 0.012, (0.20, 0.13, 0.08))
    rng = np.random.default_rng(k.variant)
    s.pillar(0, 0, pot, 0.018, 0.25 * h, (0.30, 0.24, 0.12))
    for i in range(11):
        around = i * 2.399 + rng.uniform(-0.3, 0.3)
        steep = (0.25, 0.7, 1.1)[i % 3]
        length = (0.40, 0.42, 0.42)[i % 3] * h
        dx, dy, dz = (math.cos(around) * math.cos(steep), math.sin(around) * math.cos(steep),
                      math.sin(steep))
        z = pot + 0.10 * h
        leaf = np.array([dx, dy, dz])
        side = np.array([-math.sin(around), math.cos(around), 0.0])
        turn = np.stack([leaf, side, np.cross(leaf, side)], axis=1)
        green = rng.uniform(0.8, 1.15)
        s.add(ELLIPSOID, (dx * length * 0.55, dy * length * 0.55, z + dz * length * 0.6),
              (length * 0.55, 0.065, 0.016), (0.16 * green, 0.42 * green, 0.13 * green),
              turn=turn, gloss=0.1)


def _ball(s: Sketch, k: Look) -> None:
    r = k.height / 2
    turn = tilt(0.4 + 0.5 * (k.variant % 7) + k.phase)
    s.ball(0, 0, r, r, r, r, k.colour, turn=turn, gloss=0.5, pattern=SEAMS)


def _box(s: Sketch, k: Look) -> None:
    s.box(0, 0, 0, k.length, k.width, k.height, k.colour)
    tape = (0.80, 0.70, 0.50)
    s.box(0, 0, -0.0015, 0.05, k.width + 0.003, k.height + 0.003, tape)
    s.box(k.length / 2, k.width * 0.2, k.height * 0.55, 0.003, k.width * 0.3, k.height * 0.25,
          (0.88, 0.87, 0.82))


def _cup(s: Sketch, k: Look) -> None:
    h, r = k.height, k.height * 0.42
    s.pillar(0, 0, 0, r * 0.82, h, k.colour, top=r, gloss=0.5)
    s.pillar(0, 0, h, r * 0.92, 0.001, _shade(k.colour, 0.3))
    bar = 0.09 * h
    for z in (0.30 * h, 0.68 * h):
        s.limb((0, r * 0.8, z), (0, r * 1.55, z), bar, k.colour, gloss=0.4)
    s.limb((0, r * 1.5, 0.24 * h), (0, r * 1.5, 0.74 * h), bar, k.colour, gloss=0.4)


def _bottle(s: Sketch, k: Look) -> None:
    h, r = k.height, k.width / 2
    s.pillar(0, 0, 0, r, 0.58 * h, k.colour, gloss=0.7)
    s.pillar(0, 0, 0.58 * h, r, 0.17 * h, k.colour, top=0.36 * r, gloss=0.7)
    s.pillar(0, 0, 0.74 * h, 0.36 * r, 0.18 * h, k.colour, gloss=0.7)
    s.pillar(0, 0, 0.90 * h, 0.44 * r, 0.10 * h, _shade(k.colour, 0.55))
    s.pillar(0, 0, 0.22 * h, r + 0.002, 0.17 * h, (0.86, 0.84, 0.78))


def _cone(s: Sketch, k: Look) -> None:
    h, r = k.height, k.width * 0.40
    tip, foot = 0.16 * r, 0.04
    s.box(0, 0, 0, k.width, k.width, foot, _shade(k.colour, 0.8))
    s.pillar(0, 0, foot, r, h - foot, k.colour, top=tip)
    band = (0.93, 0.93, 0.90) if min(k.colour) < 0.6 else (0.75, 0.12, 0.10)
    for low, high in ((0.34, 0.48), (0.66, 0.77)):
        at = r + (tip - r) * low + 0.003
        s.pillar(0, 0, foot + low * (h - foot), at, (high - low) * (h - foot), band,
                 top=r + (tip - r) * high + 0.003, glow=0.1)


def _person(s: Sketch, k: Look) -> None:
    h, step = k.height, 0.42 * math.sin(k.phase)
    skin, hair = SKIN[k.variant % 4], HAIR[k.variant // 4 % 4]
    trousers = ((0.18, 0.20, 0.28), (0.30, 0.27, 0.24), (0.12, 0.12, 0.13))[k.variant // 16 % 3]
    hip, shoulder = 0.50 * h, 0.81 * h
    for side, swing in ((-1, step), (1, -step)):
        y = side * 0.055 * h
        foot = math.sin(swing) * hip
        s.limb((foot, y, 0.035 * h), (0, y, hip + 0.02), 0.040 * h, trousers, top=0.055 * h)
        s.ball(foot + 0.03 * h, y, 0.025 * h, 0.075 * h, 0.032 * h, 0.026 * h, DARK)
        hand = (-math.sin(swing) * 0.3 * h + 0.02, side * 0.155 * h, 0.49 * h)
        elbow = (-math.sin(swing) * 0.1 * h, side * 0.15 * h, 0.63 * h)
        s.limb((0, side * 0.125 * h, shoulder - 0.02), elbow, 0.033 * h, k.colour,
               top=0.029 * h, pattern=FABRIC)
        s.limb(elbow, hand, 0.027 * h, k.colour, top=0.022 * h, pattern=FABRIC)
        s.ball(*hand, 0.025 * h, 0.022 * h, 0.03 * h, skin)
        s.ball(0, side * 0.115 * h, shoulder - 0.015 * h, 0.045 * h, 0.045 * h, 0.042 * h,
               k.colour, pattern=FABRIC)
    s.add(FRUSTUM, (0, 0, (hip + shoulder) / 2), (0.065 * h, 0.10 * h, (shoulder - hip) / 2),
          k.colour, taper=1.18, pattern=FABRIC)
    s.ball(0, 0, shoulder, 0.068 * h, 0.118 * h, 0.035 * h, k.colour, pattern=FABRIC)
    s.pillar(0, 0, shoulder, 0.03 * h, 0.07 * h, skin)
    s.ball(0.005 * h, 0, 0.915 * h, 0.058 * h, 0.05 * h, 0.072 * h, skin)
    s.ball(-0.012 * h, 0, 0.937 * h, 0.060 * h, 0.055 * h, 0.062 * h, hair)
    for side in (-1, 1):
        s.ball(0.058 * h, side * 0.018 * h, 0.918 * h, 0.007 * h, 0.007 * h, 0.007 * h, DARK)


def _robot(s: Sketch, k: Look) -> None:
    x, y, h = k.length / 2, k.width / 2, k.height
    for side in (-1, 1):
        for at in (-0.6, 0.6):
            s.add(FRUSTUM, (at * x, side * (y - 0.03), 0.09), (0.09, 0.09, 0.035), DARK,
                  turn=np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]))
    s.box(0, 0, 0.06, k.length, k.width - 0.13, 0.4 * h, k.colour, gloss=0.4)
    s.box(-0.05 * x, 0, 0.06 + 0.4 * h, k.length * 0.7, k.width * 0.5, 0.1 * h,
          _shade(k.colour, 0.8))
    neck = 0.06 + 0.5 * h
    s.pillar(0.15 * x, 0, neck, 0.035, 0.14 * h, METAL, gloss=0.4)
    head = neck + 0.1 * h
    s.box(0.15 * x, 0, head, 0.5 * k.length, 0.62 * k.width, h - head, k.colour, gloss=0.4)
    front = 0.15 * x + 0.25 * k.length
    s.box(front, 0, head + 0.15 * (h - head), 0.012, 0.54 * k.width, 0.7 * (h - head), DARK,
          gloss=0.6)
    for side in (-1, 1):
        s.ball(front + 0.008, side * 0.13 * k.width, head + 0.52 * (h - head), 0.02,
               0.055 * k.width, 0.055 * k.width, (0.55, 0.95, 1.0), glow=0.8)
    s.pillar(-0.05, -0.2 * k.width, h, 0.008, 0.14, METAL)
    s.ball(-0.05, -0.2 * k.width, h + 0.15, 0.02, 0.02, 0.02, (0.9, 0.2, 0.15), glow=0.4)


BUILDERS: dict[str, Callable[[Sketch, Look], None]] = {
    'table': _table, 'chair': _chair, 'sofa': _sofa, 'shelf': _shelf, 'cabinet': _cabinet,
    'lamp': _lamp, 'plant': _plant, 'ball': _ball, 'box': _box, 'cup': _cup, 'bottle': _bottle,
    'cone': _cone, 'person': _person, 'robot': _robot}

# Usual outer sizes (length along the front, width, height), metres.
SIZES: dict[str, tuple[float, float, float]] = {
    'table': (0.75, 1.10, 0.58), 'chair': (0.46, 0.46, 0.92), 'sofa': (0.85, 1.65, 0.80),
    'shelf': (0.34, 0.90, 1.65), 'cabinet': (0.45, 0.85, 0.75), 'lamp': (0.42, 0.42, 1.50),
    'plant': (0.46, 0.46, 0.90), 'ball': (0.30, 0.30, 0.30), 'box': (0.40, 0.36, 0.32),
    'cup': (0.17, 0.19, 0.20), 'bottle': (0.12, 0.12, 0.36), 'cone': (0.36, 0.36, 0.52),
    'person': (0.40, 0.52, 1.70), 'robot': (0.50, 0.46, 0.62)}


def draw(kind: str, look: Look) -> Sketch:
    """Return the primitives of a thing of this kind in its own frame.

    :raises KeyError: for a kind without a builder.
    """
    sketch = Sketch()
    BUILDERS[kind](sketch, look)
    return sketch
