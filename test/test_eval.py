"""`onellm eval`: runs that stop and go on, are shared out, and are scored again."""

from __future__ import annotations

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

import eval_task
import pytest

from onellm_ros.cli import main
from onellm_ros.evaluation import models, tasks
from onellm_ros.evaluation.chunks import chunks
from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.predictions import (
    PREDICTIONS,
    PredictionError,
    Writer,
    read_predictions,
)
from onellm_ros.evaluation.runs import read_run

SCRIPT = Path(eval_task.__file__)
BASE = ('eval', '--task', 'colours', '--device', 'cpu')


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(tasks, 'tasks', lambda found=dict(tasks.tasks()): found)
    eval_task.install()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return eval_task.write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def whole(tmp_path_factory, data):
    """Return the folder of an uninterrupted run, three questions at once."""
    eval_task.install()
    out = tmp_path_factory.mktemp('whole')
    assert main([*BASE, '--data', str(data), '--out', str(out), '--batch', '3']) == 0
    return out / 'colours'


def script(*arguments: object, processes: int = 1, **environ: str):
    """Run `onellm` in processes of its own."""
    run = ['-m', 'torch.distributed.run', '--nproc-per-node', str(processes), '--standalone'] \
        if processes > 1 else []
    return subprocess.run(
        [sys.executable, *run, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True,
        check=False, timeout=150, env={**os.environ, 'OMP_NUM_THREADS': '1', **environ})


def text(folder: Path, name: str = PREDICTIONS) -> str:
    return (folder / name).read_text()


def about(folder: Path) -> dict:
    return json.loads(text(folder, 'run.json'))


def test_a_run_leaves_what_was_asked_answered_and_scored(whole, data, tmp_path, capsys):
    run = read_run(whole)
    assert [p.id for p in run.predictions] == [f'q{n}' for n in range(14)]
    for item, found in zip(run.items, run.predictions, strict=True):
        assert len(found.probabilities) == len(item.choices)
        assert found.choice in range(len(item.choices)) or not item.choices
    told = about(whole)
    assert told['model']['weights'] == models.which('nano', 'cpu').weights
    assert told['task'] == {'name': 'colours', 'version': 1, 'split': 'val',
                            'options': {'first': 0}}
    assert told['decoding'] == {'max_tokens': 6, 'temperature': 0.0, 'top_p': 1.0, 'seed': None}
    assert told['prompt']['text'].startswith('{question} Answer') and told['batch'] == 3
    assert {'python', 'torch'} <= set(told['versions']) and told['machine']['processor']
    each = [100.0 * (i.answers[0] in p.text) for i, p in zip(run.items, run.predictions)]
    assert json.loads(text(whole, 'scores.json')) == {'test_same': each}
    assert run.result['scores'] == {
        'test_same': {'value': pytest.approx(sum(each) / 14, abs=1e-4)},
        'test_judge': {'value': None, 'why': 'found no --judge'}}
    assert run.result['counts']['items'] == 14 and run.result['counts']['broken'] == 0
    # one at a time says the same
    assert main([*BASE, '--data', str(data), '--out', str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert 'not computed: found no --judge' in shown and 'OneLLM-7B 50, Best 60' in shown
    single = read_run(tmp_path / 'colours').predictions
    assert [(p.text, p.choice) for p in single] == [(p.text, p.choice) for p in run.predictions]
    assert all(p.first_token_s > 0 for p in single)


def test_a_finished_run_is_not_asked_again(whole, data, monkeypatch, capsys):
    monkeypatch.setattr(models, 'load', lambda *_: pytest.fail('the model was loaded'))
    arguments = [*BASE, '--data', str(data), '--out', str(whole.parent), '--batch', '3']
    assert main(arguments) == 0
    assert 'test_same' in capsys.readouterr().out
    (whole / 'result.json').unlink()                    # stopped while it was scored
    assert main(arguments) == 0 and (whole / 'result.json').is_file()
    assert about(whole)['resumed'] == []


def test_killed_and_gone_on_with_is_as_never_stopped(whole, data, tmp_path):
    arguments = (*BASE, '--data', data, '--out', tmp_path, '--batch', '3')
    first = script(*arguments, EVAL_KILL='5')
    assert first.returncode == -9
    folder = tmp_path / 'colours'
    assert text(folder).endswith('"te') and not (folder / 'result.json').exists()
    kept = len(read_predictions(folder))
    assert 5 <= kept < 14
    second = script(*arguments)
    assert second.returncode == 0, second.stderr
    assert text(folder) == text(whole)
    assert text(folder, 'result.json') == text(whole, 'result.json')
    assert len(about(folder)['resumed']) == 1


def test_ctrl_c_says_how_to_go_on(whole, data, tmp_path):
    arguments = (*BASE, '--data', data, '--out', tmp_path, '--batch', '3')
    stopped = script(*arguments, EVAL_KILL='5', EVAL_SIGNAL='SIGINT')
    assert stopped.returncode == 130
    assert 'of 14 items; the same command goes on' in stopped.stderr
    assert 'Traceback' not in stopped.stderr
    assert main([str(a) for a in arguments]) == 0
    assert text(tmp_path / 'colours') == text(whole)


@pytest.mark.slow
def test_two_processes_are_as_one_and_a_dead_one_is_made_good(whole, data, tmp_path):
    arguments = (*BASE, '--data', data, '--out', tmp_path / 'two', '--batch', '3')
    done = script(*arguments, processes=2)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / 'two' / 'colours'
    for name in (PREDICTIONS, 'result.json', 'scores.json'):
        assert text(folder, name) == text(whole, name)
    assert not list(folder.glob('*-of-*'))
    arguments = (*BASE, '--data', data, '--out', tmp_path / 'died', '--batch', '3')
    died = script(*arguments, processes=2, EVAL_KILL='3', EVAL_KILL_RANK='1')
    assert died.returncode != 0 and 'Signal 9' in died.stdout + died.stderr
    folder = tmp_path / 'died' / 'colours'
    assert not (folder / 'result.json').exists() and list(folder.glob('predictions.1-of-2.jsonl'))
    assert main([str(a) for a in arguments]) == 0       # and by one process
    assert text(folder) == text(whole) and not list(folder.glob('*-of-*'))
    assert text(folder, 'result.json') == text(whole, 'result.json')


def test_what_changes_answers_is_not_mixed(whole, data, tmp_path, capsys):
    out = shutil.copytree(whole, tmp_path / 'out' / 'colours').parent
    arguments = [*BASE, '--data', str(data), '--out', str(out)]
    for more, said in (
            (['--batch', '2'], 'batch 3 there, 2 now'),
            (['--batch', '3', '--max-tokens', '9'], 'decoding.max_tokens 6 there, 9 now'),
            (['--batch', '3', '--sampling', 'paper'], 'temperature 0.0 there, 0.1 now'),
            (['--batch', '3', '--prompt', 'question'], 'prompt.form "A" there, "question" now'),
            (['--batch', '3', '--set', 'first=1'], 'task.options.first 0 there, 1 now'),
            (['--batch', '3', '--limit', '4'], 'items.count 14 there, 4 now')):
        assert main([*arguments, *more]) == 2
        error = capsys.readouterr().err
        assert said in error and 'another --out' in error and error.count('\n') == 1
    changed = shutil.copytree(data, tmp_path / 'data')
    lines = text(data, eval_task.FILE).replace('thing 3', 'thing 33')
    (changed / eval_task.FILE).write_text(lines)
    assert main([*BASE, '--data', str(changed), '--out', str(out), '--batch', '3']) == 2
    assert 'items.digest' in capsys.readouterr().err
    before = about(out / 'colours')
    before['model']['weights'] = 'others'
    (out / 'colours' / 'run.json').write_text(json.dumps(before))
    assert main([*arguments, '--batch', '3']) == 2
    assert 'model.weights "others" there' in capsys.readouterr().err


def test_files_that_are_missing_or_broken(whole, data, tmp_path, capsys, monkeypatch):
    bad = shutil.copytree(data, tmp_path / 'data')
    arguments = [*BASE, '--data', str(bad), '--out', str(tmp_path / 'out'), '--batch', '3']
    (bad / '1.png').unlink()
    with monkeypatch.context() as patch:
        patch.setattr(models, 'load', lambda *_: pytest.fail('the model was loaded'))
        assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f'{eval_task.FILE}, line 4' in error and '1.png' in error and '--explain' in error
    (bad / '1.png').write_bytes(b'no picture')
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f'{eval_task.FILE}, line 4' in error and '1.png' in error and '--skip-bro' in error
    (bad / '9.npy').unlink()
    assert main([*arguments, '--skip-broken']) == 0
    assert '3 broken' in capsys.readouterr().out
    run = read_run(tmp_path / 'out' / 'colours')
    wrong = [p for p in run.predictions if p.finish_reason == 'broken']
    assert [p.id for p in wrong] == ['q3', 'q5', 'q9'] and '1.png' in wrong[0].error
    assert not any(p.text for p in wrong) and wrong[0].choice == -1
    assert run.result['counts']['broken'] == 3
    assert [row['id'] for row in run.result['broken']] == ['q3', 'q5', 'q9']
    assert [json.loads(text(run.folder, 'scores.json'))['test_same'][n] for n in (3, 5, 9)] == [
        0, 0, 0]
    assert len(about(run.folder)['resumed']) == 1       # it was begun, up to the broken file
    for name in ('1.png', '9.npy'):                     # mended: asked again, and nothing else
        shutil.copy(data / name, bad / name)
    (run.folder / 'predictions.0-of-2.jsonl').write_text(   # an older part, of two processes
        text(run.folder).splitlines(keepends=True)[3])
    assert main([*arguments, '--skip-broken']) == 0
    assert '3 broken' in capsys.readouterr().out
    assert main(arguments) == 0 and 'broken' not in capsys.readouterr().out
    assert [(p.id, p.text, p.choice) for p in read_run(run.folder).predictions] == [
        (p.id, p.text, p.choice) for p in read_run(whole).predictions]
    for path in bad.glob('*.[np]*'):
        if path.name != eval_task.FILE:
            path.unlink()
    assert main([*arguments[:-4], '--out', str(tmp_path / 'none'), '--skip-broken']) == 2
    assert 'are missing' in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_the_model(
        data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(models, 'load', lambda *_: pytest.fail('the model was loaded'))
    (tmp_path / 'file').write_text('')
    assert main([*BASE, '--data', str(data), '--out', str(tmp_path / 'file')]) == 2
    error = capsys.readouterr().err
    assert 'file/colours: cannot be written (Not a dir' in error and 'another --out' in error


def test_scored_again_without_torch(whole, data, tmp_path):
    out = shutil.copytree(whole, tmp_path / 'out' / 'colours').parent
    folder = out / 'colours'
    lines = text(folder).replace('shelf', 'box', 1).splitlines(keepends=True)
    lines[7] = json.dumps({**json.loads(lines[7]), 'text': ''}) + '\n'
    (folder / PREDICTIONS).write_text(''.join(lines))
    (folder / 'result.json').unlink()
    code = ('import sys, eval_task; from onellm_ros.cli import main; eval_task.install(); '
            f'status = main(["eval", "--rescore", {str(out)!r}, "--data", {str(data)!r}]); '
            'sys.exit(3 if "torch" in sys.modules else status)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=False, timeout=60, env={**os.environ,
                                                        'PYTHONPATH': str(SCRIPT.parent)})
    assert done.returncode == 0, done.stderr
    assert '1 empty' in done.stdout
    assert json.loads(text(folder, 'scores.json'))['test_same'][7] == 0
    result = json.loads(text(folder, 'result.json'))
    assert result['scores']['test_same']['value'] < json.loads(
        text(whole, 'result.json'))['scores']['test_same']['value']


def test_a_run_that_cannot_be_scored_says_so(whole, data, tmp_path, capsys):
    out = shutil.copytree(whole, tmp_path / 'out' / 'colours').parent
    folder = out / 'colours'

    def told() -> str:
        assert main(['eval', '--rescore', str(out)]) == 2
        error = capsys.readouterr().err
        assert error.count('\n') == 1
        return error

    lines = text(folder).splitlines(keepends=True)
    (folder / PREDICTIONS).write_text(''.join(lines[:9]))
    assert 'found 9 predictions, expected 14' in told()
    shutil.copytree(whole, out / 'later')               # it is scored all the same
    assert main(['eval', '--rescore', str(out)]) == 2
    said = capsys.readouterr()
    assert 'colours: found 9' in said.err and '14 items' in said.out
    shutil.rmtree(out / 'later')
    (folder / PREDICTIONS).write_text(''.join([*lines[:3], '{"id": 3}\n', *lines[4:]]))
    assert 'line 4' in told()
    (folder / 'run.json').write_text('{"task"')
    assert 'run.json: not readable' in told()
    shutil.rmtree(folder)
    assert 'found no run.json' in told()


def test_predictions_that_others_wrote_are_read(tmp_path):
    path = tmp_path / PREDICTIONS
    path.write_bytes(
        b'{"id": 7, "text": "caf\xc3\xa9"}\r\n\n{"id": "q1", "text": "", "choice": 2}')
    found = read_predictions(tmp_path)
    assert [(p.id, p.text, p.choice, p.finish_reason) for p in found.values()] == [
        ('7', 'caf\xe9', -1, 'stop'), ('q1', '', 2, 'stop')]
    for wrong in ('{"id": "q1"}', '{"id": "q1", "text": null}', '{"id": null, "text": ""}', '[]'):
        path.write_text(f'{{"id": "q0", "text": ""}}\n{wrong}\n')
        with pytest.raises(PredictionError, match='line 2: .* expected an object with id and te'):
            read_predictions(tmp_path)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this system has no /dev/full')
def test_a_full_disk_is_told(tmp_path):
    (tmp_path / PREDICTIONS).symlink_to('/dev/full')
    with pytest.raises(PredictionError, match=f'{PREDICTIONS}: cannot be written .No space left'):
        with Writer(tmp_path) as writer:
            writer.add([Prediction('q0', 'red')])


@pytest.mark.parametrize(('options', 'said'), [
    (['--task', 'colors'], "unknown task 'colors': expected one of gqa"),
    (['--task', 'colours', '--split', 'train'], 'expected one of val, test'),
    (['--task', 'colours', '--set', 'odd=1'], 'expected OPTION=VALUE with one of first'),
    (['--task', 'colours', '--set', 'first=x'], 'expected a value like 0'),
    (['--task', 'colours', '--prompt', '{what}'], 'found a field that is not known'),
    (['--task', 'colours', '--seed', '1'], 'without a temperature'),
    (['--task', 'colours', '--sampling', 'paper', '--top-p', '0.5'], 'one way of drawing'),
    (['--task', 'colours', '--temperature', '-1'], '0 or more'),
    (['--task', 'colours', '--limit', '-1'], '--limit: found -1'),
    (['--task', 'colours', '--judge', 'http://x'], 'expected both or neither'),
    (['--task', 'colours', '--judge', 'x:80', '--judge-model', 'm'], 'such as http://host'),
    (['--task', 'colours', '--model', 'none'], "model 'none' not found"),
    (['--task', 'colours', '--list'], 'found --task and --list, expected one of'),
    (['robot-world'], '`onellm eval --task robot-world`'),
    ([], 'found none, expected one of --task')])
def test_wrong_use_is_told_in_a_line(options, said, data, tmp_path, capsys):
    assert main(['eval', *options, '--data', str(data), '--out', str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1


def test_a_broken_annotation_and_missing_data(data, tmp_path, capsys):
    assert main([*BASE, '--out', str(tmp_path)]) == 2
    assert '--data' in capsys.readouterr().err
    lines = text(data, eval_task.FILE).splitlines(keepends=True)
    (tmp_path / 'colours').mkdir()                      # a folder of the task's name is taken
    (tmp_path / 'colours' / eval_task.FILE).write_text(''.join([*lines[:4], '{\n']))
    assert main([*BASE, '--data', str(tmp_path), '--out', str(tmp_path / 'out')]) == 2
    assert f'{tmp_path}/colours/{eval_task.FILE}, line 5' in capsys.readouterr().err


def test_drawing_depends_on_the_seed_alone(data, tmp_path):
    drawn = []
    for name, batch, more in (('a', 1, ()), ('b', 3, ()), ('c', 1, ('--seed', '7'))):
        assert main([*BASE, '--data', str(data), '--out', str(tmp_path / name), '--limit', '6',
                     '--batch', str(batch), '--temperature', '1.5', '--top-p', '0.9', *more]) == 0
        drawn.append([p.text for p in read_run(tmp_path / name / 'colours').predictions])
    assert drawn[0] == drawn[1] != drawn[2]


def test_items_are_put_together_by_what_they_show():
    items = [Item(str(n), 'q', evidence=e) for n, e in enumerate('aabbbcccccccd')]
    found = [[''.join(i.evidence for i in unit) for unit in chunk] for chunk in chunks(items, 4)]
    assert found == [['aa'], ['bbb'], ['ccccccc'], ['d']]
    assert [len(c) for c in chunks(items, 5)] == [2, 1, 1]
    alone = [Item(str(n), 'q') for n in range(5)]       # nothing to see: each for itself
    assert [len(c) for c in chunks(alone, 2)] == [2, 2, 1]
    assert [len(u) for c in chunks([Item(str(n), evidence='a') for n in range(70)], 1)
            for u in c] == [64, 6]


def test_every_task_is_listed_and_explained(capsys):
    assert main(['eval', '--list']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(tasks.tasks())
    for line, task in zip(lines, tasks.tasks().values(), strict=True):
        assert task.metrics[0] in line and task.modalities[0].value in line
        assert main(['eval', '--explain', task.name]) == 0
        shown = capsys.readouterr().out
        for needed in (task.title, *task.metrics, *task.splits, 'paper', 'prompt:'):
            assert needed in shown, (task.name, needed)
        for value in task.paper.scores.values() if task.paper else ():
            assert f'{value:g}' in shown
        assert all(line.strip() in shown for line in task.fetch.splitlines())
