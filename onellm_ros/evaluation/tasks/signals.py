"""Beside the paper's 25: Ego4D's IMU and NSD's fMRI, captions in COCO's style."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.annotations import (
    Captioned,
    find_file,
    picture,
    read_json,
    wanted,
)
from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.task import Paper, Task
from onellm_ros.evaluation.tasks.media import captioned
from onellm_ros.modality import Modality


def _window(root: Path, entry: Captioned) -> Signal:
    """Return the window of a recording that an entry names.

    :raises AnnotationError: if it names none.
    """
    row = entry.row
    video = wanted(row, 'video_uid', str)
    start, end = (float(wanted(row, key, float)) for key in ('window_start', 'window_end'))
    if not 0 <= start < end < float('inf'):
        raise row.error(f'window_start, window_end: found {start:g}, {end:g}, expected seconds, '
                        'the first below the second')
    name = f'{video}.npy'
    path = picture(root, (f'processed_imu/{name}', f'imu/{name}', name))
    return Signal(path, window_s=(start, end))


def _ego4d(root: Path, split: str) -> Iterator[Item]:
    file = find_file(root, ('imu_2000_cococap.json', 'Ego4D/imu_2000_cococap.json',
                            f'captions_{split}.json'), 'ego4d-imu')
    yield from captioned(read_json(file, 'ego4d-imu'),
                         lambda entry: {Modality.IMU: _window(root, entry)})


def _voxels(root: Path, entry: Captioned) -> Signal:
    """Return the responses that an entry names: its path below the folder, or the end of it.

    The authors' paths begin where their scripts were run.

    :raises AnnotationError: if it names none.
    """
    if not entry.name:
        raise entry.row.error("found no file_name, expected a .npy file's")
    parts = Path(entry.name.lstrip('/')).parts
    ends = [str(Path(*parts[start:])) for start in range(len(parts))]
    return Signal(picture(root, [ends[0], f'fmri/{parts[-1]}', *ends[1:]]))


def _nsd(root: Path, split: str) -> Iterator[Item]:
    file = find_file(root, ('fmri_eval_cococap.json', 'fmri/fmri_eval_cococap.json',
                            f'captions_{split}.json'), 'nsd-fmri')
    yield from captioned(read_json(file, 'nsd-fmri'),
                         lambda entry: {Modality.FMRI: _voxels(root, entry)})


TASKS: tuple[Task, ...] = (
    Task('ego4d-imu', 'Ego4D IMU captions', (Modality.IMU,), 'motion', ('cider', 'rouge_l'),
         _ego4d, ('test',), """\
Ego4D (ego4d-data.org, after its licence): the IMU recordings, each as UID.npy [6, n]
(accelerometer and gyroscope xyz) and UID_timestamps.npy in milliseconds, as imu2clip's
extract_imu.py writes them. Annotations in COCO's style, the authors' list of 2000 windows or one
of your own in its form; an image has video_uid, window_start and window_end in seconds:
  imu_2000_cococap.json   {"images": [{"id": 0, "file_name": "UID", "video_uid": "UID",
                            "window_start": 12.0, "window_end": 14.0}],
                           "annotations": [{"id": 0, "image_id": 0, "caption": "..."}]}
  processed_imu/UID.npy  processed_imu/UID_timestamps.npy ...""",
         Paper(0, {'cider': 24.9, 'rouge_l': 19.5}), max_tokens=64,
         facts={'split': 'figures of other windows than the 2000 of the authors are not the '
                         "paper's benchmark"}),
    Task('nsd-fmri', 'NSD fMRI captions', (Modality.FMRI,), 'fmri', ('cider', 'rouge_l'),
         _nsd, ('test',), """\
NSD (naturalscenesdataset.org, after its licence; prepared as pscotti/naturalscenesdataset on
Hugging Face): the test images' voxel responses of subject 1, each as .npy [repeats, 15724], which
are averaged. Annotations in COCO's style, file_name below this folder:
  fmri_eval_cococap.json  {"images": [{"id": 0, "file_name": "test/sample0.nsdgeneral.npy"}],
                           "annotations": [{"id": 0, "image_id": 0, "caption": "..."}]}
  test/sample0.nsdgeneral.npy ...""",
         Paper(0, {'cider': 31.7, 'rouge_l': 25.1}), max_tokens=64),
)
