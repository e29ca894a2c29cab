"""Named point fields, as clouds store them in messages and files, to the canonical cloud.

Colour is taken from ``rgb`` or ``rgba`` (0x00RRGGBB packed in 32 bits), from separate ``r g b`` or
``red green blue``, or as grey from an intensity; without any it is 0.5. Intensities have no common
scale, so they are stretched from their 1st to their 99th percentile.
"""

from __future__ import annotations

import numpy as np


class PointFieldError(ValueError):
    """Point fields that are no cloud; the text says what was found and expected."""


INTENSITIES = ('intensity', 'intensities', 'scalar_intensity', 'i', 'reflectivity', 'reflectance',
               'remission', 'reflect', 'signal')
_COLOURS = (('r', 'g', 'b'), ('red', 'green', 'blue'),
            ('diffuse_red', 'diffuse_green', 'diffuse_blue'))


def native(points: np.ndarray, name: str) -> np.ndarray:
    """Return one field (its first element where it has several) in the machine's byte order."""
    values = points[name]
    if values.ndim > 1:
        values = values[:, 0]
    return values.astype(values.dtype.newbyteorder('='))


def grey_from_intensity(values: np.ndarray) -> np.ndarray:
    """Stretch intensities of any scale to 0..1 between their 1st and 99th percentile.

    :param values: [n]; NaN gives 0.5, as does a constant intensity.
    :returns: float32 [n].
    """
    values = values.astype(np.float32 if values.dtype.itemsize <= 4 else np.float64)
    good = np.isfinite(values)
    whole = bool(good.all())
    known = values if whole else values[good]
    low, high = map(float, np.percentile(known, (1, 99))) if known.size else (0.0, 0.0)
    if high <= low:
        return np.full(values.shape, 0.5, np.float32)
    grey = (values - low) / (high - low)
    np.clip(grey, 0, 1, out=grey)
    return (grey if whole else np.where(good, grey, 0.5)).astype(np.float32, copy=False)


def unit_colours(values: np.ndarray) -> np.ndarray:
    """Scale colour channels to 0..1 by their type (floats above 1 are taken as 0..255)."""
    if values.dtype.kind in 'iu':
        wide = values.dtype.itemsize > 1 and values.max(initial=0) > 255
        return np.clip(values.astype(np.float32) / (65535.0 if wide else 255.0), 0, 1)
    with np.errstate(over='ignore', invalid='ignore'):
        values = np.nan_to_num(values.astype(np.float32), nan=0.5)
    return np.clip(values / 255 if values.max(initial=0) > 1 else values, 0, 1)


def _colours(points: np.ndarray) -> np.ndarray:
    """Return colours in 0..1 from whatever fields the points have.

    :returns: float32 [n, 3]; [n, 1] where they are grey, [1, 1] where all are alike.
    """
    names = {name.lower(): name for name in points.dtype.names or ()}
    for packed_name in ('rgb', 'rgba'):
        if packed_name in names:
            values = native(points, names[packed_name])
            if values.dtype.itemsize != 4:
                raise PointFieldError(
                    f'found the field {packed_name!r} of type {values.dtype}, expected 32 '
                    'bits with 0x00RRGGBB packed in')
            packed = values.view(np.uint32).astype('<u4', copy=False).view(np.uint8)
            return packed.reshape(-1, 4)[:, 2::-1] * np.float32(1 / 255)
    for triple in _COLOURS:
        if all(name in names for name in triple):
            return unit_colours(np.stack([native(points, names[n]) for n in triple], axis=-1))
    for name in INTENSITIES:
        if name in names:
            return grey_from_intensity(native(points, names[name]))[:, None]
    return np.full((1, 1), 0.5, np.float32)


def cloud_from_fields(points: np.ndarray) -> np.ndarray:
    """Turn a structured array of points into the canonical cloud.

    Points that are no measurements are left out (see :func:`measured`).

    :param points: structured [n] with the fields x, y, z (any numeric type, any byte order).
    :returns: float32 [m, 6]: x y z in metres, r g b in 0..1; m may be 0.
    :raises PointFieldError: without coordinates, or with a colour that cannot be unpacked.
    """
    names = {name.lower(): name for name in points.dtype.names or ()}
    missing = [axis for axis in 'xyz' if axis not in names]
    if missing:
        raise PointFieldError(f'found the fields {", ".join(names) or "none"}, expected '
                              f'x, y and z ({", ".join(missing)} missing)')
    with np.errstate(over='ignore', invalid='ignore'):
        xyz = [native(points, names[axis]).astype(np.float32, copy=False) for axis in 'xyz']
    good = _measured(*xyz)
    colours = _colours(points)
    chosen = None if good.all() else np.flatnonzero(good)
    cloud = np.empty((len(points) if chosen is None else len(chosen), 6), np.float32)
    for column, values in enumerate(xyz):
        cloud[:, column] = values if chosen is None else values.take(chosen)
    cloud[:, 3:] = colours if chosen is None or len(colours) == 1 else colours.take(chosen, axis=0)
    return cloud


def _measured(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return bool [n]: which points are measurements."""
    good = np.isfinite(x)
    good &= np.isfinite(y)
    good &= np.isfinite(z)
    good &= (x != 0) | (y != 0) | (z != 0)
    return good


def measured(cloud: np.ndarray) -> np.ndarray:
    """Return the points of a cloud that are measurements.

    Points that are not finite, and points exactly at the origin (what organised sensors write for
    no return), are none.

    :param cloud: float32 [n, C >= 3], x y z first.
    :returns: [m, C]; m may be 0.
    """
    good = _measured(cloud[:, 0], cloud[:, 1], cloud[:, 2])
    return cloud if good.all() else cloud[good]
