"""Tokenizer files, chat templates and stops."""

from __future__ import annotations

from dataclasses import replace
import io

import pytest

from onellm_ros.config import ConfigError, TextConfig
from onellm_ros.model.text import EOS, STOP, Text, TextError, train_tokenizer

SENTENCES = ['A red box stands 1.5 metres ahead.', 'The robot turns left.',
             '### Human: What is it?\n### Assistant: a box\n###'] * 10
PLAIN = TextConfig(template='plain')


@pytest.fixture(scope='module')
def tokenizer():
    return train_tokenizer(SENTENCES, 320)


@pytest.fixture(scope='module')
def text(tokenizer):
    return Text(tokenizer, PLAIN)


@pytest.mark.parametrize('said', ['a Red BOX', 'naïve 机器人 🤖', '12.5 m', '</s> ### <s>', '  '])
def test_any_text_survives(text, said):
    ids = text.encode(said)
    assert text.decode(ids) == said
    assert not set(ids) & {text.pad, text.bos, text.eos, text.stop_id}


def test_special_tokens(text):
    assert (text.pad, text.bos, text.eos, text.stop_id) == (0, 1, 2, 3)
    assert text.stop_ids == {2, 3} and text.size <= 320


def test_digits_stay_single(text):
    assert len(text.encode('12345')) == 5


@pytest.mark.parametrize('template, system, expected', [
    ('plain', '', '### Human: Why?\n### Assistant:'),
    ('training', 'Be kind.', 'Be kind.\n\n### Human: Why?\n### Assistant:'),
    ('released', 'Be kind.', 'Be kind.\n\n###Human: Why?\n###Assistant:'),
])
def test_templates(tokenizer, template, system, expected):
    text = Text(tokenizer, TextConfig(template=template, system=system))
    assert text.prompt_text('Why?') == expected
    ids = text.encode_prompt('Why?')
    assert text.decode(ids) == expected.replace(STOP, '')
    assert ids.count(text.stop_id) == 2


def test_earlier_turns_come_first(text):
    assert text.prompt_text('And?', [('Why?', 'Because.')]) == (
        '### Human: Why?\n### Assistant: Because.\n### Human: And?\n### Assistant:')


def test_an_answer_continues_the_prompt_and_is_closed(text):
    assert text.decode(text.encode_answer('A box.', closed=False)) == ' A box.'
    closed = text.encode_answer('A box.')
    assert closed[-1] == text.stop_id and text.decode(closed) == ' A box.\n'
    assert text.encode_choice('A box.') == closed[:-1]


def test_a_stop_of_several_tokens_is_written_as_text(tokenizer):
    text = Text(tokenizer, replace(PLAIN, stop='@@@'))
    assert text.stop_id is None and text.stop_ids == {text.eos}
    assert text.decode(text.encode_answer('A box.')) == ' A box.\n@@@'
    assert text.decode(text.encode_prompt('Why?')) == '@@@ Human: Why?\n@@@ Assistant:'


def test_files(tmp_path, tokenizer):
    with pytest.raises(TextError, match=r'tokenizer.json or tokenizer.model'):
        Text.load(tmp_path, PLAIN)
    path = tmp_path / 'tokenizer.json'
    path.write_text('{"a": 1}')
    with pytest.raises(TextError, match='not readable as a tokenizer'):
        Text.load(tmp_path, PLAIN)
    tokenizer.save(str(path))
    loaded = Text.load(tmp_path, replace(PLAIN, tokenizer='tokenizer.model'))
    assert loaded.encode_prompt('Is it red?') == Text(tokenizer, PLAIN).encode_prompt('Is it red?')


def test_what_cannot_be(tokenizer):
    with pytest.raises(ConfigError, match="found 'llama3'"):
        Text(tokenizer, TextConfig(template='llama3'))
    with pytest.raises(ValueError, match='at least 260, found 100'):
        train_tokenizer(SENTENCES, 100)
    from tokenizers import Tokenizer, models
    with pytest.raises(TextError, match='none of the tokens <s>'):
        Text(Tokenizer(models.BPE({'a': 0}, [])), PLAIN)


def test_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip(
        'sentencepiece', reason='sentencepiece is optional: only released weights need it')
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=300, model_type='bpe',
        byte_fallback=True, minloglevel=2, normalization_rule_name='identity',
        remove_extra_whitespaces=False)
    (tmp_path / 'tokenizer.model').write_bytes(model.getvalue())
    text = Text.load(tmp_path, TextConfig(template='released'))
    assert text.decode([text.eos, *text.encode('A red box 🤖')]) == 'A red box 🤖'
    assert text.backend.find(EOS) == text.eos == 2 and text.bos == 1
    assert text.stop_id is None  # an ordinary piece: text around it must not be cut there
    assert text.decode(text.encode_prompt('Why?')) == '###Human: Why?\n###Assistant:'
    (tmp_path / 'tokenizer.model').write_bytes(b'no model')
    with pytest.raises(TextError, match='not readable as a SentencePiece model'):
        Text.load(tmp_path, PLAIN)


def test_sentencepiece_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'sentencepiece', None)
    (tmp_path / 'tokenizer.model').write_bytes(b'')
    with pytest.raises(TextError, match='needs the sentencepiece package'):
        Text.load(tmp_path, PLAIN)
