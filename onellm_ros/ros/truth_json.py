"""The simulated world's truth as text: JSON for /simulation/truth_json, and back.

This module owns that form: the fields of ``truth.Truth``, and ``stamp_ns``, the end of the window.
"""

from __future__ import annotations

from dataclasses import asdict
import json

from onellm_ros.simulation.truth import SeenObject, Truth


def truth_to_json(stamp_ns: int, truth: Truth) -> str:
    """Return the truth of the window that ends at ``stamp_ns`` as one line of JSON."""
    return json.dumps({'stamp_ns': stamp_ns, **asdict(truth)})


def truth_from_json(text: str) -> tuple[int, Truth]:
    """Return (end of the window in integer nanoseconds, truth).

    :raises ValueError: for text that is no truth; it says what is missing.
    """
    try:
        fields = json.loads(text)
        stamp_ns = int(fields.pop('stamp_ns'))
        seen = tuple(SeenObject(**item) for item in fields.pop('seen'))
        return stamp_ns, Truth(seen=seen, **fields)
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f'truth: found {text[:80]!r}, expected the JSON of the simulation node '
                         f'({error})') from error
