"""Models with random weights at known sizes, and whether a machine can hold them.

For sizing hardware before anything is downloaded: what a model computes does not hang on what its
weights are. Nothing is drawn before the memory was compared with what the model will take.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import math
from typing import TYPE_CHECKING, Any

from onellm_ros.config import NANO, LlmConfig, ModelConfig
from onellm_ros.machine import host_free
from onellm_ros.perception.memory import BudgetError, megabytes

if TYPE_CHECKING:
    import torch

    from onellm_ros.inference.engine import Engine

# The released model; the same encoder and UPM before an LLM of the size of Llama 3.2 1B; nano.
SIZES: dict[str, ModelConfig] = {
    '7b': ModelConfig(),
    '1b': ModelConfig(name='onellm_1b', llm=LlmConfig(
        dim=2048, layers=16, heads=32, kv_heads=8, hidden=8192, vocab_size=128256,
        max_positions=2048, rope_theta=500000.0, tied_embeddings=True)),
    'nano': NANO}
_BLOCK = 1 << 22            # random values that are drawn once and repeated


@dataclass(frozen=True)
class Counted:
    """Bytes that a model takes, by its sizes.

    :param parameters: how many there are. :param weights: their bytes.
    :param position: bytes of keys and values that one position takes.
    :param activations: a generous guess at the largest intermediate values.
    :param making: more than the weights while they are made and quantized.
    """

    parameters: int
    weights: int
    position: int
    activations: int
    making: int = 0

    def total(self, positions: int) -> int:
        """Return the most of it at once, with so many positions in caches."""
        return self.weights + max(self.position * positions + self.activations, self.making)


def position_bytes(config: ModelConfig, value: int) -> int:
    """Return the bytes of one position's keys and values.

    :param value: bytes of a value.
    """
    llm = config.llm
    return 2 * llm.layers * (llm.kv_heads or llm.heads) * llm.head_size * value


def count(config: ModelConfig, value: int, quantize: str = 'none', on_cpu: bool = True
          ) -> Counted:
    """Return what a model takes; nothing of it is made.

    :param value: bytes of a value in the type that is computed with.
    :param quantize: type of the language model's weights.
    """
    import torch

    from onellm_ros.inference.quantize import saved_bytes, work_bytes
    from onellm_ros.model.layers import swiglu_hidden
    from onellm_ros.model.onellm import OneLLM

    with torch.device('meta'):
        model = OneLLM(config)
    parameters = sum(p.numel() for p in model.parameters())
    saved = saved_bytes(model.llm, quantize, on_cpu)
    encoder, llm = config.encoder, config.llm
    tokens = (encoder.image_size // encoder.patch_size) ** 2 + 1
    seen = config.tokenizer.video_frames * tokens * encoder.width * (6 + 2 * encoder.mlp_ratio)
    hidden = swiglu_hidden(llm.dim, llm.multiple_of, llm.hidden)
    said = llm.max_positions * (8 * llm.dim + 3 * hidden)
    return Counted(parameters, parameters * value - saved, position_bytes(config, value),
                   max(seen, said) * value + 8 * llm.vocab_size * 4,
                   saved + work_bytes(model.llm, quantize, on_cpu))


def free_on(device: torch.device) -> int | None:
    """Return the free bytes of a device; None where the system does not say."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == 'cuda' else host_free()


def check(name: str, config: ModelConfig, device: torch.device, value: int,
          free: int | None = None, quantize: str = 'none') -> Counted:
    """Compare what a model takes with what the device has free; nothing is made.

    :param free: bytes; None: what the device says.
    :raises BudgetError: with the figures, if it does not fit.
    """
    on_cpu = device.type == 'cpu'
    counted = count(config, value, quantize, on_cpu)
    need = counted.total(2 * config.llm.max_positions)      # a window's cache, and a copy of it
    room = free_on(device) if free is None else free
    if room is not None and need > room:
        smaller = [other for other, sizes in SIZES.items()
                   if sizes is not config and count(sizes, value, quantize, on_cpu).total(
                       2 * sizes.llm.max_positions) <= room]
        advice = f'; here would fit: {", ".join(f"--random {s}" for s in smaller)}' \
            if smaller else ''
        form = f'{8 * value} bits a value' if quantize == 'none' else quantize
        making = f', {megabytes(counted.making)} more while it is quantized' \
            if counted.making else ''
        raise BudgetError(
            f'{name} takes about {megabytes(need)} MB in {form} (weights '
            f'{megabytes(counted.weights)} of {counted.parameters / 1e9:.2f} billion parameters, '
            f'keys and values {megabytes(2 * config.llm.max_positions * counted.position)}, '
            f'activations {megabytes(counted.activations)}{making}), found {megabytes(room)} MB '
            f'free on {device}; nothing was made. It needs a device with more memory{advice}')
    return counted


def random_engine(config: ModelConfig, device: torch.device, dtype: torch.dtype,
                  threads: int = 0, quantize: str = 'none') -> Engine:
    """Return an engine around a model with random weights.

    :param quantize: type of the language model's weights; ``dtype`` is bfloat16 then.

    Its tokenizer is that of nano, which ships with the package, so that a prompt has more tokens
    than with the model's own; nothing ends its answers but their length.
    """
    import torch

    from onellm_ros.inference import quantize as quantizing
    from onellm_ros.inference.engine import Engine
    from onellm_ros.inference.locate import find_model
    from onellm_ros.model.onellm import OneLLM
    from onellm_ros.model.text import Text

    config = replace(config, name=f'random {config.name}',
                     text=replace(config.text, tokenizer=NANO.text.tokenizer, stop=''))
    with torch.device('meta'):
        model = OneLLM(config)
    # One block is drawn and copied: drawing billions of values would take minutes on a CPU.
    place = device if quantize == 'none' else torch.device('cpu')
    block = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)).to(place, dtype)
    values = {name: _filled(name, tuple(wanted.shape), block)
              for name, wanted in model.state_dict().items()}
    model.load_state_dict(values, strict=True, assign=True)
    parameters = sum(v.numel() for v in values.values())
    del values
    if quantize != 'none':
        model = quantizing.quantize(model, quantize, device)
    text = Text.load(find_model('nano'), config.text)
    text.stop_ids = frozenset()
    if threads or (device.type == 'cpu' and parameters < 10**8):
        torch.set_num_threads(threads or 1)             # as Engine.load has it
    return Engine(model.requires_grad_(False), text)


def _filled(name: str, shape: tuple[int, ...], block: Any) -> Any:
    """Return a tensor: ones and zeros for norms and biases, else random at the size of its map."""
    import torch

    if len(shape) < 2:
        like = torch.zeros if name.endswith('bias') else torch.ones
        return like(shape, dtype=block.dtype, device=block.device)
    out = torch.empty(math.prod(shape), dtype=block.dtype, device=block.device)
    for start in range(0, len(out), len(block)):
        part = out[start:start + len(block)]
        part.copy_(block[:len(part)])
    scale = 0.02 if 'embed' in name else math.prod(shape[1:]) ** -0.5
    return out.mul_(scale).view(shape)
