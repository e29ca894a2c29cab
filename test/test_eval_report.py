"""Reports of runs: scores beside the paper's, and examples that are what they say."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
import io
import json
from pathlib import Path
import re

from eval_runs import COLOURS, write_gqa, write_run, wrong_on
import numpy as np
from PIL import Image
import pytest
import soundfile

from onellm_ros.cli import main
from onellm_ros.datasets.depths import DepthSignal
from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.report_examples import examples
from onellm_ros.evaluation.report_markdown import document, plain
from onellm_ros.evaluation.report_shown import pictures_of
from onellm_ros.evaluation.report_tables import (
    Section,
    Told,
    grid,
    models,
    read_sections,
    score_rows,
)
from onellm_ros.evaluation.robot.plan import Plan
from onellm_ros.evaluation.robot.reading import read_items
from onellm_ros.modality import Modality

HOSTILE = '</td><script>alert(1)</script> | `x` ![a](b) "q" \' \x00 <img src=x onerror=y>'


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gqa(tmp_path_factory.mktemp('data') / 'gqa')


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, Path]:
    """Return the runs of two models: one wrong on a few pictures, the other on more."""
    out = tmp_path_factory.mktemp('runs')
    a = write_run(out / 'a', data, wrong_on(1, 2), model='first')
    b = write_run(out / 'b', data, wrong_on(2, *range(10, 20)), model='second', weights='bbbb')
    return a, b


class Page(HTMLParser):
    """A page read strictly: tags closed as they were opened; its pictures, texts and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[bytes] = []
        self.marks: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ''
        self.feed(text)
        assert not self.open, f'not closed: {self.open}'

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        if tag not in ('meta', 'link', 'img', '!doctype'):
            self.open.append(tag)
        if tag == 'img':
            kind, _, code = values['src'].partition(';base64,')
            assert kind.startswith('data:image/')
            self.pictures.append(base64.b64decode(code, validate=True))
        if 'mark' in values.get('class', ''):
            self.marks.append('')
        self.addresses += [v for k, v in attrs if k in ('href', 'src') and 'data:' not in v]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _report(*arguments: object) -> int:
    return main(['eval', '--report', *map(str, arguments)])


def test_models_stand_beside_each_other_and_the_paper(runs, tmp_path) -> None:
    file = tmp_path / 'deep' / 'report.html'
    assert _report(*runs, '--html', file) == 0
    text = file.read_text()
    page = Page(text)
    assert page.addresses == ['#s0'] and 'script' not in page.tags
    assert "default-src 'none'" in text
    for words in ('93.33', '63.33', '59.5', 'LLaVA-1.5 62', 'weights bbbb', 'greedy, 16 tokens',
                  'GQA, val_balanced', 'number 1 of the paper', 'exact_match by group (2)'):
        assert words in page.text, words
    assert len(page.pictures) == 7              # 3 right, 2 wrong of each model
    assert len(text) < 300_000


def test_examples_are_what_they_say(runs) -> None:
    section, = read_sections(runs)
    found, why = examples(section, 3, 0)
    assert not why and [one.kind for one in found] == ['right'] * 3 + ['wrong'] * 4
    again = [one.id for one in examples(section, 3, 0)[0]]
    assert [one.id for one in found] == again != [one.id for one in examples(section, 3, 1)[0]]
    assert len(set(again)) == 7
    first, second = wrong_on(1, 2), wrong_on(2, *range(10, 20))
    items = {item.id: item for item in section.runs[0].items}
    for one in found:
        item = items[one.id]
        right = [reply(item) == item.answers[0] for reply in (first, second)]
        assert [reply.good for reply in one.replies] == right
        assert all(right) if one.kind == 'right' else not all(right)
        shown = np.asarray(Image.open(io.BytesIO(one.pictures['image'])).convert('RGB'))
        colour = list(COLOURS)[int(one.id[:3]) % 3]
        assert np.abs(shown.mean((0, 1)) - COLOURS[colour]).max() < 12
        assert one.references == item.answers
    assert {one.group for one in found[:3]} == {'query', 'verify'}


def test_nothing_that_is_said_becomes_markup(data, tmp_path) -> None:
    run = write_run(tmp_path / 'run', data, lambda item: HOSTILE, model=f'm{HOSTILE}')
    (tmp_path / 'run' / 'result.json').write_text(
        (run / 'result.json').read_text().replace('LLaVA-1.5', '<b>LLaVA'))
    assert _report(run, '--html', tmp_path / 'r.html', '--md', tmp_path / 'r.md') == 0
    page = Page((tmp_path / 'r.html').read_text())
    assert 'script' not in page.tags and 'b' not in page.tags and len(page.pictures) == 3
    assert page.text.count('alert(1)') > 3
    text = (tmp_path / 'r.md').read_text()
    assert not re.search(r'(?<!\\)<(script|img|b)', text)
    assert '![a](b)' not in text and '\\|' in text
    assert plain('a|b\n# c') == 'a\\|b \\# c'


def test_markdown_names_its_pictures_and_keeps_its_columns(runs, tmp_path, capsys) -> None:
    file = tmp_path / 'my report.md'
    assert _report(*runs, '--md', file, '--examples', 1) == 0
    text = file.read_text()
    named = re.findall(r'!\[image\]\(my%20report_pictures/([\w-]+\.jpg)\)', text)
    folder = tmp_path / 'my report_pictures'
    assert sorted(named) == sorted(path.name for path in folder.iterdir()) and len(named) == 3
    assert '**93.33**' in text and '| LLaVA-1.5 62 |' in text
    for table in re.findall(r'(?:^\|.*\n)+', text, re.MULTILINE):
        assert len({line.count(' | ') for line in table.splitlines()}) == 1
    capsys.readouterr()
    assert _report(*runs) == 0                  # printed, without pictures
    assert '![image]' not in (told := capsys.readouterr().out) and '**63.33**' in told


def test_what_is_not_computed_says_why(runs, tmp_path) -> None:
    folder = tmp_path / 'run'
    folder.mkdir()
    for file in runs[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    result = json.loads((folder / 'result.json').read_text())
    result['scores'] |= {'judge_class': {'value': None, 'why': 'found no --judge'}}
    result['paper'] |= {'fine_tuned': True, 'best': 'VAST'}
    result['counts']['broken'] = 4
    (folder / 'result.json').write_text(json.dumps(result))
    assert _report(folder, '--html', tmp_path / 'r.html', '--md', tmp_path / 'r.md') == 0
    page = Page((tmp_path / 'r.html').read_text())
    for text in (page.text, (tmp_path / 'r.md').read_text().replace('\\', '')):
        assert 'not computed: found no --judge' in text
        assert 'VAST 62 (fine-tuned)' in text and '4 of 60 items: files could not be used' in text


def test_scores_are_told_when_the_annotations_are_gone(runs, tmp_path, capsys) -> None:
    few = write_gqa(tmp_path / 'gqa', 12)
    run = write_run(tmp_path / 'run', few, wrong_on(1))
    (few / 'val_balanced_questions.json').unlink()
    assert _report(run, '--html', tmp_path / 'r.html') == 0
    text = Page((tmp_path / 'r.html').read_text()).text
    assert '91.67' in text and 'No examples: ' in text and '--data' in text
    (run / 'result.json').unlink()
    assert _report(run, '--html', tmp_path / 'r.html') == 2
    assert 'found no result.json' in capsys.readouterr().err
    # models of one name are told apart; runs that asked other things stand apart
    sections = read_sections([runs[0], write_run(
        tmp_path / 'other', write_gqa(tmp_path / 'more', 6), wrong_on(1), model='first',
        weights='cccc')])
    assert models(sections) == ('first aaaa0000', 'first cccc')
    assert sorted(section.note.split()[0] for section in sections) == ['12', '60']


def _told(items, predictions, each, name: str = 'nano') -> Told:
    return Told(Path(name), name, {'scores': {'m': {'value': 1.0}}}, tuple(items),
                tuple(predictions), each)


def test_graded_scores_and_none() -> None:
    items = [Item(str(n), answers=('a b',)) for n in range(40)]
    predictions = [Prediction(item.id, item.id) for item in items]
    section = Section('c', 'C', 0, 'val', 1, (_told(items, predictions, {'m': range(40)}),))
    found, _ = examples(section, 4, 0)
    assert [one.kind for one in found] == ['high'] * 4 + ['low'] * 4
    assert all(int(one.id) >= 30 for one in found[:4]) and all(int(one.id) <= 9
                                                              for one in found[4:])
    assert found[0].replies[0].mark == found[0].id
    none, why = examples(Section('c', 'C', 0, 'val', 1, (_told(items, predictions, {}),)), 4, 0)
    assert not none and 'no metric scores single items' in why
    assert score_rows(section)[0].values == (1.0,)


def test_every_modality_is_drawn(tmp_path) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / 'a.png')
    Image.fromarray(rng.integers(500, 4000, (60, 80)).astype(np.uint16)).save(tmp_path / 'd.png')
    normals = rng.standard_normal((60, 80, 3))
    np.save(tmp_path / 'n.npy', normals / np.linalg.norm(normals, axis=-1, keepdims=True))
    np.save(tmp_path / 'p.npy', rng.random((500, 6)).astype(np.float32))
    np.save(tmp_path / 'f.npy', rng.standard_normal(256).astype(np.float32))
    np.save(tmp_path / 'i.npy', rng.standard_normal((6, 400)))
    np.save(tmp_path / 'i_timestamps.npy', np.arange(400) * 5.0)
    soundfile.write(tmp_path / 's.wav', 0.2 * rng.standard_normal(32000), 16000)
    Image.fromarray(rgb).save(tmp_path / 'v.gif', save_all=True,
                              append_images=[Image.fromarray(255 - rgb)] * 3, duration=200)

    def at(name: str, **more) -> Signal:
        return Signal(tmp_path / name, **more)

    colour, lens = tmp_path / 'a.png', (80.0, 80.0, 40.0, 30.0)
    cases: list[tuple[dict[Modality, Signal], set[str]]] = [
        ({Modality.IMAGE: at('a.png'), Modality.AUDIO: at('s.wav', window_s=(0.5, 1.5))},
         {'image', 'audio'}),
        ({Modality.VIDEO: at('v.gif')}, {'video'}),
        ({Modality.POINT: at('p.npy'), Modality.FMRI: at('f.npy')}, {'point', 'fmri'}),
        ({Modality.IMU: at('i.npy', window_s=(0.5, 1.5))}, {'imu'}),
        ({Modality.DEPTH: at('d.png', colour=colour)}, {'colour', 'depth'}),
        ({Modality.DEPTH: at('a.png')}, {'depth'}),             # somebody's picture of depth
        ({Modality.NORMAL: at('n.npy')}, {'normal'}),
        ({Modality.NORMAL: DepthSignal(tmp_path / 'd.png', colour, intrinsics=lens)},
         {'colour', 'normal'})]
    for signals, names in cases:
        found, lacking = pictures_of(Item('x', signals=signals))
        assert set(found) == names and not lacking
        assert all(len(data) < 16_000 for data in found.values())
        for data in found.values():
            assert data.startswith(b'<svg') or Image.open(io.BytesIO(data)).width > 20
    (tmp_path / 'bad.jpg').write_bytes(b'no picture')
    found, lacking = pictures_of(Item('x', signals={
        Modality.IMAGE: at('bad.jpg'), Modality.VIDEO: at('none.mp4'),
        Modality.AUDIO: at('s.wav')}))
    assert set(found) == {'audio'} and 'bad.jpg' in lacking and 'no such file' in lacking


def test_simulated_worlds_are_drawn_again() -> None:
    plan = Plan(worlds=1, conditions=('alone',), guesser_worlds=1)
    item = next(item for item in read_items(plan) if item.group == 'depth')
    found, lacking = pictures_of(item)
    assert set(found) == {'depth', 'image'} and not lacking


def test_a_model_that_was_not_asked_a_benchmark_has_a_dash(runs, tmp_path) -> None:
    other = write_run(tmp_path / 'other', write_gqa(tmp_path / 'few', 6), wrong_on(),
                      model='third')
    text, _ = document(read_sections([*runs, other]), {}, 'now')
    rows = [line for line in text.splitlines() if line.startswith('| 1 | GQA')]
    assert [row.count('–') for row in rows] == [1, 2]


def test_a_table_of_a_task_keeps_its_digits() -> None:
    columns, rows = grid({'a': {'accuracy': 93.04, 'n': 1200}, 'b': {'accuracy': 7.3, 'why': 'x'},
                          'c': {'accuracy': None, 'error': 0.0389}})
    assert columns == ['accuracy', 'n', 'why', 'error']
    assert rows == [['a', '93.0', '1,200', '–', '–'], ['b', '7.3', '–', 'x', '–'],
                    ['c', '–', '–', '–', '0.04']]
