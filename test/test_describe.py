"""The command ``onellm describe``: files in, words out, errors on one line."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace

import numpy as np
from PIL import Image
import pytest

from onellm_ros import describe
from onellm_ros.config import NANO
from onellm_ros.modality import Modality
from onellm_ros.preprocess import Preprocessor

RNG = np.random.default_rng(8)


class ToldEngine:
    """Stands for the model: it says what reached it."""

    name, weights_hash, config = 'told', 'abc', NANO
    preprocessor = Preprocessor.from_config(NANO)

    def encode(self, tensors):
        """Keep the inputs."""
        self.tensors = dict(tensors)
        return SimpleNamespace(modalities=tuple(tensors), encode_s=0.01)

    def ask(self, prefix, question, *, max_tokens):
        """Repeat the question."""
        return SimpleNamespace(text=f'You asked: {question}', tokens=3, finish_reason='stop',
                               first_token_s=0.1, total_s=0.2, confidence=0.5)

    def describe(self, prefix, *, max_tokens):
        """Name what was sensed."""
        return self.ask(prefix, ' '.join(m.value for m in prefix.modalities),
                        max_tokens=max_tokens)


@pytest.fixture
def files(tmp_path):
    """Write one file of every kind; returns the arguments that name them."""
    Image.fromarray(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(tmp_path / 'i.png')
    Image.fromarray(RNG.integers(900, 1100, (60, 80)).astype(np.uint16)).save(tmp_path / 'd.png')
    np.save(tmp_path / 'p.npy', RNG.normal(size=(500, 3)))
    np.save(tmp_path / 'm.npy', RNG.normal(size=(6, 700)))
    np.save(tmp_path / 'f.npy', np.zeros(256))
    import soundfile
    soundfile.write(tmp_path / 's.wav', RNG.normal(0, 0.1, 44100), 44100)
    Image.fromarray(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(
        tmp_path / 'v.gif', save_all=True, append_images=[
            Image.fromarray(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8))] * 3, duration=200)
    names = {'image': 'i.png', 'depth': 'd.png', 'points': 'p.npy', 'imu': 'm.npy',
             'audio': 's.wav', 'fmri': 'f.npy', 'video': 'v.gif'}
    return {f'--{key}': str(tmp_path / name) for key, name in names.items()}


def run(arguments, engine=None):
    """Run the subcommand."""
    parser = argparse.ArgumentParser()
    describe.add_arguments(parser)
    flat = [word for pair in arguments.items() for word in pair] \
        if isinstance(arguments, dict) else arguments
    return describe.run(parser.parse_args(flat), lambda args: engine or ToldEngine())


def test_all_files(files, capsys):
    engine = ToldEngine()
    assert run(files, engine) == 0
    out = capsys.readouterr().out
    assert set(engine.tensors) == set(Modality) - {Modality.NORMAL}
    assert 'used: image, video' in out and '200 Hz assumed' in out
    assert 'You asked: image video' in out and 'left out' not in out
    imu = engine.tensors[Modality.IMU]
    assert imu.shape == (1, 6, 400) and float(imu.abs().sum(1).min()) > 0
    assert float(engine.tensors[Modality.AUDIO][0, 0, 64, :97].min()) > 0


def test_questions_json_and_normals(files, capsys):
    arguments = [word for pair in files.items() for word in pair]
    more = ['--intrinsics', '70', '70', '40', '30', '--ask', 'What?', '--ask', 'Where?', '--json']
    engine = ToldEngine()
    assert run(arguments + more, engine) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['text'] == 'You asked: What?' and len(told['answers']) == 2
    assert told['used']['normal'] == 'computed from depth' and Modality.NORMAL in engine.tensors
    assert told['model'] == 'told' and told['left_out'] == {}
    assert run(['--ask', 'Hello?']) == 0
    out = capsys.readouterr().out
    assert 'nothing (text only)' in out and 'Q: Hello?' in out


def test_left_out_is_told(files, tmp_path, capsys):
    np.save(tmp_path / 'empty.npy', np.full((30, 40), np.nan))
    files['--depth'] = str(tmp_path / 'empty.npy')
    assert run(files) == 0
    assert 'left out: depth: none of 1200 pixels' in capsys.readouterr().out
    assert run({'--depth': files['--depth']}) == 2
    assert 'nothing to go by: depth' in capsys.readouterr().err


def test_odd_depth_unit_is_told(tmp_path, capsys):
    np.save(tmp_path / 'd.npy', np.full((30, 40), 1500.0))
    assert run({'--depth': str(tmp_path / 'd.npy')}) == 0
    assert '--depth-scale' in capsys.readouterr().out


@pytest.mark.parametrize('option', ['--image', '--depth', '--points', '--imu', '--audio',
                                    '--video', '--fmri'])
def test_bad_file_is_one_line(option, tmp_path, capsys):
    (tmp_path / 'bad').write_bytes(b'\x00\x01\x02 not a sensor file')
    for name in ('bad', 'missing'):
        assert run({option: str(tmp_path / name)}) == 2
        captured = capsys.readouterr()
        assert captured.err.count('\n') == 1 and captured.out == ''
        assert captured.err.startswith('onellm describe: error: ' + str(tmp_path / name))


def test_wrong_use(files, tmp_path, capsys):
    assert run([]) == 2
    assert 'give at least one' in capsys.readouterr().err
    assert run({**files, '--max-tokens': '0'}) == 2
    np.save(tmp_path / 'f.npy', np.zeros(11))
    assert run(files) == 2
    assert 'expected [256] voxels' in capsys.readouterr().err
    parser = argparse.ArgumentParser()
    describe.add_arguments(parser)
    args = parser.parse_args(['--image', files['--image'], '--model', str(tmp_path / 'nothing')])
    assert describe.run(args) == 2
    captured = capsys.readouterr()
    assert captured.err.count('\n') == 1 and 'nothing' in captured.err
