"""Version 1 as it was frozen: hashes of all that is asked, and some of what the sensors gave.

Scores can only be compared while a version asks the same of the same worlds. ``frozen.json`` holds
what the version was when it was frozen; a test compares. Whoever changes the simulation, its
language or the plan on purpose raises ``plan.VERSION`` and runs ``python -m
onellm_ros.evaluation.robot.frozen --write``. Texts are compared exactly, signals with a tolerance:
processors differ in the last digits.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import hashlib
import json
from pathlib import Path
import sys
from typing import Any

import numpy as np

from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.robot.plan import SEED, SPLITS, VERSION, Plan
from onellm_ros.evaluation.robot.worlds import Shown, world_seed
from onellm_ros.modality import Modality

FILE = Path(__file__).with_suffix('.json')
_VALUES = 64                    # of each signal, spread evenly over it
# How far a value may be off, and which share of the values must not be: a pixel on an edge may
# fall to either side.
TOLERANCE = {'image': 3.0, 'video': 3.0, 'depth': 0.02, 'normal': 0.02, 'point': 0.02,
             'imu': 0.005, 'audio': 0.001, 'fmri': 0.005}
ENOUGH = 0.9


def fingerprint(items: Iterable[Item]) -> str:
    """Return a hash of ids, questions, answers and what is shown, in their order."""
    found = hashlib.sha256()
    for item in items:
        found.update(json.dumps([item.id, item.question, item.answers, item.group,
                                 item.evidence]).encode() + b'\n')
    return found.hexdigest()


def asked(split: str, items: Sequence[Item]) -> dict[str, Any]:
    """Return what is compared of a split's questions."""
    counts = Counter(item.facts['condition'] for item in items)
    return {'items': len(items), 'conditions': dict(sorted(counts.items())),
            'sha256': fingerprint(items)}


def samples() -> dict[str, dict[str, list[float]]]:
    """Return some values of what some windows show, by window and modality."""
    first = world_seed(SEED, 0)
    everything = tuple(Modality)
    shown = {'world 0': Shown(everything, first), 'world 1': Shown(everything, first + 1),
             'live world 0, 2 s ago': Shown(everything, first, age_s=2.0)}
    shown |= {f'{kind} 2': Shown((Modality(kind.split('.')[0]),), first, disturbed=kind, level=2)
              for kind in ('image.dark', 'depth.holes', 'point.sparse', 'audio.noise', 'imu.bias')}
    return {name: {m.value: _some([s.data for s in what.evidence().chosen[m]])
                   for m in what.blocks} for name, what in shown.items()}


def _some(arrays: Sequence[np.ndarray]) -> list[float]:
    flat = np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays])
    # places without a common divisor with rows or channels
    places = np.linspace(0, len(flat) - 1, _VALUES).astype(int)
    return [round(float(v), 4) if np.isfinite(v) else -1.0 for v in flat[places]]


def close(name: str, before: Sequence[float], now: Sequence[float]) -> bool:
    """Whether values of a modality are those of before."""
    if len(before) != len(now):
        return False
    off = np.abs(np.asarray(before) - np.asarray(now)) > TOLERANCE[name]
    return float(1.0 - off.mean()) >= ENOUGH


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return which signals are no longer what they were."""
    return [f'{window}: {name}' for window, signals in before.items()
            for name, values in signals.items()
            if not close(name, values, now.get(window, {}).get(name, []))]


def record() -> dict[str, Any]:
    """Return what ``frozen.json`` holds."""
    return json.loads(FILE.read_text(encoding='utf-8'))  # type: ignore[no-any-return]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare with the frozen version, or freeze anew; returns the exit status."""
    from onellm_ros.evaluation.robot.reading import read_items

    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--write', action='store_true', help='freeze what is there now')
    args = parser.parse_args(argv)
    now: dict[str, Any] = {'version': VERSION, 'splits': {
        split: asked(split, list(read_items(Plan(worlds=worlds), None)))
        for split, worlds in SPLITS.items()}, 'samples': samples()}
    if args.write:
        FILE.write_text(json.dumps(now, indent=1) + '\n', encoding='utf-8')
        print(f'wrote {FILE}')
        return 0
    before = record()
    wrong = [f'split {split}' for split in SPLITS if before['splits'][split]
             != now['splits'][split]] + differing(before['samples'], now['samples'])
    wrong += ['version'] if before['version'] != VERSION else []
    print('differs: ' + ', '.join(wrong) if wrong else f'version {VERSION} as it was frozen')
    return int(bool(wrong))


if __name__ == '__main__':
    sys.exit(main())
