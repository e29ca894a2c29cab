"""How far a model's confidence can be believed: reliability in bins, expected calibration error.

The expected calibration error is that of Guo et al. 2017: the mean distance between confidence and
accuracy, each bin weighing as much as it holds answers.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

BINS = 10


def calibration(answers: Sequence[tuple[float, bool]], bins: int = BINS) -> dict[str, Any] | None:
    """Compare confidences with what came true.

    :param answers: (confidence 0..1, whether the answer was right) each; those whose confidence is
        not known (NaN) do not count.
    :returns: ``error`` (0 is perfect), ``questions`` and the filled ``bins``, each with ``from``,
        ``to``, ``confidence`` (mean), ``accuracy`` and ``questions``; None without confidences.
    :raises ValueError: for a confidence outside 0..1.
    """
    known = [(float(c), r) for c, r in answers if not math.isnan(c)]
    if not known:
        return None
    wrong = [c for c, _ in known if not 0.0 <= c <= 1.0]
    if wrong:
        raise ValueError(f'found a confidence of {wrong[0]}, expected 0 to 1')
    rows = []
    error = 0.0
    for number in range(bins):
        inside = [(c, r) for c, r in known if min(bins - 1, int(c * bins)) == number]
        if not inside:
            continue
        confidence = sum(c for c, _ in inside) / len(inside)
        accuracy = sum(r for _, r in inside) / len(inside)
        error += abs(confidence - accuracy) * len(inside) / len(known)
        rows.append({'from': number / bins, 'to': (number + 1) / bins,
                     'confidence': round(confidence, 4), 'accuracy': round(accuracy, 4),
                     'questions': len(inside)})
    return {'error': round(error, 4), 'questions': len(known), 'bins': rows}
