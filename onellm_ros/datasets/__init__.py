"""Data sets of annotated sensor files, in the forms of OneLLM's public training data.

:class:`FileSet` reads one data set lazily, :class:`Mix` several with their shares, and
:class:`MixBatches` gives a training run's batches by step. ``docs/data.md`` shows all forms.
"""

from onellm_ros.datasets.config import MixConfig, SetConfig, check_mix, load_manifest
from onellm_ros.datasets.errors import Broken, BrokenSampleError, DataError
from onellm_ros.datasets.examples import Example, ExampleBatch, collate
from onellm_ros.datasets.mix import Mix, MixBatches, Tally
from onellm_ros.datasets.sets import FileSet

__all__ = ['Broken', 'BrokenSampleError', 'DataError', 'Example', 'ExampleBatch', 'FileSet', 'Mix',
           'MixBatches', 'MixConfig', 'SetConfig', 'Tally', 'check_mix', 'collate',
           'load_manifest']
