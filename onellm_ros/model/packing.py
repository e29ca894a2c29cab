"""All modalities of a window in one pass through the encoder and one through the UPM.

Sequences of different length lie one behind the other as the rows of one matrix [T, D]: norms and
linear maps see all rows at once, attention each sequence alone, so the numbers are those of one
modality after another. No frame is encoded twice, and only the modality tokens leave the last
block of an expert. Without gradients alone; training takes the modules' own ``forward``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812

from onellm_ros.modality import Modality
from onellm_ros.model.encoder import Encoder, EncoderBlock
from onellm_ros.model.fast_linear import linear, quick_gelu_, untouched, unwatched
from onellm_ros.model.layers import SwiGLU
from onellm_ros.model.modality_tokenizers import PICTURES
from onellm_ros.model.projection import Attention, Expert, ExpertBlock, UniversalProjection

if TYPE_CHECKING:
    from onellm_ros.model.onellm import OneLLM

Frames = Mapping[Modality, Sequence[Hashable]]


class FrameStore(Protocol):
    """Keeps features [tokens + 1, D] of frames by what they are of."""

    def get(self, key: Hashable) -> Tensor | None:
        """Return them, or None."""

    def put(self, key: Hashable, value: Tensor) -> None:
        """Keep them."""


@dataclass(frozen=True)
class Run:
    """``batch`` sequences of ``length`` rows that lie one behind the other from ``start`` on."""

    start: int
    batch: int
    length: int

    @property
    def stop(self) -> int:
        """The row behind the last."""
        return self.start + self.batch * self.length


def runs_of(shapes: Sequence[tuple[int, int]], join: bool = True) -> list[Run]:
    """Return the runs of sequences (batch, length); ``join``: neighbours of one length as one."""
    out: list[Run] = []
    start = 0
    for batch, length in shapes:
        if join and out and out[-1].length == length:
            out[-1] = Run(out[-1].start, out[-1].batch + batch, length)
        else:
            out.append(Run(start, batch, length))
        start += batch * length
    return out


def can_pack(model: OneLLM) -> bool:
    """Say whether the packed pass gives what the modules would.

    Not with gradients, under autocast or while the model is traced, nor where a part is wrapped,
    replaced or watched by a hook: those are called as they are.
    """
    return unwatched(model.encoder.class_embedding.device.type) and all(
        untouched(part, wanted) for part, wanted in _parts(model))


def _parts(model: OneLLM) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    """Yield what the packed pass opens, and its type as it was built."""
    yield model.encoder, Encoder
    yield model.upm, UniversalProjection
    for block in model.encoder.blocks:
        yield block, EncoderBlock
    for expert in model.upm.experts:
        yield expert, Expert
        for block in expert.blocks:
            yield block, ExpertBlock
            yield block.attention, Attention
            yield block.feed_forward, SwiGLU


def _attend(q: Tensor, k: Tensor, v: Tensor, runs: Sequence[Run], queries: Sequence[Run],
            heads: int) -> Tensor:
    """Attend within each sequence; rows of ``q`` [Q, D] and of ``k``, ``v`` [T, D] -> [Q, D]."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)

    def split(x: Tensor, run: Run) -> Tensor:
        return x[run.start:run.stop].unflatten(0, (run.batch, run.length)) \
            .unflatten(-1, (heads, -1)).transpose(1, 2)

    for run, asking in zip(runs, queries, strict=True):
        mixed = F.scaled_dot_product_attention(split(q, asking), split(k, run), split(v, run))
        split(out, asking).copy_(mixed)
    return out


def _encoder_block(block: EncoderBlock, x: Tensor, runs: Sequence[Run]) -> Tensor:
    """Transform the rows ``x`` [T, D] in place."""
    q, k, v = linear(block.qkv, block.ln_1(x)).chunk(3, -1)
    x += linear(block.out, _attend(q, k, v, runs, runs, block.heads))
    hidden = linear(block.fc, block.ln_2(x))
    hidden = quick_gelu_(hidden) if block.quick else F.gelu(hidden)
    x += linear(block.proj, hidden)
    return x


def encode(encoder: Encoder, parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Encode several batches at once.

    :param parts: tokens [B, N, D] and positions [N + 1, D] of each.
    :returns: [B, N + 1, D] of each, the class token first.
    """
    first = encoder.class_embedding
    rows = [torch.cat([first.expand(len(tokens), 1, -1), tokens.to(first.dtype)], 1) + positions
            for tokens, positions in parts]
    shapes = [(x.shape[0], x.shape[1]) for x in rows]
    runs = runs_of(shapes)
    x = encoder.ln_pre(torch.cat([x.flatten(0, 1) for x in rows]))
    for block in encoder.blocks:
        x = _encoder_block(block, x, runs)
    x = encoder.ln_post(x)
    sizes = [batch * length for batch, length in shapes]
    return [part.unflatten(0, shape) for part, shape in zip(x.split(sizes), shapes, strict=True)]


def _expert(expert: Expert, x: Tensor, runs: Sequence[Run], kept: Tensor, keep: int) -> Tensor:
    """Transform the rows [T, D] and return those of the index ``kept``."""
    heads = runs_of([(run.batch, keep) for run in runs], join=False)
    last = len(expert.blocks) - 1
    for i, block in enumerate(expert.blocks):
        seen = block.attention_norm(x)
        asking = seen[kept] if i == last else seen
        own = block.attention
        mixed = _attend(linear(own.wq, asking), linear(own.wk, seen), linear(own.wv, seen), runs,
                        heads if i == last else runs, own.heads)
        x = (x[kept] if i == last else x) + linear(own.wo, mixed)
        mlp = block.feed_forward
        seen = block.ffn_norm(x)
        hidden = F.silu(linear(mlp.w1, seen), inplace=True).mul_(linear(mlp.w3, seen))
        x += linear(mlp.w2, hidden)
    return x


def _first_rows(runs: Sequence[Run], keep: int, device: torch.device) -> Tensor:
    """Return the numbers of the first ``keep`` rows of every sequence."""
    within = torch.arange(keep, device=device)
    return torch.cat([
        (torch.arange(run.start, run.stop, run.length, device=device)[:, None] + within).flatten()
        for run in runs])


def project(upm: UniversalProjection, features: Mapping[Modality, Tensor]
            ) -> dict[Modality, tuple[Tensor, Tensor]]:
    """Project the features [B, N, D] of several modalities at once; see ``upm.forward``.

    :returns: by modality tokens [B, M, llm_dim] and expert weights [B, K].
    """
    keep = upm.config.modality_tokens
    rows, shares = [], []
    for modality, found in features.items():
        name = modality.value
        narrow, norm = upm.proj_in[name]
        x = norm(linear(narrow, found.flatten(0, 1))).unflatten(0, found.shape[:2])
        own = upm.tokens[name].expand(len(x), -1, -1)
        x = torch.cat([own, x.to(own.dtype)], 1)
        shares.append(upm.expert_weights(modality, x[:, :keep]))
        rows.append(x)
    mixed = [torch.zeros_like(x[:, :keep]) for x in rows]
    layouts: dict[tuple[int, ...], tuple[Tensor, list[Run], Tensor]] = {}
    for k, expert in enumerate(upm.experts):
        # A sparse router leaves most experts without a token: they are not asked.
        asked = tuple(i for i, share in enumerate(shares)
                      if upm.config.router != 'sparse' or bool(share[..., k].any()))
        if not asked:
            continue
        if asked not in layouts:
            runs = runs_of([(rows[i].shape[0], rows[i].shape[1]) for i in asked])
            layouts[asked] = (torch.cat([rows[i].flatten(0, 1) for i in asked]), runs,
                              _first_rows(runs, keep, rows[0].device))
        said = _expert(expert, *layouts[asked], keep)
        parts = said.split([rows[i].shape[0] * keep for i in asked])
        for i, part in zip(asked, parts, strict=True):
            mixed[i] += shares[i][..., k, None] * part.unflatten(0, (-1, keep))
    out = {}
    for modality, x, share in zip(features, mixed, shares, strict=True):
        wide, norm = upm.proj_out[modality.value]
        tokens = norm(linear(wide, x.flatten(0, 1))).unflatten(0, (-1, keep))
        out[modality] = tokens, share.mean(1)
    return out


class _Pictures:
    """The frames of a window's pictures, each once."""

    def __init__(self, model: OneLLM, store: FrameStore | None) -> None:
        self.model, self.store = model, store
        self.of: dict[Modality, list[Hashable]] = {}
        self.done: dict[Hashable, Tensor] = {}
        self.open: dict[Hashable, tuple[Tensor, Tensor | None]] = {}
        self.known: set[Hashable] = set()       # identities that outlive this window

    def add(self, modality: Modality, x: Tensor, image: Tensor | None,
            names: Sequence[Hashable] | None) -> None:
        """Add a modality's frames [B, T, 3, S, S] or [B, 3, S, S].

        :param names: what each frame is of, if that is known (for a batch of 1).
        """
        shaped = x[:, None] if modality is Modality.IMAGE else x
        count = shaped.shape[1]
        named = names is not None and len(names) == count and len(shaped) == 1
        marks = self.model.tokenizers.frame_marks(count) if modality is Modality.VIDEO else None
        keys: list[Hashable] = list(names) if named and names is not None else [
            (modality, i) for i in range(count)]
        if not named and modality in (Modality.DEPTH, Modality.NORMAL) and count == 2 \
                and image is not None and torch.equal(shaped[:, 0], image):
            keys[0] = self.of[Modality.IMAGE][0]
        if marks is not None:       # a marked frame is another one at another place
            keys = [(key, i - count) for i, key in enumerate(keys)]
        self.of[modality] = keys
        for i, key in enumerate(keys):
            if key in self.done or key in self.open:
                continue
            if named:
                self.known.add(key)
                found = self.store.get(key) if self.store is not None else None
                if found is not None:
                    self.done[key] = found[None]
                    continue
            self.open[key] = shaped[:, i], None if marks is None else marks[i]

    def tokens(self) -> Tensor:
        """Return the tokens [frames x B, N, D] of all frames that are not encoded yet."""
        kind = self.model.encoder.patch.weight.dtype
        pictures = torch.cat([x.to(kind) for x, _ in self.open.values()])
        tokens = self.model.encoder.patches(pictures)
        marks = [mark for _, mark in self.open.values()]
        if any(mark is not None for mark in marks):
            batch = len(tokens) // len(marks)
            zero = torch.zeros_like(tokens[0, :1])
            table = torch.stack([zero if m is None else m.to(zero.dtype)[None] for m in marks])
            tokens = tokens + table.repeat_interleave(batch, 0)
        return tokens

    def fill(self, encoded: Tensor) -> None:
        """Take the features [frames x B, N + 1, D] of :meth:`tokens`."""
        for key, part in zip(self.open, encoded.split(len(encoded) // len(self.open)),
                             strict=True):
            self.done[key] = part
            if self.store is not None and key in self.known:
                self.store.put(key, part[0].clone())

    def features(self, modality: Modality) -> Tensor:
        """Return the mean of a modality's frames [B, N + 1, D]."""
        found = [self.done[key] for key in self.of[modality]]
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)


class Tokenized:
    """A window's inputs as tokens, each frame once, and what becomes of their features.

    Attributes: ``parts`` (what :func:`encode` is to encode).
    """

    def __init__(self, model: OneLLM, inputs: Mapping[Modality, Tensor],
                 frames: Frames | None = None, store: FrameStore | None = None) -> None:
        self._pictures = _Pictures(model, store)
        self._order = list(inputs)
        self._signals = [m for m in inputs if m not in PICTURES]
        image = inputs.get(Modality.IMAGE)
        for modality in sorted((m for m in inputs if m in PICTURES),
                               key=lambda m: m is not Modality.IMAGE):
            model._check(modality, inputs[modality])
            self._pictures.add(modality, inputs[modality], image, (frames or {}).get(modality))
        self.parts: list[tuple[Tensor, Tensor]] = []
        if self._pictures.open:
            self.parts.append((self._pictures.tokens(), model.encoder.positions))
        for modality in self._signals:
            tokens, positions, _ = model._tokens(modality, inputs[modality])
            self.parts.append((tokens, positions))

    def features(self, encoded: Sequence[Tensor]) -> dict[Modality, Tensor]:
        """Return each modality's features [B, N + 1, D], given those of ``parts``."""
        rest = list(encoded)
        if self._pictures.open:
            self._pictures.fill(rest.pop(0))
        found = dict(zip(self._signals, rest, strict=True))
        return {m: found[m] if m in found else self._pictures.features(m) for m in self._order}


def features(model: OneLLM, inputs: Mapping[Modality, Tensor], frames: Frames | None = None,
             store: FrameStore | None = None) -> dict[Modality, Tensor]:
    """Tokenize and encode several modalities at once; see ``OneLLM.features``.

    :param frames: what each frame of a picture modality is of; equal ones are encoded once.
    :param store: keeps the features of those frames for the next call.
    """
    tokens = Tokenized(model, inputs, frames, store)
    return tokens.features(encode(model.encoder, tokens.parts) if tokens.parts else [])
