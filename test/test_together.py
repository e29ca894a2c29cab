"""Several answers in one pass, and guesses at what comes: the same words as one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
import time
from typing import Any

import pytest
import torch

from onellm_ros.choose import Selection
from onellm_ros.config import LlmConfig, RopeScaling
from onellm_ros.inference import drafting
from onellm_ros.inference.answers import AnswerStream
from onellm_ros.inference.backend import TorchBackend
from onellm_ros.inference.decoding import MOST_TOKENS, LoopDecoder
from onellm_ros.inference.drafting import Drafts
from onellm_ros.inference.engine import Engine, Prefix
from onellm_ros.modality import Modality
from onellm_ros.model.llm import Llama
from onellm_ros.node_config import DescribeConfig
from onellm_ros.perception.answering import Answerer
from onellm_ros.perception.results import Described, Question, Reply
from onellm_ros.perception.worker import Worker
from onellm_ros.simulation.world import World

CLOSE = {'atol': 1e-5, 'rtol': 1e-5}    # of logits: another order of sums on some processors
BASE = LlmConfig(dim=32, layers=2, heads=4, kv_heads=2, vocab_size=61, hidden=44, max_positions=64)
QUESTIONS = ('What is the floor made of?', 'Is the way ahead free?', 'What is on the left?')


@pytest.fixture(scope='module')
def nano() -> Engine:
    return Engine.load('nano', 'cpu', backend='torch')


@pytest.fixture(scope='module')
def windows(nano: Engine) -> list[Prefix]:
    size = nano.config.encoder.image_size
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(1, 3, size, size, generator=draw)
    return [nano.encode({Modality.IMAGE: base + 0.4 * torch.randn(
        1, 3, size, size, generator=draw)}) for _ in range(6)]


@pytest.fixture(autouse=True)
def _guessing(nano: Engine) -> Any:
    most = nano.drafts.most
    yield
    nano.drafts.most = most
    nano.drafts.forget()


def said(stream: AnswerStream) -> tuple[Any, ...]:
    answer = stream.answer
    assert answer is not None
    return answer.text, answer.tokens, answer.finish_reason, answer.turns


def made(**changes: Any) -> tuple[Llama, LoopDecoder]:
    torch.manual_seed(1)
    model = Llama(replace(BASE, **changes)).eval().requires_grad_(False)
    model.tok_embeddings.weight.mul_(20)
    decoder = LoopDecoder.of(model)
    assert decoder is not None
    return model, decoder


@pytest.mark.parametrize('changes', [
    {}, {'sliding_window': 3}, {'rope': RopeScaling('dynamic', 2.0, 8)}], ids=str)
@torch.inference_mode()
def test_sequences_of_different_lengths_in_one_pass(changes: dict[str, Any]) -> None:
    model, decoder = made(**changes)
    caches = [model.new_cache(1, 20 + n) for n in range(3)]
    for n, cache in enumerate(caches):
        model(model.embed(torch.arange(2 + 5 * n)[None]), cache=cache)
    counts = (1, 1, 1) if model.rope.grows else (1, 4, 2)
    words: list[Sequence[int]] = [range(30 + n, 30 + n + count) for n, count in enumerate(counts)]
    copies = [cache.copy(cache.capacity) for cache in caches]
    found = decoder.steps([(ids, cache, len(ids)) for ids, cache in zip(words, caches)])
    assert found is not None
    for ids, cache, copy, logits in zip(words, caches, copies, found, strict=True):
        plain = model(model.embed(torch.tensor([list(ids)])), cache=copy)[0]
        torch.testing.assert_close(logits, plain, **CLOSE)
        end = cache.length
        assert end == copy.length and torch.equal(cache.positions[..., :end],
                                                  copy.positions[..., :end])
        for kind in ('keys', 'values'):
            one, other = (getattr(c, kind)[:, :, :, :end] for c in (cache, copy))
            torch.testing.assert_close(one, other, **CLOSE)


@torch.inference_mode()
def test_what_is_no_work_for_one_pass_changes_nothing() -> None:
    model, decoder = made()
    short, fine = model.new_cache(1, 2), model.new_cache(1, 64)
    with pytest.raises(ValueError, match='expected room for 3 positions, found 2'):
        decoder.steps([([1], fine, 1), ([1, 2, 3], short, 1)])
    assert decoder.steps([([1] * MOST_TOKENS, fine, 1), ([1], short, 1)]) is None
    assert decoder.steps([([1], model.new_cache(2, 4), 1), ([1], fine, 1)]) is None
    assert (short.length, fine.length) == (0, 0)


def test_answers_together_are_those_alone(nano: Engine, windows: list[Prefix]) -> None:
    assert nano.shares
    nano.drafts.most = 0
    prompts = [nano.config.text.describe_prompt, *QUESTIONS]

    def streams() -> list[AnswerStream]:
        return [nano.stream(windows[n], prompt) for n, prompt in enumerate(prompts)]
    alone = streams()
    for stream in alone:
        list(stream)
    together, running = streams(), []
    rounds = 0
    while running or rounds < 8:
        if rounds % 2 == 0 and rounds < 8:              # each joins when others have begun
            running.append(together[rounds // 2])
        rounds += 1
        due = [(stream, work) for stream in running if (work := stream.due()) is not None]
        running = [stream for stream, _ in due]
        for (stream, _), logits in zip(due, nano.steps([work for _, work in due]) if due else []):
            stream.take(logits)
    assert [said(s) for s in together] == [said(s) for s in alone]
    for one, other in zip(together, alone):
        assert one.answer and other.answer
        assert one.answer.confidence == pytest.approx(other.answer.confidence, rel=1e-4)
    assert rounds < sum(s.tokens for s in alone)        # it was together


@pytest.mark.parametrize('sampling', [
    {}, {'temperature': 0.7, 'seed': 3}, {'max_tokens': 7}], ids=str)
def test_guesses_change_no_answer(nano: Engine, windows: list[Prefix],
                                  sampling: dict[str, Any]) -> None:
    prompt = nano.config.text.describe_prompt
    found: list[list[Any]] = []
    for most in (0, 1, 3, 6, 20):
        nano.drafts.most = most
        nano.drafts.forget()
        before = nano.drafts.proposed, nano.drafts.accepted
        found.append([])
        for window in windows:
            stream = nano.stream(window, prompt, **sampling)
            parts = list(stream)
            assert stream.answer and ''.join(parts) == stream.answer.text and '' not in parts
            found[-1].append((said(stream), round(stream.answer.confidence, 4)))
        assert (nano.drafts.proposed > before[0]) == (most > 0)
        if most and not sampling:
            assert nano.drafts.accepted > before[1]
    assert all(other == found[0] for other in found[1:])


def test_a_prompt_is_computed_with_a_guess_as_without(nano: Engine, windows: list[Prefix],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too long for the loops goes through PyTorch, whose sums hang on its length."""
    prompts = [' '.join(['near'] * count) for count in range(20, 36)]   # about what just fits
    found: list[Any] = []
    passes: list[list[int]] = []
    plain = Llama.forward

    def forward(self: Llama, x: torch.Tensor, *args: Any, **known: Any) -> torch.Tensor:
        passes[-1].append(x.shape[1])
        return plain(self, x, *args, **known)
    monkeypatch.setattr(Llama, 'forward', forward)
    for most in (0, 3):
        nano.drafts.most = most
        passes.append([])
        for prompt in prompts:
            found += [nano.ask(window, prompt, max_tokens=6) for window in windows[:2]]
    assert passes[0] == passes[1] and 2 < len(passes[0]) < len(found) // 2
    half = len(found) // 2
    assert [(a.text, a.tokens) for a in found[:half]] == [(a.text, a.tokens) for a in found[half:]]
    assert [a.confidence for a in found[:half]] == pytest.approx(
        [a.confidence for a in found[half:]], rel=1e-5)


def test_what_was_said_is_guessed_until_it_is_forgotten(nano: Engine,
                                                        windows: list[Prefix]) -> None:
    first = nano.ask(windows[0], QUESTIONS[0])
    before = nano.drafts.accepted
    again = nano.ask(windows[0], QUESTIONS[0])
    assert again.text == first.text and again.tokens == first.tokens
    assert nano.drafts.accepted - before >= first.tokens - 4
    nano.forget()                                       # of a time that is over
    before = nano.drafts.proposed
    nano.ask(windows[0], QUESTIONS[0])
    assert nano.drafts.proposed == before


def test_a_model_whose_keys_depend_on_the_pass_is_not_guessed_for(nano: Engine) -> None:
    backend = nano.backend
    assert isinstance(backend, TorchBackend) and nano.drafts.most == backend.drafted > 0
    rope = backend.model.llm.rope
    try:
        rope.grows = True
        assert backend.shares and backend.drafted == 0
    finally:
        rope.grows = False


# -- through the worker: the question comes while the description's first tokens are computed ----

class Desk:
    """A worker around nano, and windows of the simulated world."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine, self._steps, self._patch = engine, engine.steps, monkeypatch
        self.windows = [Selection(n, seen.stamp_ns + n, n, seen.chosen()) for n, seen in enumerate(
            World(n).sample(parts=[Modality.IMAGE, Modality.DEPTH]) for n in range(2))]
        self.described: list[Described] = []
        self.trouble: list[str] = []
        self.rounds: list[int] = []
        self.worker = Worker(engine, frozenset(engine.modalities), kept=4,
                             on_description=self.described.append,
                             on_trouble=lambda kind, text: self.trouble.append(text))
        self.worker.start()

    def ask(self, *questions: Question, then: Callable[[int], None] = lambda count: None
            ) -> list[Future[Reply]]:
        """Ask while the newest window is being described, whose description is then there."""
        asked: list[Future[Reply]] = []

        def steps(work: Sequence[Any]) -> list[torch.Tensor]:
            if not asked:
                asked.extend(self.worker.ask(question) for question in questions)
            self.rounds.append(len(work))
            then(len(work))
            return self._steps(work)
        self._patch.setattr(self.engine, 'steps', steps)
        self.worker.forget()
        self.worker.describe = DescribeConfig(enabled=False)
        self.worker.submit(self.windows[0])
        self.worker.describe = DescribeConfig()
        self.worker.submit(self.windows[1])
        self.until(lambda: (self.described or self.trouble) and all(f.done() for f in asked))
        return asked

    def until(self, condition: Callable[[], Any]) -> None:
        end_s = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end_s, 'waited in vain'
            time.sleep(0.002)


@pytest.fixture
def desk(nano: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk(nano, monkeypatch)
    yield made
    assert made.worker.stop()


@pytest.mark.parametrize('shares', [True, False])
def test_a_worker_says_beside_each_other_what_it_says_alone(
        nano: Engine, desk: Desk, monkeypatch: pytest.MonkeyPatch, shares: bool) -> None:
    deltas: list[str] = []
    questions = [
        Question('Describe the room.', on_delta=lambda delta, count: deltas.append(delta)),
        Question('What is in front of you?', at_ns=desk.windows[0].end_ns),     # another window
        Question('Is the way ahead free?', choices=('yes', 'no')),
        Question('How far is the nearest thing?', modalities=frozenset({Modality.DEPTH}))]
    plain = Answerer(nano, frozenset(nano.modalities))
    alone = [plain.answer(desk.windows[not q.at_ns], replace(q, on_delta=None)) for q in questions]
    words = plain.describe(desk.windows[1], DescribeConfig()).answer
    monkeypatch.setattr(Engine, 'shares', shares)
    found = [future.result(0) for future in desk.ask(*questions)]
    assert [(r.error, r.answer.text, r.answer.tokens, r.finish_reason) for r in found] == \
        [(r.error, r.answer.text, r.answer.tokens, r.finish_reason) for r in alone]
    assert [list(r.selection.samples) for r in found if r.selection] == \
        [list(r.selection.samples) for r in alone if r.selection]
    assert ''.join(deltas) == found[0].answer.text and len(deltas) > 3
    answer = desk.described[0].answer
    assert (answer.text, answer.tokens) == (words.text, words.tokens)
    assert answer.confidence == pytest.approx(words.confidence, rel=1e-4)
    assert max(desk.rounds) == 1 + shares and not desk.trouble
    assert desk.worker.report().interrupted == 1


@pytest.mark.parametrize('guilty', ['together', 'both', 'question', 'description'])
def test_what_fails_alone_is_told_and_the_other_goes_on(nano: Engine, desk: Desk, guilty: str,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass for both that fails half-way is done again for each of them."""
    decode, backend = LoopDecoder.steps, nano.backend
    assert isinstance(backend, TorchBackend)
    own: list[Any] = []                                 # the description's cache, the question's

    def failing(decoder: LoopDecoder, work: Sequence[Any]) -> Any:
        for _, cache, _ in work:
            if not any(cache is other for other in own):
                own.append(cache)
        found = decode(decoder, work)                   # the caches have grown
        at_fault = {'together': (), 'both': own, 'question': own[1:], 'description': own[:1]}
        if len(own) > 1 and (len(work) > 1 or any(
                work[0][1] is cache for cache in at_fault[guilty])):
            raise RuntimeError('out of memory')
        return found
    question = Question('Describe the room.')
    plain = Answerer(nano, frozenset(nano.modalities))
    alone = plain.answer(desk.windows[1], question).answer
    words = plain.describe(desk.windows[1], DescribeConfig()).answer
    monkeypatch.setattr(LoopDecoder, 'steps', failing)
    reply = desk.ask(question)[0].result(0)
    if guilty in ('both', 'question'):
        assert (reply.error, reply.error_msg) == ('MODEL_FAILED', 'out of memory')
    else:
        assert (reply.answer.text, reply.answer.tokens) == (alone.text, alone.tokens)
    if guilty in ('both', 'description'):
        assert not desk.described
    else:
        desk.until(lambda: desk.described)
        assert desk.described[0].answer.text == words.text
    assert len(desk.trouble) == {'together': 0, 'both': 2}.get(guilty, 1)
    monkeypatch.undo()
    desk.trouble.clear()
    desk.described.clear()
    assert desk.ask(question)[0].result(0).error == 'NONE'
    assert desk.described and not desk.trouble


# -- the guesses themselves -------------------------------------------------------------------

def test_guesses_follow_the_newest_answer_that_went_on_alike() -> None:
    drafts = Drafts(most=9)
    assert drafts.of([1]).guess([], 5) == []            # nothing was said yet
    for said_before in ([10, 11, 12, 13, 14, 15, 16], [10, 11, 20, 13, 30]):
        drafts.of([1]).keep(said_before)
    assert drafts.of([2]).guess([], 5) == []            # to another prompt
    draft = drafts.of([1])
    assert draft.guess([], 5) == [10, 11]               # two at first
    draft.judge(2, 2)
    assert draft.guess([10, 11], 9) == [20, 13, 30]     # more when they were right
    assert draft.guess([10, 11], 1) == [20]
    draft.judge(3, 0)
    assert draft.guess([10, 11, 12], 9) == [13]         # one; the older answer knows these two
    assert draft.guess([7, 13], 9) == [30] and draft.guess([7, 30], 9) == []
    draft.judge(1, 0)
    assert draft.guess([7, 13], 9) == []                # one token alone is no hint any more
    assert draft.guess([12, 13], 9) == [14]
    assert (drafts.proposed, drafts.accepted) == (6, 2)
    drafts.most = 0
    assert draft.guess([12, 13], 9) == []


def test_few_answers_of_few_prompts_are_kept() -> None:
    drafts = Drafts(most=4)
    for prompt in range(2 * drafting.PROMPTS):
        for answer in range(2 * drafting.ANSWERS):
            drafts.of([prompt]).keep([answer, prompt, 5])
    assert len(drafts._said) == drafting.PROMPTS
    assert {len(kept) for kept in drafts._said.values()} == {drafting.ANSWERS}
    assert drafts.of([0]).guess([], 4) == [] != drafts.of([2 * drafting.PROMPTS - 1]).guess([], 4)
