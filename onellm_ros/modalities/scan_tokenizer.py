"""The tokenizer of laser scans: one strided convolution."""

from __future__ import annotations

from torch import Tensor, nn

from onellm_ros.modalities.scan import CHANNELS, KERNEL


class ScanTokenizer(nn.Module):
    """Laser scan [B, channels, beams] -> [B, beams / KERNEL, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, width, KERNEL, KERNEL)
        nn.init.trunc_normal_(self.conv.weight, std=(CHANNELS * KERNEL) ** -0.5)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize."""
        return self.conv(x).transpose(1, 2)
