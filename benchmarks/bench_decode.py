"""Measure decoding at batch 1 beside transformers' generate and beside the memory's bandwidth.

Both have the same weights (nano's, or random ones: ``--random 7b``) in the same memory, begin from
the same cached prefix, and must say the same tokens. Runs of the two take turns, since the load of
a machine changes. transformers runs as its fastest plain setting here: of its dynamic and static
cache, and on a CPU of one thread and of all. The limit is that each token reads every weight once:
their bytes at the bandwidth of a large copy. A small model stays in the processor's caches, and
may pass it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import copy
import itertools
import os
import time
from typing import Any

from _report import Report, Timing, arguments
import torch

from onellm_ros.bench.machine import copy_bandwidth
from onellm_ros.bench.models import SIZES, check, random_engine
from onellm_ros.inference.engine import Engine
from onellm_ros.inference.sampling import Draw, Sampling
from onellm_ros.model.hf_config import hf_config
from onellm_ros.model.hf_llm import hf_name
from onellm_ros.model.llm import Llama

PREFIXES, LENGTHS = (20, 200), (32, 128)
QUESTION = 'Which of the things in front of you is nearest?'
_CLOSE = 0.05       # logits nearer than this may change places in half precision


def theirs_of(llm: Llama) -> Any:
    """Return transformers' model around the very weights of ours."""
    import transformers

    values = hf_config(llm.config)
    values['torch_dtype'] = str(llm.tok_embeddings.weight.dtype).removeprefix('torch.')
    config = transformers.AutoConfig.for_model(values.pop('model_type'), **values)
    with torch.device('meta'):
        model = transformers.AutoModelForCausalLM.from_config(config)
    state = {hf_name(name): value for name, value in llm.state_dict().items()}
    if llm.output is None:
        state['lm_head.weight'] = state['model.embed_tokens.weight']
    model.load_state_dict(state, strict=True, assign=True)
    rope = type(model.model.rotary_emb)     # its table is no weight, and was left on meta
    model.model.rotary_emb = rope(config=config).to(llm.tok_embeddings.weight.device)
    model.generation_config = transformers.GenerationConfig(do_sample=False, pad_token_id=0)
    return model.eval()


class Theirs:
    """transformers' generate behind a prefix that it keeps in its own cache."""

    def __init__(self, model: Any, ids: torch.Tensor, room: int, static: bool, threads: int
                 ) -> None:
        import transformers

        self.model, self.ids, self.threads = model, ids, threads
        self.name = f'{"static" if static else "dynamic"} cache, {threads} threads'
        self._cache = transformers.StaticCache(config=model.config, max_cache_len=room) \
            if static else transformers.DynamicCache(config=model.config)
        model(ids[:, :-1], past_key_values=self._cache)

    def __call__(self, count: int, more: Sequence[int] = ()) -> tuple[list[int], float]:
        """Return ``count`` tokens and the seconds that they took; the cache's copy is free."""
        ids = torch.cat([self.ids, torch.tensor([more], dtype=torch.long).to(self.ids)], 1)
        cache = copy.deepcopy(self._cache)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        begin = now(ids.device)
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache,
                                  max_new_tokens=count, min_new_tokens=count)
        seconds = now(ids.device) - begin
        torch.set_num_threads(before)
        return out[0, ids.shape[1]:].tolist(), seconds


class Ours:
    """The engine's steps and draws behind a prefix; its cache is copied for each answer."""

    def __init__(self, engine: Engine, ids: torch.Tensor) -> None:
        self.engine, self.ids = engine, ids
        llm = engine.model.llm
        self._cache = llm.new_cache(1, ids.shape[1] - 1)
        llm(llm.embed(ids[:, :-1]), cache=self._cache, return_hidden=True, last_only=True)

    def __call__(self, count: int, more: Sequence[int] = ()) -> tuple[list[int], float]:
        """Return ``count`` tokens and the seconds that they took."""
        begin = now(self.engine.device)
        draw = Draw(Sampling(), self.engine.device)
        pending = [int(self.ids[0, -1]), *more]
        cache = self._cache.copy(self._cache.length + len(pending) + count)
        said: list[int] = []
        while len(said) < count:
            said.append(draw(self.engine.step(pending, cache))[0])
            pending = said[-1:]
        return said, now(self.engine.device) - begin


def now(device: torch.device) -> float:
    """Return the time when the device has done its work."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def compare(engine: Engine, ids: torch.Tensor, ours: list[int], theirs: list[int]) -> str:
    """Return what is to be said of two answers; in float32 they must be equal.

    :raises SystemExit: if they differ and it is no matter of rounding.
    """
    if ours == theirs:
        return f'{len(ours)} tokens, all equal'
    llm = engine.model.llm
    first = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    line = torch.cat([ids, torch.tensor([ours[:first]], dtype=torch.long).to(ids)], 1)
    logits = llm(llm.embed(line), last_only=True)[0, -1].float()
    apart = float((logits.max() - logits[[ours[first], theirs[first]]]).max())
    told = (f'the tokens differ from {first + 1} of {len(ours)} on, where the two likeliest are '
            f'{apart:.2g} apart')
    if llm.tok_embeddings.weight.dtype == torch.float32 or apart > _CLOSE:
        raise SystemExit(f'bench_decode: {told}')
    return told


def fastest(make: Callable[[bool, int], Theirs], threads: Sequence[int], count: int) -> Theirs:
    """Return transformers' fastest setting on this machine."""
    best: tuple[float, Theirs] | None = None
    for static, number in itertools.product((False, True), threads):
        one = make(static, number)
        one(2)
        seconds = min(one(count)[1] for _ in range(3))
        if best is None or seconds < best[0]:
            best = seconds, one
    assert best is not None
    return best[1]


class Bench:
    """The cases of one engine."""

    def __init__(self, report: Report, engine: Engine, repeats: int) -> None:
        self.report, self.engine, self.repeats = report, engine, repeats
        llm, self.device = engine.model.llm, engine.device
        self.gpu = self.device.type == 'cuda'
        embeddings = 0 if llm.output is None else llm.tok_embeddings.weight.numel()
        values = sum(p.numel() for p in llm.parameters()) - embeddings
        self.read = values * llm.tok_embeddings.weight.element_size()
        self.theirs = theirs_of(llm)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
        self.threads = [1] if self.gpu else sorted({1, cores})

    def prefix(self, positions: int, lengths: Sequence[int]) -> None:
        """Add the cases behind a prefix."""
        size = self.engine.text.size
        ids = torch.randint(4, size, (1, positions), generator=torch.Generator().manual_seed(
            positions)).to(self.device)
        ours = Ours(self.engine, ids)
        question = self.engine.text.encode_prompt(QUESTION)
        room = positions + max(max(lengths), len(question) + 1)
        theirs = fastest(lambda static, threads: Theirs(self.theirs, ids, room, static, threads),
                         self.threads, min(lengths))
        self.report.note(f'behind {positions} positions; transformers with its {theirs.name}')
        for count in lengths:
            rates, peers, said = self._pairs(ours, theirs, count)
            self.report.add(f'decode {count} behind {positions}', rates, peers,
                            unit='tokens/s', more_is_better=True,
                            goal='>= 2x' if self.gpu else '>= 3x')
            print('    ' + compare(self.engine, ids, *said))
            self.limit(f'decode {count} behind {positions}', rates)
        rates, peers, _ = self._pairs(ours, theirs, 1, question)
        self.report.add(f'question of {len(question)} tokens to the next, behind {positions}',
                        Timing(tuple(1e3 / r for r in rates.values)),
                        Timing(tuple(1e3 / r for r in peers.values)), unit='ms',
                        goal='<= 40' if self.engine.name == 'nano' else '')

    def _pairs(self, ours: Ours, theirs: Theirs, count: int, more: Sequence[int] = ()
               ) -> tuple[Timing, Timing, tuple[list[int], list[int]]]:
        """Return tokens a second of both, run in turns, and what both said."""
        ours(count, more), theirs(count, more)
        runs = [(ours(count, more), theirs(count, more)) for _ in range(self.repeats)]
        mine, peer = zip(*runs, strict=True)
        return (Timing(tuple(count / s for _, s in mine)),
                Timing(tuple(count / s for _, s in peer)), (mine[0][0], peer[0][0]))

    def limit(self, case: str, rates: Timing) -> None:
        """Add the share of what the bandwidth allows."""
        bandwidth = copy_bandwidth(self.device, 3)
        self.report.add(f'  of the limit, {case}', rates, bandwidth / self.read, unit='tokens/s',
                        more_is_better=True, goal='>= 0.85x' if self.gpu and self.engine.name
                        .endswith('onellm_7b') else '')


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    arguments(parser, repeats=9)
    parser.add_argument('--device', default='auto', help='default: CUDA where there is one')
    parser.add_argument('--model', default='nano', help='name or directory; default %(default)s')
    parser.add_argument('--random', choices=SIZES, help='random weights at this size instead')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16', 'float16'),
                        help='default: float32 on a CPU, bfloat16 on a GPU')
    args = parser.parse_args()
    device = torch.device(args.device if args.device != 'auto' else
                          'cuda' if torch.cuda.is_available() else 'cpu')
    dtype = getattr(torch, args.dtype or ('bfloat16' if device.type == 'cuda' else 'float32'))
    if args.random:
        check(args.random, SIZES[args.random], device, dtype.itemsize)
        engine = random_engine(SIZES[args.random], device, dtype)
    else:
        engine = Engine.load(args.model, str(device), dtype)
    report = Report(f'Decoding, {engine.name} in {str(dtype).removeprefix("torch.")} on {device}',
                    'torch', 'transformers', 'numba')
    with torch.inference_mode():
        bench = Bench(report, engine, 3 if args.quick else args.repeats)
        report.note(f'a token reads {bench.read / 1e6:.1f} MB of weights')
        for positions in PREFIXES:
            bench.prefix(positions, LENGTHS[:1] if args.quick else LENGTHS)
    report.finish(args.json)


if __name__ == '__main__':
    main()
