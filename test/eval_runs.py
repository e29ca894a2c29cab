"""Small benchmarks in public formats and runs of imagined models, for tests of what reads runs."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.predictions import write_whole
from onellm_ros.evaluation.runs import ABOUT, digest, read_items, read_run
from onellm_ros.evaluation.scoring import write_scores
from onellm_ros.evaluation.task import Tools
from onellm_ros.evaluation.tasks import find_task

COLOURS = {'red': (200, 30, 30), 'green': (30, 160, 40), 'blue': (40, 60, 200)}
Reply = Callable[[Item], str]


def write_gqa(folder: Path, pictures: int = 30, questions: int = 2) -> Path:
    """Write questions about coloured pictures in GQA's format."""
    (folder / 'images').mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows: dict[str, Any] = {}
    for number in range(pictures):
        colour = list(COLOURS)[number % 3]
        picture = np.clip(rng.normal(COLOURS[colour], 25, (90, 120, 3)), 0, 255)
        Image.fromarray(picture.astype(np.uint8)).save(folder / 'images' / f'n{number}.jpg')
        for place in range(questions):
            asked = ('What colour is the picture?', colour) if place % 2 == 0 else \
                ('Is the picture red?', 'yes' if colour == 'red' else 'no')
            rows[f'{number:03d}{place}'] = {
                'imageId': f'n{number}', 'question': asked[0], 'answer': asked[1],
                'types': {'structural': ('query', 'verify')[place % 2]}}
    (folder / 'val_balanced_questions.json').write_text(json.dumps(rows))
    return folder


def wrong_on(*places: int) -> Reply:
    """Return a model that is wrong on some pictures and right on the others."""
    return lambda item: '' if int(item.id[:3]) in places else item.answers[0]


def write_run(folder: Path, data: Path, reply: Reply, *, name: str = 'gqa',
              split: str = 'val_balanced', model: str = 'nano', weights: str = 'aaaa00000000',
              score: bool = True, **changes: Any) -> Path:
    """Write the run of an imagined model.

    :param reply: what it says to an item. :param changes: of ``run.json``, by its parts.
    """
    benchmark = find_task(name)
    items = read_items(benchmark, data, split, benchmark.options)
    about = {
        'task': {'name': name, 'version': benchmark.version, 'split': split,
                 'options': dict(benchmark.options)},
        'items': {'count': len(items), 'limit': 0, 'digest': digest(items)},
        'model': {'name': model, 'weights': weights, 'quantize': 'none', 'dtype': 'float32',
                  'backend': 'torch', 'device': 'cpu'},
        'prompt': {'form': benchmark.form, 'text': '{question}'},
        'decoding': {'max_tokens': 16, 'temperature': 0.0, 'top_p': 1.0, 'seed': None},
        'batch': 1, 'data': str(data), 'versions': {'python': '3', 'torch': '2'},
        'machine': {'processor': 'x', 'cores': 2}, 'created': '2026-01-01T00:00:00+00:00',
        'resumed': [], 'processes': 1}
    for part, values in changes.items():
        about[part] = {**about[part], **values} if isinstance(values, dict) else values
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT).write_text(json.dumps(about))
    write_whole(folder, [Prediction(item.id, text, confidence=0.5, tokens=len(text.split()))
                         for item in items for text in [reply(item)]])
    if score:
        write_scores(read_run(folder), Tools())
    return folder
