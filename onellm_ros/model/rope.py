"""Rotary positions in the half-split (Hugging Face) layout, with the known ways to stretch them.

A frequency says how far a pair of dimensions turns from one position to the next. Each rule of
:class:`RopeScaling` slows frequencies down, so that more positions fit into the turns that a model
saw in pretraining: ``linear`` all alike, ``dynamic`` the more the longer the text is, ``llama3``
and ``yarn`` the slow ones only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from onellm_ros.config import ConfigError, LlmConfig

KINDS = ('default', 'linear', 'dynamic', 'llama3', 'yarn')


def check_rope(config: LlmConfig) -> None:
    """Refuse a rule that is not known or whose numbers mean nothing.

    :raises ConfigError: naming the key.
    """
    rope = config.rope
    if rope.kind not in KINDS:
        raise ConfigError(f'llm.rope.kind: expected one of {KINDS}, found {rope.kind!r}')
    if rope.kind == 'llama3' and rope.high_freq <= rope.low_freq:
        raise ConfigError(f'llm.rope.high_freq: expected more than low_freq {rope.low_freq}, '
                          f'found {rope.high_freq}')
    if rope.kind == 'dynamic' and config.head_size < 4:
        raise ConfigError(f'llm.rope.kind dynamic: expected heads of at least 4, found '
                          f'{config.head_size}')


def _plain(theta: float, width: int) -> Tensor:
    index = torch.arange(0, width, 2, device='cpu', dtype=torch.float32)
    return 1.0 / (theta ** (index / width))


def _llama3(config: LlmConfig, plain: Tensor) -> Tensor:
    """Divide what turns less than ``low_freq`` times in pretraining; blend up to ``high_freq``."""
    rope = config.rope
    turns = (rope.original_positions or config.max_positions) * plain / (2 * math.pi)
    keep = ((turns - rope.low_freq) / (rope.high_freq - rope.low_freq)).clamp(0, 1)
    return plain * keep + plain / rope.factor * (1 - keep)


def _yarn(config: LlmConfig, plain: Tensor) -> Tensor:
    """Divide the slow dimensions, keep the fast ones, blend linearly in between."""
    rope, width = config.rope, config.head_size
    length = rope.original_positions or config.max_positions

    def dimension(turns: float) -> float:
        """Return the dimension that turns so often in pretraining."""
        return width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    span = high - low or 0.001
    divide = ((torch.arange(width // 2, device='cpu').float() - low) / span).clamp(0, 1)
    return plain / rope.factor * divide + plain * (1 - divide)


def frequencies(config: LlmConfig, length: int = 0) -> Tensor:
    """Return the turn per position of each pair of dimensions, [head_size / 2] in float32.

    :param length: positions of the whole text so far; only ``dynamic`` asks for it.
    """
    rope, width = config.rope, config.head_size
    theta = config.rope_theta
    if rope.kind == 'dynamic':
        known = rope.original_positions or config.max_positions
        stretch = rope.factor * max(length, known) / known - (rope.factor - 1)
        theta *= stretch ** (width / (width - 2))
    plain = _plain(theta, width)
    if rope.kind == 'linear':
        return plain / rope.factor
    if rope.kind == 'llama3':
        return _llama3(config, plain)
    return _yarn(config, plain) if rope.kind == 'yarn' else plain


class Rope:
    """The rotary positions of one language model; frequencies are computed once a device."""

    def __init__(self, config: LlmConfig) -> None:
        check_rope(config)
        self.config = config
        self.grows = config.rope.kind == 'dynamic'
        self._known: dict[torch.device, Tensor] = {}

    def _frequencies(self, device: torch.device) -> Tensor:
        if device not in self._known:
            with torch.inference_mode(False):       # training may use what inference computed
                self._known[device] = frequencies(self.config).to(device)
        return self._known[device]

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [..., 1, L, head_size / 2] in float32 for positions [..., L].

        With ``dynamic`` the frequencies follow the largest position; keys that stand in a cache
        keep those that they were turned with.
        """
        if self.grows:
            turns = frequencies(self.config, int(positions.max()) + 1).to(positions.device)
        else:
            turns = self._frequencies(positions.device)
        angles = (positions[..., None].float() * turns).unsqueeze(-3)
        cos, sin = angles.cos(), angles.sin()
        factor = self.config.rope.attention_factor
        return (cos, sin) if factor == 1 else (cos * factor, sin * factor)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to [B, H, L, d] in the half-split layout."""
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
