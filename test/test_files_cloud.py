"""Readers of point clouds: PCD, PLY and NumPy, of every layout."""

from __future__ import annotations

import os
from pathlib import Path
import struct

import numpy as np
import pytest

from onellm_ros.files import FileError, read_points

SHARED = Path(os.environ.get('ONELLM_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
CLOUDS = SHARED / 'recordings' / 'clouds'
RNG = np.random.default_rng(6)
XYZ = RNG.normal(size=(50, 3)).astype(np.float32)
BYTES = RNG.integers(0, 256, (50, 3))
PACKED = (BYTES[:, 0] << 16 | BYTES[:, 1] << 8 | BYTES[:, 2]).astype(np.uint32)


def structured(**fields):
    """Return a structured array of fields."""
    out = np.zeros(len(next(iter(fields.values()))),
                   [(name, np.asarray(v).dtype, np.shape(v)[1:]) for name, v in fields.items()])
    for name, values in fields.items():
        out[name] = values
    return out


def lzf(data: bytes) -> bytes:
    """Compress runs of equal bytes as copies, all else as literals (valid LZF)."""
    out, at, literal = bytearray(), 0, bytearray()

    def flush():
        for start in range(0, len(literal), 32):
            piece = literal[start:start + 32]
            out.append(len(piece) - 1)
            out.extend(piece)
        literal.clear()

    while at < len(data):
        run = 1
        while at + run < len(data) and run < 264 and data[at + run] == data[at]:
            run += 1
        if at and data[at - 1] == data[at] and run >= 9:
            flush()
            out.extend([7 << 5, run - 9, 0])
            at += run
        elif at and data[at - 1] == data[at] and run >= 3:
            run = min(run, 8)
            flush()
            out.extend([(run - 2) << 5, 0])
            at += run
        else:
            literal.append(data[at])
            at += 1
    flush()
    return bytes(out)


def pcd(points, data, width=None, height=1):
    """Return the bytes of a PCD file."""
    names = points.dtype.names
    kinds = [points.dtype[n] for n in names]
    letters = {'f': 'F', 'u': 'U', 'i': 'I'}
    counts = [int(np.prod(k.shape, dtype=int)) for k in kinds]
    head = '\n'.join([
        '# .PCD v0.7 - Point Cloud Data file format', 'VERSION 0.7', 'FIELDS ' + ' '.join(names),
        'SIZE ' + ' '.join(str(k.base.itemsize) for k in kinds),
        'TYPE ' + ' '.join(letters[k.base.kind] for k in kinds),
        'COUNT ' + ' '.join(map(str, counts)), f'WIDTH {width or len(points)}',
        f'HEIGHT {height}', 'VIEWPOINT 0 0 0 1 0 0 0', f'POINTS {len(points)}',
        f'DATA {data}', '']).encode()
    if data == 'ascii':
        rows = [' '.join(repr(float(v)) if k.base.kind == 'f' else str(int(v))
                         for n, k in zip(names, kinds) for v in np.atleast_1d(row[n]))
                for row in points]
        return head + '\n'.join(rows).encode() + b'\n'
    if data == 'binary':
        return head + points.tobytes()
    plain = b''.join(np.ascontiguousarray(points[n]).tobytes() for n in names)
    packed = lzf(plain)
    return head + struct.pack('<II', len(packed), len(plain)) + packed


COLOURED = {
    'rgb as float': structured(x=XYZ[:, 0], y=XYZ[:, 1], z=XYZ[:, 2],
                               rgb=PACKED.view(np.float32)),
    'rgba as uint': structured(x=XYZ[:, 0], y=XYZ[:, 1], z=XYZ[:, 2],
                               rgba=PACKED | np.uint32(0xFF000000)),
    'doubles, r g b': structured(
        z=XYZ[:, 2].astype(float), y=XYZ[:, 1].astype(float), x=XYZ[:, 0].astype(float),
        normal=np.zeros((50, 3), np.float32), r=BYTES[:, 0].astype(np.uint8),
        g=BYTES[:, 1].astype(np.uint8), b=BYTES[:, 2].astype(np.uint8),
        ring=np.zeros(50, np.uint16))}


@pytest.mark.parametrize('data', ['ascii', 'binary', 'binary_compressed'])
@pytest.mark.parametrize('layout', COLOURED)
def test_pcd_layouts(tmp_path, data, layout):
    (tmp_path / 'a.pcd').write_bytes(pcd(COLOURED[layout], data))
    cloud = read_points(tmp_path / 'a.pcd').data
    assert cloud.dtype == np.float32 and cloud.shape == (50, 6)
    assert np.allclose(cloud[:, :3], XYZ, atol=1e-6)
    assert np.allclose(cloud[:, 3:], BYTES / 255, atol=1e-6)


@pytest.mark.parametrize('data', ['ascii', 'binary', 'binary_compressed'])
def test_pcd_organised_with_nan_and_intensity(tmp_path, data):
    xyz = XYZ.copy()
    xyz[5:15] = np.nan
    xyz[20] = 0                                             # how sensors write no return
    points = structured(x=xyz[:, 0], y=xyz[:, 1], z=xyz[:, 2],
                        intensity=np.linspace(0, 4095, 50).astype(np.float32))
    (tmp_path / 'a.pcd').write_bytes(pcd(points, data, width=10, height=5))
    cloud = read_points(tmp_path / 'a.pcd').data
    assert cloud.shape == (39, 6) and np.isfinite(cloud).all()
    assert cloud[0, 3] == 0 and cloud[-1, 3] == 1 and np.all(np.diff(cloud[:, 4]) >= 0)
    plain = structured(x=XYZ[:, 0], y=XYZ[:, 1], z=XYZ[:, 2])
    (tmp_path / 'a.pcd').write_bytes(pcd(plain, data))
    assert np.all(read_points(tmp_path / 'a.pcd').data[:, 3:] == 0.5)


def test_pcd_errors(tmp_path):
    path = tmp_path / 'a.pcd'
    good = pcd(COLOURED['rgb as float'], 'binary')
    packed = pcd(COLOURED['rgb as float'], 'binary_compressed')
    text = pcd(COLOURED['rgb as float'], 'ascii')
    nothing = structured(x=XYZ[:, 0] * np.nan, y=XYZ[:, 1], z=XYZ[:, 2])
    bad_copy = packed[:packed.index(b'compressed\n') + 19] + b'\xff' * 600
    for content, message in (
            (good[:-5], 'cut short'), (packed[:-5], 'damaged'), (text[:-100], 'points'),
            (good.replace(b'DATA binary', b'DATA zipped'), 'zipped'),
            (good.replace(b'FIELDS x', b'FIELDS u'), 'x missing'),
            (good.replace(b'SIZE 4 4', b'SIZE 4 3'), 'header'),
            (good.replace(b'COUNT 1 1', b'COUNT 1'), 'do not fit'),
            (good[:100], 'DATA line'), (packed[:packed.index(b'compressed\n') + 13], 'cut short'),
            (bad_copy, 'damaged'), (text.replace(b'e-', b'?'), 'not understood'),
            (pcd(nothing, 'binary'), 'no point')):
        path.write_bytes(content)
        with pytest.raises(FileError, match=message):
            read_points(path)


def ply(points, form, before='', after=''):
    """Return the bytes of a PLY file."""
    kinds = {'f4': 'float', 'f8': 'double', 'u1': 'uchar', 'i4': 'int'}
    props = ''.join(f'property {kinds[points.dtype[n].str[1:]]} {n}\n' for n in points.dtype.names)
    head = (f'ply\nformat {form} 1.0\ncomment made by hand\n{before}element vertex {len(points)}\n'
            f'{props}{after}end_header\n').encode()
    if form == 'ascii':
        return head + '\n'.join(' '.join(repr(v.item()) for v in row) for row in points).encode()
    order = '<' if 'little' in form else '>'
    return head + points.astype(points.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize('form', ['ascii', 'binary_little_endian', 'binary_big_endian'])
def test_ply(tmp_path, form):
    fields = {'x': XYZ[:, 0], 'y': XYZ[:, 1], 'z': XYZ[:, 2].astype(float),
              'nx': XYZ[:, 0]} | {n: BYTES[:, i].astype(np.uint8)
                                  for i, n in enumerate(('red', 'green', 'blue'))}
    faces = 'element face 1\nproperty list uchar int vertex_indices\n'
    content = ply(structured(**fields), form, after=faces)
    content += b'\n3 0 1 2\n' if form == 'ascii' else b'\x03' + bytes(12)
    (tmp_path / 'a.ply').write_bytes(content)
    cloud = read_points(tmp_path / 'a.ply').data
    assert np.allclose(cloud, np.c_[XYZ, BYTES / 255], atol=1e-6)
    (tmp_path / 'a.ply').write_bytes(content[:-len(content) // 2])
    with pytest.raises(FileError, match='cut short|understood'):
        read_points(tmp_path / 'a.ply')


def test_ply_errors(tmp_path):
    points = structured(x=XYZ[:, 0], y=XYZ[:, 1], z=XYZ[:, 2])
    faces = 'element face 1\nproperty list uchar int vertex_indices\n'
    good = ply(points, 'binary_little_endian')
    for content, message in (
            (ply(points, 'ascii', before=faces), 'lists'),
            (good.replace(b'float', b'quad'), 'line'),
            (good.replace(b'little', b'middle'), 'line'),
            (good.replace(b'vertex', b'corner'), 'no vertices'),
            (good.replace(b'format', b'comment format'), 'names no format')):
        (tmp_path / 'a.ply').write_bytes(content)
        with pytest.raises(FileError, match=message):
            read_points(tmp_path / 'a.ply')


def test_npy(tmp_path):
    path = tmp_path / 'a.npy'
    for array, colour in (
            (XYZ, np.full((50, 3), 0.5)), (np.c_[XYZ, BYTES / 255], BYTES / 255),
            (np.c_[XYZ, BYTES].reshape(5, 10, 6), BYTES / 255),
            (structured(x=XYZ[:, 0], y=XYZ[:, 1], z=XYZ[:, 2], rgb=PACKED), BYTES / 255)):
        np.save(path, array)
        cloud = read_points(path).data
        assert np.allclose(cloud, np.c_[XYZ, colour], atol=1e-6)
    np.save(path, np.c_[XYZ, np.arange(50)])
    assert np.all(np.diff(read_points(path).data[:, 3]) >= 0)
    np.save(path, np.zeros((5, 5)))
    with pytest.raises(FileError, match=r'\[N, 3\]'):
        read_points(path)


@pytest.mark.parametrize('name, points', [('pcl_milk_carton_rgb.pcd', 13704),
                                          ('pcl_table_milk_clorox_640x480_rgb.pcd', 307200)])
def test_real_clouds_agree_with_open3d(name, points):
    if not (CLOUDS / name).exists():
        pytest.skip(f'{CLOUDS / name} is not there (set ONELLM_SHARED)')
    cloud = read_points(CLOUDS / name).data
    assert points // 2 < len(cloud) <= points and np.isfinite(cloud).all()
    assert cloud[:, 3:].std() > 0.05
    o3d = pytest.importorskip('open3d', reason='open3d is the reference here')
    other = o3d.io.read_point_cloud(str(CLOUDS / name), remove_nan_points=True)
    assert np.allclose(np.asarray(other.points), cloud[:, :3], atol=1e-6)
    assert np.allclose(np.asarray(other.colors), cloud[:, 3:], atol=1e-6)
