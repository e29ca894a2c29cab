"""Recipes as files: what is written is read as the same, mistakes are named with their line."""

from __future__ import annotations

from dataclasses import fields, replace
import json

from golden.tiny import TINY
import pytest

from onellm_ros.cli import main
from onellm_ros.config import PRESETS
from onellm_ros.modality import Modality
from onellm_ros.training.recipe_files import RecipeError, load_recipe, recipe_text
from onellm_ros.training.recipes import NANO_RECIPE, ONELLM_7B, RECIPES, Recipe
from onellm_ros.training.stages import Stage

STAGE = """\
model: nano
stages:
  - name: one
    kind: align
    modalities: [image]
    trains: [upm]
    steps: 3
"""


@pytest.fixture
def write(tmp_path):
    def written(text, name='mine.yaml'):
        path = tmp_path / name
        path.write_text(text, encoding='utf-8')
        return path
    return written


@pytest.mark.parametrize('name', sorted(RECIPES))
def test_a_preset_comes_back_as_it_was(name, write):
    assert load_recipe(write(recipe_text(RECIPES[name]))) == RECIPES[name]


def test_everything_a_recipe_may_hold_comes_back(write):
    every = Stage(
        'all', 'align', (((Modality.IMAGE, Modality.IMU), 0.25), ((Modality.FMRI,), 3.0)),
        ('upm', 'llm'), 7, 'worlds', 12, 3, 2, 0.125, 0.0, 1.5e-7, 1, 0.0, 0.3, (0.8, 0.999), 7.5,
        0.5, 0.25, 2.0, 0.0, 5, (Modality.IMU,), (Modality.FMRI, Modality.IMU), 'released', 9,
        True, ('imu',))
    assert all(getattr(every, f.name) != f.default for f in fields(Stage)
               if f.name not in ('data', 'dense'))              # nothing is left out here
    text = Stage('text', 'align', (((), 1.0),), ('llm',), 0, 'manifest')
    free = Stage('free', 'align', (), ('llm',), 0, 'manifest')
    recipe = Recipe('r', TINY, (every, text, free), ('encoder',), False, ('llm',), 3)
    found = load_recipe(write(recipe_text(recipe)))
    assert found == recipe
    assert 'preset: ' not in recipe_text(recipe)
    changed = replace(PRESETS['nano'], upm=replace(PRESETS['nano'].upm, router='softmax'))
    said = recipe_text(replace(recipe, model=changed))
    assert '  upm: {router: softmax}' in said and 'encoder: {' not in said
    assert load_recipe(write(said)).model == changed


def test_the_files_in_config(root):
    nano = load_recipe(root / 'config' / 'train_nano.yaml')
    assert recipe_text(nano) == recipe_text(NANO_RECIPE)        # told apart line by line
    assert nano == NANO_RECIPE
    own = load_recipe(root / 'config' / 'train_own_data.yaml')
    assert [(s.name, s.trains, s.data, s.sets) for s in own.stages] == [
        ('project', ('upm',), 'manifest', ()), ('instruct', ('llm',), 'manifest', ())]
    assert set(own.needs) == {'encoder', 'tokenizers', 'upm', 'llm'}


def test_a_stage_may_be_like_another(write):
    recipe = load_recipe(write(STAGE + """\
  - {name: two, like: one, modalities: {image: 2, image+imu: 1, audio: 5e-1}, learning_rate: 1e-4}
  - {name: tune, like: onellm_7b.instruct, steps: 5}
"""))
    one, two, tune = recipe.stages
    assert two == replace(one, name='two', learning_rate=1e-4, sets=(
        ((Modality.IMAGE,), 2), ((Modality.IMAGE, Modality.IMU), 1), ((Modality.AUDIO,), 0.5)))
    assert tune == replace(ONELLM_7B.stage('instruct'), name='tune', steps=5)
    assert (recipe.name, recipe.int8, recipe.save_every) == ('mine', True, 200)


@pytest.mark.parametrize(('old', 'new', 'line', 'text'), [
    ('steps: 3', 'steps: many', 7, "stage one: steps: found 'many', expected a whole number"),
    ('steps: 3', 'steps: 2.5', 7, 'stage one: steps: found 2.5, expected a whole number'),
    ('steps: 3', 'steps: -1', 7, 'stage one: steps: found -1, expected at least 0'),
    ('steps: 3', 'steps: 3\n    clip: .inf', 8, 'clip: found inf, expected a number'),
    ('steps: 3', 'steps: 3\n    told: true', 8, 'told: found True, expected a number'),
    ('steps: 3', 'steps: 3\n    betas: [0.9]', 8, 'betas: .*expected a list of 2'),
    ('steps: 3', 'steps: 3\n    checkpointing: 1', 8, 'found 1, expected true or false'),
    ('steps: 3', 'steps: 3\n    sets: []', 8, 'sets: unknown key, expected one of name, kin'),
    ('steps: 3', 'steps: 3\n    steps: 4', 8, "the key 'steps' stands twice"),
    ('steps: 3', 'steps: 3\n    template: chatml', 8, "template: found 'chatml', expected one"),
    ('steps: 3', 'steps: 3\n    like: two', 8, "like: found 'two', expected a stage above"),
    ('    steps: 3\n', '', 3, 'stage one: steps: found none, expected it'),
    ('kind: align', 'kind: aling', 4, "unknown kind 'aling', expected one of"),
    ('[upm]', '[upm, lm]', 6, r"unknown parts \['lm'\]"),
    ('[upm]', 'upm', 6, "trains: found 'upm', expected a list"),
    ('[image]', '[image, smell]', 5, "modalities: .*unknown modality 'smell'"),
    ('[image]', '[image, IMAGE]', 5, "found 'IMAGE' twice"),
    ('[image]', '{imu+image: 1, image+imu: 2}', 5, "found 'image.imu' twice"),
    ('[image]', '{image: often}', 5, "image: found 'often', expected a number"),
    ('[image]', '{image: 0}', 5, 'frequency that is not above 0'),
    ('[image]', 'image', 5, "found 'image', expected a list of modalities"),
    ('[image]', '[text]', 5, 'found text without any modality'),
    ('name: one', 'name: one=two', 3, "name: found 'one=two', expected letters"),
    ('model: nano', 'model: mini', 1, "found the preset 'mini', expected one of"),
    ('model: nano', 'model: {preset: nano, llm: {dims: 3}}', 1, "unknown key 'llm.dims'"),
    ('model: nano', 'model:\n  preset: nano\n  llm:\n    heads: 7', 4, 'llm.heads: expected head'),
    ('model: nano', 'model: nano\nneeds: [clip]', 2, r"needs: found \('clip',\), expected some"),
    ('model: nano', 'model: nano\nint8: 3', 2, 'int8: found 3, expected true or false'),
    ('model: nano', 'model: nano\nsave_every: 0', 2, 'save_every: found 0, expected at least 1'),
    ('model: nano', 'model: nano\nstage: 3', 2, "unknown key 'stage', expected name, model, st"),
    ('    kind: align', '   kind: align', 4, 'found no readable YAML'),
])
def test_mistakes_are_named_with_their_line(write, old, new, line, text):
    assert old in STAGE
    path = write(STAGE.replace(old, new))
    with pytest.raises(RecipeError, match=f'mine.yaml:{line}: .*{text}'):
        load_recipe(path)


@pytest.mark.parametrize(('content', 'text'), [
    (b'', 'mine.yaml: found nothing, expected a mapping with model and stages'),
    (b'- 1', 'found list, expected a mapping'), (b'\xff\xfe\x00', 'found no readable YAML'),
    (b'model: nano\nstages: []', r'stages: found \[\], expected a list of stages'),
    (b'model: nano\nstages: [one]', r"stages\[0\]: found 'one', expected a mapping with name"),
    (b'model: nano\nstages: &a [*a]', r'stages\[0\]: found'),
    (STAGE.encode() + STAGE[20:].encode(), 'name: found it at two stages'),
    (STAGE[12:].encode(), 'model: found None, expected one of')])
def test_files_that_are_no_recipes(tmp_path, content, text):
    path = tmp_path / 'mine.yaml'
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=text):
        load_recipe(path)
    with pytest.raises(RecipeError, match='no such file'):
        load_recipe(tmp_path / 'absent.yaml')
    with pytest.raises(RecipeError, match='found no readable YAML'):
        load_recipe(tmp_path)


def test_the_command_shows_presets_and_takes_files(write, capsys, tmp_path):
    assert main(['train', '--show', '--preset', 'nano']) == 0
    path = write(capsys.readouterr().out)
    assert load_recipe(path) == RECIPES['nano']
    assert main(['train', '--show', '--preset', str(path), '--until', 'stage_1', '--set',
                 'stage_1.batch=7']) == 0
    found = load_recipe(write(capsys.readouterr().out, 'other.yaml'))
    assert [s.name for s in found.stages] == ['language', 'encoder', 'stage_1']
    assert found.stage('stage_1') == replace(RECIPES['nano'].stage('stage_1'), batch=7)
    for name, said in (('nono', 'expected one of nano, onellm_7b'), ('x.yaml', 'no such file')):
        assert main(['train', '--preset', name]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / 'runs').exists()


def test_a_run_from_a_file_is_gone_on_with(write, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = write("""\
model:
  preset: nano
  name: little
  encoder: {width: 32, layers: 1, heads: 2}
  llm: {dim: 32, layers: 1, heads: 2}
  upm: {layers: 1, heads: 2, modality_tokens: 9}
stages:
  - {name: talk, kind: language, data: told, modalities: [image], trains: [llm], steps: 2,
     batch: 2, questions: 1}
  - {name: more, like: talk, steps: 1}
""")
    words = ['train', '--preset', str(path), '--workers', '0', '--device', 'cpu', '--worlds', '4',
             '--held-out', '4', '--render-processes', '1', '--log-every', '1', '--threads', '1']
    assert main([*words, '--until', 'talk', '--export', 'model']) == 0
    steps = [json.loads(x) for x in (tmp_path / 'runs/mine/log.jsonl').read_text().splitlines()]
    assert [x['step'] for x in steps if 'loss' in x] == [1, 2]
    config = json.loads((tmp_path / 'model/config.json').read_text())
    assert (config['name'], config['upm']['modality_tokens']) == ('little', 9)
    write(path.read_text().replace('talk', 'chat'))
    assert main(words) == 1
    assert 'expected to go through chat, more' in capsys.readouterr().err
