"""Readers of IMU recordings: text tables of many habits, and NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from onellm_ros.files import FileError, read_imu, read_imu_table

N = 40
RNG = np.random.default_rng(7)
VALUES = RNG.normal(size=(N, 6)) + [0, 0, 9.81, 0, 0, 0]
SECONDS = 1_700_000_000 + np.arange(N) * 0.01


def write(path, header, columns, delimiter=',', form='%.10g'):
    """Write a table in text."""
    rows = [delimiter.join(form % v for v in row) for row in np.stack(columns, 1)]
    path.write_text('\n'.join(([header] if header else []) + rows) + '\n')


HEADERS = [
    't,ax,ay,az,gx,gy,gz', 'time,acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z',
    'timestamp,AccX,AccY,AccZ,GyroX,GyroY,GyroZ', 'Time (s),a_x,a_y,a_z,w_x,w_y,w_z',
    'stamp,linear_acceleration.x,linear_acceleration.y,linear_acceleration.z,'
    'angular_velocity.x,angular_velocity.y,angular_velocity.z',
    '%time,field.linear_acceleration.x,field.linear_acceleration.y,field.linear_acceleration.z,'
    'field.angular_velocity.x,field.angular_velocity.y,field.angular_velocity.z',
    'seconds_elapsed,accelerometer x,accelerometer y,accelerometer z,gyroscope x,gyroscope y,'
    'gyroscope z', 'time,accel_x,accel_y,accel_z,omega_x,omega_y,omega_z',
    '"Time (s)","Acceleration x (m/s^2)","Acceleration y (m/s^2)","Acceleration z (m/s^2)",'
    '"Gyroscope x (rad/s)","Gyroscope y (rad/s)","Gyroscope z (rad/s)"']


@pytest.mark.parametrize('header', HEADERS)
def test_column_names(tmp_path, header):
    write(tmp_path / 'a.csv', header, [np.arange(N) * 0.01, *VALUES.T])
    table = read_imu_table(tmp_path / 'a.csv')
    assert np.allclose(table.values, VALUES) and table.stamps_ns.dtype == np.int64
    assert np.array_equal(table.stamps_ns, np.arange(N) * 10_000_000)
    samples = read_imu(tmp_path / 'a.csv')
    assert len(samples) == N and samples[3].stamp_ns == 30_000_000
    assert samples[3].data.shape == (6,) and samples[3].data.dtype == np.float64


def test_order_extra_columns_and_euroc(tmp_path):
    order = [3, 4, 5, 0, 1, 2]
    header = ('#timestamp [ns],w_RS_S_x [rad s^-1],w_RS_S_y [rad s^-1],w_RS_S_z [rad s^-1],'
              'a_RS_S_x [m s^-2],a_RS_S_y [m s^-2],a_RS_S_z [m s^-2]')
    write(tmp_path / 'euroc.csv', header, [SECONDS * 1e9, *VALUES.T[order]], form='%.19g')
    table = read_imu_table(tmp_path / 'euroc.csv')
    assert np.allclose(table.values, VALUES)
    assert np.allclose(np.diff(table.stamps_ns), 10_000_000, atol=600)
    assert abs(table.stamps_ns[0] - 1_700_000_000_000_000_000) < 1000
    header = ('seq,header.stamp.sec,header.stamp.nanosec,orientation.x,orientation.y,'
              'orientation.z,linear_acceleration_covariance_x,mag_x,mag_y,mag_z,gz,gy,gx,az,ay,ax')
    columns = [np.arange(N), np.full(N, 1_700_000_000), np.arange(N) * 10_000_000,
               *np.zeros((7, N)), *VALUES.T[::-1]]
    write(tmp_path / 'ros.csv', header, columns)
    table = read_imu_table(tmp_path / 'ros.csv')
    assert np.allclose(table.values, VALUES) and not table.notes
    assert np.allclose(np.diff(table.stamps_ns), 10_000_000, atol=600)


@pytest.mark.parametrize('name, factor', [('time_s', 1), ('time_ms', 1e3), ('time [us]', 1e6),
                                          ('timestamp_ns', 1e9), ('t', 1), ('t', 1e3), ('t', 1e6),
                                          ('timestamp', 1e9)])
def test_time_units(tmp_path, name, factor):
    write(tmp_path / 'a.csv', name + ',ax,ay,az,gx,gy,gz',
          [np.arange(N) * 0.01 * factor, *VALUES.T])
    table = read_imu_table(tmp_path / 'a.csv')
    assert np.allclose(np.diff(table.stamps_ns), 10_000_000, atol=10)


def test_units_of_values(tmp_path):
    header = 't,acc_x [g],acc_y [g],acc_z [g],gyr_x [deg/s],gyr_y [deg/s],gyr_z [deg/s]'
    write(tmp_path / 'a.csv', header, [np.arange(N) * 0.01, *VALUES.T])
    scale = np.array([9.80665] * 3 + [np.pi / 180] * 3)
    assert np.allclose(read_imu_table(tmp_path / 'a.csv').values, VALUES * scale)
    header = 't,acc_x_g,acc_y_g,acc_z_g,gx_dps,gy_dps,gz_dps'
    write(tmp_path / 'a.csv', header, [np.arange(N) * 0.01, *VALUES.T])
    assert np.allclose(read_imu_table(tmp_path / 'a.csv').values, VALUES * scale)
    write(tmp_path / 'a.csv', 't,ax,ay,az,gx,gy,gz', [np.arange(N) * 0.01, *(VALUES / 9.81).T])
    assert any('look like g' in note for note in read_imu_table(tmp_path / 'a.csv').notes)


@pytest.mark.parametrize('delimiter', [',', ';', '\t', ' '])
def test_without_names(tmp_path, delimiter):
    write(tmp_path / 'a.txt', '', VALUES.T, delimiter)
    table = read_imu_table(tmp_path / 'a.txt', 100)
    assert np.allclose(table.values, VALUES)
    assert np.array_equal(np.diff(table.stamps_ns), [10_000_000] * (N - 1))
    assert np.diff(read_imu_table(tmp_path / 'a.txt').stamps_ns)[0] == 5_000_000
    assert '200 Hz' in ' '.join(read_imu_table(tmp_path / 'a.txt').notes)
    write(tmp_path / 'a.txt', '', [np.arange(N) * 10.0, *VALUES.T], delimiter)
    assert np.diff(read_imu_table(tmp_path / 'a.txt').stamps_ns)[0] == 10_000_000


def test_missing_cells_and_cut_off_row(tmp_path):
    write(tmp_path / 'a.csv', 't,ax,ay,az,gx,gy,gz', [np.arange(N) * 0.01, *VALUES.T])
    lines = (tmp_path / 'a.csv').read_text().splitlines()
    cells = lines[5].split(',')
    lines[5] = ','.join([cells[0], '', *cells[2:]])
    lines[-1] = lines[-1][:30]
    (tmp_path / 'a.csv').write_text('\n'.join(lines))
    table = read_imu_table(tmp_path / 'a.csv')
    assert len(table.values) == N - 1 and np.isnan(table.values[4, 0])
    assert np.isfinite(np.delete(table.values, 4, 0)).all()


def test_npy(tmp_path):
    path = tmp_path / 'a.npy'
    for array in (VALUES, VALUES.T, np.c_[np.arange(N) * 0.005, VALUES].T):
        np.save(path, array)
        table = read_imu_table(path)
        assert np.allclose(table.values, VALUES)
        assert np.diff(table.stamps_ns)[0] == 5_000_000
    np.save(path, VALUES.T)
    np.save(tmp_path / 'a_timestamps.npy', np.arange(N) * 20.0)
    assert np.diff(read_imu_table(path).stamps_ns)[0] == 20_000_000
    np.save(tmp_path / 'a_timestamps.npy', np.arange(3))
    with pytest.raises(FileError, match='3 stamps'):
        read_imu_table(path)


def test_errors(tmp_path):
    path = tmp_path / 'a.csv'
    for content, message in (
            (b'', 'empty'), (b'\xff\xfe\x00\x81', 'no text'), (b'ax,ay,az,gx,gy,gz\n', 'no rows'),
            (b't,ax,ay,az\n0,1,2,3\n', 'gyroscope'), (b'a,b,c\n1,2,3\n', 'accelerometer'),
            (b'1,2,3\n4,5,6\n', '3 columns'), (b'\n\n', 'no rows'),
            (b't,ax,ay,az,gx,gy,gz\n0,1,oops,3,4,5,6\n1,1,2,3,4,5,6\n', 'row 1'),
            (b't,ax,ay,az,gx,gy,gz\nnan,1,1,3,4,5,6\n', 'times'),
            (b't_s,ax,ay,az,gx,gy,gz\n1e12,1,1,3,4,5,6\n', 'found a time')):
        path.write_bytes(content)
        with pytest.raises(FileError, match=message):
            read_imu(path)
    with pytest.raises(FileError, match='no such file'):
        read_imu(tmp_path / 'none.csv')
    np.save(tmp_path / 'a.npy', np.zeros((5, 5)))
    with pytest.raises(FileError, match=r'\[6, n\]'):
        read_imu(tmp_path / 'a.npy')
    with pytest.raises(FileError, match='rate of -1'):
        read_imu(tmp_path / 'a.npy', -1.0)
