"""What is true in the simulated world: its names, and the record of one window of it.

Owns the vocabulary (kinds, colours, motions, sounds, places) and the frozen records that the
simulator fills and the language, the evaluation and the training read. No rendering, no text.
"""

from __future__ import annotations

from dataclasses import dataclass

COLOURS: dict[str, tuple[float, float, float]] = {
    'red': (0.80, 0.08, 0.08), 'orange': (0.95, 0.45, 0.05), 'yellow': (0.92, 0.82, 0.10),
    'green': (0.10, 0.55, 0.15), 'blue': (0.10, 0.22, 0.80), 'purple': (0.48, 0.12, 0.60),
    'white': (0.92, 0.92, 0.92), 'black': (0.06, 0.06, 0.06)}

FURNITURE = ('table', 'chair', 'sofa', 'shelf', 'cabinet', 'lamp', 'plant')
SMALL = ('ball', 'box', 'cup', 'bottle', 'cone')
MOVERS = ('person', 'robot', 'ball')
KINDS = FURNITURE + SMALL + ('person', 'robot')

PLACES = ('left', 'ahead', 'right')
PLACE_LIMIT_RAD = 0.27          # |bearing| below: ahead; a third of the picture at 80 degrees
NEAR_LIMIT_M = 2.0              # below: near, from it on: far

MOTIONS = ('standing still', 'driving straight', 'speeding up', 'slowing down', 'turning left',
           'turning right', 'hitting an obstacle', 'being lifted', 'driving over rough ground')

SOUNDS = ('silence', 'beeping', 'an alarm', 'a bell', 'knocking', 'music', 'a motor',
          'running water', 'footsteps', 'barking', 'whistling', 'clapping')

DIRECTIONS = ('to the left', 'to the right', 'towards the robot', 'away from the robot')

FLOORS = ('wood', 'tile', 'carpet', 'concrete')


@dataclass(frozen=True)
class SeenObject:
    """One object as the camera sees it at the end of the window.

    :param object_id: id in the instance picture (1 and up; room surfaces have ids below 1).
    :param place: one of PLACES, by the bearing of the centre of its visible pixels.
    :param distance_m: median depth of its visible pixels, metres along the optical axis.
    :param bearing_rad: of the centre of its visible pixels, positive to the left.
    :param pixels: share of the picture that it fills, 0..1.
    :param visible: share of the object's own outline that is not hidden or cut, 0..1 (estimate).
    :param direction: one of DIRECTIONS for a moving object, empty for one at rest or for one
        whose way is none of them.
    :param moves: whether it moves, if its direction does not tell.
    """

    object_id: int
    kind: str
    colour: str
    place: str
    distance_m: float
    bearing_rad: float
    pixels: float
    visible: float
    direction: str = ''
    moves: bool = False

    @property
    def near(self) -> bool:
        """Whether it is nearer than NEAR_LIMIT_M."""
        return self.distance_m < NEAR_LIMIT_M


@dataclass(frozen=True)
class Truth:
    """Exact truth of one window, as far as the robot's sensors could tell it.

    :param seen: objects that fill at least 0.2 % of the picture, the largest first.
    :param clear_m: free distance straight ahead (metres to the nearest thing within +-10 degrees
        and below 1.2 m height, floor excluded).
    :param sound: one of SOUNDS; :param motion: one of MOTIONS.
    """

    seed: int
    seen: tuple[SeenObject, ...]
    motion: str
    sound: str
    floor: str
    wall_colour: str
    clear_m: float
