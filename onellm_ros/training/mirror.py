"""Left and right exchanged: a second, equally true view of a rendered world.

Only for modalities whose truth turns over with the picture; motion and sound do not. Owns the
mirror images of truths, of stored signals and of dense labels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onellm_ros.modality import Modality
from onellm_ros.preprocess.image import CLIP_MEAN, CLIP_STD
from onellm_ros.simulation.truth import DIRECTIONS, PLACES, SeenObject, Truth

MIRRORED = frozenset((Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.NORMAL,
                      Modality.POINT))
# A normal's x is stored as ((x + 1) / 2 - mean) / std; this minus it is that of -x.
_NORMAL_SUM = (1 - 2 * CLIP_MEAN[0]) / CLIP_STD[0]
_OTHER = {PLACES[0]: PLACES[2], PLACES[2]: PLACES[0],
          DIRECTIONS[0]: DIRECTIONS[1], DIRECTIONS[1]: DIRECTIONS[0]}


def _thing(thing: SeenObject) -> SeenObject:
    return replace(thing, place=_OTHER.get(thing.place, thing.place),
                   bearing_rad=-thing.bearing_rad,
                   direction=_OTHER.get(thing.direction, thing.direction))


def mirror_truth(truth: Truth) -> Truth:
    """Return the truth of the mirrored view; what it says of motion and sound is kept."""
    return replace(truth, seen=tuple(_thing(thing) for thing in truth.seen))


def mirror_signal(rows: np.ndarray, name: str) -> np.ndarray:
    """Mirror a stored signal of several worlds.

    :param name: ``image`` or ``video`` [..., H, W, 3], ``depth`` or ``normal`` [B, 3, H, W]
        (normalised; x of a normal points right), ``point`` [B, N, 6] (y points left), ``dense``
        [B, G, G, 2] or ``distance`` [B, G, G].
    :raises ValueError: for another name.
    """
    if name in ('image', 'video', 'dense'):
        return rows[..., ::-1, :]
    if name in ('depth', 'distance'):
        return rows[..., ::-1]
    if name == 'normal':
        out = rows[..., ::-1].copy()
        out[:, 0] = _NORMAL_SUM - out[:, 0]
        return out
    if name == 'point':
        out = rows.copy()
        out[..., 1] *= -1
        return out
    raise ValueError(f'{name!r} has no mirror image')
