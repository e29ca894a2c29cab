"""What a run begins with: parts of models, of runs, of Hugging Face language models and CLIP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_worlds import CHAIN, ONE_EXPERT, TINY, render, trainer

from onellm_ros.model.checkpoint import save_model
from onellm_ros.model.encoder import Encoder
from onellm_ros.model.files import CheckpointError
from onellm_ros.model.onellm import OneLLM
from onellm_ros.training.clip import read_clip
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.pretrained import Beginning, Init
from onellm_ros.training.recipes import ONELLM_7B


def same(model: OneLLM, other: OneLLM, part: str) -> bool:
    return all(torch.equal(a, b) for a, b in zip(
        model.part(part).state_dict().values(), other.part(part).state_dict().values(),
        strict=True))


def test_inits_are_read_and_refused():
    assert Init.parse('runs/a') == Init(Path('runs/a'))
    assert Init.parse('encoder, llm=a=b') == Init(Path('a=b'), ('encoder', 'llm'))
    with pytest.raises(TrainingError, match="unknown part 'lm', expected some of encoder"):
        Init.parse('lm=a')


def test_parts_come_from_several_models_and_the_rest_is_fresh(tmp_path):
    torch.manual_seed(0)
    a, b = OneLLM(TINY), OneLLM(replace(TINY, llm=replace(TINY.llm, dim=64)))
    for name, model in (('a', a), ('b', b)):
        save_model(model, tmp_path / name, torch.float32)
    beginning = Beginning(TINY, [Init(tmp_path / 'a', ('encoder', 'tokenizers')),
                                 Init(tmp_path / 'b', ('llm',))])
    assert set(beginning.parts) == {'encoder', 'tokenizers', 'llm'}
    assert beginning.text_folder == tmp_path / 'b' and beginning.config.llm.dim == 64
    model = beginning.model(beginning.config)
    assert same(model, a, 'encoder') and same(model, a, 'tokenizers') and same(model, b, 'llm')
    rms = b.llm.tok_embeddings.weight.square().mean().sqrt().item()
    assert model.upm.proj_out['image'][1].weight.mean().item() == pytest.approx(rms, rel=1e-5)
    with pytest.raises(TrainingError, match=r'upm\..*its part does not fit the others'):
        wrong = Beginning(TINY, [Init(tmp_path / 'a', ('upm',)), Init(tmp_path / 'b', ('llm',))])
        wrong.model(wrong.config)
    with pytest.raises(TrainingError, match='--init: .*no such directory'):
        Beginning(TINY, [Init(tmp_path / 'nowhere')])


def test_a_run_gives_its_model_and_the_heads_of_the_parts_taken(tmp_path):
    prepared = render(tmp_path, shards=1)
    run = trainer(prepared, tmp_path / 'run', CHAIN[:1], ONE_EXPERT, eval_batches=1)
    run.run()
    beginning = Beginning(TINY, [Init(tmp_path / 'run', ('encoder', 'tokenizers'))])
    assert beginning.config.llm == TINY.llm             # its language model was not taken
    assert {name.split('.')[0] for name in beginning.heads} == {'dense', 'pooled', 'cloud', 'way'}
    whole = Beginning(TINY, [Init(tmp_path / 'run')])
    assert whole.config == run.config and same(whole.model(whole.config), run.model, 'upm')
    torch.manual_seed(9)
    other = trainer(prepared, tmp_path / 'next', CHAIN[1:], ONE_EXPERT)
    assert run.heads is not None and other.heads is not None
    from onellm_ros.training.trainer import Trainer
    given = Trainer(whole.model(whole.config), other.text, CHAIN[1:], tmp_path / 'given',
                    other.sources, heads=beginning.heads)
    assert given.heads is not None
    assert torch.equal(given.heads.dense.out.weight, run.heads.dense.out.weight)
    # What the first version of the trainer wrote holds no sizes.
    state = torch.load(tmp_path / 'run' / 'state.pt', weights_only=True)
    old = {key: state[key] for key in ('model', 'heads', 'stage', 'step')}
    (tmp_path / 'old').mkdir()
    torch.save(old, tmp_path / 'old' / 'state.pt')
    found = Beginning(TINY, [Init(tmp_path / 'old')])
    assert found.config.upm.experts == 1
    assert found.config.llm.vocab_size == run.config.llm.vocab_size
    with pytest.raises(TrainingError, match='written by another version of the trainer'):
        trainer(prepared, tmp_path / 'old', CHAIN, ONE_EXPERT)


def test_clip_is_the_encoder_that_transformers_has(tmp_path):
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    sizes = {'hidden_size': 32, 'intermediate_size': 128, 'num_hidden_layers': 2,
             'num_attention_heads': 2}
    vision = {**sizes, 'image_size': 56, 'patch_size': 14}
    theirs = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    config, tensors = read_clip(tmp_path)
    ours = Encoder(config).eval()
    ours.load_state_dict(tensors)
    pictures = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        found = ours(ours.patches(pictures), ours.positions)
        hidden = theirs(pictures).last_hidden_state
        norm = next(m for n, m in theirs.named_modules() if n.endswith('post_layernorm'))
        torch.testing.assert_close(found, norm(hidden), rtol=1e-4, atol=1e-5)
    whole = transformers.CLIPModel(transformers.CLIPConfig(
        text_config={**sizes, 'vocab_size': 50}, vision_config=vision))
    whole.vision_model.load_state_dict(theirs.state_dict())
    whole.save_pretrained(tmp_path / 'whole')
    again = read_clip(tmp_path / 'whole')
    assert again[0] == config and all(torch.equal(again[1][n], v) for n, v in tensors.items())
    beginning = Beginning(ONELLM_7B.model, [Init(tmp_path)])
    assert set(beginning.parts) == {'encoder'} and beginning.config.encoder.width == 32
    assert beginning.config.llm == ONELLM_7B.model.llm
    text = (tmp_path / 'config.json').read_text()
    (tmp_path / 'config.json').write_text(text.replace('"hidden_size": 32', '"hidden_size": 16'))
    with pytest.raises(CheckpointError, match='patch_embedding.weight: expected shape'):
        read_clip(tmp_path)


def test_a_hugging_face_language_model_brings_its_tokenizer(tmp_path):
    transformers = pytest.importorskip('transformers')
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=300, max_position_embeddings=128)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / 'llm')
    beginning = Beginning(ONELLM_7B.model, [Init(tmp_path / 'llm')])
    assert set(beginning.parts) == {'llm'} and beginning.config.llm.vocab_size == 300
    assert beginning.config.text == ONELLM_7B.model.text
    (tmp_path / 'out').mkdir()
    assert not beginning.copy_tokenizer(tmp_path / 'out')
    (tmp_path / 'llm' / 'tokenizer.json').write_text('{}')
    assert beginning.copy_tokenizer(tmp_path / 'out')
    assert (tmp_path / 'out' / 'tokenizer.json').exists()
