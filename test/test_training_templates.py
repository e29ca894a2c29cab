"""What the LLM reads and is to say: both published templates, turns, limits, tokenizers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
import torch

from onellm_ros.config import TextConfig
from onellm_ros.model.text import RELEASED_SYSTEM, Text, train_tokenizer
from onellm_ros.training.templates import (
    Segment,
    caption_segment,
    conversation_segment,
    pack_segments,
    with_template,
)

TURNS = (('What is it?', 'a cat'), ('Where?', 'on the mat'))
TEXTS = ['What is it? a cat. Where? on the mat. Human: Assistant: ### A chat between'] * 3


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer to which ### is text like any other."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ['<unk>', '<s>', '</s>', *alphabet]
    merges = [('#', '#'), ('##', '#')]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate([
        *names, '##', '###'])}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(params=['stop is a token', 'stop is text'])
def text(request):
    tokenizer = train_tokenizer(TEXTS, 300) if request.param == 'stop is a token' \
        else byte_tokenizer()
    return Text(tokenizer, TextConfig(template='training', system=RELEASED_SYSTEM))


def said(text: Text, segment: Segment) -> tuple[str, list[str]]:
    """Return the whole text, and the runs of it that are to be said."""
    def words(ids):
        return ''.join('###' if i == text.stop_id else text.decode([i]) for i in ids)

    runs, run = [], []
    for token, wanted in zip([*segment.ids, 0], [*segment.wanted, False], strict=True):
        if wanted:
            run.append(token)
        elif run:
            runs.append(words(run))
            run = []
    return words(segment.ids), runs


@pytest.mark.parametrize(('template', 'gap'), [('training', ' '), ('released', '')])
def test_answers_are_said_and_closed_in_the_chat_template(text, template, gap):
    segment = conversation_segment(with_template(text, template), TURNS)
    whole, runs = said(text, segment)
    assert whole == (
        f'{RELEASED_SYSTEM}\n\n###{gap}Human: What is it?\n###{gap}Assistant: a cat\n'
        f'###{gap}Human: Where?\n###{gap}Assistant: on the mat\n###')
    assert runs == [' a cat\n###', ' on the mat\n###']


def test_training_goes_on_from_what_inference_gives(text):
    segment = conversation_segment(text, TURNS)
    prompt = text.encode_prompt('Where?', TURNS[:1])
    assert segment.ids[:len(prompt)] == prompt
    assert not segment.wanted[len(prompt) - 1] and segment.wanted[len(prompt)]


def test_a_caption_follows_the_signal_alone(text):
    segment = caption_segment(text, 'a cat on the mat')
    assert segment.ids == [*text.encode('a cat on the mat'), text.eos] and all(segment.wanted)
    packed = pack_segments([[segment]], text.pad, multiple=4)
    assert torch.equal(packed.labels[packed.segments == 1], torch.tensor(segment.ids))


def test_what_has_no_room_is_cut_and_counted(text):
    segment = conversation_segment(text, TURNS)
    short = segment.within(20)
    assert short.ids == segment.ids[:20] and short.cut == len(segment.ids) - 20
    assert segment.within(10_000) is segment
    packed = pack_segments([[short], [replace(short, cut=1)]], text.pad)
    assert packed.cut == short.cut + 1


def test_packing_knows_empty_rows_and_refuses_answers_from_nowhere():
    packed = pack_segments([[]], pad=9, multiple=4)
    assert packed.ids.tolist() == [[9] * 4] and (packed.labels == -100).all()
    caption = Segment.of([], [5], 'caption')
    pack_segments([[caption]], pad=0)
    with pytest.raises(ValueError, match='segment 2 of a row: found an answer without a question'):
        pack_segments([[caption, caption]], pad=0)
