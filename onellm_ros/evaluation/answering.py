"""Asks a model what a benchmark asks; evidence is read ahead, and encoded once."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
import hashlib
from typing import Any

from torch import Tensor

from onellm_ros.datasets.signals import read_signal
from onellm_ros.evaluation.chunks import Chunk, Unit
from onellm_ros.evaluation.item import BROKEN, Item, Prediction
from onellm_ros.evaluation.prompts import LETTERS, item_prompt
from onellm_ros.evaluation.task import Task
from onellm_ros.files import FileError
from onellm_ros.inference.batched import Ask, Batched
from onellm_ros.inference.engine import Engine
from onellm_ros.inference.locate import EngineError
from onellm_ros.inference.sampling import Sampling
from onellm_ros.machine import usable_cores
from onellm_ros.modality import Modality
from onellm_ros.preprocess import PreprocessError

_AHEAD = 2                          # chunks that are read while one is answered
_MOST_READERS = 8
_CANNOT = (FileError, PreprocessError, EngineError, OSError)

Inputs = Mapping[Modality, Tensor]


class BrokenItemError(ValueError):
    """An item whose files cannot be used; names them and where they are annotated."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn for all items.

    :param seed: of drawing; each item draws with its own, made of this and its id.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def about(self) -> dict[str, Any]:
        """Return what ``run.json`` holds of it."""
        drawn = bool(self.temperature)
        return {'max_tokens': self.max_tokens, 'temperature': self.temperature,
                'top_p': self.top_p if drawn else 1.0, 'seed': self.seed if drawn else None}

    def sampling(self, item: Item) -> Sampling:
        """Return how tokens are drawn for an item, whatever was asked before it."""
        if not self.temperature:
            return Sampling(self.max_tokens)
        own = hashlib.sha256(f'{self.seed}/{item.id}'.encode()).digest()[:6]
        return Sampling(self.max_tokens, self.temperature, self.top_p, int.from_bytes(own, 'big'))


def told(item: Item, error: object) -> str:
    """Return what is wrong with an item, with the place where it is annotated."""
    return f'{item.source or "item"}: {item.id}: {error}'


class Answering:
    """Answers the items of one benchmark.

    :param form: of the prompt; a key of ``prompts.FORMS`` or the user's own.
    :param batch: questions at once; above 1 the engine must take it (``batched.can_batch``).
    :param skip_broken: give items whose files cannot be used a prediction that says so.
    """

    def __init__(self, engine: Engine, task: Task, form: str, decoding: Decoding, batch: int = 1,
                 skip_broken: bool = False) -> None:
        self._engine, self._task, self._form = engine, task, form
        self._decoding, self._batch, self._skip = decoding, batch, skip_broken
        self._batched = Batched(engine) if batch > 1 else None

    def _read(self, item: Item) -> Inputs | Exception:
        """Read the files of an item, or return why they cannot be used."""
        try:
            return {m: read_signal(m, signal, self._engine.config)[None]
                    for m, signal in item.signals.items()}
        except _CANNOT as error:
            return error

    def _made(self, item: Item) -> Inputs | Exception:
        """Return the inputs of an item that makes them itself."""
        assert item.tensors is not None
        try:
            # without what is known of their origin: what is encoded depends on nothing before
            return dict(item.tensors(self._engine))
        except _CANNOT as error:
            return error

    def answer(self, chunked: Sequence[Chunk], known: Container[str]
               ) -> Iterator[list[Prediction]]:
        """Yield the predictions of the items that have none yet, in their order.

        :param chunked: each with an item that has none. :param known: ids of those that have one.
        :raises BrokenItemError: for an item whose files cannot be used, unless they are skipped.
        """
        with _readers() as pool:
            ahead: deque[tuple[Chunk, list[Future[Inputs | Exception] | None]]] = deque()
            for chunk in [*chunked, *[()] * _AHEAD]:
                ahead.append((chunk, [None if unit[0].tensors else
                                      pool.submit(self._read, unit[0]) for unit in chunk]))
                if len(ahead) <= _AHEAD:
                    continue
                now, futures = ahead.popleft()
                inputs = [self._made(unit[0]) if future is None else future.result()
                          for unit, future in zip(now, futures, strict=True)]
                one_by_one = self._together if self._batched else self._one_by_one
                for found in one_by_one(now, inputs, known):
                    if found:
                        yield found

    def _one_by_one(self, chunk: Chunk, inputs: Sequence[Inputs | Exception],
                    known: Container[str]) -> Iterator[list[Prediction]]:
        for unit, seen in zip(chunk, inputs, strict=True):
            if isinstance(seen, Exception):
                yield self._broken(unit, known, seen)
                continue
            try:
                prefix = self._engine.encode(seen)
            except EngineError as error:
                yield self._broken(unit, known, error)
                continue
            for item in unit:
                if item.id in known:
                    continue
                try:
                    yield [self._ask(prefix, item)]
                except EngineError as error:
                    yield self._broken((item,), known, error)

    def _ask(self, prefix: Any, item: Item) -> Prediction:
        """Answer one item on encoded evidence."""
        question, how = self._question(item), self._decoding.sampling(item)
        free = self._engine.ask(prefix, question, max_tokens=how.max_tokens,
                                temperature=how.temperature, top_p=how.top_p, seed=how.seed)
        choices = self._choices(item)
        best = -1
        chances: tuple[float, ...] = ()
        if choices:
            chosen = self._engine.ask(prefix, question, choices=choices)
            best, chances = chosen.choice_index, chosen.choice_probabilities
        return Prediction(item.id, free.text, best, chances, free.confidence, free.tokens,
                          free.first_token_s, free.finish_reason)

    def _together(self, chunk: Chunk, inputs: Sequence[Inputs | Exception],
                  known: Container[str]) -> Iterator[list[Prediction]]:
        assert self._batched is not None
        good: list[Unit] = []
        windows: list[Inputs] = []
        for unit, seen in zip(chunk, inputs, strict=True):
            if isinstance(seen, Exception):
                yield self._broken(unit, known, seen)
            else:
                good.append(unit)
                windows.append(seen)
        encoded = self._batched.encode(windows)
        asked = [(item, Ask(number, self._question(item), self._decoding.sampling(item),
                            self._choices(item)))
                 for number, unit in enumerate(good) for item in unit]
        for start in range(0, len(asked), self._batch):
            some = asked[start:start + self._batch]
            if all(item.id in known for item, _ in some):
                continue
            replies = self._batched.answer(encoded, [ask for _, ask in some])
            found: list[Prediction] = []
            for (item, _), reply in zip(some, replies, strict=True):
                if isinstance(reply, EngineError):
                    found += self._broken((item,), known, reply)
                elif item.id not in known:
                    found.append(Prediction(
                        item.id, reply.text, reply.choice, reply.probabilities, reply.confidence,
                        reply.tokens, finish_reason=reply.finish_reason))
            yield found

    def _question(self, item: Item) -> str:
        return item_prompt(self._task, item, self._form)

    def _choices(self, item: Item) -> tuple[str, ...]:
        """Return the texts whose likelihood is asked."""
        return tuple(LETTERS[:len(item.choices)]) if self._task.letters else item.choices

    def _broken(self, items: Sequence[Item], known: Container[str], error: Exception
                ) -> list[Prediction]:
        """Return predictions that say what is wrong.

        :raises BrokenItemError: if such items are not skipped.
        """
        if not self._skip:
            raise BrokenItemError(f'{told(items[0], error)}; mend it, or count such items as '
                                  'wrong with --skip-broken')
        return [Prediction(item.id, '', finish_reason=BROKEN, error=str(error))
                for item in items if item.id not in known]


@contextmanager
def _readers() -> Iterator[ThreadPoolExecutor]:
    """Yield threads that read files; what they have not begun is dropped at the end."""
    pool = ThreadPoolExecutor(min(_MOST_READERS, usable_cores() or 1), 'read')
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
