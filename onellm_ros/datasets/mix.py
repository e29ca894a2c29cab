"""Several data sets as one stream of batches, each of one modality, repeatable from any step.

Which modality a step has, and which rows, follow from the seed and the step alone. Positions of a
modality's stream go through its data sets in epochs: within one, each set is met as often as its
share says, each of its rows as often as any other (within one), in shuffled order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from onellm_ros.config import ModelConfig
from onellm_ros.datasets.config import TEXT, MixConfig, load_manifest
from onellm_ros.datasets.errors import Broken, DataError
from onellm_ros.datasets.examples import Example, ExampleBatch, collate
from onellm_ros.datasets.sets import FileSet
from onellm_ros.datasets.shuffle import key_of, shuffled
from onellm_ros.modality import PROMPT_ORDER, Modality

_ORDER: tuple[str, ...] = (*(m.value for m in PROMPT_ORDER), TEXT)


@dataclass(frozen=True)
class _Pool:
    """The data sets of one modality. ``shares``: examples of each set in one epoch of it."""

    sets: tuple[FileSet, ...]
    numbers: tuple[int, ...]
    shares: tuple[int, ...]

    @property
    def epoch(self) -> int:
        return sum(self.shares)


class Mix(Dataset['Example | Broken']):
    """Several data sets with their relative frequencies.

    As a map-style data set it is their concatenation: item ``i`` counts through the sets in order,
    without shares and shuffling. Training takes :class:`MixBatches`.

    :param sets: all with a weight, or none (then each as often as size and ``repeats`` make it).
    :param seed: of the shuffling.
    :param weights: relative frequency of each modality (name, or ``text``) in place of what the
        sets sum to; modalities that it leaves out are left out.
    :raises DataError: for weights that do not fit the sets.
    """

    def __init__(self, sets: Sequence[FileSet], *, seed: int = 0,
                 weights: Mapping[str, float] | None = None) -> None:
        if not sets:
            raise DataError('found no data set, expected at least one')
        self.sets, self.seed = tuple(sets), seed
        self._ends = np.cumsum([len(one) for one in self.sets])
        self._pools: dict[str, _Pool] = {}
        frequencies: dict[str, float] = {}
        weighted = sum(one.config.weight > 0 for one in self.sets)
        if weighted not in (0, len(self.sets)):
            raise DataError(f'found a weight for {weighted} of {len(self.sets)} data sets, '
                            'expected all or none')
        for name in _ORDER:
            numbers = tuple(i for i, one in enumerate(self.sets) if one.config.modality == name)
            if numbers:
                chosen = tuple(self.sets[i] for i in numbers)
                self._pools[name] = _Pool(chosen, numbers, _shares(chosen))
                frequencies[name] = float(sum(one.config.weight for one in chosen)) \
                    if weighted else float(self._pools[name].epoch)
        if weights is not None:
            unknown = sorted(set(weights) - set(self._pools))
            if unknown or not weights or min(weights.values()) <= 0:
                raise DataError(f'weights: found {dict(weights)}, expected numbers above 0 for '
                                f'some of {list(self._pools)}')
            frequencies = {name: float(weights[name]) for name in _ORDER if name in weights}
        total = sum(frequencies.values())
        self.frequencies = {name: value / total for name, value in frequencies.items()}

    @classmethod
    def open(cls, manifest: str | Path | MixConfig, model: ModelConfig, *,
             root: str | Path | None = None, on_broken: str = 'error', seed: int = 0,
             weights: Mapping[str, float] | None = None) -> Mix:
        """Index all data sets of a manifest.

        :param root: folder that its paths are relative to (see ``load_manifest``).
        :raises DataError: for a manifest or files that cannot be used.
        """
        config = manifest if isinstance(manifest, MixConfig) else load_manifest(manifest, root)
        return cls([FileSet(one, model, config.root, on_broken=on_broken) for one in config.sets],
                   seed=seed, weights=weights)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example | Broken:
        if not 0 <= index < len(self):
            raise IndexError(f'example {index} of {len(self)}')
        number = int(np.searchsorted(self._ends, index, 'right'))
        return self.sets[number][index - int(self._ends[number]) + len(self.sets[number])]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that batches have, ``text`` the last."""
        return tuple(self.frequencies)

    @property
    def epoch(self) -> int:
        """Number of examples after which every set was gone through once (times its repeats)."""
        return max(round(self._pools[name].epoch / share)
                   for name, share in self.frequencies.items())

    def rows(self, name: str, positions: np.ndarray) -> list[tuple[int, int, int]]:
        """Return (number of the set, row, pass through the set) at positions of a modality.

        :param name: of the modality, or ``text``. :param positions: int [n], from 0 without end.
        """
        pool = self._pools[name]
        ends = np.cumsum(pool.shares)
        sense = _ORDER.index(name)
        out: list[tuple[int, int, int]] = []
        epochs, within = np.divmod(np.asarray(positions, np.int64), pool.epoch)
        places = np.empty_like(within)
        for epoch in np.unique(epochs).tolist():
            mine = epochs == epoch
            places[mine] = shuffled(within[mine], pool.epoch, key_of(self.seed, sense, epoch))
        for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True):
            which = int(np.searchsorted(ends, place, 'right'))
            share, size = pool.shares[which], len(pool.sets[which])
            met = epoch * share + place - int(ends[which]) + share
            turn, at = divmod(met, size)
            number = pool.numbers[which]
            row = shuffled(np.array([at]), size, key_of(self.seed, 1000 + number, turn))
            out.append((number, int(row[0]), turn))
        return out


def _shares(sets: Sequence[FileSet]) -> tuple[int, ...]:
    """Return how many examples each set of a modality gives to one epoch of it."""
    if all(one.config.weight > 0 for one in sets):
        size = sum(len(one) for one in sets)
        total = sum(Fraction(one.config.weight) for one in sets)
        return tuple(max(1, round(size * Fraction(one.config.weight) / total)) for one in sets)
    return tuple(max(1, round(len(one) * one.config.repeats)) for one in sets)


def schedule(frequencies: Sequence[float], steps: int, seed: int) -> np.ndarray:
    """Return which of several things each step takes, int64 [steps].

    Thing m is taken at the times (j + u) / f_m with a random u in 0..1 for each j: up to any step
    each was taken as often as its frequency says, within about one, in an order without pattern.
    More steps continue what fewer had.
    """
    times, things = [], []
    for number, share in enumerate(np.asarray(frequencies, float) / sum(frequencies)):
        count = int(np.ceil(share * (steps + len(frequencies) + 1))) + 1
        rng = np.random.default_rng(key_of(seed, 77, number))
        times.append((np.arange(count) + rng.random(count)) / share)
        things.append(np.full(count, number))
    order = np.argsort(np.concatenate(times), kind='stable')
    return np.concatenate(things)[order][:steps].astype(np.int64)


class MixBatches(Dataset[ExampleBatch]):
    """The batches of a training run: item ``step`` is the batch of that step, of one modality.

    To be loaded with ``DataLoader(batches, batch_size=None, sampler=range(first, len(batches)),
    num_workers=...)``: whoever starts at a later step sees what the first run would have seen.

    :param batch: examples of all ranks together. :param steps: length of the run.
    :param rank: which of the ``ranks`` equal parts of each batch this process takes.
    :raises DataError: for a batch that the ranks cannot share.
    """

    def __init__(self, mix: Mix, *, batch: int, steps: int, rank: int = 0, ranks: int = 1) -> None:
        if batch < 1 or ranks < 1 or batch % ranks or not 0 <= rank < ranks or steps < 1:
            raise DataError(f'found a batch of {batch} for rank {rank} of {ranks} and {steps} '
                            'steps, expected a batch that the ranks can share')
        self.mix, self.batch, self.rank, self.ranks = mix, batch, rank, ranks
        self._names = mix.modalities
        self._order = schedule(list(mix.frequencies.values()), steps, mix.seed)
        self._turns = np.empty(steps, np.int64)         # how often its modality came before
        for number in range(len(self._names)):
            mine = self._order == number
            self._turns[mine] = np.arange(int(mine.sum()))

    def __len__(self) -> int:
        return len(self._order)

    def modality(self, step: int) -> Modality | None:
        """Return the modality of a step's batch; None for text."""
        name = self._names[int(self._order[step])]
        return None if name == TEXT else Modality(name)

    def rows(self, step: int) -> list[tuple[int, int, int]]:
        """Return (number of the set, row, pass) of each example of this rank's batch."""
        if not 0 <= step < len(self):
            raise IndexError(f'step {step} of {len(self)}')
        size = self.batch // self.ranks
        start = int(self._turns[step]) * self.batch + self.rank * size
        return self.mix.rows(self._names[int(self._order[step])], np.arange(start, start + size))

    def __getitem__(self, step: int) -> ExampleBatch:
        items = [self.mix.sets[number].get(row, row + turn)         # wordings take turns
                 for number, row, turn in self.rows(step)]
        return collate(items, self.modality(step))


class Tally:
    """Counts what a consumer was given and what was skipped, by data set's annotation file.

    Attributes: ``examples``, ``skipped`` (numbers), ``by_file`` (Counter of skipped ones).
    """

    def __init__(self) -> None:
        self.examples, self.skipped = 0, 0
        self.by_file: Counter[str] = Counter()

    def add(self, batch: ExampleBatch | Example | Broken) -> Iterable[Broken]:
        """Count one batch or example; returns what was skipped in it, for the log."""
        if isinstance(batch, Example):
            self.examples += 1
            return ()
        skipped = (batch,) if isinstance(batch, Broken) else batch.skipped
        self.examples += 0 if isinstance(batch, Broken) else len(batch)
        self.skipped += len(skipped)
        self.by_file.update(broken.source for broken in skipped)
        return skipped

    def __str__(self) -> str:
        named = ', '.join(f'{count} of {name}' for name, count in self.by_file.most_common())
        return f'{self.examples} examples, {self.skipped} skipped{f" ({named})" if named else ""}'
