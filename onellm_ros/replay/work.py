"""One part of a recording through one model: what each process of a replay does.

Owns the model and what a window becomes; which parts there are, and in which order their results
are written, is the business of ``run.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
import sys
from typing import Any, NamedTuple

from onellm_ros.choose import Selection, choose
from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality, Sample, parse_modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.answering import FAILURES, Answerer
from onellm_ros.perception.extrinsics import FrameTree, Placer, Transform
from onellm_ros.perception.results import EngineLike, Question, model_text
from onellm_ros.perception.sources import Plan, SourceSpec, SourceTable
from onellm_ros.replay.bags import open_bag
from onellm_ros.replay.params import Change, config_at
from onellm_ros.replay.records import Record, add_answer, add_description, window_record
from onellm_ros.replay.stream import Handover, Segment, Stream
from onellm_ros.replay.topics import TopicPlan
from onellm_ros.windows import Window

Loader = Callable[[NodeConfig], EngineLike]


def load_engine(config: NodeConfig) -> EngineLike:
    """Load the model that the settings name.

    :raises EngineError: a RuntimeError that says what to do.
    """
    from onellm_ros.inference.engine import Engine  # torch takes seconds: only when needed
    return Engine.load(config.model, config.device, threads=config.threads,
                       backend=config.backend, quantize=config.quantize)


@dataclass(frozen=True)
class Facts:
    """What a replay must know of a model before it is loaded."""

    name: str
    tokenizer: Any
    modalities: tuple[Modality, ...]

    @classmethod
    def of_engine(cls, engine: EngineLike) -> Facts:
        """Return the facts of a model that is loaded."""
        return cls(model_text(engine), engine.config.tokenizer,
                   tuple(getattr(engine, 'modalities', ()) or Modality))

    def allowed(self, config: NodeConfig) -> frozenset[Modality]:
        """Return what the model is shown: what it knows, less what the user left out.

        :raises ConfigError: if nothing remains.
        """
        knows = frozenset(self.modalities)
        wanted = frozenset(parse_modality(m) for m in config.modalities) or knows
        if not wanted & knows:
            raise ConfigError(
                f'modalities: found {sorted(m.value for m in wanted)}, expected some of what the '
                f'model knows: {sorted(m.value for m in knows)}')
        return wanted & knows


def rules(config: NodeConfig, facts: Facts, sources: tuple[SourceSpec, ...],
          place: Callable[[Modality, Sample], Sample] | None = None) -> Plan:
    """Return how windows are cut and what is taken out of them, as the node has it.

    :raises ConfigError: for settings that do not fit.
    """
    table = SourceTable(sources, rank=tuple(s.name for s in sources))
    return Plan.of(table, config, facts.tokenizer, facts.allowed(config), place)


def _placer(config: NodeConfig, frames: FrameTree, wrong: Callable[[str, str], None]) -> Placer:
    """Return what brings clouds into the base frame by the transforms of a recording."""
    def lookup(frame: str, _: int) -> tuple[Transform | None, str]:
        found = frames.find(config.base_frame, frame)
        return found, '' if found is not None else 'the recording has none so far'
    return Placer(config, wrong, lookup)


@dataclass(frozen=True)
class Wanted:
    """Which windows are written; by their own times, so that it does not matter where one begins.

    :param from_ns: windows that start before are left out, ``to_ns``: that end after.
    :param every: only each so many-th of the grid of windows; ``every_ns``: only one of so long.
    """

    from_ns: int | None = None
    to_ns: int | None = None
    every: int = 1
    every_ns: int = 0

    def __call__(self, window: Window, period_ns: int) -> bool:
        """Tell whether a window is written."""
        if self.from_ns is not None and window.start_ns < self.from_ns:
            return False
        if self.to_ns is not None and window.end_ns > self.to_ns:
            return False
        if self.every_ns and (window.end_ns // self.every_ns
                              == (window.end_ns - period_ns) // self.every_ns):
            return False
        return window.index % self.every == 0


@dataclass(frozen=True)
class Task:
    """A part of a recording to be done; it can be pickled.

    :param number: place among the tasks. :param bag: number of the recording at ``path``.
    :param first: the first part of its recording, from which everything is read in order.
    :param skip: so many of its windows are done already: the model is not run for them.
    :param pictures_from: pictures are made from this one of its windows on; None: none are.
    :param changes: of settings, while it was recorded.
    """

    number: int
    bag: int
    path: str
    plan: TopicPlan
    config: NodeConfig
    questions: tuple[Question, ...] = ()
    describe: bool = True
    wanted: Wanted = field(default_factory=Wanted)
    part: Segment = field(default_factory=Segment)
    first: Segment = field(default_factory=Segment)
    skip: int = 0
    pictures_from: int | None = None
    changes: tuple[Change, ...] = ()


class Item(NamedTuple):
    """A window that was done.

    :param record: its record; of one that was done before, without the model's words.
    :param pictures: small pictures by modality, if they were asked for.
    :param fresh: the model was run; False: it was done before.
    :param now_ns: time of recording that was reached.
    """

    record: Record
    pictures: Mapping[str, bytes] | None
    fresh: bool
    now_ns: int


@dataclass
class Done:
    """The end of a task: its borders (see ``stream.Handover``), and what went wrong.

    :param wrong: topic -> (unusable messages, text of the first).
    """

    begins: Handover | None = None
    ends: Handover | None = None
    wrong: dict[str, tuple[int, str]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


class Work:
    """Does tasks with one model, which is loaded for the first.

    :param load: gives the engine; tests pass one of their own.
    """

    def __init__(self, load: Loader = load_engine) -> None:
        self._load = load
        self._engine: EngineLike | None = None

    def engine(self, config: NodeConfig) -> EngineLike:
        """Return the model.

        :raises RuntimeError: if it cannot be loaded.
        """
        if self._engine is None:
            self._engine = self._load(config)
        return self._engine

    def windows(self, task: Task, done: Done) -> Iterator[Item]:
        """Do a task, window by window.

        :param done: filled as it goes; complete at the end.
        :raises BagError: if the recording cannot be opened. :raises ConfigError: for settings.
        """
        engine = self.engine(task.config)
        facts = Facts.of_engine(engine)
        events: list[str] = []
        frames = FrameTree()

        def wrong(topic: str, text: str) -> None:
            count, first = done.wrong.get(topic, (0, text))
            done.wrong[topic] = (count + 1, first)

        plan = rules(task.config, facts, task.plan.sources, _placer(task.config, frames, wrong))
        choice, spec = plan.choice, plan.windows
        answerer = Answerer(engine, choice.modalities)
        number = 0
        with open_bag(task.path) as bag:
            stream = Stream(bag, task.plan, spec, task.part, on_wrong=wrong,
                            on_event=lambda event: events.append(event.text),
                            on_frames=frames.add_message)
            for window, closed_ns in stream.windows():
                if not task.wanted(window, spec.period_ns):
                    continue
                selection = choose(window, choice)
                config = config_at(task.config, task.changes, closed_ns)
                answerer.modalities = choice.modalities & facts.allowed(config)
                record = window_record(task.bag, selection, closed_ns)
                fresh = number >= task.skip
                if fresh:
                    self._fill(record, selection, answerer, task, config)
                show = task.pictures_from is not None and number >= task.pictures_from
                yield Item(record, _pictures(selection) if show else None, fresh, stream.now_ns)
                number += 1
            done.begins, done.ends = stream.begins, stream.ends
            done.problems, done.events = tuple(bag.problems), tuple(events)

    @staticmethod
    def _fill(record: Record, selection: Selection, answerer: Answerer, task: Task,
              config: NodeConfig) -> None:
        """Describe a window and answer; a failure is written down, and the replay goes on."""
        answerer.forget()
        if task.describe:
            try:
                add_description(record, answerer.describe(selection, config.describe))
            except FAILURES as error:
                record['error'] = f'{type(error).__name__}: {error}'
        for question in task.questions:
            add_answer(record, question, answerer.answer(selection, question))


def _pictures(selection: Selection) -> Mapping[str, bytes]:
    """Return small pictures of a window for the report."""
    from onellm_ros.report.html import thumbnails
    try:
        return thumbnails(selection.samples)
    except FAILURES as error:
        print(f'onellm replay: no pictures of the window that ends at {selection.end_ns}: '
              f'{error}', file=sys.stderr)
        return {}
