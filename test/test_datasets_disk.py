"""Simulated sets on disk read back as live worlds, and ``onellm data``."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path

from dataset_files import write_instructions, write_sensor_files
import pytest

from onellm_ros import data as command
from onellm_ros.cli import main
from onellm_ros.config import NANO
from onellm_ros.datasets import DataError, Mix, MixConfig, SetConfig
from onellm_ros.datasets import render as render_module
from onellm_ros.datasets.render import RenderConfig, render
from onellm_ros.modality import Modality
from onellm_ros.preprocess import Preprocessor

SMALL = RenderConfig(worlds=3, seed=5, questions=3, points=512, video=(4, 32, 24))
# What the file formats lose, in the units of the tensors (their standard deviation is about 1).
LOST = {'image': 0, 'video': 0, 'point': 0, 'imu': 0, 'fmri': 0, 'audio': 1e-3, 'depth': 2e-3,
        'normal': 0.03}


@pytest.fixture(scope='module')
def rendered(tmp_path_factory) -> Path:
    """Return a folder with a small simulated set; nothing may be changed in it."""
    out = tmp_path_factory.mktemp('rendered') / 'set'
    render(out, SMALL)
    return out


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.mark.parametrize('name', ['manifest', 'alignment'])
def test_rendered_worlds_read_back_as_live_ones(name, rendered):
    from onellm_ros.simulation.world import World

    mix = Mix.open(rendered / f'{name}.yaml', NANO)
    assert {m for m in mix.modalities if m != 'text'} == {m.value for m in Modality}
    live = Preprocessor.from_config(NANO)
    tensors = []
    for index in range(SMALL.worlds):
        world = World(SMALL.seed * 100_000_000 + index)
        seen = world.sample(cloud_points=SMALL.points, video=SMALL.video)
        tensors.append(live.tensors(seen.chosen(), seen.stamp_ns))
    for data in mix.sets:
        for example in (data[i] for i in range(len(data))):
            if example.modality is None:
                continue
            world = int(Path(example.path).stem)
            expected = tensors[world][example.modality][0]
            assert example.tensor.shape == expected.shape
            lost = float((example.tensor - expected).abs().max())
            assert lost <= LOST[data.config.modality], (data.name, lost)


def test_rendered_language_belongs_to_its_world(rendered):
    from onellm_ros.simulation.language import parse_caption
    from onellm_ros.simulation.world import World

    mix = Mix.open(rendered / 'alignment.yaml', NANO)
    sets = {one.name: one for one in mix.sets}
    for index in range(SMALL.worlds):
        truth = World(SMALL.seed * 100_000_000 + index).truth()
        assert parse_caption(sets['audio'][index].turns[0][1]).sound == truth.sound
        assert parse_caption(sets['imu'][index].turns[0][1]).motion == truth.motion
    items = json.loads((rendered / 'instruction/image.json').read_text())
    assert items[0]['conversations'][0]['value'].startswith('<image>\n')
    assert items[0]['conversations'][1]['value'] == sets['image'][0].turns[0][1]


def test_rendering_again_and_going_on_give_the_same_bytes(rendered, tmp_path, monkeypatch):
    first, calls = tree(rendered), []

    def interrupted(folder, stem, observation):
        calls.append(stem)
        if len(calls) == 2:
            (folder / 'image/0000/.half.png.1').write_bytes(b'half')
            raise KeyboardInterrupt
        return real(folder, stem, observation)

    real = render_module.write_signals
    monkeypatch.setattr(render_module, 'write_signals', interrupted)
    out = tmp_path / 'set'
    with pytest.raises(KeyboardInterrupt):
        render(out, SMALL)
    assert not out.exists()                         # nothing half-written under the final name
    with pytest.raises(DataError, match='interrupted run with other settings'):
        render(out, replace(SMALL, seed=6))
    render(out, SMALL)
    assert calls[2:] == calls[1:2] + ['0000/0000002']   # the first world was kept
    assert tree(out) == first and not list(tmp_path.glob('.*'))
    with pytest.raises(DataError, match='exists already'):
        render(out, SMALL)


def run(*arguments) -> int:
    return main(['data', *(str(argument) for argument in arguments)])


def test_command_line(rendered, tmp_path, capsys):
    assert run('stats', rendered / 'manifest.yaml', '--workers', 0) == 0
    out = capsys.readouterr().out
    assert 'question tokens' in out and 'expected' in out and 'not understood' in out
    assert run('stats', rendered / 'manifest.yaml', '--workers', 1, '--json') == 0
    told = json.loads(capsys.readouterr().out)
    assert told['modalities']['text'] == {'examples': 3, 'expected': 3}
    sizes = {one['name']: one for one in told['sets']}
    items = json.loads((rendered / 'instruction/depth.json').read_text())
    assert sizes['depth']['examples'] == sizes['depth']['rows'] == len(items)
    assert sizes['depth']['turns'] == sum(len(item['conversations']) // 2 for item in items)
    words = [turn['value'] for item in items for turn in item['conversations'][1::2]]
    assert sizes['depth']['answer_words'] == sum(len(text.split()) for text in words)
    assert 0 < sizes['depth']['longest'] <= sizes['depth']['answer_tokens'] \
        + sizes['depth']['prompt_tokens']
    assert run('check', rendered / 'manifest.yaml', '--workers', 0) == 0
    assert ': 0 broken' in capsys.readouterr().out


def test_check_names_what_is_broken(rendered, tmp_path, capsys):
    write_sensor_files(tmp_path)
    items = [{'image': 'i.png'}, {'image': 'gone.png'}, {'conversations': []}]
    path = write_instructions(tmp_path / 'a.json', items)
    assert run('check', path, '--modality', 'image', '--workers', 1) == 1
    out = capsys.readouterr().out
    assert f'BROKEN {path}: row 1: {tmp_path}/gone.png: no such file' in out
    assert 'row 2: conversations' in out and '3 samples in 1 data sets' in out
    assert '2 broken' in out
    assert run('check', path, '--modality', 'image', '--workers', 0, '--json') == 1
    assert [one['row'] for one in json.loads(capsys.readouterr().out)['broken']] == [1, 2]
    assert run('stats', path, '--modality', 'image', '--workers', 0) == 0
    assert '1 rows are not understood' in capsys.readouterr().out
    (tmp_path / 'b.json').write_text(path.read_text()[:-9])
    assert run('check', tmp_path / 'b.json', '--modality', 'image') == 1
    assert f'BROKEN {tmp_path}/b.json: item 2' in capsys.readouterr().out
    for arguments in ((path,), (tmp_path / 'no.yaml',), (tmp_path / 'n.json', '--modality', 'imu'),
                      (rendered / 'manifest.yaml', '--kind', 'alignment'),
                      (path, '--modality', 'image', '--model', tmp_path / 'none'),
                      (path, '--modality', 'image', '--limit', 0)):
        assert run('check', *arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith('onellm data: error: ') and not captured.out


def test_render_command(tmp_path, capsys, monkeypatch):
    made = []

    def told(out, config, *, processes, progress):
        made.append((out, config, processes))
        return out / 'manifest.yaml'

    monkeypatch.setattr(render_module, 'render', told)
    assert run('render', '--out', tmp_path / 'x', '--worlds', 7, '--seed', 3, '--held-out') == 0
    assert made == [(tmp_path / 'x', RenderConfig(7, 3, held_out=True), 1)]
    assert 'manifest.yaml' in capsys.readouterr().out
    assert run('render', '--out', tmp_path / 'x', '--worlds', 0) == 2
    assert 'worlds: found 0' in capsys.readouterr().err
    assert run('render', '--out', tmp_path, '--worlds', 1, '--video', 4, 31, 24) == 2
    assert 'even numbers' in capsys.readouterr().err


def test_the_kind_of_a_file_is_seen(tmp_path):
    write_instructions(tmp_path / 'a.json', [{}])
    (tmp_path / 'b.json').write_text('[{"text": "x", "video_uid": "u"}]')
    assert command._kind(tmp_path / 'a.json') == 'instruction'
    assert command._kind(tmp_path / 'b.json') == 'alignment'
    mix = MixConfig((SetConfig('a.json', 'text'),), tmp_path)
    assert len(Mix.open(mix, NANO)) == 1
