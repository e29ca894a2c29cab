"""The Universal Projection Module: experts, routers, modality tokens, projections and tags."""

from __future__ import annotations

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812

from onellm_ros.config import ConfigError, UpmConfig
from onellm_ros.modality import Modality
from onellm_ros.model.layers import RMSNorm, SwiGLU, init_linear, init_residual, swiglu_hidden

ROUTERS = ('sigmoid', 'softmax', 'constant', 'sparse')


class Attention(nn.Module):
    """Self-attention without bias, positions or mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(width, width, bias=False)
        self.wk = nn.Linear(width, width, bias=False)
        self.wv = nn.Linear(width, width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, keep: int) -> Tensor:
        """Attend from the first ``keep`` positions of [B, N, D] to all -> [B, keep, D]."""
        split = (self.heads, x.shape[-1] // self.heads)
        q = self.wq(x[:, :keep]).unflatten(-1, split).transpose(1, 2)
        k = self.wk(x).unflatten(-1, split).transpose(1, 2)
        v = self.wv(x).unflatten(-1, split).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.wo(mixed.transpose(1, 2).flatten(2))


class ExpertBlock(nn.Module):
    """Llama-style block of an expert: all positions see all."""

    def __init__(self, width: int, config: UpmConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.attention = Attention(width, config.heads)
        self.ffn_norm = RMSNorm(width, config.norm_eps)
        self.feed_forward = SwiGLU(
            width, swiglu_hidden(width, config.multiple_of, config.hidden))

    def forward(self, x: Tensor, keep: int) -> Tensor:
        """Transform [B, N, D] and return the first ``keep`` positions."""
        x = x[:, :keep] + self.attention(self.attention_norm(x), keep)
        return x + self.feed_forward(self.ffn_norm(x))


class Expert(nn.Module):
    """A stack of blocks; only the modality-token positions leave the last one."""

    def __init__(self, width: int, config: UpmConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ExpertBlock(width, config) for _ in range(config.layers))

    def forward(self, x: Tensor, keep: int) -> Tensor:
        """Transform [B, N, D] -> [B, keep, D]."""
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            x = block(x, keep if i == last else x.shape[1])
        return x[:, :keep]


class Router(nn.Module):
    """Two-layer perceptron with GELU that scores the experts for every token."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, experts)

    def forward(self, x: Tensor) -> Tensor:
        """Score [..., D] -> [..., K]."""
        return self.fc2(F.gelu(self.fc1(x)))


def route(kind: str, scores: Tensor) -> Tensor:
    """Turn scores [..., K] into expert weights of the router ``kind``.

    ``sigmoid``: sigmoids divided by their sum (as released); ``softmax`` (the paper);
    ``constant``: 1/K each; ``sparse``: the softmax weight of the best expert, zero elsewhere.
    """
    if kind == 'sigmoid':
        gates = torch.sigmoid(scores)
        return gates / gates.sum(-1, keepdim=True)
    if kind == 'softmax':
        return torch.softmax(scores, -1)
    if kind == 'constant':
        return torch.full_like(scores, 1.0 / scores.shape[-1])
    if kind == 'sparse':
        weights = torch.softmax(scores, -1)
        best = weights.argmax(-1, keepdim=True)
        return torch.zeros_like(weights).scatter(-1, best, weights.gather(-1, best))
    raise ConfigError(f'upm.router: expected one of {ROUTERS}, found {kind!r}')


class UniversalProjection(nn.Module):
    """The UPM over all modalities.

    ``tokens[name]`` [1, M, D], ``start_tag[name]`` and ``end_tag[name]`` [1, 1, llm_dim].

    :param extra: registered modalities beside the eight.
    """

    def __init__(self, config: UpmConfig, width: int, llm_dim: int,
                 extra: tuple[Modality, ...] = ()) -> None:
        super().__init__()
        if config.router not in ROUTERS:
            raise ConfigError(
                f'upm.router: expected one of {ROUTERS}, found {config.router!r}')
        if width % config.heads:
            raise ConfigError(f'upm.heads: expected a divisor of encoder.width {width}, found '
                              f'{config.heads}')
        if min(config.experts, config.layers, config.modality_tokens) < 1:
            raise ConfigError('upm: experts, layers and modality_tokens must be at least 1')
        self.config = config
        names = [m.value for m in (*Modality, *extra)]
        self.experts = nn.ModuleList(Expert(width, config) for _ in range(config.experts))
        self.tokens = nn.ParameterDict({
            n: nn.Parameter(torch.empty(1, config.modality_tokens, width)) for n in names})
        self.proj_in = nn.ModuleDict({
            n: nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for n in names})
        self.proj_out = nn.ModuleDict({
            n: nn.Sequential(nn.Linear(width, llm_dim), nn.LayerNorm(llm_dim)) for n in names})
        self.start_tag = nn.ParameterDict({
            n: nn.Parameter(torch.empty(1, 1, llm_dim)) for n in names})
        self.end_tag = nn.ParameterDict({
            n: nn.Parameter(torch.empty(1, 1, llm_dim)) for n in names})
        # The constant router has nothing to learn, hence no parameters.
        self.routers = nn.ModuleDict({} if config.router == 'constant' else {
            n: Router(width, config.experts) for n in names})
        init_linear(self)
        init_residual([m for e in self.experts for b in e.blocks
                       for m in (b.attention.wo, b.feed_forward.w2)], config.layers)
        for table in (*self.start_tag.values(), *self.end_tag.values()):
            nn.init.trunc_normal_(table, std=0.02)
        # As large as what they read, or all of them would become the mean of the input alike.
        for table in self.tokens.values():
            nn.init.trunc_normal_(table, std=0.5)

    @torch.no_grad()
    def centre(self, modality: Modality, mean: Tensor, std: Tensor) -> None:
        """Start the input projection of a modality on centred and scaled features.

        What all features have in common would otherwise fill the LayerNorm behind it, and every
        modality token would read the same mean. For training from scratch.

        :param mean: [D] of the encoder's features; :param std: [D] of them.
        """
        linear = self.proj_in[modality.value][0]
        linear.weight.div_(std.clamp(min=1e-3))
        linear.bias.copy_(-(linear.weight @ mean))

    @torch.no_grad()
    def begin_as(self, modality: Modality, other: Modality, inputs: bool) -> None:
        """Start a modality as another one: its modality tokens and output projection.

        :param inputs: the input projection, too (where the encoder's features are alike).
        """
        name, like = modality.value, other.value
        self.tokens[name].copy_(self.tokens[like])
        self.proj_out[name].load_state_dict(self.proj_out[like].state_dict())
        if inputs:
            self.proj_in[name].load_state_dict(self.proj_in[like].state_dict())

    def expert_weights(self, modality: Modality, x: Tensor) -> Tensor:
        """Return the router's weights [B, N, K] for the tokens [B, N, D]."""
        count = self.config.experts
        if self.config.router == 'constant':
            return x.new_full((*x.shape[:-1], count), 1.0 / count)
        return route(self.config.router, self.routers[modality.value](x))

    def forward(self, modality: Modality, features: Tensor) -> tuple[Tensor, Tensor]:
        """Project the encoder's features of one modality.

        :param features: [B, N, D].
        :returns: tokens [B, M, llm_dim] and expert weights [B, K], the mean over the M positions.
        """
        name = modality.value
        keep = self.config.modality_tokens
        x = self.proj_in[name](features)
        own = self.tokens[name].expand(x.shape[0], -1, -1)
        x = torch.cat([own, x.to(own.dtype)], dim=1)
        weights = self.expert_weights(modality, x[:, :keep])
        mixed: Tensor = weights[..., 0, None] * self.experts[0](x, keep)
        for k in range(1, self.config.experts):
            mixed = mixed + weights[..., k, None] * self.experts[k](x, keep)
        return self.proj_out[name](mixed), weights.mean(1)
