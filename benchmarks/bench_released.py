"""The released layout at full size: both ways, against a reference, as transformers reads it.

    .venv/bin/python benchmarks/bench_released.py --layers 2 --dtype bfloat16 --folder /with/room

Writes a random checkpoint as `torch.save` does, under the names and with the shapes of the
released one (CLIP ViT-L/14 with its text side, 3 experts of 8 blocks, an LLM 4096 wide), computes
what it should say with the NumPy implementation of the tests (float64; `--no-reference` leaves
that out), converts it there and back, and compares. Everything is removed afterwards.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
import filecmp
import json
from pathlib import Path
import shutil
import sys
import tempfile
from typing import Any

from bench_convert import convert, measured
import numpy as np
from safetensors.torch import load_file, save_file
import torch

from onellm_ros.config import PRESETS, ModelConfig
from onellm_ros.modality import Modality
from onellm_ros.model.checkpoint import load_model

ROOT = Path(__file__).resolve().parents[1]
NAME = 'consolidated.00-of-01.pth'
WIDTH, LLM, VOCABULARY, HIDDEN = 1024, 4096, 32000, 11008
# Names in the weights, and the inputs of one sample.
INPUTS = {'image': (3, 224, 224), 'video': (15, 3, 224, 224), 'audio': (1, 128, 1024),
          'point': (8192, 6), 'rgbd': (2, 3, 224, 224), 'rgbn': (2, 3, 224, 224),
          'imu': (6, 400), 'fmri': (1, 15724)}
TOKENS = {'audio': 1212, 'point': 1024, 'imu': 391, 'fmri': 8}
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def block(at: str, width: int, hidden: int) -> Shapes:
    """Yield the tensors of a Llama block."""
    for name in ('wq', 'wk', 'wv', 'wo'):
        yield f'{at}.attention.{name}.weight', (width, width)
    for name, shape in (('w1', (hidden, width)), ('w2', (width, hidden)), ('w3', (hidden, width))):
        yield f'{at}.feed_forward.{name}.weight', shape
    yield f'{at}.attention_norm.weight', (width,)
    yield f'{at}.ffn_norm.weight', (width,)


def pair(at: str, *shape: int) -> Shapes:
    """Yield weight and bias of a layer; a norm has one size."""
    yield f'{at}.weight', shape
    yield f'{at}.bias', shape[:1]


def clip_tower(at: str, width: int, layers: int) -> Shapes:
    """Yield the tensors of one of CLIP's transformers."""
    for i in range(layers):
        here = f'{at}.transformer.resblocks.{i}'
        yield from pair(f'{here}.ln_1', width)
        yield from pair(f'{here}.ln_2', width)
        yield f'{here}.attn.in_proj_weight', (3 * width, width)
        yield f'{here}.attn.in_proj_bias', (3 * width,)
        yield from pair(f'{here}.attn.out_proj', width, width)
        yield from pair(f'{here}.mlp.c_fc', 4 * width, width)
        yield from pair(f'{here}.mlp.c_proj', width, 4 * width)


def released_shapes(layers: int) -> Shapes:
    """Yield every tensor of a released checkpoint, as its description lists them."""
    yield 'tok_embeddings.weight', (VOCABULARY, LLM)
    for i in range(layers):
        yield from block(f'layers.{i}', LLM, HIDDEN)
    yield 'norm.weight', (LLM,)
    yield 'output.weight', (VOCABULARY, LLM)
    yield 'clip.visual.class_embedding', (WIDTH,)
    yield 'clip.visual.positional_embedding', (257, WIDTH)
    yield 'clip.visual.proj', (WIDTH, 768)
    yield 'clip.visual.conv1.weight', (WIDTH, 3, 14, 14)
    yield from pair('clip.visual.ln_pre', WIDTH)
    yield from pair('clip.visual.ln_post', WIDTH)
    yield from clip_tower('clip.visual', WIDTH, 24)
    yield from clip_tower('clip', 768, 12)
    yield 'clip.positional_embedding', (77, 768)
    yield 'clip.text_projection', (768, 768)
    yield 'clip.logit_scale', ()
    yield 'clip.token_embedding.weight', (49408, 768)
    yield from pair('clip.ln_final', 768)
    for expert in range(3):
        for i in range(8):
            yield from block(f'resample_layers.{expert}.{i}', WIDTH, 2816)
    yield from pair('conv1.audio', WIDTH, 1, 16, 16)
    yield from pair('conv1.point.conv1', WIDTH, 6, 1, 1)
    yield from pair('conv1.fmri', 8 * WIDTH, 15724)
    yield 'conv1.imu.weight', (WIDTH, 6, 10)
    for name, count in TOKENS.items():
        yield f'positional_embedding.{name}', (count + 1, WIDTH)
    for name in INPUTS:
        yield f'resample_tokens.{name}', (1, 30, WIDTH)
        yield from pair(f'clip_proj1.{name}.0', WIDTH, WIDTH)
        yield from pair(f'clip_proj1.{name}.1', WIDTH)
        yield from pair(f'clip_proj2.{name}.0', LLM, WIDTH)
        yield from pair(f'clip_proj2.{name}.1', LLM)
        yield from pair(f'routers.{name}.fc1', 4 * WIDTH, WIDTH)
        yield from pair(f'routers.{name}.fc2', 3, 4 * WIDTH)
        yield f'start_tag.{name}', (1, 1, LLM)
        yield f'end_tag.{name}', (1, 1, LLM)


def write(folder: Path, layers: int, dtype: torch.dtype, names: list[str]) -> None:
    """Write the checkpoint, its config.json, and inputs of the released sizes."""
    torch.manual_seed(0)
    values = {}
    for name, shape in released_shapes(layers):
        draw = torch.randn(shape)
        if len(shape) > 1:
            draw *= max(8, draw[0].numel() if 'conv1' in name else shape[-1]) ** -0.5
        elif name.endswith('norm.weight') or 'ln_' in name or '.1.weight' in name:
            draw = 1 + 0.1 * draw
        values['llma.' + name] = draw.to(dtype)
    torch.save(values, folder / NAME)
    config = {'llm': {'dim': LLM, 'n_layers': layers, 'n_heads': 32, 'vocab_size': VOCABULARY,
                      'multiple_of': 256, 'norm_eps': 1e-5, 'rope_theta': 10000.0}}
    (folder / 'config.json').write_text(json.dumps(config))
    inputs = {f'input.{name}': (torch.rand if name == 'point' else torch.randn)(1, *shape).half()
              for name, shape in INPUTS.items() if name in names}
    prompt = torch.tensor([[1, *torch.randint(3, VOCABULARY, (13,))]], dtype=torch.int32)
    save_file({**inputs, 'prompt_tokens': prompt}, folder / 'expected.safetensors')
    print(f'  {len(values)} tensors, {sum(v.numel() for v in values.values()) / 1e9:.2f} billion '
          f'values, {(folder / NAME).stat().st_size / 1e9:.2f} GB')


class Weights(Mapping[str, Any]):
    """Released tensors as float64 arrays, each made when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.values = torch.load(path, mmap=True, weights_only=True)

    def __getitem__(self, name: str) -> Any:
        return self.values['llma.' + name].double().numpy()

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix('llma.') for name in self.values)

    def __len__(self) -> int:
        return len(self.values)


def expect(folder: Path, tokens: int) -> None:
    """Add to the inputs what the NumPy implementation answers."""
    sys.path.insert(0, str(ROOT / 'test'))
    from golden.numpy_reference import Reference

    full: ModelConfig = PRESETS['onellm_7b']
    weights = Weights(folder / NAME)
    layers = len({n.split('.')[1] for n in weights if n.startswith('layers.')})
    reference = Reference({}, replace(full, llm=replace(full.llm, layers=layers)))
    reference.w = weights                               # type: ignore[assignment]
    values = load_file(folder / 'expected.safetensors')
    prompt = values['prompt_tokens'][0].tolist()
    made: dict[str, Any] = {}
    given = [name for name in INPUTS if f'input.{name}' in values]
    for name in given:
        x = values[f'input.{name}'][0].double().numpy()
        made[name], _ = reference.project(name, reference.encode(name, x))
        values[f'modality_tokens.{name}'] = torch.from_numpy(made[name]).float()[None]
    both = [['video', 'audio']] if {'video', 'audio'} <= set(given) else []
    for names in ([], *both, *([name] for name in given)):
        title = '+'.join(names) or 'text'
        embeds = reference.prompt(prompt, {name: made[name] for name in names})
        logits = reference.logits(embeds)
        values[f'logits.{title}'] = torch.from_numpy(logits[-len(prompt):]).float()[None]
        if len(names) == 1 and tokens:
            out = [int(logits[-1].argmax())]
            while len(out) < tokens:
                words = reference.w['tok_embeddings.weight'][out]
                out.append(int(reference.logits(np.concatenate([embeds, words]))[-1].argmax()))
            values[f'greedy.{title}'] = torch.tensor([out])
    save_file(values, folder / 'expected.safetensors')


@torch.inference_mode()
def answer(folder: Path, inputs: Path, target: Path, dtype: torch.dtype) -> None:
    """Write what a directory's model makes of every modality: tokens, logits, 16 greedy words."""
    model = load_model(folder, dtype=dtype)
    values, out = load_file(inputs), {}
    words = model.llm.embed(values['prompt_tokens'].long())
    for modality in Modality:
        name = modality.weight_name
        if f'input.{name}' not in values:
            continue
        tokens = model.encode(modality, values[f'input.{name}'].float()).tokens
        embeds = torch.cat([words[:, :1], model.block_embeds(modality, tokens), words[:, 1:]], 1)
        cache = model.llm.new_cache(1, embeds.shape[1] + 16)
        logits = model.llm(embeds, cache=cache, last_only=True)[:, -1]
        out[f'tokens.{name}'], out[f'logits.{name}'] = tokens, logits
        ids = []
        for _ in range(16):
            ids.append(logits.argmax(-1))
            logits = model.llm(model.llm.embed(ids[-1][:, None]), cache=cache)[:, -1]
        out[f'greedy.{name}'] = torch.stack(ids, 1)
    save_file(out, target)


@torch.inference_mode()
def read_by_transformers(folder: Path) -> None:
    """Compare the language model with transformers' reading of it."""
    from transformers import AutoModelForCausalLM

    ids = torch.arange(40)[None] * 799 % VOCABULARY
    theirs, said = AutoModelForCausalLM.from_pretrained(
        folder / 'llm', dtype=torch.float32, output_loading_info=True)
    expected = theirs.eval()(ids).logits
    kind = type(theirs).__name__
    del theirs
    ours = load_model(folder).llm
    found = ours(ours.embed(ids))
    print(f'  {kind}: largest difference of logits {float((found - expected).abs().max()):.1e} '
          f'(standard deviation {float(expected.std()):.1f}), missing keys '
          f'{len(said["missing_keys"])}, unexpected {len(said["unexpected_keys"])}')


def equal(one: Path, other: Path) -> str:
    """Compare the tensors of two files bit for bit, in order, those of torch mapped from disk."""
    def read(path: Path) -> dict[str, torch.Tensor]:
        if path.suffix == '.pth':
            values: dict[str, torch.Tensor] = torch.load(path, mmap=True, weights_only=True)
            return values
        return load_file(path)

    a, b = read(one), read(other)
    if list(a) != list(b) or any(
            (a[n].dtype, a[n].shape) != (b[n].dtype, b[n].shape) for n in a):
        return 'OTHER TENSORS'
    differ = [n for n in a if not torch.equal(
        a[n].reshape(-1).view(torch.uint8), b[n].reshape(-1).view(torch.uint8))]
    if differ:
        largest = max(float((a[n].double() - b[n].double()).abs().max()) for n in differ)
        return f'OTHER VALUES in {len(differ)} of {len(a)} tensors, by {largest:.1e} at most'
    return f'{len(a)} tensors equal bit for bit'


def step(name: str, *args: object) -> None:
    """Run a part of this file in a process of its own."""
    measured(__file__, '--part', name, *map(str, args))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--layers', type=int, default=2, help='of the language model; 32: all')
    parser.add_argument('--dtype', choices=('bfloat16', 'float16', 'float32'), default='bfloat16')
    parser.add_argument('--compute', choices=('bfloat16', 'float32'), default='float32',
                        help='type of the weights when the two layouts are compared')
    parser.add_argument('--folder', type=Path, help='where to write (default: the temporary one)')
    parser.add_argument('--tokens', type=int, default=3, help='greedy words of the reference')
    parser.add_argument('--no-reference', action='store_true', help='only between the layouts')
    parser.add_argument('--only', nargs='*', metavar='NAME', default=list(INPUTS),
                        help=f'of {", ".join(INPUTS)} (default: all; none: convert alone)')
    parser.add_argument('--part', nargs='+', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        name, *rest = args.part
        if name == 'write':
            write(Path(rest[0]), int(rest[1]), getattr(torch, rest[2]), rest[3:])
        elif name == 'expect':
            expect(Path(rest[0]), int(rest[1]))
        elif name == 'answer':
            answer(*map(Path, rest[:3]), getattr(torch, rest[3]))
        else:
            read_by_transformers(Path(rest[0]))
        return
    if not set(args.only) <= set(INPUTS):
        parser.error(f'--only: found {args.only}, expected some of {", ".join(INPUTS)}')
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, there, back = (Path(folder) / part for part in ('source', 'there', 'back'))
        source.mkdir()
        print(f'random released checkpoint, {args.dtype}, {args.layers} layers of the LLM')
        step('write', source, args.layers, args.dtype, *args.only)
        print('onellm convert')
        convert(str(source), str(there))
        print('onellm convert --to released')
        convert(str(there), str(back), '--to', 'released')
        print(f'  source and way back: {equal(source / NAME, back / NAME)}; config.json',
              'the same' if filecmp.cmp(source / 'config.json', back / 'config.json') else 'OTHER')
        shutil.rmtree(back)
        if not args.only:
            return
        print('load, each modality at its released size, 16 greedy words: released, safetensors')
        for at in (source, there):
            step('answer', at, source / 'expected.safetensors', Path(folder) / f'{at.name}.out',
                 args.compute)
        print('  layouts:', equal(*(Path(folder) / f'{at.name}.out' for at in (source, there))))
        print('transformers')
        step('transformers', there)
        if not args.no_reference:
            print('reference implementation in float64')
            step('expect', source, args.tokens)
            shutil.copy(source / 'expected.safetensors', there)
            for at in (source, there):
                print(f'onellm verify ({at.name})')
                measured('-m', 'onellm_ros.cli', 'verify', str(at))


if __name__ == '__main__':
    main()
