"""The evaluation on simulated worlds: what is asked, what is given, and how it is counted."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
import json
from types import SimpleNamespace

import numpy as np
from PIL import Image
import pytest

pytest.importorskip('numba', reason='the simulator needs numba')

from onellm_ros.evaluation import command, failures, robot_world  # noqa: E402
from onellm_ros.evaluation.calibration import calibration  # noqa: E402
from onellm_ros.evaluation.evidence import Evidence, Reply  # noqa: E402
from onellm_ros.evaluation.failures import Failures  # noqa: E402
from onellm_ros.evaluation.guesser import Guesser  # noqa: E402
from onellm_ros.evaluation.robot import asking, tables, worlds  # noqa: E402
from onellm_ros.modality import Modality, Sample  # noqa: E402
from onellm_ros.simulation import language  # noqa: E402
from onellm_ros.simulation.language import Question  # noqa: E402
from onellm_ros.simulation.truth import Truth  # noqa: E402


class FakeObservation:
    """The samples of a window that hold nothing."""

    stamp_ns = 2_560_000_000

    def __init__(self, truth: Truth) -> None:
        self.truth = truth

    def chosen(self) -> dict[Modality, list[Sample]]:
        return {m: [Sample(self.stamp_ns, np.zeros(1))] for m in Modality}


class FakeWorld:
    """A world whose truth is made up, without pictures."""

    def __init__(self, seed: int, held_out: bool = False) -> None:
        assert held_out
        self._truth = language.random_truth(np.random.default_rng(seed))

    def truth(self) -> Truth:
        return self._truth

    def sample(self) -> FakeObservation:
        return FakeObservation(self._truth)


@pytest.fixture
def put_worlds(monkeypatch):
    """Return a function that puts another class in place of the worlds."""
    def put(kind):
        worlds.forget()
        monkeypatch.setattr(worlds, 'World', kind)

    yield put
    worlds.forget()


@pytest.fixture
def fake_worlds(put_worlds):
    put_worlds(FakeWorld)


def run(answer_fn, **changes):
    settings = {'seed': 3, 'worlds': 8, 'guesser_worlds': 8, 'progress': False} | changes
    return robot_world.evaluate(answer_fn, **settings)


def silent(evidence, questions):
    return [''] * len(questions)


def test_structure_and_counts(fake_worlds):
    report = run(silent, questions_per_world=3, caption_worlds=2)
    assert list(report['modalities']) == [m.value for m in Modality]
    for table in (report['modalities'], report['question_types']):
        for row in table.values():
            assert set(row) == {'accuracy', 'guesser', 'questions'}
            assert row['accuracy'] == 0.0
    assert set(report['question_types']) <= set(language.QUESTION_TYPES)
    answerable = sum(row['questions'] for row in report['modalities'].values())
    unknown = report['question_types']['unknown']['questions']
    assert unknown == 8 * 8
    assert sum(r['questions'] for r in report['question_types'].values()) == answerable + unknown
    assert set(report['captions']) == {m.value for m in Modality} | {'together'}
    assert report['captions']['imu'] == {'motion': 0.0}
    json.dumps(report)


def test_deterministic_and_seeded(fake_worlds):
    asked: dict[int, list[str]] = {}

    def record(key):
        def answer(evidence, questions):
            asked.setdefault(key, []).extend(questions)
            return ['yes'] * len(questions)
        return answer

    assert run(record(0)) == run(record(1))
    assert asked[0] == asked[1]
    run(record(2), seed=4)
    assert asked[2] != asked[0]


def test_perfect_answers_score_one(fake_worlds, monkeypatch):
    drawn: dict[Modality, list[list[Question]]] = {m: [] for m in Modality}
    draw = asking.alone

    def remember(truth, modality, seed, *args):
        found = draw(truth, modality, seed, *args)
        if len(seed) == 3:              # not one of those that the guesser learns from
            drawn[modality].append(found)
        return found

    def answer(evidence, questions):
        found = drawn[evidence.blocks[0]].pop(0)
        assert [q.question for q in found] == list(questions)
        return [q.answer for q in found]

    monkeypatch.setattr(asking, 'alone', remember)
    report = run(answer, caption_worlds=0)
    for row in (*report['modalities'].values(), *report['question_types'].values()):
        assert row['accuracy'] == 1.0
    assert report['modalities']['image']['guesser'] < 0.7
    assert report['captions'] == {}


def test_only_the_evidence_is_given(fake_worlds):
    given = []

    def answer(evidence, questions):
        given.append((evidence.blocks, frozenset(evidence.chosen)))
        return [''] * len(questions)

    run(answer, worlds=1, caption_worlds=1)
    expected = [((m,), frozenset(robot_world.EVIDENCE[m])) for m in Modality]
    assert given == [*expected, (tuple(Modality), frozenset(Modality))]
    assert robot_world.EVIDENCE[Modality.DEPTH] == (Modality.DEPTH, Modality.IMAGE)


def test_worlds_with_objects_that_training_never_showed_together(fake_worlds, tmp_path):
    truths = [FakeWorld(worlds.world_seed(3, n), held_out=True).truth() for n in range(8)]
    shard = tmp_path / 'shard-00000'
    shard.mkdir()
    known = [t for t in truths[:4] if t.seen]
    (shard / 'truth.jsonl').write_text(''.join(json.dumps(asdict(t)) + '\n' for t in known))
    together = worlds.shown_together(tmp_path)
    assert together == {worlds.objects_of(t) for t in known}
    report = run(silent, rendered=tmp_path, caption_worlds=0)
    rows = report['combinations']
    assert list(rows) == list(tables.COMBINATIONS.values())
    assert sum(row['questions'] for row in rows.values()) == sum(
        row['questions'] for row in report['modalities'].values())
    assert run(silent, caption_worlds=0)['combinations'] == {}
    with pytest.raises(ValueError, match='no rendered worlds'):
        run(silent, rendered=tmp_path / 'none')


def test_wordings(fake_worlds):
    heard: dict[str, set[str]] = {said: set() for said in language.SAID}
    for said, texts in heard.items():
        def answer(evidence, questions, texts=texts):
            texts |= set(questions)
            return [''] * len(questions)
        assert run(answer, said=said, caption_worlds=0)['wording'] == said
    assert not heard['held_out'] & (heard['plain'] | heard['varied'])
    assert heard['varied'] - heard['plain']
    with pytest.raises(ValueError, match='held_out'):
        run(answer, said='odd')


def test_wrong_number_of_answers_and_of_worlds(fake_worlds):
    with pytest.raises(ValueError, match='answers to'):
        run(lambda evidence, questions: [])
    with pytest.raises(ValueError, match='at least one'):
        run(silent, worlds=0)
    with pytest.raises(ValueError, match='at most'):
        run(silent, worlds=1_000_000)


def test_the_matrix_adds_up_and_confidence_is_compared(fake_worlds):
    def sure(evidence, questions):
        return [Reply('yes', 0.95) for _ in questions]

    report = run(sure)
    for modality, row in report['modalities'].items():
        inside = [r for t, r in report['matrix'][modality].items() if t != 'unknown']
        assert sum(r['questions'] for r in inside) == row['questions']
        right = sum(r['accuracy'] * r['questions'] for r in inside)
        assert right / row['questions'] == pytest.approx(row['accuracy'], abs=1e-3)
    found = report['calibration']
    (only,) = found['bins']
    assert (only['from'], only['confidence']) == (0.9, 0.95)
    assert only['accuracy'] < 0.6
    assert found['error'] == pytest.approx(0.95 - only['accuracy'], abs=1e-3)
    assert run(silent)['calibration'] is None
    assert calibration([(1.0, True), (0.0, False), (float('nan'), True)])['error'] == 0.0
    with pytest.raises(ValueError, match='expected 0 to 1'):
        calibration([(1.5, True)])


def test_shuffled_evidence_is_that_of_another_world(put_worlds):
    shown = []

    class Numbered(FakeWorld):
        def __init__(self, seed, held_out=False):
            super().__init__(seed, held_out)
            self.seed = seed

        def sample(self):
            observation = FakeObservation(self._truth)
            observation.chosen = lambda: {
                m: [Sample(1, np.full(1, self.seed))] for m in Modality}
            return observation

    put_worlds(Numbered)

    def look(evidence, questions):
        shown.append(int(next(iter(evidence.chosen.values()))[0].data[0]) % 1000)
        return [''] * len(questions)

    run(look, worlds=3, modalities=(Modality.IMU,))
    assert shown == [0, 1, 2]
    shown.clear()
    assert run(look, worlds=3, modalities=(Modality.IMU,), shuffled=True)['shuffled'] is True
    assert shown == [1, 2, 0]


def test_failures_are_drawn_a_few_of_each_kind(tmp_path):
    drawn = Failures(tmp_path / 'wrong')
    chosen = {Modality.IMU: [Sample(0, np.zeros(6)), Sample(1, np.ones(6))]}
    evidence = Evidence((Modality.IMU,), chosen, 1)
    question = Question('motion', Modality.IMU, 'What is the robot doing?', 'turning left')
    drawn(evidence, question, 'turning left', True)
    assert not list(drawn.folder.iterdir())
    for _ in range(4):
        drawn(evidence, question, 'standing still', False)
    assert sorted(p.name for p in drawn.folder.iterdir()) == [
        'imu-motion-1.png', 'imu-motion-2.png']
    alone = Image.open(drawn.sheet())
    for kind in ('unknown', 'clear', 'sound', 'place'):
        drawn(evidence, replace(question, type=kind), 'standing still', False)
    several = Image.open(drawn.sheet(most=4))
    assert several.width > 2.9 * (alone.width - 12) and several.height > 1.9 * alone.height
    assert Failures(tmp_path / 'none').sheet() is None


def test_guesser():
    def asked(text: str, answer: str, kind: str = 'colour') -> Question:
        return Question(kind, Modality.IMAGE, text, answer)
    guesser = Guesser([asked('What colour is it?', 'red'), asked('What colour is it?', 'red'),
                       asked('What colour is it?', 'blue'), asked('Which?', 'blue'),
                       asked('Which?', 'blue'), asked('Which?', 'blue')])
    assert guesser.guess(asked('what colour is it', '')) == 'red'
    assert guesser.guess(asked('Never asked before?', '')) == 'blue'
    assert guesser.guess(asked('How many?', '', 'count')) == ''


class FakeEngine:
    """Answers 'yes' to everything and remembers what it was shown."""

    def __init__(self, wanted) -> None:
        self.name, self.weights_hash = wanted.name, wanted.weights
        self.shown: list[set[Modality]] = []
        self.preprocessor = SimpleNamespace(tensors=lambda chosen, end_ns: dict(chosen))

    def encode(self, tensors):
        self.shown.append(set(tensors))
        return SimpleNamespace()

    def ask(self, prefix, question, **how):
        return SimpleNamespace(text='yes', confidence=0.5, tokens=1, first_token_s=0.002,
                               finish_reason='stop')


@pytest.fixture
def engines(monkeypatch):
    """The engines that the harness loaded."""
    loaded: list[tuple[str, str, FakeEngine]] = []

    def load(model, wanted, device):
        loaded.append((model, device, FakeEngine(wanted)))
        return loaded[-1][2]

    monkeypatch.setattr('onellm_ros.evaluation.models.load', load)
    monkeypatch.setattr('onellm_ros.evaluation.robot.plan.Plan.guesser_worlds', 5)
    return loaded


def command_line(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(['--task', 'robot-world', '--device', 'cpu', *words]))


def test_command_writes_json(fake_worlds, engines, tmp_path, capsys):
    out = tmp_path / 'sub'
    assert command_line('--set', 'seed=2', '--set', 'worlds=2', '--set', 'modalities=imu,depth',
                        '--set', 'conditions=alone,caption', '--out', str(out)) == 0
    (folder,) = out.iterdir()
    result = json.loads((folder / 'result.json').read_text())
    options = result['task']['options']
    assert (options['seed'], options['worlds']) == (2, 2)
    assert result['task']['version'] == 1
    ((model, _, engine),) = engines
    assert (model, result['model']['name']) == ('nano', 'nano')
    assert result['model']['weights'] == engine.weights_hash
    assert set(result['tables']['modalities']) == {'imu', 'depth'}
    assert 'torch' in result['versions']['answered']
    assert engine.shown[0] == {Modality.DEPTH} and engine.shown[1] == {Modality.IMU}
    assert result['tables']['time to first token, ms']['all questions']['p95'] == 2.0
    assert 'robot_world' in capsys.readouterr().out


@pytest.mark.parametrize(('wrong', 'text'), [
    ('modalities=smell', 'unknown modality'), ('conditions=dusty', "found condition 'dusty'"),
    ('wording=odd', "found wording 'odd'"), ('shuffled=2', 'expected 0 or 1'),
    ('worlds=-1', 'found worlds=-1'), ('seed=-3', 'found seed -3'),
    ('worlds=1000000', 'at most'), ('rendered=/nowhere', 'no rendered worlds')])
def test_command_tells_wrong_use(fake_worlds, engines, tmp_path, capsys, wrong, text):
    assert command_line('--set', wrong, '--out', str(tmp_path)) == 2
    assert text in capsys.readouterr().err
    assert not engines


def test_real_worlds():
    """Two rendered worlds, asked in full; a truth without pictures equals that of the sample."""
    world = worlds.World(worlds.world_seed(5, 0), held_out=True)
    assert world.truth() == worlds.World(
        worlds.world_seed(5, 0), held_out=True).sample().truth
    report = run(silent, worlds=2, guesser_worlds=2)
    assert report['modalities']['imu']['questions'] > 0


def test_figures_that_cannot_be_written_are_said_before_the_evaluation(
        fake_worlds, engines, tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert command_line('--set', 'worlds=1', '--out', str(tmp_path / 'file')) == 2
    assert str(tmp_path / 'file') in capsys.readouterr().err
    assert not any(engine.shown for _, _, engine in engines)


def test_failures_of_a_run_are_drawn(engines, tmp_path, capsys):
    out = tmp_path / 'run'
    assert command_line('--set', 'worlds=1', '--set', 'modalities=imu', '--set',
                        'conditions=alone', '--out', str(out)) == 0
    (folder,) = out.iterdir()
    assert failures.main([str(folder), '--out', str(tmp_path / 'wrong')]) == 0
    assert (tmp_path / 'wrong' / 'sheet.png').is_file()
    assert failures.main([str(tmp_path / 'none'), '--out', str(tmp_path / 'wrong')]) == 2
    assert 'failures:' in capsys.readouterr().err
