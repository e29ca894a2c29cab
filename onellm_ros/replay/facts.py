"""What a replay must know of a model, read from its folder without loading the weights."""

from __future__ import annotations

from onellm_ros.node_config import NodeConfig
from onellm_ros.replay.work import Facts, load_engine


def facts_of_model(config: NodeConfig) -> Facts:
    """Return the facts of the model that the settings name.

    A model in the released layout is loaded for it and freed: its sizes stand in the weights.

    :raises RuntimeError: if there is no such model, or it cannot be read.
    """
    from onellm_ros.inference.locate import EngineError, find_model
    from onellm_ros.model.checkpoint import CheckpointError, own_model, weights_hash
    folder = find_model(config.model)
    if not (folder / 'model.safetensors').is_file():
        return Facts.of_engine(load_engine(config))
    try:
        model = own_model(folder)
        short = weights_hash(folder)
    except CheckpointError as error:
        raise EngineError(f'model {config.model!r}: {error}') from error
    return Facts(f'{model.config.name}@{short[:8]}', model.config.tokenizer,
                 tuple(model.modalities))
