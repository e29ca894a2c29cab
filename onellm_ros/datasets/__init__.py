"""Data sets of annotated sensor files, in the forms of OneLLM's public training data.

:class:`FileSet` reads one data set lazily, :class:`Mix` several with their shares, and
:class:`MixBatches` gives a training run's batches by step. ``docs/data.md`` shows all forms.
What needs torch is imported when it is used: annotations are read without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onellm_ros.datasets.config import MixConfig, SetConfig, check_mix, load_manifest
from onellm_ros.datasets.errors import Broken, BrokenSampleError, DataError

if TYPE_CHECKING:
    from onellm_ros.datasets.examples import Example, ExampleBatch, collate
    from onellm_ros.datasets.mix import Mix, MixBatches, Tally
    from onellm_ros.datasets.sets import FileSet

__all__ = ['Broken', 'BrokenSampleError', 'DataError', 'Example', 'ExampleBatch', 'FileSet', 'Mix',
           'MixBatches', 'MixConfig', 'SetConfig', 'Tally', 'check_mix', 'collate',
           'load_manifest']
_LATER = {'Example': 'examples', 'ExampleBatch': 'examples', 'collate': 'examples', 'Mix': 'mix',
          'MixBatches': 'mix', 'Tally': 'mix', 'FileSet': 'sets'}


def __getattr__(name: str) -> Any:
    """Import what was not needed before."""
    if name not in _LATER:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_LATER[name]}'), name)
