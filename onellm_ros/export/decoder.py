"""The language model in a form that exports: no cache object, every length and batch dynamic.

The cache is given and not written: a graph that returned the whole cache would copy it at every
token. Attention is the softmax over two products side by side, one with the cache and one with
what is new, so that not even a concatenation of the keys is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onellm_ros.config import LlmConfig
from onellm_ros.export.layers import normed
from onellm_ros.model.llm import CausalAttention, Llama
from onellm_ros.model.rope import frequencies

HIDDEN = -1e9           # added to what may not be seen; softmax makes exact zeros of it


class Turns(nn.Module):
    """Cosines and sines of positions, as :class:`onellm_ros.model.rope.Rope`."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer('turns', frequencies(config), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [B, 1, L, head_size / 2] of positions [B, L]."""
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
        factor = rope.attention_factor
        return angles.cos() * factor, angles.sin() * factor


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to [B, H, L, d] in the half-split layout."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Decoder(nn.Module):
    """The language model with its cache outside.

    :param llm: in float32; its weights are shared, not copied.
    """

    def __init__(self, llm: Llama) -> None:
        super().__init__()
        self.llm = llm
        self.config = llm.config
        self.turns = Turns(llm.config)

    def _attend(self, part: CausalAttention, x: Tensor, turn: tuple[Tensor, Tensor] | None,
                past: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor]
                ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output [B, L, D] and the new keys and values [B, H, L, d]."""
        heads, kv_heads, width = part.heads, part.kv_heads, part.head_dim
        q = part.wq(x).unflatten(-1, (heads, width)).transpose(1, 2)
        k = part.wk(x).unflatten(-1, (kv_heads, width)).transpose(1, 2)
        v = part.wv(x).unflatten(-1, (kv_heads, width)).transpose(1, 2)
        if part.q_norm is not None and part.k_norm is not None:
            q, k = normed(part.q_norm, q), normed(part.k_norm, k)
        if turn is not None:
            q, k = turned(q, *turn), turned(k, *turn)
        q = q * width ** -0.5
        k_all, v_all = k, v
        old_k, old_v = past
        if kv_heads != heads:           # a head of keys serves several of queries: [B, H, g, L, d]
            q = q.unflatten(1, (kv_heads, heads // kv_heads))
            k_all, v_all, old_k, old_v = (t[:, :, None] for t in (k, v, old_k, old_v))
            masks = masks[0][:, :, None], masks[1][:, :, None]
        before = torch.matmul(q, old_k.transpose(-1, -2)) + masks[0]
        here = torch.matmul(q, k_all.transpose(-1, -2)) + masks[1]
        weights = torch.softmax(torch.cat([before, here], -1), -1)
        seen = old_k.shape[-2]
        mixed = (torch.matmul(weights[..., :seen], old_v)
                 + torch.matmul(weights[..., seen:], v_all))
        if kv_heads != heads:
            mixed = mixed.flatten(1, 2)
        return part.wo(mixed.transpose(1, 2).flatten(2)), k, v

    def forward(self, ids: Tensor, embeds: Tensor, lengths: Tensor, at: Tensor,
                past: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Run ids, then embeddings, behind a cache.

        :param ids: [B, I] token ids; I may be 0.
        :param embeds: [B, E, D] embeddings behind them; E may be 0. L = I + E, 1 at least.
        :param lengths: [B] positions of the cache that hold something.
        :param at: [K] which of the L positions logits are wanted of.
        :param past: keys and values of each layer in turn, [B or 1, H, S, d]; S may be more than
            any length, or 0.
        :returns: logits [B, K, vocab]; new keys and values [2 x layers, B, H, L, d].
        """
        x = torch.cat([self.llm.embed(ids), embeds], 1)
        order = torch.arange(x.shape[1])
        slots = torch.arange(past[0].shape[2])
        positions = lengths[:, None] + order[None]
        cos_sin = self.turns(positions)
        old = (slots[None] >= lengths[:, None])[:, None, None]          # [B, 1, 1, S]
        new = (order[None, :] > order[:, None])[None, None]             # [1, 1, L, L]
        masks = old * HIDDEN, new * HIDDEN
        window = self.config.sliding_window
        near = masks
        if window:
            far = positions[:, :, None] - slots[None, None, :] >= window
            wide = order[:, None] - order[None, :] >= window
            near = (old | far[:, None]) * HIDDEN, (new | wide[None, None]) * HIDDEN
        fresh: list[Tensor] = []
        for i, block in enumerate(self.llm.layers):
            turn = None if i in self.config.no_rope_layers else cos_sin
            mixed, k, v = self._attend(
                block.attention, normed(block.attention_norm, x), turn,
                (past[2 * i], past[2 * i + 1]), near if self.config.slides(i) else masks)
            x = x + mixed
            x = x + block.feed_forward(normed(block.ffn_norm, x))
            fresh += [k, v]
        x = normed(self.llm.norm, x.index_select(1, at))
        return self.llm.logits(x), torch.stack(fresh)
