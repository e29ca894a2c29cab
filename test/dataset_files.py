"""Small sensor files of every kind, and annotation files about them, for tests of data sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

RNG = np.random.default_rng(12)
TURNS = [{'from': 'human', 'value': '<image>\nWhat is it?'}, {'from': 'gpt', 'value': 'A box.'},
         {'from': 'human', 'value': 'Which colour?'}, {'from': 'gpt', 'value': 'Red.'}]
RATE = 16000


def film(path: Path, frames: np.ndarray, **options: str) -> None:
    """Write an MP4 file of uint8 [T, H, W, 3] at 5 frames a second."""
    import av

    with av.open(str(path), 'w', format='mp4', container_options=options) as container:
        stream = container.add_stream('mpeg4', rate=5)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


def write_sensor_files(folder: Path) -> None:
    """Write one file of every kind and form."""
    import soundfile

    colour = RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(colour).save(folder / 'i.png')
    Image.fromarray(colour).save(folder / 'i.jpg')
    Image.fromarray(RNG.integers(900, 4000, (60, 80)).astype(np.uint16)).save(folder / 'd.png')
    Image.fromarray(RNG.integers(0, 256, (60, 80), dtype=np.uint8)).save(folder / 'd8.png')
    np.save(folder / 'd.npy', RNG.uniform(1, 4, (60, 80)).astype(np.float32))
    slope = np.linspace(-1, 1, 60 * 80).reshape(60, 80)
    normals = np.stack([slope, 0.3 * slope ** 2, -np.ones((60, 80))], -1).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[:5] = np.nan
    np.save(folder / 'n.npy', normals)
    picture = np.nan_to_num((normals + 1) * 127.5, nan=127.5)
    Image.fromarray(np.round(picture).astype(np.uint8)).save(folder / 'n.png')
    cloud = np.concatenate([RNG.normal(2, 1, (500, 3)), RNG.random((500, 3))], axis=1)
    np.save(folder / 'p.npy', cloud.astype(np.float32))
    tone = np.sin(np.arange(6 * RATE) * 2 * np.pi * 440 / RATE) * np.linspace(1, 0, 6 * RATE)
    soundfile.write(folder / 's.wav', 0.5 * tone, RATE)
    frames = RNG.integers(0, 256, (1, 48, 64, 3), dtype=np.uint8).repeat(12, axis=0)
    film(folder / 'v.mp4', frames)
    film(folder / 'v_fast.mp4', frames, movflags='faststart')
    # A recording of 20 s at 100 Hz; the first accelerometer's values are the times.
    times = np.arange(2000) * 10.0
    rows = np.zeros((6, 2000))
    rows[0], rows[2] = times / 1e3, 9.8
    np.save(folder / 'uid-1.npy', rows)
    np.save(folder / 'uid-1_timestamps.npy', times)
    table = np.concatenate([times[:, None] / 1e3, rows.T], axis=1)
    np.savetxt(folder / 'm.csv', table, delimiter=',', header='t,ax,ay,az,gx,gy,gz', comments='')
    np.save(folder / 'f.npy', np.arange(256) + np.array([[1.0], [2.0], [6.0]]))


WINDOW = {'video_uid': 'uid-1', 'window_start': 4.0, 'window_end': 6.0}
# What an item of an instruction file says beside id and conversations, by modality and form.
FORMS: dict[str, tuple[str, dict[str, object]]] = {
    'image': ('image', {'image': 'i.png'}), 'image jpg': ('image', {'image': 'i.jpg'}),
    'video': ('video', {'image': 'v.mp4'}), 'audio': ('audio', {'image': 's.wav'}),
    'point': ('point', {'image': 'p.npy'}),
    'depth': ('depth', {'image': 'i.png', 'depth_image': 'd.png'}),
    'depth npy': ('depth', {'image': 'i.png', 'depth_image': 'd.npy'}),
    'normal': ('normal', {'image': 'i.png', 'normal_image': 'n.png'}),
    'normal npy': ('normal', {'image': 'i.png', 'normal_image': 'n.npy'}),
    'imu': ('imu', {'imu_path': '.', **WINDOW}), 'imu csv': ('imu', {'image': 'm.csv'}),
    'fmri': ('fmri', {'image': 'f.npy'}), 'text': ('text', {})}


def write_instructions(path: Path, items: list[dict[str, object]]) -> Path:
    """Write an instruction file; items without a conversation get one."""
    path.write_text(json.dumps([
        {'id': str(i), 'conversations': TURNS, **item} for i, item in enumerate(items)]))
    return path
