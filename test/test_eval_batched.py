"""Questions in one batch get the answers that they get one at a time."""

from __future__ import annotations

from dataclasses import replace

from golden.tiny import inputs, tiny
import pytest
import torch

from onellm_ros.inference.batched import Ask, Batched, can_batch
from onellm_ros.inference.engine import Engine
from onellm_ros.inference.locate import EngineError
from onellm_ros.inference.sampling import Sampling
from onellm_ros.modality import Modality
from onellm_ros.model.text import Text, train_tokenizer

SENTENCES = ['A red box stands 1.5 metres ahead.', 'The robot turns left.', 'yes', 'no'] * 5
# What windows hold: one thing, several, other lengths of cloud, nothing.
HELD = ((Modality.IMAGE,), (Modality.IMU, Modality.AUDIO), (), (Modality.IMAGE,),
        (Modality.POINT,), tuple(Modality), (Modality.DEPTH, Modality.IMAGE), (Modality.POINT,))
QUESTIONS = ('What is there?', 'Is it red?', 'Which of these things is nearest to the robot now?')


@pytest.fixture(scope='module', params=['tiny', 'window', 'nano'])
def engine(request):
    if request.param == 'nano':
        return Engine.load('nano', 'cpu', backend='torch')
    more = {'llm': {'sliding_window': 9, 'sliding_layers': (0,)}} if request.param == 'window' \
        else {}
    model = tiny(seed=2, **more)
    return Engine(model, Text(train_tokenizer(SENTENCES, 300), model.config.text))


def windows(engine):
    out = []
    for seed, modalities in enumerate(HELD):
        drawn = inputs(engine.config, seed=seed)
        drawn[Modality.POINT] = drawn[Modality.POINT][:, :len(drawn[Modality.POINT][0]) - seed]
        out.append({m: drawn[m] for m in modalities})
    return out


@pytest.mark.parametrize('batch', [1, 3, 8])
def test_a_batch_answers_as_one_at_a_time(engine, batch):
    seen = windows(engine)
    asks = [Ask(i % len(seen), QUESTIONS[i % 3] if i % 4 else 'Why?',
                Sampling(5 + i, *((0.7, 0.9, i) if i % 5 == 4 else ())),
                (('yes', 'no', 'a red box'), ('A', 'B'), ())[i % 3]) for i in range(11)]
    batched = Batched(engine)
    for start in range(0, len(asks), batch):
        some = asks[start:start + batch]
        encoded = batched.encode([seen[ask.evidence] for ask in some])
        found = batched.answer(encoded, [replace(ask, evidence=n) for n, ask in enumerate(some)])
        for ask, reply in zip(some, found, strict=True):
            prefix = engine.encode(seen[ask.evidence])
            s = ask.sampling
            alone = engine.ask(prefix, ask.question, max_tokens=s.max_tokens, top_p=s.top_p,
                               temperature=s.temperature, seed=s.seed)
            assert (reply.text, reply.tokens, reply.finish_reason) == (
                alone.text, alone.tokens, alone.finish_reason)
            assert reply.confidence == pytest.approx(alone.confidence, rel=1e-4)
            if ask.choices:
                chosen = engine.ask(prefix, ask.question, choices=ask.choices)
                assert reply.choice == chosen.choice_index
                assert reply.probabilities == pytest.approx(chosen.choice_probabilities, rel=1e-4)
            else:
                assert (reply.choice, reply.probabilities) == (-1, ())


def test_questions_on_one_window_share_it(engine, monkeypatch):
    seen, passes = windows(engine)[5], []
    alone = [engine.ask(engine.encode(seen), question).text for question in QUESTIONS]
    whole = engine.model.encode_all
    monkeypatch.setattr(engine.model, 'encode_all',
                        lambda x: passes.append(len(next(iter(x.values())))) or whole(x))
    batched = Batched(engine)
    asks = [Ask(0, question) for question in QUESTIONS]
    found = batched.answer(batched.encode([seen]), asks)
    assert passes == [1]
    assert [r.text for r in found] == alone
    batched.encode([seen, seen, {}])
    assert passes[1:] == [2]


def test_what_cannot_be_answered_is_told_and_harms_no_other(engine):
    good, broken = windows(engine)[0], {Modality.IMAGE: torch.full((1, 3, 4, 4), torch.nan)}
    shape = {Modality.IMU: torch.zeros(1, 6, 3)}
    batched = Batched(engine)
    encoded = batched.encode([broken, good, shape])
    found = batched.answer(encoded, [Ask(0, 'a?'), Ask(1, 'b?'), Ask(2, 'c?'), Ask(1, ' '),
                                     Ask(1, 'word ' * 2000), Ask(1, 'b?', choices=('yes', ''))])
    assert [isinstance(r, EngineError) for r in found] == [True, False, True, True, True, True]
    for reply, what in zip(found, ('finite', 'b', 'imu', 'expected text', 'fit behind',
                                   'expected text'), strict=True):
        assert what in str(reply)
    assert found[1].text == engine.ask(engine.encode(good), 'b?').text
    assert [type(r) for r in batched.answer(batched.encode([broken]), [Ask(0, 'a?')])] == [
        EngineError]


def test_a_model_whose_keys_depend_on_the_pass_is_not_batched():
    model = tiny(llm={'rope': replace(tiny().config.llm.rope, kind='dynamic', factor=2.0)})
    one = Engine(model, Text(train_tokenizer(SENTENCES, 300), model.config.text))
    assert not can_batch(one)
    with pytest.raises(EngineError, match='batch of 1'):
        Batched(one)
