"""Colour pictures, depth pictures and voxel vectors from files."""

from __future__ import annotations

import io
from pathlib import Path
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from onellm_ros.files.errors import FileError, first_line, is_npy, load_npy, read_bytes
from onellm_ros.modality import Sample

MILLIMETRE = 0.001


def _open_picture(path: str | Path, content: bytes, upright: bool = False) -> Image.Image:
    """Decode a picture file as it is stored, or turned as its EXIF entry says.

    :raises FileError: for an unknown format and for damaged data.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')             # about entries that are not the picture
            picture = Image.open(io.BytesIO(content))
            picture.load()
            if upright:
                picture = ImageOps.exif_transpose(picture)
    except UnidentifiedImageError:
        raise FileError(f'{path}: found no picture that is understood, expected png, jpg, tiff, '
                        'bmp, webp or another common picture file') from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise FileError(f'{path}: damaged picture: {first_line(error)}') from None
    return picture


def _eight_bit_rgb(array: np.ndarray, path: str | Path) -> np.ndarray:
    """Return [H, W] or [H, W, 1|3|4] of any common type as uint8 RGB."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise FileError(f'{path}: found an array of shape {array.shape}, expected [H, W, 3] RGB')
    array = array[..., :3]
    if array.dtype.kind == 'f':
        top = float(np.nanmax(array)) if np.isfinite(array).any() else 0.0
        scaled = np.nan_to_num(array) * (255.0 if top <= 1.0 else 1.0)
        array = np.clip(np.round(scaled), 0, 255)
    elif array.dtype == np.bool_:
        array = array * 255
    elif array.dtype.itemsize > 1:
        top = 65535 if int(array.max()) > 255 else 255
        array = np.clip(array.astype(np.float64) * (255.0 / top), 0, 255)
    rgb = array.astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(rgb, (*rgb.shape[:2], 3)))


def read_image(path: str | Path) -> Sample:
    """Read a colour picture (png, jpg, tiff, bmp, webp ..., or .npy [H, W, 3]).

    Turned upright by its EXIF entry; transparency over black; 16 bits become 8.

    :returns: an image sample, uint8 [H, W, 3] RGB.
    :raises FileError: if it cannot be read.
    """
    content = read_bytes(path)
    if is_npy(content):
        return Sample(0, _eight_bit_rgb(load_npy(path, content), path))
    picture = _open_picture(path, content, upright=True)
    if picture.mode.startswith(('I', 'F')):
        return Sample(0, _eight_bit_rgb(np.asarray(picture), path))
    if picture.mode in ('RGBA', 'LA', 'PA') or 'transparency' in picture.info:
        rgba = picture.convert('RGBA')
        black = Image.new('RGBA', rgba.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, rgba)
    return Sample(0, np.array(picture.convert('RGB'), dtype=np.uint8))


def read_depth(path: str | Path, scale: float | None = None,
               intrinsics: tuple[float, float, float, float] | None = None) -> Sample:
    """Read a depth picture: 16-bit png or tiff (millimetres), float tiff or .npy (metres).

    Integers are millimetres and floats metres, unless ``scale`` says otherwise. Values of 0, below
    0, NaN and infinite are no measurement; so is 65535 in a 16-bit picture.

    :param scale: metres of one unit of the file.
    :param intrinsics: fx, fy, cx, cy of the picture in pixels, if known (normals need them).
    :returns: a depth sample, float32 [H, W] metres, NaN without a measurement.
    :raises FileError: if it cannot be read or is no depth picture.
    """
    content = read_bytes(path)
    if is_npy(content):
        raw = load_npy(path, content)
    else:
        picture = _open_picture(path, content)
        raw = np.asarray(picture)
    if raw.ndim == 3 and raw.shape[2] == 1:
        raw = raw[..., 0]
    if raw.ndim != 2 or raw.dtype.kind not in 'uif' or 0 in raw.shape:
        raise FileError(
            f'{path}: found a {raw.dtype} picture of shape {raw.shape}, expected one channel of '
            '16-bit millimetres or float metres [H, W]; is it a colour picture?')
    if raw.dtype == np.uint8 and scale is None:
        raise FileError(f'{path}: found an 8-bit picture, expected 16-bit millimetres or float '
                        'metres; if it is depth, give the metres of one unit (--depth-scale)')
    factor = scale if scale is not None else (1.0 if raw.dtype.kind == 'f' else MILLIMETRE)
    if not np.isfinite(factor) or factor <= 0:
        raise FileError(f'{path}: found a depth scale of {factor}, expected metres above 0')
    valid = np.isfinite(raw) & (raw > 0)
    if raw.dtype.kind in 'ui' and raw.dtype.itemsize > 1:
        valid &= raw != 65535
    with np.errstate(over='ignore'):
        metres = (np.where(valid, raw, 0).astype(np.float64) * factor).astype(np.float32)
    metres[~valid | ~np.isfinite(metres)] = np.nan
    return Sample(0, metres, intrinsics=intrinsics)


def read_fmri(path: str | Path) -> Sample:
    """Read voxel responses from .npy: [V], or [repeats, V], which are averaged.

    :returns: an fMRI sample, float32 [V].
    :raises FileError: if it cannot be read.
    """
    content = read_bytes(path)
    if not is_npy(content):
        raise FileError(f'{path}: found no NumPy file, expected voxel responses as .npy')
    array = load_npy(path, content)
    if array.ndim not in (1, 2) or array.dtype.kind not in 'iuf' or 0 in array.shape:
        raise FileError(f'{path}: found {array.dtype} of shape {array.shape}, expected voxel '
                        'responses [V] or [repeats, V]')
    voxels = array.astype(np.float64)
    return Sample(0, (voxels.mean(axis=0) if array.ndim == 2 else voxels).astype(np.float32))
