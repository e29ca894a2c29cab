"""Point clouds from files: PCD (ascii, binary, binary_compressed), PLY and NumPy.

The file's own header says what each point holds, so every field layout is read: positions of any
type, packed or separate colours, intensities, fields that mean nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onellm_ros.files.errors import FileError, is_npy, load_npy, read_bytes
from onellm_ros.files.point_fields import (
    PointFieldError,
    cloud_from_fields,
    grey_from_intensity,
    measured,
    unit_colours,
)
from onellm_ros.modality import Sample

_PCD_TYPES = {('F', 4): 'f4', ('F', 8): 'f8', ('U', 1): 'u1', ('U', 2): 'u2', ('U', 4): 'u4',
              ('U', 8): 'u8', ('I', 1): 'i1', ('I', 2): 'i2', ('I', 4): 'i4', ('I', 8): 'i8'}
_PLY_TYPES = {'char': 'i1', 'int8': 'i1', 'uchar': 'u1', 'uint8': 'u1', 'short': 'i2',
              'int16': 'i2', 'ushort': 'u2', 'uint16': 'u2', 'int': 'i4', 'int32': 'i4',
              'uint': 'u4', 'uint32': 'u4', 'float': 'f4', 'float32': 'f4', 'double': 'f8',
              'float64': 'f8'}
_MAX_HEADER = 65536


def read_points(path: str | Path) -> Sample:
    """Read a point cloud (.pcd, .ply or .npy, told apart by their content).

    A .npy holds [N, 3] (x y z), [N, 4] (and intensity), [N, 6] (and r g b in 0..1 or 0..255), such
    columns as [H, W, C], or named fields. Points without finite coordinates are left out.

    :returns: a point sample, float32 [N, 6]: x y z in metres, r g b in 0..1 (0.5: no colour).
    :raises FileError: if it cannot be read or holds no point.
    """
    content = read_bytes(path)
    head = content[:64].lstrip()
    try:
        if is_npy(content):
            cloud = _from_npy(load_npy(path, content), path)
        elif head.startswith(b'ply'):
            cloud = cloud_from_fields(_read_ply(content, path))
        elif head.startswith((b'# .PCD', b'#.PCD', b'VERSION', b'FIELDS')) \
                or Path(path).suffix.lower() == '.pcd':
            cloud = cloud_from_fields(_read_pcd(content, path))
        else:
            raise FileError(f'{path}: found no point cloud that is understood, expected .pcd, '
                            '.ply or .npy')
    except PointFieldError as error:
        raise FileError(f'{path}: {error}') from None
    if len(cloud) == 0:
        raise FileError(f'{path}: the cloud holds no point with finite coordinates')
    return Sample(0, cloud)


def _from_npy(array: np.ndarray, path: str | Path) -> np.ndarray:
    """Return the canonical cloud of a NumPy array."""
    if array.dtype.names is not None:
        return cloud_from_fields(array.reshape(-1))
    if array.ndim not in (2, 3) or array.shape[-1] not in (3, 4, 6):
        raise FileError(f'{path}: found an array of shape {array.shape}, expected [N, 3] x y z, '
                        '[N, 4] with intensity or [N, 6] with r g b')
    rows = array.reshape(-1, array.shape[-1])
    cloud = np.full((len(rows), 6), 0.5, np.float32)
    with np.errstate(over='ignore', invalid='ignore'):
        cloud[:, :3] = rows[:, :3]
    if rows.shape[1] == 6:
        cloud[:, 3:] = unit_colours(rows[:, 3:])
    elif rows.shape[1] == 4:
        cloud[:, 3:] = grey_from_intensity(rows[:, 3])[:, None]
    return measured(cloud)


def _ascii_points(body: bytes, dtype: np.dtype, count: int, path: str | Path) -> np.ndarray:
    """Parse ``count`` lines of numbers into structured points (packed floats keep their bits)."""
    if count == 0:
        return np.zeros(0, dtype)
    lines = body.split(b'\n', count + 1024)
    lines = [line for line in lines if line.strip()][:count]
    if len(lines) < count:
        raise FileError(f'{path}: found {len(lines)} points, expected {count} as the header says; '
                        'the file is cut short')
    names = dtype.names or ()
    widths = [int(np.prod(dtype[name].shape, dtype=int)) for name in names]
    try:
        table = np.loadtxt(lines, dtype=np.float64, ndmin=2, comments=None)
    except ValueError as error:
        raise FileError(f'{path}: a line of points is not understood: {error}') from None
    if table.shape[1] != sum(widths):
        raise FileError(f'{path}: found {table.shape[1]} numbers a point, expected {sum(widths)} '
                        'as the header says')
    points = np.zeros(count, dtype)
    column = 0
    for name, width in zip(names, widths):
        values = table[:, column] if dtype[name].shape == () else table[:, column:column + width]
        if dtype[name].base.kind in 'iu':
            values = np.nan_to_num(values)
        with np.errstate(over='ignore'):
            points[name] = values.astype(dtype[name].base)
        column += width
    return points


def _binary_points(body: bytes, dtype: np.dtype, count: int, path: str | Path) -> np.ndarray:
    """View ``count`` points in bytes."""
    needed = count * dtype.itemsize
    if len(body) < needed:
        raise FileError(f'{path}: found {len(body)} bytes of points, expected {needed} ({count} '
                        f'points of {dtype.itemsize} bytes); the file is cut short')
    return np.frombuffer(body, dtype, count)


@dataclass(frozen=True)
class _Pcd:
    """What a PCD header says."""

    names: list[str]
    types: list[str]
    counts: list[int]
    points: int
    data: str

    @property
    def dtype(self) -> np.dtype:
        """Type of one point."""
        return np.dtype([(name, kind) if count == 1 else (name, kind, (count,))
                         for name, kind, count in zip(self.names, self.types, self.counts)])


def _pcd_header(content: bytes, path: str | Path) -> tuple[_Pcd, bytes]:
    """Parse a PCD header; return it and the bytes behind it."""
    entries: dict[str, list[str]] = {}
    at = 0
    while 'DATA' not in entries:
        end = content.find(b'\n', at, _MAX_HEADER)
        if end < 0:
            raise FileError(f'{path}: found no DATA line in the PCD header; the file is cut short')
        words = content[at:end].decode('ascii', 'replace').split('#')[0].split()
        if words:
            entries[words[0].upper()] = words[1:]
        at = end + 1
    names = entries.get('FIELDS', entries.get('COLUMNS', []))
    try:
        sizes = [int(word) for word in entries.get('SIZE', [])]
        counts = [int(word) for word in entries.get('COUNT', ['1'] * len(names))]
        cells = int(entries.get('WIDTH', ['0'])[0]) * int(entries.get('HEIGHT', ['1'])[0])
        points = int(entries.get('POINTS', [str(cells)])[0])
        types = [_PCD_TYPES[kind.upper(), size] for kind, size in
                 zip(entries.get('TYPE', []), sizes, strict=True)]
        data = entries['DATA'][0].lower()
    except (ValueError, KeyError, IndexError):
        raise FileError(f'{path}: the PCD header is not understood: SIZE '
                        f'{entries.get("SIZE")}, TYPE {entries.get("TYPE")}, COUNT '
                        f'{entries.get("COUNT")}, POINTS {entries.get("POINTS")}') from None
    if not names or len({len(names), len(types), len(counts)}) > 1 or min(counts) < 1 \
            or points < 0:
        raise FileError(f'{path}: the PCD header has {len(names)} fields, {len(types)} types, '
                        f'{len(counts)} counts and {points} points; they do not fit each other')
    unique = [name if name not in names[:i] and name != '_' else f'_{i}'
              for i, name in enumerate(names)]
    return _Pcd(unique, ['<' + kind for kind in types], counts, points, data), content[at:]


def _read_pcd(content: bytes, path: str | Path) -> np.ndarray:
    """Return the points of a PCD file as a structured array."""
    header, body = _pcd_header(content, path)
    if header.data == 'ascii':
        return _ascii_points(body, header.dtype, header.points, path)
    if header.data == 'binary':
        return _binary_points(body, header.dtype, header.points, path)
    if header.data != 'binary_compressed':
        raise FileError(f'{path}: found DATA {header.data!r} in the PCD header, expected ascii, '
                        'binary or binary_compressed')
    if len(body) < 8:
        raise FileError(f'{path}: the file is cut short behind the PCD header')
    packed, plain = (int(n) for n in np.frombuffer(body, '<u4', 2))
    needed = header.points * header.dtype.itemsize
    if len(body) - 8 < packed or plain != needed:
        raise FileError(f'{path}: found {len(body) - 8} of {packed} compressed bytes for {plain} '
                        f'bytes, expected {needed} bytes of points; the file is damaged')
    data = _decompress_lzf(body[8:8 + packed], plain, path)
    points = np.zeros(header.points, header.dtype)
    at = 0
    for name in header.names:                      # stored field by field, not point by point
        field = header.dtype[name]
        size = field.itemsize * header.points
        column = np.frombuffer(data, field.base, size // field.base.itemsize, at)
        points[name] = column.reshape(header.points, *field.shape)
        at += size
    return points


def _decompress_lzf(data: bytes, length: int, path: str | Path) -> bytes:
    """Decompress LZF: runs of literal bytes, and copies of what was written before.

    :raises FileError: for damaged data.
    """
    out = bytearray()
    at = 0
    try:
        while at < len(data):
            control = data[at]
            at += 1
            if control < 32:                                    # literal bytes
                out += data[at:at + control + 1]
                at += control + 1
                continue
            size = control >> 5
            if size == 7:
                size += data[at]
                at += 1
            start = len(out) - ((control & 31) << 8) - data[at] - 1
            at += 1
            size += 2
            if start < 0:
                raise IndexError
            piece = out[start:start + size]
            while len(piece) < size:                            # the copy runs into itself
                piece += piece[:size - len(piece)]
            out += piece
    except IndexError:
        raise FileError(f'{path}: the compressed points are damaged') from None
    if len(out) != length:
        raise FileError(f'{path}: found {len(out)} bytes in the compressed points, expected '
                        f'{length}; the file is damaged')
    return bytes(out)


def _read_ply(content: bytes, path: str | Path) -> np.ndarray:
    """Return the vertices of a PLY file as a structured array."""
    end = content.find(b'end_header', 0, _MAX_HEADER)
    newline = content.find(b'\n', end)
    if end < 0 or newline < 0:
        raise FileError(f'{path}: found no end of the PLY header; the file is cut short')
    order, elements = _ply_elements(content[:end].decode('ascii', 'replace'), path)
    body = content[newline + 1:]
    for name, count, properties in elements:
        if any(kind == 'list' for _, kind in properties):
            raise FileError(f'{path}: found lists in the PLY element {name!r}, expected vertices '
                            'without lists and before all lists; save the cloud without faces')
        dtype = np.dtype([(label, (order or '<') + kind) for label, kind in properties])
        if name == 'vertex':
            return _ascii_points(body, dtype, count, path) if order is None \
                else _binary_points(body, dtype, count, path)
        body = body.split(b'\n', count)[-1] if order is None else body[count * dtype.itemsize:]
    raise FileError(f'{path}: the PLY file has no vertices')


def _ply_elements(header: str, path: str | Path
                  ) -> tuple[str | None, list[tuple[str, int, list[tuple[str, str]]]]]:
    """Parse a PLY header: byte order (None: ascii) and elements with their properties."""
    orders: dict[str, str | None] = {'ascii': None, 'binary_little_endian': '<',
                                     'binary_big_endian': '>'}
    order: str | None = None
    form = ''
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in header.splitlines():
        words = line.split()
        try:
            if words[:1] == ['format']:
                form = words[1]
                order = orders[form]
            elif words[:1] == ['element']:
                elements.append((words[1], int(words[2]), []))
            elif words[:2] == ['property', 'list']:
                elements[-1][2].append((words[-1], 'list'))
            elif words[:1] == ['property']:
                elements[-1][2].append((words[2], _PLY_TYPES[words[1]]))
        except (IndexError, KeyError, ValueError):
            raise FileError(f'{path}: the line {line!r} of the PLY header is not understood'
                            ) from None
    if not form:
        raise FileError(f'{path}: the PLY header names no format')
    return order, elements
