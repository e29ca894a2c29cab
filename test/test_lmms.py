"""OneLLM as a model of lmms-eval: with a stand-in of its interface, and for real where it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import importlib
import io
import json
from pathlib import Path
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
import pytest
import soundfile
import torch

from onellm_ros.config import ModelConfig
from onellm_ros.evaluation.lmms import manifest
from onellm_ros.evaluation.lmms_media import MediaError, media_tensors
from onellm_ros.files import FileError
from onellm_ros.inference.engine import Engine
from onellm_ros.modality import Modality
from onellm_ros.simulation import language
from onellm_ros.simulation.world import World

RATE = 16000


@pytest.fixture(scope='module')
def worlds() -> list[Any]:
    """Return what some robots sensed."""
    return [World(2_000_000 + n, held_out=True).sample() for n in range(3)]


@pytest.fixture(scope='module')
def config() -> ModelConfig:
    """Return nano's sizes."""
    return Engine.load('nano', 'cpu').config


# ---- what tasks show ----------------------------------------------------------------------------

def _frames(count: int = 6) -> list[np.ndarray]:
    return [np.full((20, 30, 3), 30 * n, np.uint8) for n in range(count)]


@dataclass
class _Decord:
    """As decord.VideoReader."""

    frames: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.frames)

    def get_batch(self, places: list[int]) -> Any:
        return SimpleNamespace(asnumpy=lambda: np.stack([self.frames[i] for i in places]))


@dataclass
class _Torchcodec:
    """As torchcodec's VideoDecoder, and its AudioDecoder."""

    frames: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.frames)

    def get_frames_at(self, places: list[int]) -> Any:
        return SimpleNamespace(data=torch.from_numpy(
            np.stack([self.frames[i] for i in places]).transpose(0, 3, 1, 2)))


def test_videos_of_any_kind_are_the_same_input(config: ModelConfig) -> None:
    frames = _frames()
    pictures = [Image.fromarray(frame) for frame in frames]
    given = [pictures, [pictures], [frames], [np.stack(frames)], [_Decord(frames)],
             [_Torchcodec(frames)]]
    found = [media_tensors(one, config) for one in given]
    assert all(list(tensors) == [Modality.VIDEO] for tensors, _ in found)
    assert len({key for _, key in found}) == 1
    assert found[0][0][Modality.VIDEO].shape[:2] == (1, config.tokenizer.video_frames)


def test_pictures_and_sound_of_any_kind(config: ModelConfig, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    picture.save(tmp_path / 'a.png')
    whole = (tmp_path / 'a.png').read_bytes()
    keys = {media_tensors([one], config)[1] for one in (
        picture, picture.convert('RGBA'), str(tmp_path / 'a.png'), tmp_path / 'a.png',
        {'bytes': whole, 'path': None}, {'path': str(tmp_path / 'a.png'), 'bytes': None},
        np.asarray(picture))}
    assert len(keys) == 1
    wave = 0.2 * np.sin(np.arange(RATE) / 9)
    soundfile.write(tmp_path / 'a.wav', wave, RATE, subtype='FLOAT')
    decoder = SimpleNamespace(get_all_samples=lambda: SimpleNamespace(
        data=torch.from_numpy(np.stack([wave, wave]).astype(np.float32)), sample_rate=RATE))
    sounds = [media_tensors([one], config)[0][Modality.AUDIO] for one in (
        {'array': wave, 'sampling_rate': RATE}, str(tmp_path / 'a.wav'), decoder,
        {'array': np.stack([wave, wave], axis=1), 'sampling_rate': RATE},
        {'bytes': (tmp_path / 'a.wav').read_bytes(), 'path': 'a.wav'})]
    assert all(torch.allclose(sounds[0], other, atol=1e-4) for other in sounds[1:])
    both, _ = media_tensors([picture, {'array': wave, 'sampling_rate': RATE}], config)
    assert set(both) == {Modality.IMAGE, Modality.AUDIO}
    assert media_tensors(None, config)[0] == media_tensors([], config)[0] == {}


def test_what_is_shown_and_not_understood_is_named(config: ModelConfig, tmp_path: Path) -> None:
    sound = {'array': np.zeros(RATE), 'sampling_rate': RATE}
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(buffer, 'PNG')
    cut = Image.open(io.BytesIO(buffer.getvalue()[:2000]))
    for wrong, said in (([object()], 'builtins.object'), ([sound, sound], 'two things of audio'),
                        ([{'a': 1}], 'mapping with a'), (['http://x/y.mp4'], 'address'),
                        ([np.zeros((2, 2))], 'float64 of shape'), ([cut], 'damaged'),
                        ([_Decord([])], 'without frames')):
        with pytest.raises(MediaError, match=said):
            media_tensors(wrong, config)
    with pytest.raises(FileError, match='no such file'):
        media_tensors([str(tmp_path / 'none.mp4')], config)


# ---- with a stand-in ----------------------------------------------------------------------------

class _Base:
    """As lmms_eval.api.model.lmms."""

    def __init__(self) -> None:
        self._rank = 0
        self.cache_hook = SimpleNamespace(add_partial=lambda *args: None)
        self.task_dict: dict[str, Any] = {}

    @property
    def rank(self) -> int:
        return self._rank


def _parse(text: str) -> dict[str, str]:
    return dict(part.split('=', 1) for part in text.split(',') if part)


@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the module, imported against the few things of lmms-eval that it uses."""
    def module(name: str, **values: Any) -> None:
        made = ModuleType(name)
        made.__dict__.update(values, __path__=[])
        monkeypatch.setitem(sys.modules, name, made)

    @dataclass(frozen=True)
    class Manifest:
        model_id: str
        simple_class_path: str

    for name in ('lmms_eval', 'lmms_eval.api', 'lmms_eval.api.instance', 'lmms_eval.models'):
        module(name)
    module('lmms_eval.api.model', lmms=_Base)
    module('lmms_eval.models.registry_v2', ModelManifest=Manifest)
    module('lmms_eval.utils', simple_parse_args_string=_parse)
    monkeypatch.delitem(sys.modules, 'onellm_ros.evaluation.lmms_model', raising=False)
    yield importlib.import_module('onellm_ros.evaluation.lmms_model')
    sys.modules.pop('onellm_ros.evaluation.lmms_model', None)


def _request(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments)


def test_it_answers_as_the_engine_does(standing_in: Any, worlds: list[Any]) -> None:
    model = standing_in.OneLLM.create_from_arg_string(
        'model=nano,device=cpu', {'batch_size': 1, 'max_batch_size': None, 'device': 'cuda:7'})
    assert model.device.type == 'cpu'           # what --model_args say stands before --device
    assert manifest().simple_class_path == f'{standing_in.__name__}.OneLLM'
    model.task_dict = {'t': {'test': worlds}}
    encoded = []
    encode = model.engine.encode
    model.engine.encode = lambda tensors: encoded.append(tensors) or encode(tensors)

    def show(world: Any) -> list[Any]:
        return [Image.fromarray(world.image)]

    asked = [(n, question.question) for n, world in enumerate(worlds)
             for question in language.questions(world.truth, Modality.IMAGE,
                                                np.random.default_rng(n), 2)]
    wanted = {'max_new_tokens': 32, 'temperature': 0, 'until': ['\n\n'], 'do_sample': False}
    found = model.generate_until(
        [_request(f'<image>{text}', wanted, show, n, 't', 'test') for n, text in asked])
    assert len(encoded) == 3                    # two questions about each picture
    for (n, text), reply in zip(asked, found, strict=True):
        tensors = media_tensors(show(worlds[n]), model.engine.config)[0]
        assert reply == model.engine.ask(encode(tensors), text, max_tokens=32).text
    assert len(set(found)) > 1
    model.task_dict['t']['test'] = [*worlds, SimpleNamespace(image=None)]
    batched = standing_in.OneLLM(device='cpu', batch_size='4')
    batched.task_dict = model.task_dict
    requests = [_request(text, wanted, show, n, 't', 'test') for n, text in asked]
    requests.insert(1, _request('What?', wanted, lambda doc: [doc.image, 'none.mp4'], 3, 't',
                                'test'))
    assert batched.generate_until(requests) == [found[0], '', *found[1:]]
    word = next(reply for reply in found if len(reply) > 2)
    place, text = asked[found.index(word)]
    cut = model.generate_until([_request(text, {'until': word[1:3]}, show, place, 't', 'test')])
    assert cut == [word[:word.index(word[1:3])].rstrip()]


def test_likelihoods_order_choices_as_the_engine(standing_in: Any, worlds: list[Any]) -> None:
    model = standing_in.OneLLM(device='cpu')
    model.task_dict = {'t': {'test': worlds}}
    choices = ['yes', 'no', 'a green sofa']

    def show(world: Any) -> list[Any]:
        return [Image.fromarray(world.image)]

    text = 'Is there anything red?'
    found = model.loglikelihood(
        [_request(text, f' {choice}', show, 0, 't', 'test') for choice in choices]
        + [_request(text, lambda doc: 'yes', show, 0, 't', 'test'), _request('', 'yes')])
    tensors = media_tensors(show(worlds[0]), model.engine.config)[0]
    prefix = model.engine.encode(tensors)
    answer = model.engine.ask(prefix, text, choices=choices)
    means = torch.tensor([-loss for loss, _ in found[:3]])
    assert torch.softmax(means, -1).tolist() == pytest.approx(answer.choice_probabilities,
                                                              abs=1e-5)
    assert found[3] == pytest.approx(found[0])
    greedy = model.engine.ask(prefix, text).text
    assert [choice for choice, (_, is_greedy) in zip(choices, found[:3], strict=True)
            if is_greedy] == [greedy]


def test_what_it_cannot_do_it_says(standing_in: Any, worlds: list[Any],
                                   capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match='pretrained, expected some of model'):
        standing_in.OneLLM(pretrained='x')
    model = standing_in.OneLLM(device='cpu')
    with pytest.raises(NotImplementedError, match='several rounds'):
        model.generate_until_multi_round([])
    model.task_dict = {'t': {'test': worlds}}
    found = model.generate_until(
        [_request('What?', {'num_beams': 5, 'typo': 1}, lambda doc: ['/none.mp4'], 0, 't', 'test'),
         _request('What?', {'num_beams': 5, 'typo': 1},
                  lambda doc: [Image.fromarray(doc.image)], 0, 't', 'test')])
    assert found[0] == '' and found[1]
    said = capsys.readouterr().err
    assert 't test 0: /none.mp4: no such file; no answer' in said
    assert said.count('without beam search') == said.count('generation_kwargs typo') == 1


def test_without_lmms_eval_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'lmms_eval', None)
    monkeypatch.delitem(sys.modules, 'onellm_ros.evaluation.lmms_model', raising=False)
    with pytest.raises(ImportError, match='pip install lmms-eval'):
        importlib.import_module('onellm_ros.evaluation.lmms_model')


def test_the_entry_point_is_declared(root: Path) -> None:
    text = (root / 'setup.py').read_text()
    assert "'lmms_eval.models': ['onellm = onellm_ros.evaluation.lmms:manifest']" in text


# ---- for real -----------------------------------------------------------------------------------

_TASK = """
task: onellm_local_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/docs.jsonl}}}}
test_split: test
output_type: {output}
doc_to_visual: !function utils.show_{show}
doc_to_text: !function utils.text_{show}
doc_to_target: !function utils.target_{name}
doc_to_choice: !function utils.choices
generation_kwargs: {{max_new_tokens: 32, temperature: 0, do_sample: false, until: ["\\n\\n"]}}
{process}
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
metadata: [{{version: 0.0}}]
"""
_UTILS = """
import numpy as np
from PIL import Image
import soundfile

def show_image(doc): return [Image.open(doc['image'])]
def show_video(doc): return [Image.fromarray(f) for f in np.load(doc['video'])]
def show_audio(doc):
    wave, rate = soundfile.read(doc['audio'])
    return [{'array': wave, 'sampling_rate': rate}]
def text_image(doc, lmms_eval_specific_kwargs=None): return doc['ask_image']
def text_video(doc, lmms_eval_specific_kwargs=None): return doc['ask_video']
def text_audio(doc, lmms_eval_specific_kwargs=None): return doc['ask_audio']
def choices(doc): return [doc['answer_image'], 'a purple elephant']
def target_choice(doc): return 0
def _right(key):
    return lambda doc, results: {'right': float(results[0].strip() == doc[key])}
right_image, right_video, right_audio = map(
    _right, ("answer_image", "answer_video", "answer_audio"))
def target_image(doc): return doc['answer_image']
def target_video(doc): return doc['answer_video']
def target_audio(doc): return doc['answer_audio']
"""


@pytest.mark.slow
def test_a_run_of_lmms_eval(tmp_path: Path, worlds: list[Any],
                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own evaluator over local tasks of pictures, frames, sound and choices."""
    pytest.importorskip('lmms_eval.evaluator', reason='lmms-eval is not installed')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'hf'))
    rows = []
    for n, world in enumerate(worlds):
        row = {'image': f'{tmp_path}/{n}.png', 'video': f'{tmp_path}/{n}.npy',
               'audio': f'{tmp_path}/{n}.wav'}
        Image.fromarray(world.image).save(row['image'])
        np.save(row['video'], world.video)
        soundfile.write(row['audio'], world.audio, int(world.audio_rate_hz))
        for name in tuple(row):
            question = language.questions(world.truth, Modality(name), np.random.default_rng(n),
                                          1)[0]
            row |= {f'ask_{name}': question.question, f'answer_{name}': question.answer}
        rows.append(row)
    (tmp_path / 'docs.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    tasks = tmp_path / 'tasks'
    tasks.mkdir()
    (tasks / 'utils.py').write_text(_UTILS)
    for name, show in (('image', 'image'), ('video', 'video'), ('audio', 'audio'),
                       ('choice', 'image')):
        several = name == 'choice'
        (tasks / f'{name}.yaml').write_text(_TASK.format(
            name=name, show=show, folder=tmp_path, metric='acc' if several else 'right',
            output='multiple_choice' if several else 'generate_until',
            process='' if several else f'process_results: !function utils.right_{name}'))
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)   # where it is not installed
    names = [f'onellm_local_{name}' for name in ('image', 'video', 'audio', 'choice')]
    found = simple_evaluate(
        model='onellm', model_args='model=nano,device=cpu', tasks=names, batch_size=1,
        task_manager=TaskManager('ERROR', include_path=str(tasks), model_name='onellm'))
    scores = {name: found['results'][name]['acc,none' if 'choice' in name else 'right,none']
              for name in names}
    assert scores['onellm_local_choice'] == 1.0
    assert min(scores.values()) >= 1 / 3 and sum(scores.values()) >= 3.0, scores
