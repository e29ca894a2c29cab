"""Compare this implementation with numbers that the authors' implementation produced.

A directory holds a checkpoint in the released layout, its config.json and
``expected.safetensors``: ``input.X``, ``prompt_tokens``, ``modality_tokens.X``, ``logits.X``
and ``greedy.X``, X being a modality's name in the weights, several joined by ``+``, or ``text``.

About greedy decoding: the reference counts the modality tokens but not their two tags when it
places the second generated token in its key/value cache, so that the end of the prompt is
overwritten. Generation is therefore compared twice: as the reference decodes, and plainly.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
import sys

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from onellm_ros.modality import Modality
from onellm_ros.model.checkpoint import CheckpointError, load_model
from onellm_ros.model.onellm import OneLLM

TOLERANCE = 1e-4
_SMALL_PARAMETERS = 20_000_000
_KINDS = ('input', 'modality_tokens', 'logits', 'greedy')


class VerifyError(RuntimeError):
    """A directory that cannot be compared; the text says what is missing or does not fit."""


@dataclass(frozen=True)
class Row:
    """What was compared for one modality, a combination, or ``text``.

    :param tokens_error: largest error of the modality tokens; None: nothing to compare.
    :param logits_error: the same of the logits.
    :param greedy_agree: greedy tokens equal to the expected ones.
    :param greedy_total: greedy tokens expected; 0: nothing to compare.
    :param greedy_plain: agreement of plain decoding, without the reference's cache positions.
    :param note: what else is to be known.
    """

    name: str
    tokens_error: float | None = None
    logits_error: float | None = None
    greedy_agree: int = 0
    greedy_total: int = 0
    greedy_plain: int = 0
    note: str = ''

    def passes(self, tolerance: float) -> bool:
        """Say whether errors are within the tolerance and greedy tokens equal."""
        errors = [e for e in (self.tokens_error, self.logits_error) if e is not None]
        return all(e <= tolerance for e in errors) and self.greedy_agree == self.greedy_total


@dataclass(frozen=True)
class Report:
    """The comparison of one directory."""

    directory: str
    tolerance: float
    rows: tuple[Row, ...]
    absent: tuple[str, ...] = ()
    ignored: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Say whether something was compared and all of it agrees."""
        return bool(self.rows) and all(row.passes(self.tolerance) for row in self.rows)

    def lines(self) -> list[str]:
        """Return the report as text, one row a modality."""
        width = max([8, *(len(row.name) for row in self.rows)])
        lines = [f'{"":{width}}  {"tokens":>9}  {"logits":>9}  {"greedy":>9}']
        for row in self.rows:
            errors = ['        -' if e is None else f'{e:9.2e}'
                      for e in (row.tokens_error, row.logits_error)]
            greedy = f'{row.greedy_agree}/{row.greedy_total}' if row.greedy_total else '-'
            verdict = 'ok' if row.passes(self.tolerance) else 'DIFFERS'
            note = f'  ({row.note})' if row.note else ''
            lines.append(f'{row.name:{width}}  {"  ".join(errors)}  {greedy:>9}  {verdict}{note}')
        if any(r.greedy_plain < r.greedy_total for r in self.rows if r.passes(self.tolerance)):
            lines.append("greedy: the reference's key/value cache counts the modality tokens "
                         'without their tags; compared as it decodes')
        if self.absent:
            lines.append('not in expected.safetensors: ' + ', '.join(self.absent))
        if self.ignored:
            lines.append('not compared: ' + ', '.join(self.ignored))
        bad = [row.name for row in self.rows if not row.passes(self.tolerance)]
        if self.ok:
            lines.append(f'{self.directory}: agrees within {self.tolerance:g}')
        else:
            why = ', '.join(bad) if bad else 'nothing to compare'
            lines.append(f'{self.directory}: does NOT agree within {self.tolerance:g}: {why}')
        return lines


def read_expected(directory: Path) -> dict[str, Tensor]:
    """Read expected.safetensors.

    :raises VerifyError: if it is missing, unreadable or has no prompt.
    """
    path = directory / 'expected.safetensors'
    if not path.is_file():
        raise VerifyError(f"{path}: file not found; it holds inputs and the reference's outputs")
    try:
        values = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise VerifyError(f'{path}: not readable as safetensors: {error}') from error
    prompt = values.get('prompt_tokens')
    if prompt is None or prompt.ndim != 2 or prompt.shape[1] < 1:
        found = 'none' if prompt is None else list(prompt.shape)
        raise VerifyError(f'{path}: expected prompt_tokens of shape [batch, length >= 1], '
                          f'found {found}')
    return values


def _check_prompt(model: OneLLM, prompt: Tensor) -> None:
    """Refuse ids that the model has no embedding of."""
    low, high, size = int(prompt.min()), int(prompt.max()), model.config.llm.vocab_size
    if low < 0 or high >= size:
        raise VerifyError(f'expected.safetensors: prompt_tokens: expected ids 0 to {size - 1} '
                          f'(the vocabulary of the model), found {low} to {high}')


def _check_rank(value: Tensor, what: str, *axes: str) -> None:
    """Refuse an array of other than these axes."""
    if value.ndim != len(axes):
        raise VerifyError(f'{what}: expected shape [{", ".join(axes)}], found '
                          f'{list(value.shape)}')


def _modalities(name: str) -> list[Modality]:
    if name == 'text':
        return []
    try:
        return [Modality.from_weight_name(part) for part in name.split('+')]
    except ValueError as error:
        raise VerifyError(f'expected.safetensors: {name}: {error}') from None


def _error(found: Tensor, expected: Tensor, what: str) -> float:
    if found.shape != expected.shape:
        raise VerifyError(f'{what}: expected shape {list(expected.shape)}, found '
                          f'{list(found.shape)}')
    error = (found.float() - expected.float()).abs().max()
    return float('inf') if bool(torch.isnan(error)) else float(error)


def _continue(model: OneLLM, prompt: Tensor, steps: int, skipped: int
              ) -> tuple[Tensor, list[float]]:
    """Decode greedily with a cache.

    :param prompt: [B, P, D] embeddings.
    :param skipped: positions by which the second generated token is placed too early.
    :returns: ids [B, steps], and per step the smallest lead of the best token over the second.
    """
    cache = model.llm.new_cache(prompt.shape[0], prompt.shape[1] + steps)
    logits = model.llm(prompt, cache=cache, last_only=True)[:, -1]
    cache.length -= min(skipped, cache.length)
    out, leads = [], []
    for _ in range(steps):
        best = logits.topk(2, -1)
        leads.append(float((best.values[:, 0] - best.values[:, 1]).min()))
        out.append(best.indices[:, 0])
        logits = model.llm(model.llm.embed(out[-1][:, None]), cache=cache)[:, -1]
    return torch.stack(out, 1), leads


def _greedy(model: OneLLM, prompt: Tensor, expected: Tensor, blocks: int
            ) -> tuple[int, int, str]:
    """Return agreement as the reference decodes, plain agreement, and a note."""
    agree: list[int] = []
    notes: list[str] = []
    for skipped in dict.fromkeys((2 * blocks, 0)):
        ids, leads = _continue(model, prompt, expected.shape[1], skipped)
        same = ids == expected.to(ids.dtype)
        agree.append(int(same.sum()))
        wrong = (~same.all(0)).nonzero()
        step = int(wrong[0]) if len(wrong) else -1
        notes.append(f'first other token at step {step}, where the best leads the second by '
                     f'{leads[step]:.1e}' if len(wrong) else '')
    best = max(range(len(agree)), key=agree.__getitem__)
    return agree[best], agree[-1], notes[best]


def _compare(model: OneLLM, name: str, expected: Mapping[str, Tensor],
             encoded: dict[Modality, Tensor]) -> Row:
    """Compare everything that the file holds for one name."""
    modalities = _modalities(name)
    prompt = expected['prompt_tokens'].long()
    for modality in modalities:
        if modality in encoded:
            continue
        key = f'input.{modality.weight_name}'
        if key not in expected:
            raise VerifyError(f'expected.safetensors: {key} is missing, needed for {name}')
        try:
            encoded[modality] = model.encode(modality, expected[key].float()).tokens
        except ValueError as error:
            raise VerifyError(f'expected.safetensors: {key}: {error}') from error
    words = model.llm.embed(prompt)
    blocks = [model.block_embeds(m, encoded[m]) for m in modalities]
    wrong = [b.shape[0] for b in blocks if b.shape[0] != words.shape[0]]
    if wrong:
        raise VerifyError(f'expected.safetensors: {name}: inputs have batch size {wrong[0]}, '
                          f'prompt_tokens {words.shape[0]}')
    full = torch.cat([words[:, :1], *blocks, words[:, 1:]], 1)
    tokens_error = logits_error = None
    if f'modality_tokens.{name}' in expected and len(modalities) == 1:
        tokens_error = _error(encoded[modalities[0]], expected[f'modality_tokens.{name}'],
                              f'modality_tokens.{name}')
    logits, tokens = expected.get(f'logits.{name}'), expected.get(f'greedy.{name}')
    if logits is not None:
        _check_rank(logits, f'logits.{name}', 'batch', 'positions', 'vocabulary')
        logits_error = _error(
            model.llm(full)[:, full.shape[1] - logits.shape[1]:], logits, f'logits.{name}')
    if tokens is None or not tokens.numel():
        return Row(name, tokens_error, logits_error)
    _check_rank(tokens, f'greedy.{name}', 'batch', 'steps')
    if tokens.shape[0] != words.shape[0]:
        raise VerifyError(f'greedy.{name}: expected batch size {words.shape[0]} as in '
                          f'prompt_tokens, found {tokens.shape[0]}')
    agree, plain, note = _greedy(model, full, tokens, len(blocks))
    return Row(name, tokens_error, logits_error, agree, tokens.numel(), plain, note)


@contextmanager
def _threads_for(model: OneLLM) -> Iterator[None]:
    """Run a small model on one thread: more only wait for each other at every operation."""
    before = torch.get_num_threads()
    if sum(p.numel() for p in model.parameters()) < _SMALL_PARAMETERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def verify(directory: str | Path, tolerance: float = TOLERANCE) -> Report:
    """Compare the implementation with a directory's expected outputs, in float32 on the CPU.

    :raises VerifyError: if the directory cannot be compared.
    :raises CheckpointError: if its checkpoint does not load.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise VerifyError(f'{folder}: no such directory')
    expected = read_expected(folder)
    shapes = {key[len('input.'):]: tuple(value.shape) for key, value in expected.items()
              if key.startswith('input.')}
    model = load_model(folder, inputs=shapes)
    named = {kind: [k.partition('.')[2] for k in expected if k.startswith(kind + '.')]
             for kind in _KINDS}
    _check_prompt(model, expected['prompt_tokens'])
    order = [m.weight_name for m in Modality]
    # of text alone and of combinations there are no modality tokens to compare
    named['modality_tokens'] = [n for n in named['modality_tokens'] if n in order]
    outputs = {n for kind in _KINDS[1:] for n in named[kind]}
    singles = [n for n in order if n in outputs]
    others = sorted(outputs - set(singles), key=lambda n: (n.count('+'), n))
    encoded: dict[Modality, Tensor] = {}
    with _threads_for(model):
        rows = tuple(_compare(model, name, expected, encoded) for name in (*singles, *others))
    compared = {f'{kind}.{n}' for kind in _KINDS for n in named[kind] if n in outputs}
    ignored = sorted(set(expected) - compared - {'prompt_tokens'})
    return Report(str(folder), tolerance, rows, tuple(n for n in order if n not in outputs),
                  tuple(ignored))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``onellm verify``."""
    parser.add_argument('directory', type=Path,
                        help='folder with config.json, consolidated.00-of-01.pth and '
                             'expected.safetensors')
    parser.add_argument('--tolerance', type=float, default=TOLERANCE,
                        help='largest error that still agrees (default: %(default)g)')


def run(args: argparse.Namespace) -> int:
    """Print the comparison; return 0 if all agrees, 1 if not, 2 if it could not be made."""
    if not args.tolerance >= 0:
        print(f'onellm verify: --tolerance: expected 0 or more, found {args.tolerance}',
              file=sys.stderr)
        return 2
    return main(args.directory, args.tolerance)


def main(directory: str | Path, tolerance: float = TOLERANCE) -> int:
    """Print the comparison; return 0 if all agrees, 1 if not, 2 if it could not be made."""
    try:
        report = verify(directory, tolerance)
    except (VerifyError, CheckpointError) as error:
        print(f'onellm verify: {error}', file=sys.stderr)
        return 2
    print('\n'.join(report.lines()))
    return 0 if report.ok else 1
