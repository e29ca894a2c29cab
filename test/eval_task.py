"""A small benchmark for the tests of the harness; as a script, ``onellm eval`` that knows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import json
import os
from pathlib import Path
import signal
import sys
from types import ModuleType

import numpy as np
from PIL import Image

from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation import metrics, tasks
from onellm_ros.evaluation.item import AnnotationError, Item, Prediction
from onellm_ros.evaluation.task import Paper, Score, Task, Tools
from onellm_ros.modality import Modality

FILE = 'questions.jsonl'
COLOURS = ('red', 'green', 'blue', 'yellow')


def write_data(folder: Path, items: int = 14) -> Path:
    """Write annotations and their files: pictures with one to three questions, then IMU."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(0)
    lines = []
    for number in range(items):
        if number % 5 == 4:
            name = f'{number}.npy'
            np.save(folder / name, rng.standard_normal((60, 6)))
            seen = {'imu': name}
        else:
            seen = {'image': f'{number // 3}.png'}
            Image.fromarray(rng.randint(0, 255, (40, 50, 3), np.uint8)).save(
                folder / seen['image'])
        lines.append({'id': f'q{number}', **seen, 'answer': COLOURS[number % 4],
                      'question': f'What colour is thing {number}?' + ' Look well.' * (number % 3),
                      'choices': COLOURS[:2 + number % 3] if number % 2 else []})
    (folder / FILE).write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return folder


def read(root: Path, split: str, first: int) -> Iterator[Item]:
    """Yield the questions from the one numbered ``first`` on."""
    for number, line in enumerate((root / FILE).read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            raise AnnotationError(root / FILE, number, 'found no JSON, expected an object'
                                  ) from None
        if number > first:
            signals = {Modality(m): Signal(root / row[m]) for m in ('image', 'imu') if m in row}
            yield Item(row['id'], row['question'], signals, (row['answer'],),
                       tuple(row['choices']), group=split, source=f'{FILE}, line {number}')


def same(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Count replies that hold the answer."""
    each = tuple(100.0 * (item.answers[0] in p.text) for item, p in zip(items, predictions))
    return Score(sum(each) / len(each), each)


def judged(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Ask the judge that there is not."""
    return Score(1.0) if tools.judge else Score(None, why='found no --judge')


TASK = Task('colours', 'Colours of things', (Modality.IMAGE, Modality.IMU), 'A',
            ('test_same', 'test_judge'), read, ('val', 'test'), f'{FILE} and its files',
            Paper(0, {'test_same': 50.0}, 'Best', {'test_same': 60.0}), max_tokens=6,
            options={'first': 0})


def install() -> None:
    """Make the benchmark and its metrics known."""
    module = ModuleType('onellm_ros.evaluation.metrics.for_tests')
    module.same, module.judged = same, judged      # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    metrics._WHERE.update(test_same='for_tests:same', test_judge='for_tests:judged')
    tasks.tasks()[TASK.name] = TASK


def main() -> int:
    """Run ``onellm`` with the benchmark; EVAL_KILL=N kills it behind so many predictions."""
    from onellm_ros.cli import main as onellm
    from onellm_ros.evaluation.predictions import Writer

    install()
    kill = int(os.environ.get('EVAL_KILL', '0'))
    if kill and os.environ.get('RANK', '0') == os.environ.get('EVAL_KILL_RANK', '0'):
        whole, count = Writer.add, [0]

        def add(self, predictions):
            count[0] += len(predictions)
            whole(self, predictions)
            if count[0] >= kill:
                self._files[0].write('{"id": "q9", "te')     # in the midst of the next line
                self._files[0].flush()
                os.kill(os.getpid(), getattr(signal, os.environ.get('EVAL_SIGNAL', 'SIGKILL')))
        Writer.add = add
    return onellm(sys.argv[1:])


if __name__ == '__main__':
    sys.exit(main())
