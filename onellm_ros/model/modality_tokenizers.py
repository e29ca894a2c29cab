"""One convolution per modality that turns a signal into tokens of the encoder's width.

Image, video, depth and normals share the encoder's own patch convolution and position table; here
live those of audio, point cloud, IMU and fMRI, their position tables, and the frame positions of
video where the configuration asks for them. Those of registered modalities come from their specs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from onellm_ros.config import ConfigError, TokenizerConfig
from onellm_ros.modality import Modality, ModalityError, ModalitySpec, spec_of
from onellm_ros.model.layers import init_linear
from onellm_ros.model.points import group

PICTURES = (Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.NORMAL)
SIGNALS = (Modality.AUDIO, Modality.POINT, Modality.IMU, Modality.FMRI)


def steps(length: int, kernel: int, stride: int) -> int:
    """Return how many outputs a convolution without padding has."""
    return (length - kernel) // stride + 1


def token_count(config: TokenizerConfig, modality: Modality) -> int:
    """Return the number of tokens (without the class token) of a non-picture modality.

    :raises ConfigError: if the input is shorter than the kernel.
    """
    if modality is Modality.AUDIO:
        kernel, stride = config.audio_kernel, config.audio_stride
        count = (steps(config.audio_mels, kernel, stride)
                 * steps(config.audio_frames, kernel, stride))
        if min(config.audio_mels, config.audio_frames) < kernel:
            count = 0
    elif modality is Modality.POINT:
        count = config.point_centres
    elif modality is Modality.IMU:
        count = steps(config.imu_samples, config.imu_kernel, config.imu_stride)
    elif modality is Modality.FMRI:
        count = config.fmri_tokens
    else:
        raise ConfigError(f"{modality}: pictures take the encoder's own token count")
    if count < 1:
        raise ConfigError(f'tokenizer: the {modality} input is shorter than its kernel')
    return count


class AudioTokenizer(nn.Module):
    """Log-mel spectrogram [B, 1, mels, frames] -> [B, N, D], mel-major."""

    def __init__(self, config: TokenizerConfig, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, config.audio_kernel, config.audio_stride)

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize."""
        return self.conv(x).flatten(2).transpose(1, 2)


class ImuTokenizer(nn.Module):
    """Accelerometer and gyroscope [B, 6, samples] -> [B, N, D]."""

    def __init__(self, config: TokenizerConfig, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, width, config.imu_kernel, config.imu_stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize."""
        return self.conv(x).transpose(1, 2)


class FmriTokenizer(nn.Module):
    """Voxels [B, 1, V] -> [B, tokens, D]; the linear's output index is d * tokens + t."""

    def __init__(self, config: TokenizerConfig, width: int) -> None:
        super().__init__()
        self.tokens = config.fmri_tokens
        self.linear = nn.Linear(config.fmri_voxels, width * config.fmri_tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize."""
        return self.linear(x[:, 0]).unflatten(1, (-1, self.tokens)).transpose(1, 2)


class PointTokenizer(nn.Module):
    """Point cloud [B, N, 6] -> [B, centres, D]: a linear per point, then the largest of a group.

    Groups are formed on three of the channels (``point_grouping_channel``); values stay absolute.
    """

    def __init__(self, config: TokenizerConfig, width: int) -> None:
        super().__init__()
        self.centres = config.point_centres
        self.neighbours = config.point_neighbours
        self.channel = config.point_grouping_channel
        if self.channel not in (0, 1, 2, 3):
            raise ConfigError('tokenizer.point_grouping_channel: expected 0 to 3, found '
                              f'{self.channel}')
        self.linear = nn.Linear(6, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize."""
        positions = x[..., self.channel:self.channel + 3].contiguous()
        members = group(positions, self.centres, self.neighbours)
        # The largest of linear(members) equals the members' largest of linear(all), four times
        # cheaper at the released size since groups overlap.
        values = self.linear(x.to(self.linear.weight.dtype))
        batch, width = values.shape[0], values.shape[-1]
        if batch == 1:              # rows of one cloud are found at once, not number by number
            rows = values[0].index_select(0, members.flatten())
            return rows.view(1, self.centres, self.neighbours, width).amax(2)
        flat = members.reshape(batch, -1, 1).expand(-1, -1, width)
        return values.gather(1, flat).view(batch, self.centres, self.neighbours, width).amax(2)


_KINDS: dict[Modality, type[nn.Module]] = {
    Modality.AUDIO: AudioTokenizer, Modality.POINT: PointTokenizer,
    Modality.IMU: ImuTokenizer, Modality.FMRI: FmriTokenizer}


def extra_modalities(names: Iterable[str]) -> tuple[Modality, ...]:
    """Return the registered modalities that a model's config names.

    :raises ConfigError: for one of the eight, or one that nobody registered: what to do then.
    """
    out = []
    for name in names:
        try:
            modality = Modality(name)
        except ModalityError as error:
            raise ConfigError(f'modalities: {error}') from error
        except ValueError:
            raise ConfigError(
                f'modalities: found {name!r}, which is not registered; install the package that '
                'brings it (an entry point of the group onellm_ros.modalities), or import the '
                'module that registers it before the model is loaded (docs/new_modality.md)'
            ) from None
        if spec_of(modality) is None:
            raise ConfigError(f'modalities: found {name!r}, expected names beside the eight of '
                              'OneLLM, which every model has')
        out.append(modality)
    return tuple(out)


def _spec(modality: Modality) -> ModalitySpec:
    spec = spec_of(modality)
    assert spec is not None, 'extra_modalities gives registered ones alone'
    return spec


class ModalityTokenizers(nn.Module):
    """The tokenizers of all non-picture modalities with their position tables.

    ``positions[name]`` is [tokens + 1, D]; ``video_positions`` is [video_frames, D] or absent.

    :param extra: registered modalities beside the eight.
    """

    def __init__(self, config: TokenizerConfig, width: int,
                 extra: tuple[Modality, ...] = ()) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict({m.value: _KINDS[m](config, width) for m in SIGNALS})
        self.positions = nn.ParameterDict({
            m.value: nn.Parameter(torch.zeros(token_count(config, m) + 1, width))
            for m in SIGNALS})
        self.video_positions: nn.Parameter | None = None
        init_linear(self)
        # Inputs are few per output and of about unit variance (fMRI: many, the usual start).
        for name in ('audio', 'imu', 'point'):
            weight = next(iter(self.kinds[name].parameters()))
            nn.init.trunc_normal_(weight, std=weight[0].numel() ** -0.5)
        for table in self.positions.values():
            nn.init.trunc_normal_(table, std=0.02)
        if config.video_positions:
            table = torch.zeros(config.video_frames, width)
            if not table.is_meta:       # there reductions import torch._dynamo: seconds
                nn.init.trunc_normal_(table, std=0.02)
                table = table - table.mean(0)
            self.video_positions = nn.Parameter(table)
        for modality in extra:                  # as their authors start them
            spec = _spec(modality)
            self.kinds[modality.value] = spec.tokenizer(width)
            table = torch.zeros(spec.tokens + 1, width)
            self.positions[modality.value] = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))

    def forward(self, modality: Modality, x: Tensor) -> Tensor:
        """Tokenize a non-picture modality -> [B, N, D]."""
        return self.kinds[modality.value](x)

    def frame_marks(self, frames: int) -> Tensor | None:
        """Return the positions [frames, D] of a video's frames, the newest last, if it has any.

        A shorter video takes the last positions, so that the newest frame always has the same.

        :raises ValueError: for more frames than positions.
        """
        table = self.video_positions
        if table is None:
            return None
        if frames > table.shape[0]:
            raise ValueError(f'video: expected at most {table.shape[0]} frames, found {frames}')
        return table[table.shape[0] - frames:]

    def mark_frames(self, tokens: Tensor, frames: int) -> Tensor:
        """Add :meth:`frame_marks` to the tokens [B * T, N, D] of a video.

        :raises ValueError: for more frames than positions.
        """
        marks = self.frame_marks(frames)
        if marks is None:
            return tokens
        shaped = tokens.unflatten(0, (-1, frames))
        return (shaped + marks.to(tokens.dtype)[:, None]).flatten(0, 1)
