"""The error of the file readers, and what they share."""

from __future__ import annotations

import io
from pathlib import Path
import tokenize
import warnings

import numpy as np


class FileError(ValueError):
    """A file that cannot be read; the text names it, what was found and what was expected."""


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a file.

    :raises FileError: if it is missing, no file, not readable or empty.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise FileError(f'{path}: no such file') from None
    except IsADirectoryError:
        raise FileError(f'{path}: found a directory, expected a file') from None
    except OSError as error:
        raise FileError(f'{path}: cannot be read: {error.strerror or error}') from None
    if not content:
        raise FileError(f'{path}: the file is empty')
    return content


def is_npy(content: bytes) -> bool:
    """Return whether bytes are a NumPy .npy file."""
    return content.startswith(b'\x93NUMPY')


def load_npy(path: str | Path, content: bytes) -> np.ndarray:
    """Return the array of a .npy file's bytes; nothing pickled is loaded.

    :raises FileError: for a damaged file, or one of objects.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')         # about how old the file is
            array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, OverflowError, TypeError, KeyError,
            SyntaxError, tokenize.TokenError) as error:     # NumPy parses the header as Python
        raise FileError(f'{path}: damaged .npy file: {first_line(error)}') from None
    if array.dtype.kind not in 'biufV':
        raise FileError(f'{path}: found an array of {array.dtype}, expected numbers')
    return array


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, for one-line messages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
