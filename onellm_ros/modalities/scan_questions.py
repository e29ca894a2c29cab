"""What a laser scan of the simulated world is asked: the way ahead, the nearest thing, no more.

Wordings are those of the depth camera's questions. A scan knows no kinds, colours or sounds, and
what is asked of these is 'unknown'.
"""

from __future__ import annotations

import numpy as np

from onellm_ros.modalities.scan import SCAN
from onellm_ros.modalities.scan_world import ScanTruth
from onellm_ros.simulation import wording as w
from onellm_ros.simulation.asking import MOTION_PHRASES
from onellm_ros.simulation.language import Question, word_question
from onellm_ros.simulation.truth import COLOURS, KINDS, SOUNDS

UNKNOWNS = 0.4                  # share of the scans that are asked what no scan can tell
_UNKNOWN_FAMILIES = ('object.largest', 'object.nearest', 'colour', 'count.kind', 'presence',
                     'place', 'distance', 'motion.what', 'motion.is', 'sound.what', 'sound.is',
                     'moving.what')
# Share of the scans with such an answer that are asked, where the world offers more of them than
# of others (from the shares measured on 1000 worlds).
KEEP: dict[tuple[str, str], float] = {
    ('clear.way', 'yes'): 0.39, ('clear.space', 'about 1 metre'): 0.45,
    ('clear.space', 'about 2 metres'): 0.65, ('clear.space', 'about 3 metres'): 0.9}


def _answerable(truth: ScanTruth) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Return (type, family, answer, other right answers) of all that is plain."""
    out: list[tuple[str, str, str, tuple[str, ...]]] = []
    if truth.free is not None:
        out.append(('clear', 'clear.way', 'yes' if truth.free else 'no', ()))
    if truth.metres is not None:
        out.append(('clear', 'clear.space', w.metres(truth.metres), (str(truth.metres),)))
    if truth.nearest is not None:
        out.append(('place', 'place.nearest', truth.nearest, ()))
    return out


def _unknown(rng: np.random.Generator) -> Question:
    """Draw a question that no scan can answer."""
    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    kind = pick(KINDS)
    the = w.definite(kind)
    slots = {'the': the, 'The': w.sentence_case(the), 'plural': w.plural(kind),
             'np': w.indefinite(kind, pick(tuple(COLOURS)) if rng.random() < 0.3 else ''),
             'sound': pick(SOUNDS[1:]), 'doing': pick(MOTION_PHRASES)}
    text = word_question(pick(_UNKNOWN_FAMILIES), slots, rng)
    return Question('unknown', SCAN, text, w.UNKNOWN)


def scan_questions(truth: ScanTruth, rng: np.random.Generator) -> list[Question]:
    """Draw the questions about one scan: of each family one at most, perhaps one unanswerable."""
    drawn = [Question(kind, SCAN, word_question(family, {}, rng), answer, accept)
             for kind, family, answer, accept in _answerable(truth)
             if rng.random() < KEEP.get((family, answer), 1.0)]
    if rng.random() < UNKNOWNS:
        drawn.append(_unknown(rng))
    return [drawn[int(i)] for i in rng.permutation(len(drawn))]
