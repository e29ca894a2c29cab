"""Files of a model directory: what can be wrong with them, reading JSON, writing whole files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class CheckpointError(RuntimeError):
    """A model directory that cannot be loaded; the text names file and tensor."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    :raises CheckpointError: if the file is missing or no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise CheckpointError(f'{path}: file not found') from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f'{path}: not readable as JSON: {error}') from error
    if not isinstance(values, dict):
        raise CheckpointError(f'{path}: expected a JSON object, found {type(values).__name__}')
    return values


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with temporary.open('wb') as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
