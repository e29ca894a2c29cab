"""Tokenizers of language models in Hugging Face layout."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from onellm_ros.config import TextConfig
from onellm_ros.model.text import Text, TextError

PLAIN = TextConfig(template='plain')
TEXTS = ['A red box stands 1.5 metres ahead of the robot.', 'naïve 机器人 🤖\n  <|eot_id|> <s>']


def _trained(*special):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXTS[:1] * 9, trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in special])
    return tokenizer


def _write(folder, tokenizer, **files):
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / 'tokenizer.json'))
    for name, values in files.items():
        (folder / f'{name}.json').write_text(json.dumps(values))
    return folder


def test_the_files_beside_it_say_what_begins_and_ends_a_text(tmp_path):
    tokenizer = _trained('<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>', '<|pad|>')
    tokenizer.add_tokens(['<s>'])       # an ordinary word that looks like a beginning
    begin, end, turn, pad = (tokenizer.token_to_id(t) for t in (
        '<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>', '<|pad|>'))
    tokenizer.enable_truncation(5)      # as files keep it from training
    tokenizer.enable_padding(length=9)
    folder = _write(
        tmp_path, tokenizer, generation_config={'eos_token_id': [end, turn]},
        tokenizer_config={'bos_token': '<|begin_of_text|>', 'pad_token': '<|pad|>',
                          'eos_token': {'__type': 'AddedToken', 'content': '<|end_of_text|>'}})
    text = Text.load(folder, PLAIN)
    assert (text.bos, text.eos, text.pad) == (begin, end, pad)
    assert text.stop_ids == {end, turn} and text.size == tokenizer.get_vocab_size()
    transformers = pytest.importorskip('transformers')
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for said in TEXTS:
        ids = text.encode(said)
        assert text.decode(ids) == said and len(ids) > 5
        assert not {begin, end, turn, pad} & set(ids)
        plain = said.replace('<|eot_id|>', '')      # there a name of a token becomes that token
        assert text.encode(plain) == theirs(plain, add_special_tokens=False)['input_ids']


def test_without_a_beginning_the_end_of_text_begins(tmp_path):
    tokenizer = _trained('<|endoftext|>', '<|im_end|>')
    end, turn = (tokenizer.token_to_id(t) for t in ('<|endoftext|>', '<|im_end|>'))
    text = Text.load(_write(
        tmp_path / 'llm', tokenizer, config={'eos_token_id': end},
        tokenizer_config={'bos_token': None, 'eos_token': '<|im_end|>',
                          'pad_token': '<|endoftext|>'}).parent, PLAIN)
    assert (text.bos, text.eos, text.pad) == (end, turn, end) and text.stop_ids == {end, turn}


def test_ids_that_a_vocabulary_leaves_out_count(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({'<s>': 0, '</s>': 1, 'box': 40}, unk_token='<s>'))
    assert Text.load(_write(tmp_path, tokenizer), PLAIN).size == 41


def test_files_that_cannot_be_used(tmp_path):
    (tmp_path / 'vocab.json').write_text('{}')
    with pytest.raises(TextError, match=r'vocab.json and merges.txt are the older form'):
        Text.load(tmp_path, PLAIN)
    folder = _write(tmp_path, _trained('</s>'), tokenizer_config={'bos_token': '<start>'})
    with pytest.raises(TextError, match="no token '<start>', although tokenizer_config.json"):
        Text.load(folder, PLAIN)
    (folder / 'tokenizer_config.json').write_text('{')
    with pytest.raises(TextError, match='tokenizer_config.json: not readable as JSON'):
        Text.load(folder, PLAIN)
