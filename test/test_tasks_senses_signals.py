"""Files that benchmarks show become a model's inputs; right answers score, empty ones do not."""

from __future__ import annotations

from dataclasses import replace
import importlib
from pathlib import Path

import numpy as np
from PIL import Image
import pytest
from senses_cases import CASES, laid, read
from senses_files import RATE, clip, tone
import torch

from onellm_ros.config import NANO
from onellm_ros.datasets.depths import DepthSignal
from onellm_ros.datasets.rows import Signal
from onellm_ros.datasets.signals import read_signal
from onellm_ros.evaluation.item import Prediction
from onellm_ros.evaluation.prompts import LETTERS
from onellm_ros.evaluation.task import Tools
from onellm_ros.evaluation.tasks import find_task
from onellm_ros.files.recordings import SilentError
from onellm_ros.modality import Modality
from onellm_ros.preprocess.image import denormalise

RNG = np.random.default_rng(6)
SHAPES = {'video': (4, 3, 112, 112), 'audio': (1, 128, 256), 'point': (2048, 6),
          'depth': (2, 3, 112, 112), 'normal': (2, 3, 112, 112), 'imu': (6, 400),
          'fmri': (1, 256)}
NAMES = [name for name in CASES if ' ' not in name]
# Spans that a video of 5 s has, instead of those of the cases.
SPANS = {'_000179_000189': '_000002_000004', '_30.000_40.000': '_2.000_4.000',
         '[7.2:18.0]': '[1.2:3.0]', '[60.0:60.0]': '[3.0:3.0]'}


def write_signal(modality: Modality, signal: Signal) -> None:
    """Write a file of the kind that a signal means."""
    path = signal.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if modality in (Modality.VIDEO, Modality.AUDIO) and path.suffix != '.wav':
        if not path.is_file() or path.stat().st_size == 0:
            plain = path.suffix in ('.avi', '.mkv')
            clip(path, 5.0, 'pcm_s16le' if plain else 'aac')
    elif modality is Modality.AUDIO:
        import soundfile
        soundfile.write(path, tone(5.0), RATE)
    elif modality is Modality.POINT:
        cloud = np.concatenate([RNG.normal(2, 1, (8192, 3)), RNG.random((8192, 3))], axis=1)
        np.save(path, cloud.astype(np.float32))
    elif modality is Modality.IMU:
        times = np.arange(3000) * 5.0                       # 15 s at 200 Hz, milliseconds
        np.save(path, np.tile(np.sin(times / 300), (6, 1)))
        np.save(path.with_name(f'{path.stem}_timestamps.npy'), times)
    elif modality is Modality.FMRI:
        np.save(path, RNG.normal(size=(3, 256)).astype(np.float32))
    else:
        signal.colour.parent.mkdir(parents=True, exist_ok=True)
        colour = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(colour).save(signal.colour)
        slope = (1500 + 10 * np.arange(64, dtype=np.uint16))[None].repeat(48, 0)
        rotated = isinstance(signal, DepthSignal) and signal.rotated
        if isinstance(signal, DepthSignal):
            Image.fromarray((slope << 3) | (slope >> 13) if rotated else slope).save(path)
        else:
            Image.fromarray(np.full((48, 64, 3), (128, 128, 0), np.uint8)).save(path)


def real(name: str, root: Path) -> list:
    """Lay out a case with real files of signals; returns its items."""
    case = CASES[name]
    files = {}
    for file, text in case.files.items():
        for before, after in SPANS.items():
            text = text.replace(before, after)
        files[file] = text
    case = replace(case, files=files)
    for item in read(name, case, laid(case, root)):
        for modality, signal in item.signals.items():
            write_signal(modality, signal)
    return read(name, case, root)


@pytest.mark.parametrize('name', NAMES)
def test_signals_become_inputs(name, tmp_path):
    task = find_task(name)
    for item in real(name, tmp_path):
        assert set(item.signals) <= set(task.modalities) and item.signals
        for modality, signal in item.signals.items():
            tensor = read_signal(modality, signal, NANO)
            assert tensor.shape == SHAPES[modality.value] and tensor.dtype == torch.float32
            assert bool(torch.isfinite(tensor).all()) and float(tensor.std()) > 0


def test_spans_are_shown_not_whole_videos(tmp_path):
    item = real('valor-32k', tmp_path)[0]
    video = item.signals[Modality.VIDEO]
    assert video.window_s == (2.0, 4.0)
    part, whole = (read_signal(Modality.VIDEO, signal, NANO).mean((1, 2, 3))
                   for signal in (video, Signal(video.path)))
    assert float(part[0] - whole[0]) > 0.3 and float(whole[-1] - part[-1]) > 0.1


def test_silent_videos(tmp_path):
    items = real('music-avqa', tmp_path)
    path = items[0].signals[Modality.VIDEO].path
    clip(path, 2.0, sound='')
    with pytest.raises(SilentError, match=f'{path.name}: the file holds no sound track'):
        read_signal(Modality.AUDIO, items[0].signals[Modality.AUDIO], NANO)
    shown = [set(item.signals) for item in
             read('music-avqa', CASES['music-avqa'], tmp_path, silent='video')]
    assert shown == [{Modality.VIDEO}, *[{Modality.VIDEO, Modality.AUDIO}] * 2]
    path.write_bytes(b'')                                   # broken: told where it is read
    items = read('music-avqa', CASES['music-avqa'], tmp_path, silent='video')
    assert set(items[0].signals) == {Modality.VIDEO, Modality.AUDIO}


def test_normals_of_a_wall_face_the_camera(tmp_path):
    signal = real('nyuv2-normal', tmp_path)[1].signals[Modality.NORMAL]
    assert isinstance(signal, DepthSignal)
    Image.fromarray(np.full((480, 640), 2000, np.uint16)).save(signal.path)
    picture = denormalise(read_signal(Modality.NORMAL, signal, NANO)[1])
    assert torch.allclose(picture, torch.tensor([0.5, 0.5, 0.0])[:, None, None], atol=1e-3)


def computable(name: str) -> bool:
    """Return whether a metric needs neither Java nor a judge, and is written."""
    from onellm_ros.evaluation import metrics

    module = metrics._WHERE[name].partition(':')[0]
    if module in ('java', 'judge'):
        return False
    try:
        importlib.import_module(f'onellm_ros.evaluation.metrics.{module}')
    except ModuleNotFoundError:
        return False
    return True


SCORED = [(name, metric) for name in NAMES for metric in find_task(name).metrics]


@pytest.mark.parametrize('name, metric', SCORED)
def test_right_answers_score_and_empty_ones_do_not(name, metric, tmp_path):
    from onellm_ros.evaluation.metrics import metric as find_metric

    if not computable(metric):
        pytest.skip(f'{metric} needs Java or a judge, or is not there')
    case, task = CASES[name], find_task(name)
    items = read(name, case, laid(case, tmp_path))
    spoken = -1 if metric == 'answer_accuracy' else 0       # of three people two said the last
    right = [Prediction(item.id, LETTERS[item.right] if task.letters else item.answers[spoken],
                        item.right, tuple(float(n == item.right)
                                          for n in range(len(item.choices)))) for item in items]
    full = find_metric(metric)(items, right, Tools())
    empty = find_metric(metric)(items, [Prediction(item.id, '') for item in items], Tools())
    if metric == 'choice_likelihood':       # nothing is said of the choices
        assert empty.value is None and 'likelihoods' in empty.why
    else:
        assert empty.value == 0
    if metric == 'cider':                   # weighs words by the texts of all items: not 100
        assert full.value > 0 or len(items) == 1
    elif metric == 'bleu_4':
        assert full.value >= 0              # captions of fewer than four words have none
    else:
        assert full.value == pytest.approx(100)


def test_papers_figures_are_those_of_the_table():
    table = {'nextqa': (57.3, 73.8, True), 'how2qa': (65.7, 84.4, True),
             'msvd-qa': (56.5, 60.0, True), 'vatex': (43.8, 95.1, True),
             'clotho-caption': (29.1, 48.8, True), 'clotho-aqa': (57.9, 64.5, True),
             'music-avqa': (47.6, 80.7, True), 'valor-32k': (29.2, 62.2, True),
             'avsd': (74.5, 108.5, True), 'objaverse-caption': (42.2, 12.6, False),
             'objaverse-class': (44.5, 47.5, False), 'nyuv2-depth': (50.9, 76.7, True),
             'nyuv2-normal': (46.5, 76.7, True), 'sunrgbd-depth': (29.0, 64.9, True),
             'sunrgbd-normal': (21.2, 64.9, True), 'ego4d-imu': (24.9, None, False),
             'nsd-fmri': (31.7, None, False)}
    assert set(NAMES) == set(table) - {'objaverse-class', 'sunrgbd-normal'}
    for name, (ours, best, tuned) in table.items():
        task = find_task(name)
        main = task.metrics[0]
        assert (task.paper.scores[main], task.paper.best_scores.get(main),
                task.paper.fine_tuned) == (ours, best, tuned), name
        assert task.version == 1 and set(task.paper.scores) <= set(task.metrics)
