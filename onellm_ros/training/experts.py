"""One trained expert becomes several: how the UPM of stage II begins.

The paper builds the Universal Projection Module by copying the projection that stage I trained.
"""

from __future__ import annotations

from dataclasses import replace

from onellm_ros.config import ModelConfig
from onellm_ros.model.onellm import OneLLM
from onellm_ros.training.errors import TrainingError


def with_expert_count(config: ModelConfig, count: int) -> ModelConfig:
    """Return the sizes with another number of experts."""
    return replace(config, upm=replace(config.upm, experts=count))


def copied_experts(model: OneLLM, count: int) -> OneLLM:
    """Return a model whose UPM has ``count`` copies of the one expert, and fresh routers.

    With any soft router (sigmoid, softmax, constant) it computes what the given model does, since
    the weights of a token add up to one. Everything else is shared with the given model, which is
    of no more use. Routers are drawn from torch's generator.

    :raises TrainingError: for a model with another number of experts than one.
    """
    found = model.config.upm.experts
    if found == count:
        return model
    if found != 1:
        raise TrainingError(f'the UPM has {found} experts, expected {count}, or 1 to copy; start '
                            'from another model, or leave its UPM out (--init '
                            'encoder,tokenizers,llm=DIR)')
    config = with_expert_count(model.config, count)
    old = model.state_dict()
    device = next(model.parameters()).device
    with device:
        new = type(model)(config)
    values = new.state_dict()
    for name in values:
        if name.startswith('upm.routers.') and old[name].shape != values[name].shape:
            continue                                    # scores for more experts: fresh
        if name.startswith('upm.experts.'):
            _, _, _, rest = name.split('.', 3)
            values[name] = old[f'upm.experts.0.{rest}'].clone()
        elif name in old:
            values[name] = old[name]
    if device.type != 'meta':
        new.load_state_dict(values, assign=True)
    return new.train(model.training)
