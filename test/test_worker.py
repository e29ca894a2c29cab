"""The worker: what goes before what, and that every question comes back. No ROS, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
import gc
import threading
import time
from types import SimpleNamespace
from typing import Any
import weakref

import numpy as np
import pytest

from onellm_ros.choose import Selection
from onellm_ros.config import NANO
from onellm_ros.modality import Modality, Sample
from onellm_ros.node_config import AskConfig, DescribeConfig
from onellm_ros.perception import worker as module
from onellm_ros.perception.results import Described, Question, Reply
from onellm_ros.perception.worker import Worker

S = 1_000_000_000
WAIT_S = 10.0
DESCRIBE = NANO.text.describe_prompt


class Tensors(dict):
    left_out: Mapping[Modality, str] = {}


class SteppedEngine:
    """Makes one token for each ticket that it is given; ``deaf`` ones do not look at cancel.

    ``shares``: one ticket gives a token to each answer that is computed together.
    """

    name, weights_hash, config = 'stepped', '', NANO

    def __init__(self) -> None:
        self.preprocessor = SimpleNamespace(tensors=self.tensors)
        self.empty = False
        self.tickets = threading.Semaphore(0)
        self.free = False
        self.deaf = False
        self.shares = True
        self.error: Exception | None = None
        self.asked: list[str] = []
        self.histories: list[tuple[tuple[str, str], ...]] = []
        self.encoded: list[tuple[Modality, ...]] = []
        self.tokens = 0
        self.rounds: list[tuple[str, ...]] = []     # what was computed together

    def tensors(self, chosen: Mapping[Modality, Any], end_ns: int, strict: bool) -> Tensors:
        return Tensors({} if self.empty else {m: list(s) for m, s in chosen.items()})

    def encode(self, tensors: Mapping[Modality, Any]) -> Any:
        self.encoded.append(tuple(tensors))
        return SimpleNamespace(modalities=tuple(tensors), expert_weights={})

    def stream(self, prefix: Any, question: str, *, history: Sequence[tuple[str, str]] = (),
               cancel: threading.Event, **_: Any) -> SteppedStream:
        self.asked.append(question)
        self.histories.append(tuple(history))
        return SteppedStream(self, question, len(self.asked), cancel)

    def ask(self, prefix: Any, question: str, *, choices: Sequence[str] = (), **known: Any) -> Any:
        stream = self.stream(prefix, question, **known)
        while stream.due() is not None:
            stream.take(self.steps([stream])[0])
        return stream.answer

    def steps(self, work: Sequence[SteppedStream]) -> list[bool]:
        if self.error is not None:
            raise self.error
        while not self.free and not self.tickets.acquire(timeout=0.01):
            if any(s.cancel.is_set() for s in work) and not self.deaf:
                return [False] * len(work)          # no token: they are to look at cancel
        self.rounds.append(tuple(s.question for s in work))
        return [True] * len(work)


class SteppedStream:
    """An answer of three tokens."""

    def __init__(self, engine: SteppedEngine, question: str, number: int,
                 cancel: threading.Event) -> None:
        self.engine, self.question, self.cancel = engine, question, cancel
        self.number, self.tokens = number, 0
        self.answer: Any = None

    def due(self) -> SteppedStream | None:
        if self.cancel.is_set() and not self.engine.deaf:
            self._end('cancelled')
        return self if self.answer is None else None

    def take(self, made: bool) -> str:
        self.tokens += made
        self.engine.tokens += made
        if self.tokens == 3:
            self._end('stop')
        return ''

    def rest(self) -> str:
        return ''

    def _end(self, reason: str) -> None:
        self.answer = SimpleNamespace(text=f'a{self.number}', tokens=self.tokens,
                                      finish_reason=reason, first_token_s=0.0, total_s=0.0)


class Desk:
    """A worker with what it said."""

    def __init__(self, **settings: Any) -> None:
        self.engine = SteppedEngine()
        self.described: list[Described] = []
        self.trouble: list[str] = []
        self.worker = Worker(
            self.engine, frozenset(Modality), kept=4, on_description=self.described.append,
            on_trouble=lambda kind, text: self.trouble.append(text), **settings)
        self.worker.start()

    def window(self, end_s: int) -> Selection:
        samples = {m: (Sample(end_s * S, np.zeros(4)),) for m in (Modality.IMAGE, Modality.IMU)}
        selection = Selection((end_s - 1) * S, end_s * S, end_s, samples)
        self.worker.submit(selection)
        return selection

    def ask(self, text: str, **fields: Any) -> Future[Reply]:
        return self.worker.ask(Question(text, **fields))

    def until(self, condition: Callable[[], Any]) -> None:
        end_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end_s, 'waited in vain'
            time.sleep(0.002)

    def asked(self, *questions: str) -> None:
        """Wait until the engine has been asked these, and no other."""
        self.until(lambda: len(self.engine.asked) >= len(questions))
        assert self.engine.asked == list(questions)

    def ends(self) -> list[int]:
        return [d.selection.end_ns // S for d in self.described]


@pytest.fixture
def desks() -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(**settings: Any) -> Desk:
        made.append(Desk(**settings))
        return made[-1]
    yield make
    for desk in made:
        desk.engine.free, desk.engine.deaf = True, False
        desk.worker.stop()
        desk.until(lambda: not desk.worker.alive)  # noqa: B023


@pytest.fixture
def desk(desks: Callable[..., Desk]) -> Desk:
    return desks()


def test_a_question_joins_a_description_at_its_next_token(desk: Desk) -> None:
    desk.window(1)
    desk.asked(DESCRIBE)
    first = desk.ask('one?')
    desk.engine.tickets.release()
    desk.asked(DESCRIBE, 'one?')                        # after the token that was being made
    desk.engine.tickets.release(2)                      # the description is complete ...
    desk.until(lambda: desk.described)
    assert desk.ends() == [1] and not first.done()
    desk.engine.tickets.release(1)                      # ... and the answer a token later
    assert first.result(WAIT_S).error == 'NONE'
    assert desk.engine.rounds == [(DESCRIBE,), ('one?', DESCRIBE), ('one?', DESCRIBE), ('one?',)]
    stats = desk.worker.report()
    assert (stats.interrupted, stats.described, stats.skipped, stats.answered) == (1, 1, 0, 1)
    assert len(desk.engine.encoded) == 1                # the encoded window served both


def test_one_question_after_the_other_joins_a_description(desk: Desk) -> None:
    desk.window(1)
    desk.asked(DESCRIBE)
    answers = [desk.ask(f'{n}?') for n in range(3)]
    desk.worker.cancel(answers[1])                      # while it waits
    assert answers[1].result(0).error == 'CANCELLED'
    desk.engine.tickets.release(1)
    desk.asked(DESCRIBE, '0?')
    desk.worker.cancel(answers[0])                      # the description goes on
    assert answers[0].result(WAIT_S).error == 'CANCELLED'
    desk.engine.free = True
    assert answers[2].result(WAIT_S).error == 'NONE'
    desk.until(lambda: desk.described)
    assert desk.described[0].answer.tokens == 3 and desk.worker.report().interrupted == 1


def test_a_description_waits_for_a_question_where_two_cost_twice_as_much(desk: Desk) -> None:
    desk.engine.shares = False
    desk.worker.asking = AskConfig(waiting=2)
    desk.window(1)
    desk.asked(DESCRIBE)
    desk.engine.tickets.release(1)
    desk.until(lambda: desk.engine.tokens == 1)
    answers = [desk.ask('0?'), desk.ask('1?')]
    desk.engine.tickets.release(1)                      # the token that is being made
    desk.asked(DESCRIBE, '0?')
    desk.engine.tickets.release(6)
    assert [a.result(WAIT_S).error for a in answers] == ['NONE', 'NONE'] and not desk.described
    last = desk.ask('2?')                               # as many as may wait were answered
    desk.engine.tickets.release(1)
    desk.until(lambda: desk.described)
    assert desk.described[0].answer.tokens == 3 and not last.done()     # nothing was lost
    desk.engine.free = True
    assert last.result(WAIT_S).error == 'NONE'
    assert desk.engine.rounds == [(DESCRIBE,)] * 2 + [('0?',)] * 3 + [('1?',)] * 3 \
        + [(DESCRIBE,)] + [('2?',)] * 3


def test_descriptions_go_on_however_many_questions_come(desk: Desk) -> None:
    desk.engine.shares = False
    desk.worker.asking = AskConfig(waiting=2)
    answers = [desk.ask('q0')]                          # before any window: it waits
    desk.window(1)
    for number in range(1, 7):                          # from now on one waits at any time
        desk.until(lambda: desk.engine.asked[-1:] == [f'q{number - 1}'])  # noqa: B023
        answers.append(desk.ask(f'q{number}'))
        desk.engine.tickets.release(3)
        desk.until(answers[-2].done)
        if number % 2 == 0:                             # as many as may wait were answered
            desk.until(lambda: desk.engine.asked[-1] == DESCRIBE)
            answers.append(desk.ask('more'))            # does not interrupt it
            desk.worker.cancel(answers.pop())
            assert not answers[-1].done()
            desk.engine.tickets.release(3)
            desk.until(lambda: len(desk.described) == number // 2)  # noqa: B023
            desk.window(number)
    assert desk.engine.asked == ['q0', 'q1', DESCRIBE, 'q2', 'q3', DESCRIBE, 'q4', 'q5', DESCRIBE,
                                 'q6']
    assert desk.worker.report().interrupted == 0


def test_a_window_that_waits_for_long_is_described_beside_questions(desk: Desk) -> None:
    desk.worker.asking = AskConfig(waiting=2)
    answers = [desk.ask('0?')]
    desk.window(1)
    desk.asked('0?')
    answers += [desk.ask('1?'), desk.ask('2?')]
    desk.engine.tickets.release(6)                      # as many as may wait were answered
    desk.asked('0?', '1?', DESCRIBE, '2?')
    assert answers[1].result(0).error == 'NONE'
    desk.engine.free = True
    assert answers[2].result(WAIT_S).error == 'NONE'
    desk.until(lambda: desk.described)
    assert desk.engine.rounds[6:] == [('2?', DESCRIBE)] * 3


def test_questions_that_take_no_token_do_not_hold_a_description_up(desk: Desk) -> None:
    desk.window(1)
    desk.asked(DESCRIBE)
    asked: list[Future[Reply]] = []

    def again(_: Any = None) -> None:                   # at once, from the worker's own thread
        if len(asked) < 40 and not desk.described:
            asked.append(desk.ask(f'{len(asked)}?', choices=('yes', 'no')))
            asked[-1].add_done_callback(again)
    again()
    desk.engine.free = True
    desk.until(lambda: desk.described)
    assert 1 <= len(asked) < 10 and desk.described[0].answer.tokens == 3


@pytest.mark.parametrize('preempt', [True, False])
def test_a_question_waits_for_one_description_at_most(desk: Desk, preempt: bool) -> None:
    desk.engine.shares = False
    desk.worker.asking = AskConfig(waiting=2)
    desk.worker.describe = DescribeConfig(preempt=preempt)
    desk.window(1)
    desk.asked(DESCRIBE)
    desk.window(2)
    first = [desk.ask('0?'), desk.ask('1?')]
    desk.until(lambda: not preempt or desk.worker.report().waiting == 2)
    desk.engine.tickets.release(1)
    last: list[Future[Reply]] = []
    first[-1].add_done_callback(lambda _: last.append(desk.ask('2?')))
    desk.engine.free = True
    desk.until(lambda: last and last[0].done() and len(desk.described) == 2)
    desk.asked(*((DESCRIBE, '0?', '1?', '2?', DESCRIBE) if preempt
                 else (DESCRIBE, '0?', '1?', DESCRIBE, '2?')))


def test_what_failed_is_let_go_of_at_once(desk: Desk) -> None:
    class Large:
        pass
    held: list[weakref.ref[Large]] = []

    def failing(work: Any) -> None:
        large = Large()                                 # as keys, values and activations are
        held.append(weakref.ref(large))
        raise RuntimeError(f'out of memory: {len(work)}')
    desk.engine.steps = failing
    gc.disable()
    try:
        desk.window(1)
        desk.until(lambda: desk.trouble and not desk.worker.busy()[0])
        assert desk.trouble == ['the model failed to describe a window: out of memory: 1']
        desk.until(lambda: held[0]() is None)
    finally:
        gc.enable()


def test_without_preempt_a_question_waits_for_one_description(desk: Desk) -> None:
    desk.worker.describe = DescribeConfig(preempt=False)
    desk.window(1)
    desk.asked(DESCRIBE)
    desk.window(2)
    answer = desk.ask('one?')
    desk.engine.tickets.release(3)
    desk.asked(DESCRIBE, 'one?')                        # before the window that waits
    assert desk.ends() == [1] and desk.worker.stats.interrupted == 0
    desk.engine.free = True
    assert answer.result(WAIT_S).error == 'NONE'
    desk.until(lambda: desk.ends() == [1, 2])


def test_questions_are_answered_in_order_and_none_is_lost(desk: Desk) -> None:
    desk.worker.describe = DescribeConfig(enabled=False)
    desk.worker.asking = AskConfig(waiting=3)
    desk.window(1)
    running = desk.ask('0?')
    desk.asked('0?')
    waiting = [desk.ask(f'{i}?') for i in (1, 2, 3)]
    full = desk.ask('4?')
    assert full.result(0).error == 'REJECTED' and '3 questions' in full.result(0).error_msg
    desk.worker.cancel(waiting[1])                      # at once, although another is answered
    assert waiting[1].result(0).error == 'CANCELLED'
    desk.engine.tickets.release(1)
    desk.until(lambda: desk.engine.tokens == 1)
    desk.worker.cancel(running)                         # within a token: none is made any more
    cancelled = running.result(WAIT_S)
    assert (cancelled.error, cancelled.finish_reason) == ('CANCELLED', 'cancelled')
    assert cancelled.answer.tokens == 1 == desk.engine.tokens
    desk.asked('0?', '1?')
    desk.engine.free = True
    assert [waiting[i].result(WAIT_S).error for i in (0, 2)] == ['NONE', 'NONE']
    desk.asked('0?', '1?', '3?')
    desk.engine.free = False
    running, waiting = desk.ask('5?'), [desk.ask('6?')]
    desk.asked('0?', '1?', '3?', '5?')
    assert desk.worker.stop()
    for future in (running, *waiting):
        assert future.result(WAIT_S).error == 'CANCELLED'
        assert 'deactivated' in future.result(0).error_msg
    assert desk.ask('7?').result(0).error == 'NOT_ACTIVE'
    stats = desk.worker.report()
    assert (stats.answered, stats.refused, stats.waiting) == (2, 6, 0)


def test_time_limits_hold_for_what_waits_and_for_what_runs(desk: Desk) -> None:
    desk.worker.describe = DescribeConfig(enabled=False)
    desk.window(1)
    running = desk.ask('0?')
    desk.asked('0?')
    desk.worker.asking = AskConfig(timeout_s=0.1)
    waiting = desk.ask('1?')
    desk.until(lambda: (desk.worker.poll(), waiting.done())[1])
    assert waiting.result(0).error == 'TIMEOUT' and not running.done()
    assert waiting.result(0).total_s >= 0.1
    desk.engine.free = True
    assert running.result(WAIT_S).error == 'NONE'
    desk.engine.free = False
    late = desk.ask('2?').result(WAIT_S)
    assert (late.error, late.finish_reason) == ('TIMEOUT', 'timeout')


def test_a_model_that_hangs_takes_no_question_with_it(
        desk: Desk, desks: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, '_GRACE_S', 0.1)
    monkeypatch.setattr(module, '_JOIN_S', 0.05)
    desk.worker.describe = DescribeConfig(enabled=False)
    desk.worker.asking = AskConfig(timeout_s=0.05)
    desk.engine.deaf = True
    desk.window(1)
    stuck = desk.ask('0?')
    desk.until(lambda: (desk.worker.poll(), stuck.done())[1])
    assert stuck.result(0).error == 'TIMEOUT' and 'not responded' in stuck.result(0).error_msg
    assert desk.worker.busy()[0] == 'answering'
    desk.engine.free = True
    desk.until(lambda: desk.worker.busy() == ('', 0.0))
    assert stuck.result(0).error == 'TIMEOUT'           # what came later changes nothing
    desk.engine.free = False
    stuck = desk.ask('1?')
    desk.asked('0?', '1?')
    assert not desk.worker.stop()                       # it is told that the thread still runs
    assert stuck.result(0).error == 'CANCELLED'
    later = desks(after=desk.worker.thread)             # activated again meanwhile
    later.engine.free = True
    waiting = later.window(1), later.ask('2?')
    later.until(lambda: later.worker.busy()[0].startswith('waiting for'))
    assert not later.engine.asked and not waiting[1].done()
    desk.engine.free = True
    assert waiting[1].result(WAIT_S).error == 'NONE'


def test_windows_that_nobody_describes_show(desk: Desk) -> None:
    now_s = time.monotonic()
    assert desk.worker.report().undescribed_s == 0
    desk.engine.free = True
    desk.window(1)
    desk.until(lambda: desk.described)
    assert desk.worker.report().undescribed_s == 0
    desk.worker.describe = DescribeConfig(min_interval_s=1000.0)
    desk.window(2)
    time.sleep(0.02)
    assert desk.worker.report().undescribed_s == 0      # it waits because it shall
    desk.engine.empty = True
    desk.worker.describe = DescribeConfig()
    desk.window(3)
    desk.until(lambda: desk.worker.stats.empty)
    desk.until(lambda: desk.worker.report().undescribed_s > 0.05)
    assert desk.worker.report().undescribed_s < time.monotonic() - now_s
    desk.engine.empty = False
    desk.window(4)
    desk.until(lambda: len(desk.described) > 1)
    assert desk.worker.report().undescribed_s == 0


def test_a_long_token_shows(desk: Desk) -> None:
    assert desk.worker.busy() == ('', 0.0) and desk.worker.alive
    desk.engine.deaf = True
    desk.window(1)
    desk.asked(DESCRIBE)
    what, begun_s = desk.worker.busy()
    assert what == 'describing' and begun_s < 5         # looked at every 10 ms
    desk.worker._running.cancels()[0].is_set = lambda: False    # nobody looks any more
    desk.until(lambda: desk.worker.busy()[1] > 0.1)


def test_time_that_jumps_ends_what_is_from_before(desk: Desk) -> None:
    old = desk.window(1)
    desk.asked(DESCRIBE)
    desk.worker.forget()
    desk.until(lambda: desk.worker.busy()[0] == '')
    desk.engine.free = True
    new = replace(old)                                  # the same stamps: a bag that loops
    desk.worker.submit(new)
    desk.until(lambda: desk.described)
    assert [d.selection for d in desk.described] == [new] and len(desk.engine.encoded) == 2
    assert desk.worker.stats.interrupted == 0
    assert desk.ask('one?', conversation='a').result(WAIT_S).error == 'NONE'
    desk.worker.forget()
    desk.worker.submit(new)
    assert desk.ask('two?', conversation='a').result(WAIT_S).error == 'NONE'
    assert desk.engine.histories[-1] == ()


def test_a_conversation_reaches_the_model(desk: Desk) -> None:
    desk.engine.free = True
    desk.worker.describe = DescribeConfig(enabled=False)
    desk.window(1)
    for text, name in (('one?', 'a'), ('two?', 'a'), ('three?', 'b'), ('four?', '')):
        assert desk.ask(text, conversation=name).result(WAIT_S).error == 'NONE'
    desk.engine.error = RuntimeError('broken')
    assert desk.ask('five?', conversation='a').result(WAIT_S).error == 'MODEL_FAILED'
    desk.engine.error = None
    desk.ask('six?', conversation='a', choices=('yes', 'no')).result(WAIT_S)
    one, two = ('one?', 'a1'), ('two?', 'a2')
    assert desk.engine.histories == [(), (one,), (), (), (one, two), (one, two)]
    assert desk.worker.report().conversations == 2


def test_earlier_windows_and_the_span_that_is_held(desk: Desk) -> None:
    desk.engine.free = True
    for end_s in range(1, 7):
        desk.window(end_s)
    found = [desk.ask('?', at_ns=round(at_s * S)).result(WAIT_S) for at_s in (4.5, 3, 99, 2.9)]
    assert [f.selection.end_ns // S for f in found[:3]] == [4, 3, 6]
    assert found[3].error == 'NO_WINDOW' and 'from 3.000 to 6.000 s' in found[3].error_msg
    assert desk.worker.report().kept_span_ns == (3 * S, 6 * S)


def test_windows_of_much_memory_are_kept_fewer(desks: Callable[..., Desk]) -> None:
    desk = desks(kept_mb=1)
    for end_s in range(1, 5):
        big = {Modality.IMAGE: (Sample(end_s * S, np.zeros(400_000, np.uint8)),)}
        desk.worker.submit(Selection((end_s - 1) * S, end_s * S, end_s, big))
    stats = desk.worker.report()
    assert (stats.kept, stats.kept_bytes, stats.kept_dropped) == (2, 800_000, 2)


@pytest.mark.parametrize('slow', [{'rate_hz': 0.001}, {'min_interval_s': 1000.0}])
def test_descriptions_no_more_often_than_wanted(desk: Desk, slow: dict[str, float]) -> None:
    desk.engine.free = True
    desk.worker.describe = DescribeConfig(**slow)
    desk.window(1)
    desk.until(lambda: desk.described)
    desk.window(2)
    desk.window(3)
    assert desk.ask('one?').result(WAIT_S).error == 'NONE'      # questions are not held up
    time.sleep(0.05)
    assert desk.ends() == [1]
    desk.worker.describe = DescribeConfig()                     # while running
    desk.until(lambda: desk.ends() == [1, 3])
    assert desk.described[1].skipped == 1


def test_modalities_are_restricted_at_once(desk: Desk) -> None:
    desk.engine.free = True
    desk.window(1)
    desk.until(lambda: desk.described)
    desk.worker.modalities = frozenset({Modality.IMU})
    assert desk.ask('one?').result(WAIT_S).error == 'NONE'
    assert desk.engine.encoded == [(Modality.IMAGE, Modality.IMU), (Modality.IMU,)]
    refused = desk.ask('two?', modalities=frozenset({Modality.IMAGE})).result(WAIT_S)
    assert refused.error == 'MODALITY_MISSING' and 'parameter modalities' in refused.error_msg


def test_what_is_called_back_and_fails_ends_no_thread(desks: Callable[..., Desk]) -> None:
    def why_silent() -> str:
        raise RuntimeError('the node is gone')
    desk = desks(why_silent=why_silent)
    desk.worker.asking = AskConfig(wait_s=0.0)
    reply = desk.ask('one?').result(WAIT_S)
    assert reply.error == 'UNKNOWN' and reply.error_msg.endswith('answered: the node is gone')
    desk.engine.free = True
    desk.window(1)
    assert desk.ask('two?').result(WAIT_S).error == 'NONE' and desk.worker.alive


class Odd(Exception):
    """As OpenCV's: of no usual kind."""


def test_errors_of_any_kind_are_told_and_the_thread_goes_on(desk: Desk) -> None:
    desk.engine.error = Odd('(-215) assertion failed')
    desk.window(1)
    desk.until(lambda: desk.worker.stats.failed == 1)
    reply = desk.ask('one?').result(WAIT_S)
    assert (reply.error, reply.error_msg) == ('MODEL_FAILED', '(-215) assertion failed')
    desk.engine.error, desk.engine.free = None, True
    desk.window(2)
    desk.until(lambda: desk.described)
    stats = desk.worker.report()
    assert (stats.failure, stats.failed) == ('', 2) and '(-215)' in stats.last_error
    assert len(desk.trouble) == 2 and time.monotonic() - stats.last_error_s < 60
