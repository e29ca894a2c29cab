"""The shared encoder: CLIP's vision transformer, every token kept after the last norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812

from onellm_ros.config import ConfigError, EncoderConfig
from onellm_ros.model.fast_linear import patches
from onellm_ros.model.layers import init_linear, init_residual

ACTIVATIONS = ('quick_gelu', 'gelu')


class EncoderBlock(nn.Module):
    """Pre-norm transformer block with biases, as in CLIP."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.quick = config.activation == 'quick_gelu'
        self.ln_1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width, eps=config.norm_eps)
        self.fc = nn.Linear(width, config.mlp_ratio * width)
        self.proj = nn.Linear(config.mlp_ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, N, D]."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.ln_1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        hidden = self.fc(self.ln_2(x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick else F.gelu(hidden)
        return x + self.proj(hidden)


class Encoder(nn.Module):
    """CLIP's vision tower: patch convolution, image positions, class token and blocks."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if config.activation not in ACTIVATIONS:
            raise ConfigError(
                f'encoder.activation: expected one of {ACTIVATIONS}, found {config.activation!r}')
        if config.width % config.heads:
            raise ConfigError('encoder.heads: expected a divisor of encoder.width '
                              f'{config.width}, found {config.heads}')
        if config.image_size < config.patch_size:
            raise ConfigError('encoder.image_size: expected at least encoder.patch_size '
                              f'{config.patch_size}, found {config.image_size}')
        self.config = config
        tokens = (config.image_size // config.patch_size) ** 2
        self.patch = nn.Conv2d(3, config.width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        self.positions = nn.Parameter(torch.zeros(tokens + 1, config.width))
        self.ln_pre = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.ln_post = nn.LayerNorm(config.width, eps=config.norm_eps)
        init_linear(self)
        # A patch sums over few inputs of unit variance, so it takes a wider start than a linear.
        nn.init.trunc_normal_(self.patch.weight, std=(3 * config.patch_size ** 2) ** -0.5)
        nn.init.trunc_normal_(self.class_embedding, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        init_residual([m for b in self.blocks for m in (b.out, b.proj)], config.layers)

    def patches(self, pictures: Tensor) -> Tensor:
        """Turn [B, 3, S, S] into [B, tokens, D]."""
        return patches(self.patch, pictures)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Encode [B, N, D] with positions [N + 1, D] -> [B, N + 1, D], class token first."""
        # The residual stream takes the weights' type, also where autocast made tokens smaller.
        first = self.class_embedding.expand(tokens.shape[0], 1, -1)
        x = torch.cat([first, tokens.to(first.dtype)], dim=1) + positions
        x = self.ln_pre(x)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)
