"""OneLLM models in lmms-eval: ``lmms-eval --model onellm --model_args model=nano,device=cpu``.

lmms-eval finds them through the entry point group ``lmms_eval.models``. It is not installed with
this package. docs/evaluation.md says which of its tasks match those of ``onellm eval``.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Return what lmms-eval registers: the model ``onellm``."""
    from lmms_eval.models.registry_v2 import ModelManifest
    return ModelManifest(model_id='onellm',
                         simple_class_path='onellm_ros.evaluation.lmms_model.OneLLM')
