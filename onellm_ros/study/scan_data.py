"""Laser scans of simulated worlds with questions, made once and kept on disk.

A piece holds the scans of ``PIECE_WORLDS`` worlds, ``.npz`` with a line of JSON for each; it
appears only when it is complete, and its name says which worlds it is of.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onellm_ros.modalities.scan import SCAN, scan_input
from onellm_ros.modalities.scan_questions import scan_questions
from onellm_ros.modalities.scan_world import scan_world
from onellm_ros.simulation.answers import Question
from onellm_ros.simulation.world import World
from onellm_ros.training.new_modality import Texts

PIECE_WORLDS = 256
TRAINING, HELD_OUT = 'training', 'held_out'
_FIRST_SEED = 50_000_000        # of worlds that nothing else here takes
_QUESTIONS_SALT = 0x5CA8


def make_piece(path: Path, number: int, held_out: bool) -> None:
    """Render the scans of one piece and draw their questions, unless it is there."""
    if path.exists():
        return
    inputs: list[np.ndarray] = []
    asked: list[list[dict[str, Any]]] = []
    for index in range(PIECE_WORLDS):
        seed = _FIRST_SEED + number * PIECE_WORLDS + index
        scan, truth = scan_world(World(seed, held_out=held_out))
        rng = np.random.default_rng([_QUESTIONS_SALT, seed, int(held_out)])
        questions = scan_questions(truth, rng)
        if questions:
            inputs.append(scan_input(scan))
            asked.append([{'type': q.type, 'question': q.question, 'answer': q.answer,
                           'accept': q.accept} for q in questions])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.stem}-{os.getpid()}.npz')
    np.savez(temporary, inputs=np.stack(inputs), asked=np.array(json.dumps(asked)))
    temporary.rename(path)


def _read(path: Path) -> Iterator[tuple[np.ndarray, list[Question]]]:
    with np.load(path) as piece:
        inputs, asked = piece['inputs'], json.loads(str(piece['asked']))
    for signal, rows in zip(inputs, asked, strict=True):
        yield signal, [Question(row['type'], SCAN, row['question'], row['answer'],
                                tuple(row['accept'])) for row in rows]


def scan_texts(folder: Path, pairs: int, *, held_out: bool = False) -> Texts:
    """Return scans with so many pairs of a scan and a question, rendering what is not there yet.

    The first pairs are always the same: 100 are the beginning of 10 000.
    """
    signals: list[np.ndarray] = []
    asked: list[list[tuple[str, str, str]]] = []
    number = found = 0
    while found < pairs:
        path = folder / f'{HELD_OUT if held_out else TRAINING}-{number:05d}.npz'
        make_piece(path, number, held_out)
        for signal, questions in _read(path):
            signals.append(signal)
            asked.append([(q.question, q.answer, q.type) for q in questions])
            found += len(questions)
        number += 1
    return Texts(SCAN, torch.from_numpy(np.stack(signals)), asked).first(pairs)
