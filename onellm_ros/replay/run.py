"""A replay: recordings are cut into tasks, the tasks done, their windows written in order.

Owns the order, going on after a kill, and that the parts of a recording give the windows of the
whole: where what one part ends with is not what the next began with, that one is done again from
the begin of the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
import statistics
from typing import Any, Protocol

from onellm_ros.config import to_mapping
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception.results import Question
from onellm_ros.replay.bag_sources import BagError
from onellm_ros.replay.bags import Bag, open_bag
from onellm_ros.replay.params import Change, NodeParams
from onellm_ros.replay.records import FORMAT, Record, ReplayError, question_mapping
from onellm_ros.replay.stream import POLL_NS, Segment, last_before, settle_ns
from onellm_ros.replay.topics import TopicPlan, plan_topics
from onellm_ros.replay.work import Done, Facts, Item, Task, Wanted, Work, rules
from onellm_ros.ros.conversions import AudioFormat
from onellm_ros.ros.message_fields import stamp_ns

_ABSOLUTE_S = 1e8               # larger times are seconds since 1970, not since the begin
_CLOCKS_NS = 60_000_000_000     # stamps this far from the time of recording have another clock


@dataclass(frozen=True)
class Request:
    """What is to be replayed, and how.

    :param params: of each bag's node, as far as known.
    :param from_s: seconds since the begin of each recording, or since 1970; ``to_s`` likewise.
    :param every: each so many-th window; ``every_s``: one of so many seconds.
    :param segment_s: length of a task's part of a recording; 0: a recording is one task.
    """

    bags: tuple[Path, ...]
    config: NodeConfig
    params: tuple[NodeParams | None, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    audio: AudioFormat | None = None
    questions: tuple[Question, ...] = ()
    describe: bool = True
    from_s: float | None = None
    to_s: float | None = None
    every: int = 1
    every_s: float = 0.0
    segment_s: float = 0.0


@dataclass(frozen=True)
class Recording:
    """A bag that was looked at; times are those of recording, integer nanoseconds.

    :param offset_ns: the clock of its stamps less that of recording; 0: the same.
    :param origin_ns: where seconds are counted from: the begin of its first window.
    """

    path: str
    plan: TopicPlan
    start_ns: int
    end_ns: int
    messages: int
    whole: bool
    offset_ns: int = 0
    origin_ns: int = 0
    problems: tuple[str, ...] = ()


def look_at(request: Request, facts: Facts) -> list[Recording]:
    """Open every bag and decide what is read of it: trouble is told before hours of work.

    :raises BagError: naming the bag that cannot be used. :raises ConfigError: for settings.
    """
    allowed = facts.allowed(request.config)
    out = []
    for number, path in enumerate(request.bags):
        params = request.params[number] if request.params else None
        with open_bag(path) as bag:
            known = {info.name for info in bag.topics()}
            overrides = {t: m for t, m in request.overrides.items()
                         if len(request.bags) == 1 or {t, '/' + t} & known}
            try:
                plan = plan_topics(bag, request.config, allowed, overrides=overrides,
                                   params=params, audio=request.audio)
                rules(request.config, facts, plan.sources)
            except BagError as error:
                raise BagError(f'{path}: {str(error).removeprefix(f"{path}: ")}') from error
            problems = tuple(bag.problems)
            offset = _clock_offset(bag, plan)
            period = round(request.config.window.period_s * 1e9)
            out.append(Recording(
                str(path), plan, bag.start_ns, bag.end_ns, sum(t.count for t in bag.topics()),
                not problems, offset, (bag.start_ns + offset) // period * period, problems))
    return out


def _clock_offset(bag: Bag, plan: TopicPlan) -> int:
    """Return how far the stamps of a recording are from its time, if they have another clock."""
    found = []
    for topic in plan.topics():
        first = next(iter(bag.messages([topic])), None)
        if first is not None and hasattr(first.message, 'header'):
            stamp = stamp_ns(first.message)
            if stamp:
                found.append(stamp - first.stamp_ns)
    middle = int(statistics.median(found)) if found else 0
    return middle if abs(middle) > _CLOCKS_NS else 0


def header_of(request: Request, facts: Facts, recordings: Sequence[Recording]) -> Record:
    """Return the first line of the results: all that they depend on."""
    config = to_mapping(request.config)
    settings: Record = {name: config[name] for name in ('modalities', 'window', 'inputs')}
    for name in ('sources', 'extrinsics', 'base_frame'):
        if config.get(name):
            settings[name] = config[name]
    if request.describe:
        settings['describe'] = {k: config['describe'][k]
                                for k in ('prompt', 'max_tokens', 'temperature')}
    changes = [[c.stamp_ns, c.name, c.after] for r in range(len(recordings))
               for c in _changes(request, r)]
    if changes:
        settings['changes'] = changes
    settings |= {'from_s': request.from_s, 'to_s': request.to_s,
                 'every': f'{request.every_s:g}s' if request.every_s else request.every,
                 'recordings': [{
                     'start_ns': r.start_ns, 'end_ns': r.end_ns, 'messages': r.messages,
                     'topics': {t: s.name for s in r.plan.sources for t, _ in s.topics}}
                     for r in recordings]}
    return {'onellm_replay': FORMAT, 'model': facts.name, 'device': request.config.device,
            'bags': [r.path for r in recordings], 'settings': settings,
            'questions': [question_mapping(q) for q in request.questions]}


# ---- tasks --------------------------------------------------------------------------------------

def tasks_of(request: Request, facts: Facts, recordings: Sequence[Recording]) -> list[Task]:
    """Cut the recordings into tasks, in the order of their windows."""
    out: list[Task] = []
    for number, recording in enumerate(recordings):
        spec = rules(request.config, facts, recording.plan.sources).windows
        from_ns = _moment(request.from_s, recording.origin_ns)
        to_ns = _moment(request.to_s, recording.origin_ns)
        wanted = Wanted(from_ns, to_ns, request.every, round(request.every_s * 1e9))
        settle = settle_ns(spec)
        low = recording.start_ns if from_ns is None else max(
            recording.start_ns, from_ns - recording.offset_ns - settle)
        high = recording.end_ns if to_ns is None else min(
            recording.end_ns, to_ns - recording.offset_ns + settle)
        if low >= high:
            continue
        parts = _parts(recording, request.segment_s, low, high, settle)
        out += [Task(len(out) + i, number, recording.path, recording.plan, request.config,
                     request.questions, request.describe, wanted, part, parts[0],
                     changes=_changes(request, number)) for i, part in enumerate(parts)]
    return out


def _changes(request: Request, number: int) -> tuple[Change, ...]:
    """Return what changed of a bag's node while it was recorded, as far as it is followed."""
    params = request.params[number] if request.params else None
    return params.followed(request.config) if params is not None else ()


def _moment(seconds: float | None, origin_ns: int) -> int | None:
    if seconds is None:
        return None
    whole_ns = round(seconds * 1e6) * 1000      # a double holds the microseconds of our times
    return whole_ns if seconds >= _ABSOLUTE_S else origin_ns + whole_ns


def _parts(recording: Recording, segment_s: float, low: int, high: int, settle: int
           ) -> list[Segment]:
    """Cut a recording.

    One that is damaged stays whole, for its messages stand in no certain order; so does one with a
    simulated clock, whose deadlines hang on all that was before.
    """
    length = round(segment_s * 1e9)
    cuts: list[int] = []
    if length > 0 and recording.whole and not recording.plan.clock:
        cuts = [(low + i * length) // POLL_NS * POLL_NS
                for i in range(1, max(1, (high - low + length // 2) // length))]
    borders: list[int | None] = [None, *cuts, None if high >= recording.end_ns else high]
    starts = [low, *(cut - settle for cut in cuts)]
    moments = [max(s, recording.start_ns) for s in starts]
    before: list[dict[str, int]] = [{} for _ in moments]
    if any(m > recording.start_ns for m in moments):
        with open_bag(recording.path) as bag:
            order = sorted(set(moments))
            found = dict(zip(order, last_before(bag, recording.plan.topics(), order), strict=True))
        before = [found[m] for m in moments]
    return [Segment(borders[i], borders[i + 1], m if m > recording.start_ns else None, before[i])
            for i, m in enumerate(moments)]


def remaining(tasks: Iterable[Task], done: Sequence[Mapping[str, Any]], finished: bool,
              pictured: int | None) -> tuple[list[Task], dict[int, int]]:
    """Return the tasks that are left.

    :param done: records of windows that are done, in order; ``finished``: no others are left.
    :param pictured: windows that the report shows already; None: there is no report.
    :returns: the tasks, and the place of the first window of each that has begun, by its number.
    """
    out: list[Task] = []
    places: dict[int, int] = {}
    first = 0
    for task in tasks:
        end = task.part.end_ns
        until = first
        while until < len(done) and done[until]['bag'] == task.bag and (
                end is None or done[until]['closed_ns'] < end):
            until += 1
        over = finished or until < len(done)
        if not over or (pictured is not None and pictured < until):
            shown = None if pictured is None else max(0, pictured - first)
            out.append(replace(task, skip=until - first, pictures_from=shown))
            if until > first or not places:
                places[task.number] = first
        first = until
    if out and out[0].part.begin_ns is not None:
        out[0] = from_the_begin(out[0])     # nothing that runs now tells whether it begins right
    return out, places


def from_the_begin(task: Task) -> Task:
    """Return the task reading from where the first part of its recording begins to read."""
    part = replace(task.part, read_ns=task.first.read_ns, before=task.first.before)
    return replace(task, part=part)


# ---- doing them ---------------------------------------------------------------------------------

class Pool(Protocol):
    """Several workers; each loads the model once."""

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, list[Item], Done]]:
        """Do the tasks and yield their results in order.

        :raises ReplayError: if a worker could not do its task.
        """


def do_here(tasks: Iterable[Task], work: Work, take: Callable[[Task, Item], None],
            ended: Callable[[Task, Done], None]) -> None:
    """Do tasks one after another in this process; a window is taken as soon as it is done."""
    for task in tasks:
        done = Done()
        for item in work.windows(task, done):
            take(task, item)
        ended(task, done)


def do_in(pool: Pool, tasks: Sequence[Task], take: Callable[[Task, Item], None],
          ended: Callable[[Task, Done], None], again: Callable[[Task], None]) -> None:
    """Do tasks in a pool and take their windows in order.

    :param again: called with a task that is done again because it began wrong.
    """
    before: tuple[Task, Done] | None = None
    results = iter(pool.results(tasks))
    while (result := next(results, None)) is not None:
        task, items, done = result
        if before is not None and before[0].bag == task.bag and before[0].number + 1 == \
                task.number and before[1].ends != done.begins and \
                task.part.read_ns != task.first.read_ns:
            again(task)
            results = iter(list(results))       # the pool's workers are free then
            ((task, items, done),) = pool.results([from_the_begin(task)])
        for item in items:
            take(task, item)
        ended(task, done)
        before = (task, done)


def check_same(found: Record, known: Mapping[str, Any] | None, path: Path) -> None:
    """Check that a window that was done before is the one of the results' file.

    :raises ReplayError: if it is not.
    """
    keys = ('bag', 'start_ns', 'end_ns', 'closed_by')
    if known is None or any(found[k] != known.get(k) for k in keys):
        raise ReplayError(
            f'{path}: its window {known and known.get("window")} is not the one that the '
            'recording gives now: the recording or this package has changed since; give another '
            '--out, or remove it')
