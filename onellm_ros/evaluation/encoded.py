"""Pictures that annotation files hold themselves, as base64: written once, as files.

Each lies under the hash of its bytes, so that a changed annotation file finds no picture of the
old one, and several processes may write at once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
from pathlib import Path
import tempfile

from PIL import Image, UnidentifiedImageError

from onellm_ros.evaluation.annotations import Row

_SUFFIX = {'JPEG': '.jpg', 'PNG': '.png', 'WEBP': '.webp', 'GIF': '.gif', 'BMP': '.bmp'}


def decoded_picture(row: Row, text: str, folder: Path, elsewhere: Path) -> Path:
    """Return the file of a picture, which is written if it is not there yet.

    :param row: that holds it, for errors. :param text: the picture in base64.
    :param folder: where it goes. :param elsewhere: where it goes if ``folder`` cannot be written.
    :raises AnnotationError: if the text is no base64 or no picture, or there is no place for it.
    """
    name = hashlib.sha256(text.encode()).hexdigest()[:24]
    for place in (folder, elsewhere):
        for suffix in _SUFFIX.values():
            if (place / (name + suffix)).is_file():
                return place / (name + suffix)
    try:
        data = base64.b64decode(''.join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise row.error(f'image: found {text[:40]!r}, expected a picture in base64 ({error})'
                        ) from None
    name += _suffix(row, data)
    refused = ''
    for place in (folder, elsewhere):
        try:
            return _written(place / name, data)
        except OSError as error:
            refused = error.strerror or str(error)
    raise row.error(f'image: found no place for the picture ({refused}), expected room in '
                    f'{folder} or {elsewhere}')


def _suffix(row: Row, data: bytes) -> str:
    """Return the suffix of a picture by what it holds.

    :raises AnnotationError: if it is none.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            kind = picture.format or ''
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError,
            Image.DecompressionBombError):
        kind = ''
    if kind not in _SUFFIX:
        raise row.error(f'image: found {len(data)} bytes that are no picture'
                        f'{f" but {kind}" if kind else ""}, expected {" or ".join(_SUFFIX)}')
    return _SUFFIX[kind]


def _written(path: Path, data: bytes) -> Path:
    """Write a file at once, whole or not at all.

    :raises OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    number, draft = tempfile.mkstemp(dir=path.parent, suffix='.part')
    try:
        with os.fdopen(number, 'wb') as file:
            file.write(data)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise
    return path
