"""A language model's weights as plain tensors, for code that computes without its modules."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onellm_ros.model.fast_linear import untouched
from onellm_ros.model.layers import RMSNorm
from onellm_ros.model.llm import Llama


class LayerWeights(NamedTuple):
    """The weights of one layer; None where it has none."""

    wq: Tensor
    wk: Tensor
    wv: Tensor
    wo: Tensor
    w1: Tensor
    w3: Tensor
    w2: Tensor
    bq: Tensor | None
    bk: Tensor | None
    bv: Tensor | None
    bo: Tensor | None
    b1: Tensor | None
    b3: Tensor | None
    b2: Tensor | None
    attention_norm: Tensor
    ffn_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None


class LlmWeights:
    """The weights of a language model; equal to another's if they are the same memory."""

    def __init__(self, layers: list[LayerWeights], embeddings: Tensor, norm: Tensor,
                 output: Tensor) -> None:
        self.layers, self.embeddings, self.norm, self.output = layers, embeddings, norm, output
        self.all: list[Tensor] = [
            t for t in (*(t for row in layers for t in row), embeddings, norm, output)
            if t is not None]
        self.places = [t.data_ptr() for t in self.all]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LlmWeights) and self.places == other.places

    __hash__ = None  # type: ignore[assignment]


def _untouched(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Say whether a module is absent, or computes what its class does."""
    return module is None or untouched(module, kind)


def _plain(tensor: Tensor | None, like: Tensor) -> bool:
    """Say whether a weight is a tensor as any other, of the type and the device of ``like``."""
    return tensor is None or (
        type(tensor) in (Tensor, nn.Parameter) and tensor.is_contiguous() and not tensor.is_meta
        and tensor.dtype == like.dtype and tensor.device == like.device
        and tensor.dtype in (torch.float32, torch.bfloat16, torch.float16))


def weights_of(llm: Llama) -> LlmWeights | None:
    """Return a model's weights: the same memory, without gradients.

    :returns: None where tensors alone do not say what it computes: hooks, replaced modules,
        quantized or scattered values, several types or devices.
    """
    layers: list[LayerWeights] = []
    for layer in llm.layers:
        own: Any = layer
        a, f = own.attention, own.feed_forward
        linears = (a.wq, a.wk, a.wv, a.wo, f.w1, f.w3, f.w2)
        norms = (own.attention_norm, own.ffn_norm, a.q_norm, a.k_norm)
        if not all(_untouched(m, nn.Linear) for m in linears) or not all(
                _untouched(m, RMSNorm) for m in norms):
            return None
        found = [*(m.weight for m in linears), *(m.bias for m in linears),
                 *(None if m is None else m.weight for m in norms)]
        if not all(_plain(t, llm.tok_embeddings.weight) for t in found):
            return None
        layers.append(LayerWeights(*(None if t is None else t.detach() for t in found)))
    if not _untouched(llm.tok_embeddings, nn.Embedding) or not _untouched(llm.norm, RMSNorm) \
            or not _untouched(llm.output, nn.Linear):
        return None
    words = llm.tok_embeddings.weight
    top = [words, llm.norm.weight, words if llm.output is None else llm.output.weight]
    if not all(_plain(t, words) for t in top):
        return None
    return LlmWeights(layers, *(t.detach() for t in top))
