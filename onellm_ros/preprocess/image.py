"""Colour pictures to encoder inputs: resize, fit, and CLIP's normalisation.

Owns the geometry of resizing, which depth and normal pictures share, so that pixels of a colour
picture and of its depth picture stay on top of each other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from onellm_ros.preprocess.errors import PreprocessError, as_tensor, shape_text

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FITS = ('crop', 'squash', 'pad')


def normalise(picture: torch.Tensor) -> torch.Tensor:
    """Apply CLIP's mean and standard deviation.

    :param picture: float [..., 3, H, W] in 0..1.
    :returns: float32 of the same shape.
    """
    mean = torch.tensor(CLIP_MEAN, device=picture.device).view(3, 1, 1)
    std = torch.tensor(CLIP_STD, device=picture.device).view(3, 1, 1)
    return (picture.float() - mean) / std


def denormalise(tensor: torch.Tensor) -> torch.Tensor:
    """Undo :func:`normalise`, to look at what the model saw; float in 0..1, same shape."""
    mean = torch.tensor(CLIP_MEAN, device=tensor.device).view(3, 1, 1)
    std = torch.tensor(CLIP_STD, device=tensor.device).view(3, 1, 1)
    return (tensor * std + mean).clamp(0.0, 1.0)


def fit_picture(picture: torch.Tensor, size: int, fit: str, mode: str) -> torch.Tensor:
    """Resize a stack of pictures with antialiasing to a square.

    ``crop``: short side to ``size``, centre crop; ``squash``: both sides to ``size``; ``pad``:
    long side to ``size``, zeros around the centred picture.

    :param picture: [B, C, H, W], uint8 or float.
    :param mode: ``bicubic`` or ``bilinear``.
    :returns: [B, C, size, size] of the same type.
    :raises PreprocessError: for an unknown ``fit`` or an empty picture.
    """
    if fit not in FITS:
        raise PreprocessError(f'image fit: found {fit!r}, expected one of {list(FITS)}')
    height, width = picture.shape[-2:]
    if height == 0 or width == 0:
        raise PreprocessError(
            f'picture: found {height} x {width} pixels, expected at least 1 x 1')
    if fit == 'squash':
        return _resize(picture, size, size, mode)
    side = min(height, width) if fit == 'crop' else max(height, width)
    new_h, new_w = (max(1, round(n * size / side)) for n in (height, width))
    if fit == 'pad':
        resized = _resize(picture, new_h, new_w, mode)
        top, left = (size - new_h) // 2, (size - new_w) // 2
        return F.pad(resized, (left, size - new_w - left, top, size - new_h - top))
    # Cropping first keeps extreme shapes (a 2000 x 20 strip) from becoming huge pictures.
    top, left = (height - side) // 2, (width - side) // 2
    if max(new_h, new_w) > 8 * size:
        return _resize(picture[..., top:top + side, left:left + side], size, size, mode)
    resized = _resize(picture, new_h, new_w, mode)
    top, left = (new_h - size) // 2, (new_w - size) // 2
    return resized[..., top:top + size, left:left + size]


def _resize(picture: torch.Tensor, height: int, width: int, mode: str) -> torch.Tensor:
    """Resize [B, C, H, W]; the same size returns the input."""
    if tuple(picture.shape[-2:]) == (height, width):
        return picture
    if picture.dtype == torch.uint8 and picture.device.type != 'cpu':
        floats = F.interpolate(picture.float(), size=(height, width), mode=mode, antialias=True)
        return floats.clamp(0.0, 255.0).round().to(torch.uint8)
    return F.interpolate(picture, size=(height, width), mode=mode, antialias=True)


def image_tensor(rgb_uint8_hwc: Any, size: int, fit: str = 'crop') -> torch.Tensor:
    """Turn colour pictures into encoder inputs: antialiased bicubic resize, CLIP mean and std.

    On the CPU the resize works on 8-bit values, as CLIP's own preprocessing does.

    :param rgb_uint8_hwc: uint8 [H, W, 3] or a batch [B, H, W, 3] of one size; array or tensor.
    :param size: side of the result in pixels.
    :param fit: ``crop``, ``squash`` or ``pad`` (black).
    :returns: float32 [3, size, size] or [B, 3, size, size], on the input's device.
    :raises PreprocessError: for another type or shape.
    """
    rgb = as_tensor(rgb_uint8_hwc, 'image')
    if rgb.dtype != torch.uint8 or rgb.ndim not in (3, 4) or rgb.shape[-1] != 3:
        raise PreprocessError(
            f'image: found {rgb.dtype} of shape {shape_text(rgb.shape)}, expected uint8 '
            '[H, W, 3] in RGB order; convert the picture first')
    batch = rgb if rgb.ndim == 4 else rgb[None]
    picture = fit_picture(batch.permute(0, 3, 1, 2), size, fit, 'bicubic')
    out = normalise(picture.float() / 255.0)
    return out if rgb.ndim == 4 else out[0]


def spread_indices(found: int, wanted: int) -> list[int]:
    """Return ``wanted`` indices evenly spread over ``found`` items, the first and last included.

    Fewer items than wanted: each is repeated about equally often, in order.
    """
    if found < 1 or wanted < 1:
        raise PreprocessError(f'video: found {found} frames for {wanted}, expected at least 1')
    if wanted == 1:
        return [found - 1]
    if found >= wanted:
        return [round(i * (found - 1) / (wanted - 1)) for i in range(wanted)]
    return [i * found // wanted for i in range(wanted)]


def video_tensor(frames: Any, count: int, size: int, fit: str = 'crop') -> torch.Tensor:
    """Turn frames into the video input: ``count`` frames, evenly chosen or evenly repeated.

    :param frames: sequence of uint8 [H, W, 3] in time order (sizes may differ), or [T, H, W, 3].
    :returns: float32 [count, 3, size, size].
    :raises PreprocessError: without a frame, or for a frame that is no colour picture.
    """
    chosen = spread_indices(len(frames), count)
    used = sorted(set(chosen))
    if len({tuple(frames[i].shape) for i in used}) == 1:
        stack = torch.stack([as_tensor(frames[i], 'video frame') for i in used])
        done = image_tensor(stack, size, fit)
    else:
        done = torch.stack([image_tensor(frames[i], size, fit) for i in used])
    position = {index: row for row, index in enumerate(used)}
    return done[[position[i] for i in chosen]]
