"""The language model in a form that exports: no cache object, every length and batch dynamic.

The cache is given and not written: a graph that returned the whole cache would copy it at every
token. Attention is the softmax over two products side by side, one with the cache and one with
what is new, so that not even a concatenation of the keys is needed.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812

from onellm_ros.config import LlmConfig
from onellm_ros.export.layers import normed
from onellm_ros.model.llm import Llama, LlamaBlock
from onellm_ros.model.rope import frequencies

HIDDEN = -1e9           # added to what may not be seen; softmax makes exact zeros of it


class Turns(nn.Module):
    """Cosines and sines of positions, as :class:`onellm_ros.model.rope.Rope`."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer('turns', frequencies(config), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors [B, 1, L, head_size] of a head and of its swapped halves.

        :param positions: [B, L].
        """
        rope, width = self.config.rope, self.config.head_size
        turns = self.turns
        if rope.kind == 'dynamic':          # they follow the largest position
            known = float(rope.original_positions or self.config.max_positions)
            longest = (positions.max() + 1).float().clamp(min=known)
            stretch = rope.factor * longest / known - (rope.factor - 1)
            theta = self.config.rope_theta * stretch ** (width / (width - 2))
            index = torch.arange(0, width, 2, dtype=torch.float32) / width
            turns = theta ** -index
        angles = (positions[:, :, None].float() * turns)[:, None]
        cos, sin = angles.cos(), angles.sin()
        factor = rope.attention_factor
        return torch.cat([cos, cos], -1) * factor, torch.cat([-sin, sin], -1) * factor


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to [B, H, L, d] in the half-split layout."""
    a, b = x.split(cos.shape[-1] // 2, -1)
    return x * cos + torch.cat([b, a], -1) * sin


class _Joined(nn.Module):
    """Linear layers of one input as one: fewer and larger operations."""

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([part.weight.detach() for part in layers]))
        self.bias = None if layers[0].bias is None else nn.Parameter(
            torch.cat([part.bias.detach() for part in layers]))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to [..., D]."""
        return F.linear(x, self.weight, self.bias)


class _Block(nn.Module):
    """A block of the language model with its cache outside."""

    def __init__(self, block: LlamaBlock, turns: bool) -> None:
        super().__init__()
        part, feed = block.attention, block.feed_forward
        self.heads, self.kv_heads, self.width = part.heads, part.kv_heads, part.head_dim
        self.turns = turns
        self.attention_norm, self.ffn_norm = block.attention_norm, block.ffn_norm
        self.q_norm, self.k_norm = part.q_norm, part.k_norm
        self.qkv, self.out = _Joined(part.wq, part.wk, part.wv), part.wo
        self.gate, self.down = _Joined(feed.w1, feed.w3), feed.w2
        self.hidden = feed.w1.out_features

    def _attend(self, x: Tensor, turn: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor],
                mask: Tensor, length: int, seen: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output [B, L, D] and the new keys and values [B, H, L, d]."""
        heads, kv_heads, width = self.heads, self.kv_heads, self.width
        every = self.qkv(x).reshape(-1, length, heads + 2 * kv_heads, width).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k, v = every.split([heads, kv_heads, kv_heads], 1)
            both = torch.cat([normed(self.q_norm, q), normed(self.k_norm, k)], 1)
        else:
            both, v = every.split([heads + kv_heads, kv_heads], 1)
        if self.turns:
            both = turned(both, *turn)
        q, k = both.split([heads, kv_heads], 1)
        new_k, new_v, (old_k, old_v) = k, v, past
        if kv_heads != heads:           # a head of keys serves several of queries: [B, H, g, L, d]
            q = q.reshape(-1, kv_heads, heads // kv_heads, length, width)
            new_k, new_v, old_k, old_v = (t[:, :, None] for t in (k, v, old_k, old_v))
            mask = mask[:, :, None]
        q = q * width ** -0.5
        scores = torch.cat([torch.matmul(q, old_k.transpose(-1, -2)),
                            torch.matmul(q, new_k.transpose(-1, -2))], -1)
        weights = torch.softmax(scores + mask, -1)
        mixed = (torch.matmul(weights[..., :seen], old_v)
                 + torch.matmul(weights[..., seen:], new_v))
        mixed = mixed.reshape(-1, heads, length, width).transpose(1, 2)
        return self.out(mixed.reshape(-1, length, heads * width)), k, v

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor],
                mask: Tensor, length: int, seen: int) -> tuple[Tensor, Tensor, Tensor]:
        """Transform [B, L, D]; return the new keys and values, too."""
        mixed, k, v = self._attend(normed(self.attention_norm, x), turn, past, mask, length, seen)
        x = x + mixed
        one, three = self.gate(normed(self.ffn_norm, x)).split(self.hidden, -1)
        return x + self.down(F.silu(one) * three), k, v


class Decoder(nn.Module):
    """The language model with its cache outside.

    :param llm: in float32.
    """

    def __init__(self, llm: Llama) -> None:
        super().__init__()
        self.config = llm.config
        self.turns = Turns(llm.config)
        self.tok_embeddings, self.norm, self.output = llm.tok_embeddings, llm.norm, llm.output
        self.blocks = nn.ModuleList(
            _Block(cast(LlamaBlock, block), i not in llm.config.no_rope_layers)
            for i, block in enumerate(llm.layers))

    def forward(self, ids: Tensor, embeds: Tensor, lengths: Tensor, at: Tensor,
                past: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Run ids, then embeddings, behind a cache.

        :param ids: [B, I] token ids; I may be 0.
        :param embeds: [B, E, D] embeddings behind them; E may be 0. L = I + E, 1 at least.
        :param lengths: [B] positions of the cache that hold something.
        :param at: [K] which of the L positions logits are wanted of.
        :param past: keys and values of each layer in turn, [B or 1, H, S, d]; S may be more than
            any length, or 0. Values behind a length do not matter, but they must be finite.
        :returns: logits [B, K, vocab]; new keys and values [2 x layers, B, H, L, d].
        """
        x = torch.cat([self.tok_embeddings(ids), embeds], 1)
        length, seen = x.shape[1], past[0].shape[2]
        order, slots = torch.arange(length), torch.arange(seen)
        positions = lengths[:, None] + order[None]
        turn = self.turns(positions)
        rows = lengths.shape[0]
        old = (slots[None] >= lengths[:, None])[:, None, None].expand(rows, 1, length, seen)
        new = (order[None, :] > order[:, None])[None, None].expand(rows, 1, length, length)
        hidden = torch.cat([old, new], -1)                              # [B, 1, L, S + L]
        mask = near = hidden * HIDDEN
        window = self.config.sliding_window
        if window:
            at_keys = torch.cat([slots[None].expand(rows, seen), positions], 1)
            far = positions[:, :, None] - at_keys[:, None, :] >= window
            near = (hidden | far[:, None]) * HIDDEN
        fresh: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x, k, v = block(x, turn, (past[2 * i], past[2 * i + 1]),
                            near if self.config.slides(i) else mask, length, seen)
            fresh += [k, v]
        x = normed(self.norm, x.index_select(1, at))
        weight = self.tok_embeddings.weight if self.output is None else self.output.weight
        return F.linear(x, weight), torch.stack(fresh)
