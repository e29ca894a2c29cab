"""Low-rank adapters in the LLM, so that one GPU can tune it; through the package peft.

While a stage runs, the LLM's linear maps carry adapters and only these learn; at its end they are
added to the weights, so that what is written is an ordinary model.
"""

from __future__ import annotations

from torch import nn

from onellm_ros.training.errors import TrainingError

TARGETS = ['wq', 'wk', 'wv', 'wo', 'w1', 'w2', 'w3']
_MARK = 'lora_'


def add_adapters(llm: nn.Module, rank: int) -> None:
    """Put adapters of a rank beside the linear maps of the LLM's layers, in place.

    They start as nothing: the LLM computes what it did. Their scale is 2.

    :raises TrainingError: if peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise TrainingError(f'--lora needs the package peft ({error}): pip install -r '
                            'requirements/train.txt, or train without --lora') from None
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=TARGETS), llm)


def is_adapter(name: str) -> bool:
    """Return whether a parameter of this name belongs to an adapter."""
    return _MARK in name


def merge_adapters(llm: nn.Module) -> None:
    """Add the adapters to the weights and take them off, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(llm.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
