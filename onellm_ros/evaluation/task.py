"""A benchmark as a row of a table: where its items come from, how it asks and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.modality import Modality


@dataclass(frozen=True)
class Score:
    """What a metric says.

    :param value: on the scale of the paper's tables (percent; CIDEr and the like times 100; MME:
        points); None: not computed.
    :param items: of each item, on the same scale, where ``value`` is their mean; else empty.
    :param why: the reason where it is not computed.
    :param parts: the same for groups of items.
    """

    value: float | None
    items: tuple[float, ...] = ()
    why: str = ''
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tools:
    """What some metrics need and not every machine has.

    :param judge: address of an OpenAI-compatible endpoint (``http://host:8000/v1``); empty: none.
    :param judge_model: name of the model there. :param judge_key: of the endpoint, kept nowhere.
    :param judge_cache: file of recorded prompts and replies, JSONL; None: none is kept.
    :param java: the ``java`` command; empty: what PATH has.
    """

    judge: str = ''
    judge_model: str = ''
    judge_key: str = ''
    judge_cache: Path | None = None
    java: str = ''


class Metric(Protocol):
    """Scores predictions, one an item, in the items' order. A broken or empty one scores zero."""

    def __call__(self, items: Sequence[Item], predictions: Sequence[Prediction],
                 tools: Tools) -> Score:
        """Return the score; what cannot be computed is a score without a value, and why."""


@dataclass(frozen=True)
class Paper:
    """What the paper reports.

    :param number: of the benchmark among its 25; 0: beside them.
    :param scores: OneLLM-7B's, by metric. :param best: name of the best other model.
    :param best_scores: its scores, by metric. :param fine_tuned: whether it was trained on it.
    """

    number: int
    scores: Mapping[str, float]
    best: str = ''
    best_scores: Mapping[str, float] = field(default_factory=dict)
    fine_tuned: bool = False


Tables = Mapping[str, Mapping[str, Mapping[str, float | int | None]]]   # title, row, column


@dataclass(frozen=True)
class Task:
    """A benchmark.

    :param name: what the command line calls it: lower-case letters, digits and ``-``.
    :param version: raised when what is asked, or how it is scored, changes.
    :param modalities: what its items show.
    :param form: of the prompt, a key of ``prompts.FORMS``.
    :param metrics: names in ``metrics.METRICS``; the first one is the task's main score.
    :param read: (folder, split) -> items in the order of the annotations; raises
        :class:`AnnotationError`. Files of signals are named, not opened. A task with options is
        given all of them, by name: (folder, split, **options); one without data an empty folder's
        name.
    :param splits: names of splits, the first one is the default.
    :param fetch: what the user must fetch, from where, and how it lies in the folder, in lines.
    :param letters: choices are answered by their letters.
    :param max_tokens: of a reply.
    :param data: whether it needs a folder of data.
    :param tables: further figures from items and predictions.
    :param options: what the user may set (``--set seed=1``) and what holds where they do not; a
        value set has its default's type. They are part of what was asked: a run with others is
        another one. ``read`` raises ValueError for one that means nothing.
    :param facts: what ``--explain`` tells besides.
    """

    name: str
    title: str
    modalities: tuple[Modality, ...]
    form: str
    metrics: tuple[str, ...]
    read: Callable[..., Iterator[Item]]
    splits: tuple[str, ...]
    fetch: str
    paper: Paper | None = None
    version: int = 1
    letters: bool = False
    max_tokens: int = 32
    data: bool = True
    tables: Callable[[Sequence[Item], Sequence[Prediction]], Tables] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, int | float | str] = field(default_factory=dict)
