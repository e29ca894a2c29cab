"""Point clouds of any layout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onellm_ros.ros.conversions import ConversionError, cloud_array, point_sample

CODES = {'i1': 1, 'u1': 2, 'i2': 3, 'u2': 4, 'i4': 5, 'u4': 6, 'f4': 7, 'f8': 8}
XYZ = [('x', 'f4', 0), ('y', 'f4', 4), ('z', 'f4', 8)]


def cloud(layout: list[tuple[str, str, int]], values: dict[str, Any], step: int = 0,
          height: int = 1, pad: int = 0, bigendian: bool = False, **changed: Any) -> Any:
    """Return a PointCloud2 with fields of (name, type, offset)."""
    step = step or max(offset + int(kind[1]) for _, kind, offset in layout)
    count = len(next(iter(values.values())))
    order = '>' if bigendian else '<'
    points = np.zeros(count, np.dtype({
        'names': [f[0] for f in layout], 'formats': [order + f[1] for f in layout],
        'offsets': [f[2] for f in layout], 'itemsize': step}))
    for name, value in values.items():
        points[name] = value
    rows = points.view(np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, pad)), constant_values=0xEE)
    message = SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=2), frame_id='lidar'),
        width=count // height, height=height, is_bigendian=bigendian, is_dense=False,
        fields=[SimpleNamespace(name=n, datatype=CODES[k], offset=o, count=1)
                for n, k, o in layout],
        point_step=step, row_step=rows.shape[1], data=rows.tobytes())
    for name, value in changed.items():
        setattr(message, name, value)
    return message


def coordinates(n: int = 12) -> dict[str, np.ndarray]:
    return {axis: np.arange(n) + i + 0.5 for i, axis in enumerate('xyz')}


@pytest.mark.parametrize('bigendian', [False, True])
@pytest.mark.parametrize('height,pad', [(1, 0), (3, 0), (3, 7)])
@pytest.mark.parametrize('kind', ['f4', 'f8'])
def test_layouts(kind: str, height: int, pad: int, bigendian: bool) -> None:
    size = int(kind[1])
    fields = [('z', kind, 3), ('x', kind, 3 + size), ('ring', 'u2', 0), ('y', kind, 3 + 2 * size)]
    values = {**coordinates(), 'ring': np.arange(12)}
    sample = point_sample(cloud(fields, values, 3 * size + 8, height, pad, bigendian))
    expected = np.stack([values[a] for a in 'xyz'], axis=-1)
    np.testing.assert_allclose(sample.data[:, :3], expected)
    np.testing.assert_array_equal(sample.data[:, 3:], 0.5)
    assert sample.data.dtype == np.float32
    assert (sample.stamp_ns, sample.frame_id) == (1_000_000_002, 'lidar')


@pytest.mark.parametrize('kind', ['f4', 'u4', 'i4'])
@pytest.mark.parametrize('name', ['rgb', 'rgba'])
@pytest.mark.parametrize('bigendian', [False, True])
def test_packed_colours(kind: str, name: str, bigendian: bool) -> None:
    packed = np.full(12, 0xFF << 24 | 200 << 16 | 100 << 8 | 50, np.uint32)
    if name == 'rgb':
        packed &= 0xFFFFFF
    values = {**coordinates(), name: packed.view(np.dtype(kind))}
    data = point_sample(cloud([*XYZ, (name, kind, 16)], values, 32, bigendian=bigendian)).data
    np.testing.assert_allclose(data[:, 3:] * 255, np.tile([200, 100, 50], (12, 1)), atol=1e-4)


@pytest.mark.parametrize('kind,scale', [('u1', 255), ('f4', 1), ('f4', 255)])
def test_separate_colours(kind: str, scale: float) -> None:
    fields = [*XYZ, ('r', kind, 12), ('g', kind, 16), ('b', kind, 20)]
    values = {**coordinates(), 'r': [scale] * 12, 'g': [0] * 12, 'b': [scale / 5] * 12}
    data = point_sample(cloud(fields, values)).data
    np.testing.assert_allclose(data[:, 3:], np.tile([1, 0, 0.2], (12, 1)), atol=1e-6)


@pytest.mark.parametrize('kind', ['u1', 'u2', 'f4'])
def test_intensity_becomes_grey_of_any_scale(kind: str) -> None:
    values = {**coordinates(200), 'intensity': np.linspace(0, 250, 200)}
    data = point_sample(cloud([*XYZ, ('intensity', kind, 12)], values)).data
    assert (data[:, 3] == data[:, 4]).all() and (data[:, 4] == data[:, 5]).all()
    assert data[0, 3] == 0 and data[-1, 3] == 1 and abs(data[100, 3] - 0.5) < 0.02
    constant = {**coordinates(), 'intensity': [7] * 12}
    grey = point_sample(cloud([*XYZ, ('intensity', 'f4', 12)], constant)).data[:, 3:]
    np.testing.assert_array_equal(grey, 0.5)


def test_what_was_not_measured_is_dropped() -> None:
    values = coordinates(6)
    values['x'][0] = np.nan
    values['y'][1] = np.inf
    values['x'][2] = values['y'][2] = values['z'][2] = 0
    assert len(point_sample(cloud(XYZ, values)).data) == 3


@pytest.mark.parametrize('change,words', [
    ({'width': 0}, 'empty'), ({'data': b''}, 'found 0 bytes'), ({'point_step': 8}, 'point_step'),
    ({'point_step': 100}, 'expected 1200'), ({'fields': []}, 'x, y and z'),
    ({'height': 2, 'row_step': 3}, 'row_step of 3'),
    ({'fields': [SimpleNamespace(name='x', datatype=11, offset=0, count=1)]}, 'datatype 11')])
def test_errors(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConversionError, match=words) as error:
        point_sample(cloud(XYZ, coordinates(), **change))
    assert 'expected' in str(error.value)


def test_only_nan_is_said() -> None:
    values = {axis: np.full(5, np.nan) for axis in 'xyz'}
    with pytest.raises(ConversionError, match='no measured point among 5'):
        point_sample(cloud(XYZ, values))


def test_colours_that_cannot_be_unpacked_are_said() -> None:
    with pytest.raises(ConversionError, match="'rgb' of type float64, expected 32 bits"):
        point_sample(cloud([*XYZ, ('rgb', 'f8', 16)], {**coordinates(), 'rgb': [0.0] * 12}, 32))


def test_names_in_capitals() -> None:
    values = {'X': [1.0] * 3, 'Y': [2.0] * 3, 'Z': [3.0] * 3, 'Intensity': [7.0] * 3}
    fields = [('X', 'f4', 0), ('Y', 'f4', 4), ('Z', 'f4', 8), ('Intensity', 'f4', 12)]
    data = point_sample(cloud(fields, values)).data
    np.testing.assert_array_equal(data, np.tile([1, 2, 3, 0.5, 0.5, 0.5], (3, 1)))


def test_old_point_cloud() -> None:
    points = [SimpleNamespace(x=1.0, y=2.0, z=3.0), SimpleNamespace(x=4.0, y=5.0, z=float('nan'))]
    message = SimpleNamespace(header=None, points=points, channels=[
        SimpleNamespace(name='r', values=[1.0, 1.0]), SimpleNamespace(name='g', values=[0.0, 1.0]),
        SimpleNamespace(name='b', values=[0.0, 1.0])])
    np.testing.assert_allclose(point_sample(message).data, [[1, 2, 3, 1, 0, 0]])


def test_no_python_loop_over_points() -> None:
    import time
    values = {**coordinates(300_000), 'intensity': np.arange(300_000)}
    message = cloud([*XYZ, ('intensity', 'f4', 16)], values, 32)
    begin = time.perf_counter()
    point_sample(message)
    assert time.perf_counter() - begin < 3.0  # about 0.03 s; a loop would take many times that


def test_same_as_sensor_msgs_py_where_it_exists() -> None:
    point_cloud2 = pytest.importorskip(
        'sensor_msgs_py.point_cloud2', reason='sensor_msgs_py comes with a full ROS installation')
    from sensor_msgs.msg import PointCloud2, PointField
    plain = cloud([*XYZ, ('intensity', 'f4', 16)], {**coordinates(), 'intensity': range(12)}, 32)
    message = PointCloud2(
        height=1, width=12, point_step=32, row_step=384, data=plain.data,
        fields=[PointField(name=f.name, offset=f.offset, datatype=f.datatype, count=1)
                for f in plain.fields])
    theirs = point_cloud2.read_points(message)
    ours = cloud_array(message)
    for name in ('x', 'y', 'z', 'intensity'):
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_point_step_of_zero_is_named():
    message = cloud([('x', 'f4', 0)], {'x': [1.0]})
    message.fields, message.point_step, message.row_step = [], 0, 0
    with pytest.raises(ConversionError, match='point_step of 0'):
        point_sample(message)
