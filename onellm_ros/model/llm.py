"""A Llama-family causal language model with a static key/value cache.

Rotary positions use the half-split (Hugging Face) layout; Meta's interleaved weights are permuted
at loading. All inputs are embeddings, since a prompt mixes text and modality tokens. The families
(Llama, Qwen, Mistral, SmolLM) differ by switches of :class:`LlmConfig` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812

from onellm_ros.config import ConfigError, LlmConfig
from onellm_ros.model.layers import (
    RMSNorm,
    SwiGLU,
    init_linear,
    init_residual,
    mapped,
    swiglu_hidden,
)
from onellm_ros.model.rope import Rope, rotate

Turn = tuple[Tensor, Tensor]


class KVCache:
    """Keys and values of the positions seen so far, in buffers allocated once.

    :param capacity: positions that fit.
    """

    def __init__(self, config: LlmConfig, batch: int, capacity: int, *,
                 device: torch.device, dtype: torch.dtype) -> None:
        heads = config.kv_heads or config.heads
        shape = (config.layers, batch, heads, capacity, config.head_size)
        self.config = config
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        # where each stored key stands in its text: what a sliding window is measured by
        self.positions = torch.empty((batch, capacity) if config.sliding_window else (0,),
                                     device=device, dtype=torch.long)
        self.length = 0
        self.head: tuple[int, ...] = ()     # ids whose keys and values stand behind these already
        self.run: Any = None                # what a decoder keeps beside it

    @property
    def capacity(self) -> int:
        """How many positions fit."""
        return self.keys.shape[3]

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write [B, H, L, d] behind the stored positions; return all of them."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length:end] = keys
        self.values[layer, :, :, self.length:end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def place(self, positions: Tensor) -> Tensor:
        """Note the positions [B or 1, L] of keys to come; return those of all, [B, S].

        Only for a model with a sliding window.
        """
        end = self.length + positions.shape[-1]
        self.positions[:, self.length:end] = positions
        return self.positions[:, :end]

    def skip(self, ids: Sequence[int]) -> Sequence[int]:
        """Advance over ids that stand here already (``head``); return the rest, one at least."""
        count = len(self.head)
        if count and count < len(ids) and tuple(ids[:count]) == self.head:
            self.length, ids = self.length + count, ids[count:]
        self.head = ()
        return ids

    def copy(self, capacity: int, batch: int | None = None) -> KVCache:
        """Return a new cache of ``capacity`` that starts with these positions.

        :param batch: repeat the one stored sequence so often; default: the same batch.
        """
        count = batch or self.keys.shape[1]
        new = KVCache(self.config, count, capacity, device=self.keys.device,
                      dtype=self.keys.dtype)
        new.head = self.head if self.length + len(self.head) <= capacity else ()
        end = self.length + len(new.head)
        new.keys[:, :, :, :end] = self.keys[:, :, :, :end]
        new.values[:, :, :, :end] = self.values[:, :, :, :end]
        if self.config.sliding_window:
            new.positions[:, :end] = self.positions[:, :end]
        new.length = self.length
        return new


class CausalAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.kv_heads = config.kv_heads or config.heads
        self.head_dim = config.head_size
        inner, shared = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.wq = nn.Linear(config.dim, inner, bias=config.qkv_bias)
        self.wk = nn.Linear(config.dim, shared, bias=config.qkv_bias)
        self.wv = nn.Linear(config.dim, shared, bias=config.qkv_bias)
        self.wo = nn.Linear(inner, config.dim, bias=config.out_bias)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, turn: Turn | None, mask: Tensor | None, causal: bool,
                cache: KVCache | None, layer: int) -> Tensor:
        """Attend over [B, L, D] and what the cache holds; without ``turn`` order is not told."""
        q = mapped(self.wq, x).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        k = mapped(self.wk, x).unflatten(-1, (self.kv_heads, self.head_dim)).transpose(1, 2)
        v = mapped(self.wv, x).unflatten(-1, (self.kv_heads, self.head_dim)).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        if cache is not None:
            k, v = cache.put(layer, k, v)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.kv_heads != self.heads)
        return mapped(self.wo, mixed.transpose(1, 2).flatten(2))


class LlamaBlock(nn.Module):
    """Pre-norm block: attention, then SwiGLU."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = CausalAttention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = SwiGLU(
            config.dim, swiglu_hidden(config.dim, config.multiple_of, config.hidden),
            bias=config.mlp_bias)

    def forward(self, x: Tensor, turn: Turn | None, mask: Tensor | None, causal: bool,
                cache: KVCache | None, layer: int) -> Tensor:
        """Transform [B, L, D]."""
        x = x + self.attention(self.attention_norm(x), turn, mask, causal, cache, layer)
        return x + self.feed_forward(self.ffn_norm(x))


def within(window: int, at: Tensor, seen: Tensor, mask: Tensor | None) -> Tensor:
    """Narrow a mask to a sliding window.

    :param at: positions [B or 1, L] of the queries.
    :param seen: positions [B or 1, S] of the keys.
    :param mask: [B or 1, 1, L, S], boolean or added; default: the last L keys are causal.
    """
    near = (at[:, :, None] - seen[:, None, :] < window)[:, None]
    if mask is None:
        order = torch.arange(seen.shape[1], device=seen.device)
        causal = order[None] <= order[seen.shape[1] - at.shape[1]:, None]
        return near & causal
    if mask.dtype == torch.bool:
        return near & mask
    return mask.masked_fill(~near, -torch.inf)


class Llama(nn.Module):
    """The language model; ``output`` is absent where embeddings are tied."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        if config.head_dim % 2:
            raise ConfigError(f'llm.head_dim: expected an even number, found {config.head_dim}')
        if not config.head_dim and (config.dim % config.heads or config.head_size % 2):
            raise ConfigError('llm.heads: expected heads that divide llm.dim into even parts, '
                              f'found {config.heads} for {config.dim}')
        if config.kv_heads and config.heads % config.kv_heads:
            raise ConfigError('llm.kv_heads: expected a divisor of llm.heads '
                              f'{config.heads}, found {config.kv_heads}')
        for key in ('sliding_layers', 'no_rope_layers'):
            if max(getattr(config, key), default=0) >= config.layers:
                raise ConfigError(f'llm.{key}: expected layers 0 to {config.layers - 1}, found '
                                  f'{max(getattr(config, key))}')
        self.config = config
        self.rope = Rope(config)
        # Without memory yet (meta), drawing its values would import torch._dynamo: seconds.
        empty = torch.empty(config.vocab_size, config.dim)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim,
                                           _weight=empty if empty.is_meta else None)
        self.layers = nn.ModuleList(LlamaBlock(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = None if config.tied_embeddings else nn.Linear(
            config.dim, config.vocab_size, bias=False)
        init_linear(self)
        init_residual([m for b in self.layers for m in (b.attention.wo, b.feed_forward.w2)],
                      config.layers)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings [B, L, D] of token ids [B, L]."""
        return self.tok_embeddings(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [..., vocab] of normalised hidden states [..., D]."""
        weight = self.tok_embeddings.weight if self.output is None else self.output.weight
        return F.linear(hidden, weight)

    def new_cache(self, batch: int, capacity: int, dtype: torch.dtype | None = None) -> KVCache:
        """Return an empty cache on the model's device."""
        weight = self.tok_embeddings.weight
        return KVCache(self.config, batch, capacity, device=weight.device,
                       dtype=dtype or weight.dtype)

    def _narrow(self, positions: Tensor, mask: Tensor | None, cache: KVCache | None
                ) -> Tensor | None:
        """Return the mask of layers with a sliding window; None where it hides nothing."""
        window = self.config.sliding_window
        if not window:
            return None
        at = positions if positions.ndim == 2 else positions[None]
        seen = at if cache is None else cache.place(at)
        return within(window, at, seen, mask) if seen.shape[1] > window else None

    def forward(self, inputs_embeds: Tensor, position_ids: Tensor | None = None,
                attn_mask: Tensor | None = None, cache: KVCache | None = None, *,
                return_hidden: bool = False, last_only: bool = False) -> Tensor:
        """Run the model.

        :param inputs_embeds: [B, L, D].
        :param position_ids: [B, L] or [L]; default: counting on from the cache.
        :param attn_mask: [B or 1, 1, L, S] boolean (True: may be seen) or float (added), S being
            the cached positions and L; default: causal.
        :param cache: read and advanced by L.
        :param return_hidden: normalised hidden states instead of logits.
        :param last_only: only the last position.
        :returns: logits [B, L, vocab], or hidden states [B, L, D].
        :raises ValueError: if the cache is too short.
        """
        length = inputs_embeds.shape[1]
        start = 0 if cache is None else cache.length
        if cache is not None and start + length > cache.capacity:
            raise ValueError(f'key/value cache: expected room for {start + length} positions, '
                             f'found {cache.capacity}')
        if position_ids is None:
            position_ids = torch.arange(start, start + length, device=inputs_embeds.device)
        turn = self.rope(position_ids)
        narrow = self._narrow(position_ids, attn_mask, cache)
        causal = attn_mask is None and start == 0 and length > 1
        if attn_mask is None and start and length > 1:
            seen = torch.arange(start + length, device=inputs_embeds.device)
            attn_mask = seen[None] <= seen[start:, None]
        x = inputs_embeds
        for i, layer in enumerate(self.layers):
            mask, full = attn_mask, causal
            if narrow is not None and self.config.slides(i):
                mask, full = narrow, False
            x = layer(x, None if i in self.config.no_rope_layers else turn, mask, full, cache, i)
        if cache is not None:
            cache.length, cache.head = start + length, ()
        x = self.norm(x[:, -1:] if last_only else x)
        return x if return_hidden else self.logits(x)
