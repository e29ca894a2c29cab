"""The error that preprocessing raises, and checks that several of its files share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class PreprocessError(ValueError):
    """Data that cannot become a model input; the text says found, expected and what to do."""


class NoMeasurementError(PreprocessError):
    """Well-formed data that holds no measurement (all NaN, empty, no sample in the window)."""


def as_tensor(data: Any, what: str) -> torch.Tensor:
    """Return ``data`` as a tensor without copying where possible; a tensor keeps its device.

    :param data: NumPy array, nested list or tensor of numbers.
    :param what: name of the data for the error text.
    :raises PreprocessError: if it is no numeric array.
    """
    if isinstance(data, torch.Tensor):
        return data
    array = np.asarray(data)
    if array.dtype.kind not in 'biuf':
        raise PreprocessError(f'{what}: found data of type {array.dtype}, expected numbers')
    if array.dtype.kind == 'u' and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder('='))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def shape_text(shape: Any) -> str:
    """Return a shape as ``[480, 640, 3]``."""
    return str([int(n) for n in shape])
