"""What a run tells while it goes: log.jsonl, TensorBoard, a bar with samples a second and ETA."""

from __future__ import annotations

from collections.abc import Sequence
import json
import os
from pathlib import Path
import sys
import time
from typing import Any

from tqdm import tqdm

from onellm_ros.training.errors import TrainingError
from onellm_ros.training.stages import Stage

LOG = 'log.jsonl'
TENSORBOARD = 'tensorboard'
_LINE_EVERY_S = 30.0            # where nobody watches a bar


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; one that a killed run left half written is none.

    :raises TrainingError: if it is missing or damaged.
    """
    path = folder / LOG
    try:
        whole, _, _ = path.read_text().rpartition('\n')
        return [json.loads(line) for line in whole.splitlines() if line]
    except (OSError, ValueError) as error:
        raise TrainingError(f'{path}: {error}; expected the log of a training run') from None


class Log:
    """A run's log.jsonl, one object a line, and TensorBoard's files where asked for.

    :param folder: of the run. :param stages: that it goes through.
    :param stage: index of the stage where the run stands; :param step: of it. What the log says of
        later steps, by a run that was killed, is taken off: these steps come again.
    :param tensorboard: write TensorBoard's files, too.
    :raises TrainingError: if the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, stages: Sequence[Stage], stage: int, step: int,
                 tensorboard: bool = False):
        self.path = folder / LOG
        self._first = {s.name: sum(x.steps for x in stages[:i]) for i, s in enumerate(stages)}
        order = {s.name: i for i, s in enumerate(stages)}
        if self.path.exists():
            kept = [line for line in read_log(folder) if (
                order.get(line.get('stage', ''), -1), line.get('step', 0)) <= (stage, step)]
            temporary = self.path.with_name(f'.{LOG}.{os.getpid()}')
            temporary.write_text(''.join(json.dumps(line) + '\n' for line in kept))
            temporary.replace(self.path)
        self._writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise TrainingError(
                    f'--tensorboard needs the package tensorboard ({error}): pip install -r '
                    'requirements/train.txt, or train without it; log.jsonl holds the same '
                    'figures') from None
            done = sum(s.steps for s in stages[:stage]) + step
            self._writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=done + 1)

    def write(self, stage: str, step: int, **values: Any) -> None:
        """Write one line; numbers go to TensorBoard, under the steps of all stages so far."""
        with open(self.path, 'a') as file:
            file.write(json.dumps({'stage': stage, 'step': step, **values}) + '\n')
        if self._writer is None:
            return
        at = self._first[stage] + step
        for kind, figures in (('train', values), ('held_out', values.get('held_out', {}))):
            for name, value in figures.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f'{kind}/{name}', value, at)
        self._writer.flush()

    def close(self) -> None:
        """Close TensorBoard's files."""
        if self._writer is not None:
            self._writer.close()


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds."""
    whole = round(seconds)
    return f'{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}'


class Progress:
    """A bar on stderr where somebody watches, else a line now and then.

    :param shown: whether this process speaks at all.
    """

    def __init__(self, stage: Stage, step: int, shown: bool = True):
        self._stage, self._step, self._shown = stage, step, shown
        self._bar = tqdm(initial=step, total=stage.steps, desc=stage.name, unit='step',
                         disable=None if shown else True, mininterval=2.0)
        self._started, self._first, self._spoke = time.monotonic(), step, time.monotonic()
        self._samples, self._since = 0, time.monotonic()

    def step(self, samples: int) -> None:
        """Count one optimizer step of so many samples."""
        self._step += 1
        self._samples += samples
        self._bar.update()

    def rate(self) -> float:
        """Return samples a second since the last call."""
        now = time.monotonic()
        rate = self._samples / max(1e-9, now - self._since)
        self._samples, self._since = 0, now
        return rate

    def pause(self) -> None:
        """Do not count the time since the last call (evaluation)."""
        self._samples, self._since = 0, time.monotonic()

    def tell(self, loss: float, rate: float) -> None:
        """Show the loss and the rate."""
        self._bar.set_postfix_str(f'loss {loss:.4g}, {rate:.4g} samples/s')
        now = time.monotonic()
        if self._shown and self._bar.disable and now - self._spoke > _LINE_EVERY_S:
            self._spoke = now
            done = max(1, self._step - self._first)
            left = (now - self._started) / done * (self._stage.steps - self._step)
            print(f'{self._stage.name} {self._step}/{self._stage.steps}: loss {loss:.4g}, '
                  f'{rate:.4g} samples/s, {clock(left)} left', file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()
