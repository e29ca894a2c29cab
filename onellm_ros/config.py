"""Sizes of a model: every default of them is written here, once; the node's stand in node_config.

Frozen dataclasses, read from JSON or YAML mappings with checks that say what was found, what was
expected and what to do. Nothing here imports torch or ROS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
import math
from typing import Any, TypeVar, get_type_hints

T = TypeVar('T')

MAX_TOKENS = 96             # of a text where nobody says; descriptions of nano take up to 70


# Sizes of which 0 means something; all others are 1 at least.
_MAY_BE_ZERO = ('hidden', 'kv_heads', 'point_grouping_channel', 'head_dim', 'sliding_window',
                'original_positions')
_MOST = {'layers': 1000, 'experts': 1000}       # more would be built for hours before it fails


class ConfigError(ValueError):
    """A configuration that cannot be used; the text names the key and what was expected."""


@dataclass(frozen=True)
class EncoderConfig:
    """The shared encoder (CLIP's vision tower): pre-norm ViT, all tokens kept.

    :param activation: ``quick_gelu`` (CLIP) or ``gelu``.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_ratio: int = 4
    activation: str = 'quick_gelu'
    image_size: int = 224
    patch_size: int = 14
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class TokenizerConfig:
    """Inputs of the modality tokenizers; the defaults are those of the released weights.

    :param image_fit: ``crop`` (short side to size, centre crop), ``squash`` or ``pad``.
    :param video_positions: learned position per frame, so that order is told (not in the release).
    :param depth_encoding: ``relative`` (inverse depth scaled to 0..1, as the release's depth maps)
        or ``metric`` (three channels: metres / 10, 1 / (1 + metres), validity).
    :param point_frame: ``unit`` (centred, largest radius 1, as released) or ``metric``
        (metres / 5 in the frame of the cloud, so that distance survives).
    :param imu_standardise: gravity taken off and both sensors scaled to about one (not in the
        release, which takes m/s^2 and rad/s as they are).
    :param point_grouping_channel: first of the three channels that FPS and the neighbour search
        use; 3 in the released weights (the colours), 0 for coordinates.
    """

    image_fit: str = 'crop'
    video_frames: int = 15
    video_positions: bool = False
    depth_encoding: str = 'relative'
    points: int = 8192
    point_centres: int = 1024
    point_neighbours: int = 32
    point_grouping_channel: int = 3
    point_frame: str = 'unit'
    audio_rate_hz: int = 16000
    audio_mels: int = 128
    audio_frames: int = 1024
    audio_kernel: int = 16
    audio_stride: int = 10
    imu_rate_hz: int = 200
    imu_samples: int = 400
    imu_kernel: int = 10
    imu_stride: int = 1
    imu_standardise: bool = False
    fmri_voxels: int = 15724
    fmri_tokens: int = 8

    @property
    def audio_seconds(self) -> float:
        """Length of the audio input (10 ms a frame)."""
        return self.audio_frames * 0.01

    @property
    def imu_seconds(self) -> float:
        """Length of the IMU input."""
        return self.imu_samples / self.imu_rate_hz


@dataclass(frozen=True)
class UpmConfig:
    """The Universal Projection Module.

    :param router: ``sigmoid`` (normalised, as released), ``softmax``, ``constant`` or ``sparse``.
    :param hidden: SwiGLU hidden size of an expert's blocks; 0: 8/3 of the encoder's width, rounded
        up to ``multiple_of``.
    """

    experts: int = 3
    layers: int = 8
    heads: int = 16
    modality_tokens: int = 30
    router: str = 'sigmoid'
    multiple_of: int = 256
    hidden: int = 0
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class RopeScaling:
    """How rotary positions reach beyond the length that a language model was pretrained at.

    :param kind: ``default`` (they do not), ``linear``, ``dynamic``, ``llama3`` or ``yarn``.
    :param factor: by how much the length grows.
    :param original_positions: length of pretraining; 0: ``max_positions``.
    :param low_freq: llama3: turns within that length below which a frequency is divided.
    :param high_freq: llama3: turns above which it stays as it is.
    :param beta_fast: yarn: turns above which a frequency stays as it is.
    :param beta_slow: yarn: turns below which it is divided.
    :param truncate: yarn: round these limits to whole dimensions.
    :param attention_factor: yarn: factor of all cosines and sines.
    """

    kind: str = 'default'
    factor: float = 1.0
    original_positions: int = 0
    low_freq: float = 1.0
    high_freq: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0


@dataclass(frozen=True)
class LlmConfig:
    """A Llama-family language model; the defaults are those of Llama 2 7B.

    :param hidden: SwiGLU hidden size; 0: 8/3 of ``dim`` rounded up to ``multiple_of``.
    :param kv_heads: heads of keys and values (grouped-query attention); 0: as many as ``heads``.
    :param head_dim: width of a head; 0: ``dim`` divided by ``heads``.
    :param qkv_bias: queries, keys and values have a bias (Qwen2).
    :param out_bias: the output of attention has a bias.
    :param mlp_bias: the three linear maps of SwiGLU have biases.
    :param qk_norm: each head's query and key are normalised before they are turned (Qwen3).
    :param sliding_window: a position sees itself and this many less one before it; 0: all.
    :param sliding_layers: layers with this window, from 0; empty: every layer.
    :param no_rope_layers: layers without rotary positions (SmolLM3).
    """

    dim: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 0
    hidden: int = 0
    multiple_of: int = 256
    vocab_size: int = 32000
    max_positions: int = 2048
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tied_embeddings: bool = False
    head_dim: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    rope: RopeScaling = field(default_factory=RopeScaling)
    sliding_window: int = 0
    sliding_layers: tuple[int, ...] = ()
    no_rope_layers: tuple[int, ...] = ()

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return self.head_dim or self.dim // self.heads

    def slides(self, layer: int) -> bool:
        """Say whether a layer sees only ``sliding_window`` positions."""
        return self.sliding_window > 0 and (
            not self.sliding_layers or layer in self.sliding_layers)


@dataclass(frozen=True)
class TextConfig:
    """How text becomes tokens and turns become a prompt.

    :param tokenizer: file beside the weights: ``tokenizer.json`` or ``tokenizer.model``.
    :param template: ``released`` (``###Human:``), ``training`` (``### Human:``) or ``plain``.
    :param system: system text before the first turn; empty for none.
    :param stop: text that ends an answer.
    :param describe_prompt: what the node asks for when nobody asks.
    """

    tokenizer: str = 'tokenizer.json'
    template: str = 'released'
    system: str = ''
    stop: str = '###'
    describe_prompt: str = 'Provide a one-sentence caption for the provided image.'


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes a model's shape; stored as config.json beside its weights.

    :param modalities: registered ones that it knows beside the eight (docs/new_modality.md).
    """

    name: str = 'onellm_7b'
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    upm: UpmConfig = field(default_factory=UpmConfig)
    llm: LlmConfig = field(default_factory=LlmConfig)
    text: TextConfig = field(default_factory=TextConfig)
    modalities: tuple[str, ...] = ()


NANO = ModelConfig(
    name='nano',
    encoder=EncoderConfig(width=192, layers=6, heads=6, image_size=112, patch_size=14),
    tokenizer=TokenizerConfig(
        image_fit='squash', video_frames=4, video_positions=True, depth_encoding='metric',
        points=2048, point_centres=128, point_neighbours=16, point_grouping_channel=0,
        point_frame='metric', audio_frames=256, audio_stride=16, imu_kernel=10, imu_stride=10,
        imu_standardise=True, fmri_voxels=256),
    upm=UpmConfig(experts=3, layers=2, heads=6, modality_tokens=16, multiple_of=32),
    llm=LlmConfig(dim=256, layers=4, heads=8, multiple_of=32, vocab_size=1024,
                  max_positions=1024, tied_embeddings=True),
    text=TextConfig(template='plain', describe_prompt='Describe what you sense.'))

PRESETS: dict[str, ModelConfig] = {'onellm_7b': ModelConfig(), 'nano': NANO}


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str = '') -> T:
    """Build a config dataclass from a mapping, checking names and types.

    :param where: dotted key of ``values``, for the error text.
    :raises ConfigError: for an unknown key or a value of the wrong type.
    """
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f'unknown key {where + unknown[0]!r}: expected one of {sorted(known)}')
    out: dict[str, Any] = {}
    for key, value in values.items():
        hint = hints[key]
        path = where + key
        if is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f'{path}: expected a mapping, found {value!r}')
            out[key] = from_mapping(hint, value, path + '.')  # type: ignore[arg-type]
            continue
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if hint == tuple[int, ...]:
            value = _whole_numbers(path, value)
        if hint == tuple[str, ...]:
            value = _words(path, value)
        if isinstance(hint, type) and (
                not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
            raise ConfigError(
                f'{path}: expected {hint.__name__}, found {type(value).__name__} {value!r}')
        if 'low' not in known[key].metadata:        # a node's settings state their own limits
            _check_number(path, key, value)
        out[key] = value
    return cls(**out)


def _whole_numbers(path: str, value: Any) -> tuple[int, ...]:
    """Return a list of numbers from 0 as a tuple.

    :raises ConfigError: naming the key.
    """
    if not isinstance(value, (list, tuple)) or not all(
            isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value):
        raise ConfigError(f'{path}: expected a list of whole numbers from 0, found {value!r}')
    return tuple(value)


def _words(path: str, value: Any) -> tuple[str, ...]:
    """Return a list of words, none twice, as a tuple.

    :raises ConfigError: naming the key.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value) \
            or len(set(value)) < len(value):
        raise ConfigError(f'{path}: expected a list of words, none twice, found {value!r}')
    return tuple(value)


def _check_number(path: str, key: str, value: Any) -> None:
    """Refuse a number that no model can have.

    :raises ConfigError: naming the key and the limits.
    """
    if isinstance(value, float) and not (math.isfinite(value) and value > 0):
        raise ConfigError(f'{path}: expected a number above 0, found {value}')
    if isinstance(value, int) and not isinstance(value, bool):
        low, high = int(key not in _MAY_BE_ZERO), _MOST.get(key, 10**9)
        if not low <= value <= high:
            raise ConfigError(f'{path}: expected {low} to {high}, found {value}')


def to_mapping(config: Any) -> dict[str, Any]:
    """Return the nested mapping of a config dataclass, ready for JSON or YAML.

    Of a model without further modalities it says nothing of them, as ever.
    """
    values = asdict(config)
    if isinstance(config, ModelConfig) and not config.modalities:
        del values['modalities']
    return values
