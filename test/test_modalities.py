"""The set of modalities is open: registration, models that know more than eight, and scans."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import replace
import json
import math
import pickle
import subprocess
import sys
from types import SimpleNamespace

from golden.tiny import TINY, fill, inputs, tiny
import numpy as np
import pytest
import torch

from onellm_ros import describe
from onellm_ros import modality as registry
from onellm_ros.choose import ChoiceSpec, choose
from onellm_ros.config import PRESETS, ConfigError, ModelConfig, from_mapping, to_mapping
from onellm_ros.files import FileError
from onellm_ros.modalities.scan import BEAMS, CHANNELS, KERNEL, SCAN, scan_input
from onellm_ros.modalities.scan_files import read_scan
from onellm_ros.modality import (
    Modality,
    ModalityError,
    ModalitySpec,
    Sample,
    in_order,
    parse_modality,
    prompt_order,
    register,
    spec_of,
)
from onellm_ros.model.checkpoint import CheckpointError, load_model, save_model
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.released import released_state
from onellm_ros.node_config import InputConfig
from onellm_ros.perception.intake import converter
from onellm_ros.perception.sources import default_sources
from onellm_ros.preprocess import NoMeasurementError, PreprocessError, Preprocessor
from onellm_ros.ros.message_fields import ConversionError
from onellm_ros.ros.scan_conversions import scan_sample
from onellm_ros.training.batches import blank_input
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.new_modality import with_modality
from onellm_ros.windows import Window

EIGHT = ('image', 'video', 'audio', 'point', 'depth', 'normal', 'imu', 'fmri')
AHEAD = BEAMS // 2


def spec(**changes) -> ModalitySpec:
    return ModalitySpec(**{'name': 'sonar', 'array': 'float32 [2]', 'shape': (1, 2), 'tokens': 1,
                           'tokenizer': lambda width: torch.nn.Linear(2, width),
                           'prepare': lambda samples, end_ns: samples[-1].data, **changes})


@pytest.fixture
def fresh(monkeypatch):
    """Forget what a test registers."""
    monkeypatch.setattr(registry, '_SPECS', dict(registry._SPECS))
    monkeypatch.setattr(registry, '_EXTRA', dict(registry._EXTRA))


def test_a_registered_modality_is_one_like_the_eight():
    assert tuple(m.value for m in Modality) == EIGHT
    assert Modality('scan') is SCAN is parse_modality(' Scan ') and isinstance(SCAN, Modality)
    assert pickle.loads(pickle.dumps(SCAN)) is SCAN and {SCAN: 1}[Modality('scan')] == 1
    assert str(SCAN) == SCAN.value == SCAN == 'scan' and SCAN is not Modality.IMAGE
    assert spec_of(SCAN).name == 'scan' and spec_of(Modality.IMU) is None
    assert prompt_order({SCAN, Modality.IMU, Modality.DEPTH}) == [
        Modality.DEPTH, Modality.IMU, SCAN]
    assert in_order([SCAN, *reversed(Modality)]) == [*Modality, SCAN]


def test_a_name_that_nobody_registered_is_told():
    with pytest.raises(ValueError, match="unknown modality 'sonar'.*imu.*scan.*new_modality.md"):
        parse_modality('sonar')
    with pytest.raises(ValueError, match='sonar'):
        Modality('sonar')


@pytest.mark.parametrize(('changes', 'text'), [
    ({'name': 'image'}, "'image': the name is taken by OneLLM"),
    ({'name': 'rgbd'}, 'taken by OneLLM'), ({'name': 'text'}, 'taken by OneLLM'),
    ({'name': 'scan'}, 'another one of this name is registered .float32'),
    ({'name': 'My Radar'}, 'lower-case letters'), ({'name': ''}, 'lower-case letters'),
    ({'tokens': 0}, 'found shape .* and 0 tokens'), ({'shape': ()}, 'above 0'),
    ({'message': 'sensor_msgs/msg/Range'}, 'expected both or neither')])
def test_what_cannot_be_registered(fresh, changes, text):
    with pytest.raises(ModalityError, match=text):
        register(spec(**changes))


def test_the_same_spec_may_come_again(fresh):
    one = spec()
    assert register(one) is register(one) is Modality('sonar')


@pytest.mark.parametrize(('source', 'text'), [
    ('from test_modalities import register, spec\nregister(spec(name="lidar3"))', ''),
    ('', 'does not register it'), ('import no_such_module', 'cannot be imported')])
def test_packages_bring_modalities_by_an_entry_point(fresh, tmp_path, monkeypatch, source, text):
    folder = tmp_path / 'lidar-1.0.dist-info'
    folder.mkdir()
    (folder / 'METADATA').write_text('Metadata-Version: 2.1\nName: lidar\nVersion: 1.0\n')
    (folder / 'entry_points.txt').write_text('[onellm_ros.modalities]\nlidar3 = lidar3_module\n')
    (tmp_path / 'lidar3_module.py').write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'lidar3_module', raising=False)
    if text:
        with pytest.raises(ModalityError, match=text):
            parse_modality('lidar3')
    else:
        assert spec_of(parse_modality('lidar3')).array == 'float32 [2]'


def test_a_name_is_read_without_torch():
    code = ('import sys; from onellm_ros.modality import Modality; Modality("scan"); found = '
            'sys.modules; assert "onellm_ros.modalities.scan" in found and "torch" not in found')
    subprocess.run([sys.executable, '-c', code], check=True)


# -- models ---------------------------------------------------------------------------------------

def with_scan(seed: int = 0) -> OneLLM:
    return fill(OneLLM(replace(TINY, modalities=('scan',))), seed)


def test_a_config_speaks_of_further_modalities_alone():
    for config in (*PRESETS.values(), TINY):
        assert 'modalities' not in to_mapping(config)
    config = replace(TINY, modalities=('scan',))
    values = json.loads(json.dumps(to_mapping(config)))
    assert values['modalities'] == ['scan']
    assert from_mapping(ModelConfig, values) == config


@pytest.mark.parametrize(('found', 'text'), [
    (['scan', 'scan'], 'modalities: expected a list of words, none twice'),
    ('scan', 'expected a list of words'), ([3], 'expected a list of words')])
def test_a_config_that_names_no_modalities(found, text):
    with pytest.raises(ConfigError, match=text):
        from_mapping(ModelConfig, {'modalities': found})


@pytest.mark.parametrize(('name', 'text'), [
    ('radar', "'radar', which is not registered; install the package .* or import the module"),
    ('image', 'expected names beside the eight')])
def test_a_model_of_an_unknown_modality_says_what_to_do(tmp_path, name, text):
    save_model(tiny(), tmp_path)
    path = tmp_path / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'modalities': [name]}))
    with pytest.raises(CheckpointError, match=text):
        load_model(tmp_path)


def test_a_model_with_a_ninth_is_written_and_read(tmp_path):
    model = with_scan()
    save_model(model, tmp_path, torch.float32)
    again = load_model(tmp_path)
    x = torch.rand(2, CHANNELS, BEAMS)
    assert again.modalities == (*Modality, SCAN)
    assert torch.equal(again.encode(SCAN, x).tokens, model.encode(SCAN, x).tokens)
    assert again.features(SCAN, x).shape == (2, BEAMS // KERNEL + 1, TINY.encoder.width)
    with pytest.raises(CheckpointError, match=r'missing tensor tokenizers\.kinds\.scan'):
        save_model(tiny(), tmp_path / 'eight')
        (tmp_path / 'model.safetensors').write_bytes(
            (tmp_path / 'eight' / 'model.safetensors').read_bytes())
        load_model(tmp_path)
    with pytest.raises(ConfigError, match='scan; the released layout'):
        released_state(model, model.config)


def test_blocks_of_a_ninth_stand_last_in_a_prompt():
    model = with_scan()
    tokens = {m: torch.full((1, 5, 32), float(i)) for i, m in enumerate((SCAN, Modality.IMAGE))}
    rows = model.prefix_embeds(tokens)[0]
    assert torch.equal(rows[2:7], tokens[Modality.IMAGE][0])
    assert torch.equal(rows[9:14], tokens[SCAN][0])


@torch.no_grad()
def test_adding_a_modality_leaves_all_others_as_they_were():
    model = tiny()
    new = with_modality(model, SCAN, Modality.DEPTH)
    old, state = model.state_dict(), new.state_dict()
    assert all(torch.equal(state[name], value) for name, value in old.items())
    for modality, x in inputs(TINY).items():
        assert torch.equal(new.encode(modality, x).tokens, model.encode(modality, x).tokens)
    for name in ('tokens.{}', 'start_tag.{}', 'routers.{}.fc2.bias', 'proj_out.{}.0.weight'):
        assert torch.equal(state['upm.' + name.format('scan')], old['upm.' + name.format('depth')])
    assert not torch.equal(state['upm.proj_in.scan.0.weight'], old['upm.proj_in.depth.0.weight'])
    with pytest.raises(TrainingError, match='scan: the model knows it already'):
        with_modality(new, SCAN, Modality.DEPTH)
    with pytest.raises(ValueError, match='scan: the model does not know it, expected one'):
        model.encode(SCAN, torch.zeros(1, CHANNELS, BEAMS))
    with pytest.raises(ValueError, match=r'scan: expected an input of shape \[any, 3, 180\]'):
        new.encode(SCAN, torch.zeros(1, CHANNELS, BEAMS - 1))


# -- scans ----------------------------------------------------------------------------------------

def beams(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_a_scan_becomes_directions_around_the_robot():
    x = scan_input(beams((0.01, 2.0), (0.02, 1.0), (0.011, math.nan), (math.pi / 2 + 0.01, 4.0),
                         (-math.pi / 2 + 0.01, math.inf), (-1.0, -3.0), (-0.5, 0.0),
                         (math.nan, 5.0), (0.7, 25.0)))
    assert x.shape == (CHANNELS, BEAMS) and x.dtype == np.float32 and np.isfinite(x).all()
    quarter = BEAMS // 4
    np.testing.assert_allclose(x[:, AHEAD], [0.1, 0.5, 1.0])                # the nearest of two
    np.testing.assert_allclose(x[:, AHEAD + quarter], [0.4, 0.2, 1.0], rtol=1e-6)  # left
    np.testing.assert_allclose(x[:, AHEAD - quarter], [1.0, 0.0, 1.0])      # right: free
    assert x[2].sum() == 4 and not x[:, x[2] == 0].any()        # the rest nobody looked at
    far = x[:, AHEAD + int(0.7 / math.tau * BEAMS)]
    np.testing.assert_allclose(far, [1.0, 1 / 26, 1.0], rtol=1e-6)          # beyond the reach


def test_order_and_turns_of_the_angles_do_not_matter():
    angles = np.linspace(-2.0, 2.0, 301)
    scan = np.stack([angles, 3.0 + angles], 1).astype(np.float32)
    x = scan_input(scan)
    assert np.array_equal(scan_input(scan[::-1]), x)
    turned = scan + np.array([math.tau, 0], np.float32)
    assert np.abs(scan_input(turned) - x).max() < 0.05
    mirrored = scan_input(scan * np.array([-1, 1], np.float32))
    assert np.abs(mirrored - x).max() > 0.2                     # left is left
    assert np.abs(mirrored[:, ::-1] - x)[:, x[2] * mirrored[2, ::-1] > 0].max() < 0.05


@pytest.mark.parametrize(('scan', 'error', 'text'), [
    (np.zeros((0, 2), np.float32), NoMeasurementError, 'none of 0 beams'),
    (beams((0.0, math.nan), (math.nan, 1.0), (1.0, 0.0)), NoMeasurementError, 'none of 3 beams'),
    (np.zeros((5, 3), np.float32), PreprocessError, r'found float32 of shape \[5, 3\]'),
    (np.zeros((5, 2), np.int32), PreprocessError, 'found int32')])
def test_no_scan(scan, error, text):
    with pytest.raises(error, match=text):
        scan_input(scan)


def test_a_window_with_a_scan():
    preprocessor = Preprocessor.from_config(TINY)
    samples = [Sample(1, beams((0.0, 9.0))), Sample(2, beams((0.0, 1.0)))]
    window = Window(0, 10, 0, {'scan': tuple(samples)})
    chosen = choose(window, ChoiceSpec({'scan': SCAN}, frozenset((SCAN, Modality.IMU)))).samples
    assert chosen == {SCAN: (samples[1],)}
    assert not choose(window, ChoiceSpec({'scan': SCAN})).samples       # unless it is asked for
    tensors = preprocessor.tensors(chosen, 10)
    assert tensors[SCAN].shape == blank_input(SCAN, TINY).shape == (1, CHANNELS, BEAMS)
    assert float(tensors[SCAN][0, 1, AHEAD]) == 0.5
    empty = {SCAN: [Sample(0, beams((0.0, math.nan)))]}
    assert preprocessor.tensors(empty, 10).left_out == {SCAN: 'scan: none of 1 beams has a range'}
    with pytest.raises(PreprocessError, match='found float32 of shape'):
        preprocessor.tensors({SCAN: [Sample(0, np.zeros(4, np.float32))]}, 10)


def test_scans_from_files(tmp_path):
    angles, ranges = np.array([-0.5, 0.0, 0.5]), np.array([1.0, np.nan, np.inf])
    np.savez(tmp_path / 'a.npz', angle=angles, range=ranges)
    np.savez(tmp_path / 'b.npz', angle_min=-0.5, angle_increment=0.5, ranges=ranges)
    np.save(tmp_path / 'c.npy', np.stack([angles, ranges], 1))
    (tmp_path / 'd.csv').write_text('range,angle\n1.0,-0.5\nnan,0\ninf,0.5\n')
    (tmp_path / 'e.txt').write_text('# a scan\n-0.5 1.0\n0 nan\n0.5 inf\n')
    for path in sorted(tmp_path.iterdir()):
        data = read_scan(path).data
        assert data.dtype == np.float32
        np.testing.assert_array_equal(data, np.stack([angles, ranges], 1).astype(np.float32))


@pytest.mark.parametrize(('content', 'text'), [
    (b'1,2,3\n', 'expected two numbers a line'), (b'a,b\nx,y\n', 'expected two numbers a line'),
    (b'90,1.0\n', 'found an angle of 90, expected radians'), (b'# none\n', r'expected \[N, 2\]'),
    (b'\xff\xfe\x00', 'neither NumPy data nor text'), (b'', 'the file is empty')])
def test_files_that_are_no_scans(tmp_path, content, text):
    path = tmp_path / 'scan.csv'
    path.write_bytes(content)
    with pytest.raises(FileError, match=text):
        read_scan(path)
    with pytest.raises(FileError, match='no such file'):
        read_scan(tmp_path / 'missing')


def laser_scan(**changes) -> SimpleNamespace:
    stamp = SimpleNamespace(sec=2, nanosec=5)
    return SimpleNamespace(**{
        'header': SimpleNamespace(stamp=stamp, frame_id='laser'), 'angle_min': -1.0,
        'angle_increment': 0.5, 'range_min': 0.1, 'range_max': 8.0,
        'ranges': [0.05, 1.5, 9.0, math.inf, -math.inf, math.nan], **changes})


def test_laser_scan_messages_become_samples():
    sample = scan_sample(laser_scan(), '/scan')
    assert (sample.stamp_ns, sample.frame_id, sample.topic) == (2_000_000_005, 'laser', '/scan')
    np.testing.assert_allclose(sample.data[:, 0], [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
    np.testing.assert_allclose(sample.data[:, 1], [
        math.nan, 1.5, math.nan, math.inf, 0.1, math.nan])
    turned = scan_sample(laser_scan(angle_min=1.0, angle_increment=-0.5))
    np.testing.assert_allclose(turned.data[:, 0], [1.0, 0.5, 0.0, -0.5, -1.0, -1.5])
    assert spec_of(SCAN).converter() is scan_sample


@pytest.mark.parametrize(('changes', 'text'), [
    ({'ranges': []}, 'no usable range among the 0'),
    ({'ranges': [math.nan, 20.0, 0.0]}, 'no usable range among the 3'),
    ({'angle_increment': 0.0}, 'angle_increment 0'), ({'angle_min': math.nan}, 'angle_min nan'),
    ({'range_min': 9.0}, 'range_min 9 and range_max 8')])
def test_laser_scans_that_say_nothing(changes, text):
    with pytest.raises(ConversionError, match=text):
        scan_sample(laser_scan(**changes))
    with pytest.raises(ConversionError, match='without the field.s. angle_min'):
        scan_sample(SimpleNamespace(angle_increment=1, range_min=0, range_max=1, ranges=[1]))


def test_a_conversion_that_is_not_there(fresh):
    register(spec(message='a/msg/B', conversion='onellm_ros.modality:nothing'))
    with pytest.raises(ModalityError, match='expected module:function'):
        spec_of(Modality('sonar')).converter()


def test_a_topic_of_a_registered_modality():
    messages = pytest.importorskip('sensor_msgs.msg')
    sources = default_sources(InputConfig(), [Modality.IMAGE, SCAN, Modality.IMU])
    assert [s.name for s in sources] == ['image', 'imu', 'scan']
    (topic, kind), = sources[-1].topics
    assert (topic, kind) == ('scan', 'sensor_msgs/msg/LaserScan')
    convert = converter(sources[-1], '/scan', kind, InputConfig())
    kind = messages.LaserScan
    message = kind(angle_min=-0.5, angle_increment=0.5, range_min=0.1, range_max=5.0,
                   ranges=[1.0, math.inf, 9.0])
    np.testing.assert_allclose(convert(message, 0)[0].data, [
        [-0.5, 1.0], [0.0, math.inf], [0.5, math.nan]])


def test_files_of_further_modalities_are_described(tmp_path):
    path = tmp_path / 'scan.csv'
    path.write_text('angle,range\n0.1,2.0\n')

    def read(given: str):
        parser = ArgumentParser()
        describe.add_arguments(parser)
        return describe.read_files(parser.parse_args(['--signal', given]))[0]

    assert list(read(f'scan={path}')) == [SCAN]
    for wrong, text in (('scan', 'expected NAME=FILE'), ('image=a.png', 'of a further modality'),
                        ('sonar=a', "unknown modality 'sonar'")):
        with pytest.raises(FileError, match=text):
            read(wrong)


def test_worlds_without_a_modality_are_told():
    from onellm_ros.evaluation.robot_world import evaluate
    with pytest.raises(ValueError, match='found the modality scan, which these worlds do not'):
        evaluate(lambda evidence, questions: [], seed=0, worlds=1, modalities=(SCAN,))
