"""robot-world under all its conditions, what it measures, and that it stays as it was frozen."""

from __future__ import annotations

from dataclasses import replace
import math
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('numba', reason='the simulator needs numba')

from onellm_ros.evaluation.item import Item, Prediction  # noqa: E402
from onellm_ros.evaluation.metrics.robot import robot_world  # noqa: E402
from onellm_ros.evaluation.robot import frozen, live, measures, noise, pools, worlds  # noqa: E402
from onellm_ros.evaluation.robot.plan import (  # noqa: E402
    CONDITIONS,
    SETS,
    SPLITS,
    VERSION,
    Plan,
)
from onellm_ros.evaluation.robot.reading import read_items  # noqa: E402
from onellm_ros.evaluation.robot.scoring import is_right  # noqa: E402
from onellm_ros.evaluation.robot.tables import tables  # noqa: E402
from onellm_ros.evaluation.robot.worlds import Shown  # noqa: E402
from onellm_ros.evaluation.task import Tools  # noqa: E402
from onellm_ros.evaluation.tasks import find_task  # noqa: E402
from onellm_ros.modality import Modality, Sample  # noqa: E402
from onellm_ros.simulation import language  # noqa: E402
from onellm_ros.simulation.answers import normalise  # noqa: E402
from onellm_ros.simulation.truth import Truth  # noqa: E402

CHANGED = ('robot-world asks something else than version {} did: if the simulation, its language '
           'or the plan was changed on purpose, raise plan.VERSION and run `python -m '
           'onellm_ros.evaluation.robot.frozen --write`; scores before and after do not compare')


@pytest.fixture(scope='module')
def mini() -> list[Item]:
    """The items of the split mini, as frozen."""
    return list(read_items(Plan(worlds=SPLITS['mini'])))


def of(items: list[Item], condition: str) -> list[Item]:
    return [item for item in items if item.facts['condition'] == condition]


def told(items: list[Item], texts: list[str], **more) -> list[Prediction]:
    return [Prediction(item.id, text, **more) for item, text in zip(items, texts, strict=True)]


def first_answers(items: list[Item]) -> list[str]:
    """Right answers; of a world that contradicts another, the first one's."""
    return [item.answers[0] for item in items]


def test_the_split_mini_is_as_it_was_frozen(mini):
    assert frozen.record()['version'] == VERSION
    assert frozen.asked('mini', mini) == frozen.record()['splits']['mini'], CHANGED.format(VERSION)


@pytest.mark.slow
def test_the_split_test_is_as_it_was_frozen(mini):
    items = list(read_items(Plan()))
    assert frozen.asked('test', items) == frozen.record()['splits']['test'], \
        CHANGED.format(VERSION)
    asked = {item.id: item.question for item in items}
    # what only some worlds are asked for depends on how many there are
    assert all(asked[item.id] == item.question for item in mini), 'mini is the start of test'


def test_what_the_sensors_gave_is_as_it_was_frozen():
    now = frozen.samples()
    assert frozen.differing(frozen.record()['samples'], now) == [], CHANGED.format(VERSION)


def test_the_freezing_bites(mini):
    before = frozen.fingerprint(mini)
    assert before == frozen.fingerprint(mini)
    for changed in (replace(mini[7], question='Is it?'), replace(mini[7], answers=('perhaps',)),
                    replace(mini[7], id='other'), replace(mini[7], evidence='other')):
        assert frozen.fingerprint([*mini[:7], changed, *mini[8:]]) != before
    kept = frozen.record()['samples']
    values = kept['world 0']['image']
    other = {**kept, 'world 0': {**kept['world 0'], 'image': [v + 9.0 for v in values]}}
    assert frozen.differing(kept, other) == ['world 0: image']
    assert frozen.differing(kept, {**kept, 'world 1': {}}) == [
        f'world 1: {m.value}' for m in Modality]
    assert frozen.close('image', values, [values[0] + 9.0, *values[1:]])    # one pixel of an edge


def test_items_are_well_formed(mini):
    assert len({item.id for item in mini}) == len(mini)
    seen: set[str] = set()
    last = ''
    for item in mini:
        if item.evidence != last:
            assert item.evidence not in seen, 'items of the same evidence follow each other'
            seen.add(item.evidence)
            last = item.evidence
    found = {item.facts['condition'] for item in mini}
    assert found == {*CONDITIONS, 'agree', 'unrelated'}
    assert {frozenset(item.facts['blocks']) for item in of(mini, 'together')} == {
        frozenset(m.value for m in blocks) for blocks in SETS}
    by_id = {item.id: item for item in mini}
    for item in mini:
        if 'alone' in item.facts:
            other = by_id[item.facts['alone']]
            assert other.question == item.question
            assert item.answers == other.answers or item.answers == (language.UNKNOWN,)


def test_right_answers_score_all_and_empty_ones_nothing(mini):
    score = robot_world(mini, told(mini, first_answers(mini)), Tools())
    assert score.value == 100.0 and set(score.items) == {100.0}
    assert score.parts['alone: image'] == score.parts['contradict'] == 100.0
    for texts in ([''] * len(mini), [' \n'] * len(mini), ['...'] * len(mini)):
        assert robot_world(mini, told(mini, texts), Tools()).value == 0.0
    broken = told(mini, first_answers(mini), finish_reason='broken')
    assert robot_world(mini, broken, Tools()).value == 0.0
    assert robot_world([], [], Tools()).value is None


def test_tables_of_right_answers_and_of_none(mini):
    sure = [replace(p, confidence=0.75, first_token_s=0.01)
            for p in told(mini, first_answers(mini))]
    found = tables(mini, sure)
    for row in (*found['modalities'].values(), *found['question types'].values()):
        assert row['accuracy'] == 100.0 and row['guesser'] < 90.0
    assert found['together']['all']['across two'] == 100.0
    assert found['together']['all']['one half of it'] == 0.0
    assert found['missing: asked in vain']['no microphone']['says unknown'] == 100.0
    assert found['noisy']['image.blur']['level 3'] == 100.0
    assert found['stale']['5 s old']['changed: says then'] == 0.0
    assert found['contradicting']['image+point']['follows the first'] == 100.0
    assert found['contradicting']['image+point']['follows the second'] == 0.0
    # Words say whole metres and thirds of the picture: right ones are not without error.
    for title, least, most in (('distance, m', 0.1, 0.35), ('free way ahead, m', 0.1, 0.35),
                               ('bearing by words, degrees', 3.0, 9.0),
                               ('bearing asked for in degrees', 0.0, 0.5)):
        row = found[title]['all']
        assert least <= row['mean'] <= most and row['mean'] == row['right words mean']
        assert row['read'] == row['right'] == 100.0
        assert row['guesser mean'] > 2 * row['mean']
    assert found['calibration']['alone']['error'] == pytest.approx(0.25)
    assert found['time to first token, ms']['all eight']['median'] == 10.0
    silent = tables(mini, told(mini, [''] * len(mini)))
    assert {row['accuracy'] for row in silent['conditions'].values()} == {0.0}
    assert silent['distance, m']['all']['median'] is None
    assert silent['distance, m']['all']['read'] == 0.0
    assert 'calibration' not in silent and 'time to first token, ms' not in silent


def test_half_an_answer_across_two_senses_is_wrong_and_told(mini):
    texts = [item.answers[0].split(' and ')[-1] for item in mini]
    row = tables(mini, told(mini, texts))['together']['image+audio']
    assert row['across two'] == 0.0 and row['one half of it'] == 100.0


def test_what_contradicts_differs_in_truth(mini):
    items = of(mini, 'contradict')
    assert len(items) > 60
    by_id = {item.id: item for item in mini}
    for item in items:
        first, second = item.facts['first'], item.facts['second']
        assert not {normalise(t) for t in first} & {normalise(t) for t in second}
        shown = worlds.shown_by(item.tensors)
        ((modality, other),) = shown.others
        one, two = (Modality(name) for name in item.facts['pair'].split('+'))
        assert modality is two and other != shown.world
        for truth, shows, answers in ((worlds.truth_of(shown.world), one, first),
                                      (worlds.truth_of(other), two, second)):
            assert answers[0] in {draw.answer for draw in pools.pool(truth, shows).values()
                                  if draw.type == item.facts['type']}
        assert is_right(item, first[0]) and is_right(item, second[0])
        assert not is_right(item, 'a green elephant') and not is_right(item, 'unknown')
        agree = by_id[item.facts['agree']]
        assert agree.question == item.question and agree.answers[0] == first[0]
        assert not is_right(agree, second[0])


def test_two_worlds_at_once_are_shown():
    first, second = worlds.world_seed(5, 0), worlds.world_seed(5, 1)
    blocks = (Modality.IMAGE, Modality.POINT)
    mixed = Shown(blocks, first, ((Modality.POINT, second),)).evidence()
    one, two = Shown(blocks, first).evidence(), Shown(blocks, second).evidence()
    assert np.array_equal(mixed.chosen[Modality.IMAGE][0].data, one.chosen[Modality.IMAGE][0].data)
    assert np.array_equal(mixed.chosen[Modality.POINT][0].data, two.chosen[Modality.POINT][0].data)
    assert not np.array_equal(one.chosen[Modality.POINT][0].data,
                              two.chosen[Modality.POINT][0].data)


@pytest.mark.parametrize('kind', noise.KINDS)
def test_noise_changes_what_is_sensed_and_not_what_is_true(kind):
    seed, modality = worlds.world_seed(5, 0), noise.modality_of(kind)
    truth = worlds.truth_of(seed)
    clean = Shown((modality,), seed).evidence().chosen[modality]
    before = [sample.data.copy() for sample in clean]
    changed = []
    for level in noise.LEVELS:
        shown = Shown((modality,), seed, disturbed=kind, level=level)
        once, again = (shown.evidence().chosen[modality] for _ in range(2))
        for x, y, z in zip(once, again, clean, strict=True):
            assert np.array_equal(x.data, y.data, equal_nan=True), 'seeded'
            assert x.stamp_ns == z.stamp_ns and x.intrinsics == z.intrinsics
            assert x.data.dtype == z.data.dtype or modality is Modality.IMU
        changed.append(_off(clean, once))
    assert 0 < changed[0] < changed[1] < changed[2], changed
    assert all(np.array_equal(s.data, b, equal_nan=True)
               for s, b in zip(clean, before, strict=True)), 'the clean samples stay'
    worlds.forget()
    assert worlds.truth_of(seed) == truth


def _off(clean: list[Sample], noisy: list[Sample]) -> float:
    """How far disturbed samples are from clean ones: lost values, else the mean difference."""
    a, b = (np.concatenate([np.asarray(s.data, np.float64).ravel() for s in samples])
            for samples in (clean, noisy))
    if len(a) != len(b):
        return float(len(a) - len(b))
    lost = int(np.isnan(b).sum() - np.isnan(a).sum())
    return float(lost or np.nanmean(np.abs(a - b)))


def test_unknown_noise_is_refused():
    for kind, level in (('image.rain', 1), ('image.blur', 4)):
        with pytest.raises(ValueError, match='expected one of image.blur'):
            noise.noisy([], kind, level, 0)


def test_holes_and_thinned_clouds_are_as_large_as_said():
    rng = np.random.default_rng(0)
    holed = noise.holed(np.ones((168, 224), np.float32), 0.5, rng)
    assert np.isnan(holed).mean() == pytest.approx(0.5, abs=0.01)
    runs = np.diff(np.flatnonzero(np.diff(np.isnan(holed[80]))))
    assert runs.mean() > 4, 'patches, not single pixels'
    assert len(noise.thinned(np.zeros((2048, 6)), 0.0625, rng)) == 128
    assert len(noise.thinned(np.zeros((3, 6)), 0.01, rng)) == 1


def test_stale_evidence_is_of_the_past_and_truth_is_now(mini):
    items = of(mini, 'stale')
    for item in items:
        if item.facts['age_s'] == 0:
            assert item.facts['same'] and item.facts['then'][0] == item.answers[0]
    changed = [i for i in items if i.facts['then'] and not i.facts['same']]
    assert len(changed) > 40
    for item in changed:
        assert is_right(item, item.answers[0]) and not is_right(item, item.facts['then'][0])
    share = {age: np.mean([i.facts['same'] for i in items if i.facts['age_s'] == age])
             for age in (0.0, 0.5, 2.0, 5.0)}
    assert share[0.0] == 1.0 > share[0.5] > share[2.0] > share[5.0]
    seed = worlds.world_seed(5, 0)
    now, before = (Shown((Modality.IMU, Modality.AUDIO), seed, age_s=age).evidence()
                   for age in (0.0, 2.0))
    assert now.end_ns - before.end_ns == 2_000_000_000
    for evidence in (now, before):
        imu, (sound,) = (evidence.chosen[m] for m in (Modality.IMU, Modality.AUDIO))
        assert abs(imu[-1].stamp_ns - evidence.end_ns) < 10_000_000
        assert imu[-1].stamp_ns - imu[0].stamp_ns == pytest.approx(2e9, abs=2e7)
        assert sound.stamp_ns + len(sound.data) / sound.rate_hz * 1e9 == pytest.approx(
            evidence.end_ns, abs=2e6)


def test_a_live_window_is_as_that_of_a_world():
    """All modalities, in the types and shapes that the same model takes."""
    found, _ = live.window_of(worlds.world_seed(5, 0), 4.0)
    known, _ = worlds.window_of(worlds.world_seed(5, 0))
    assert set(found) == set(known) == set(Modality)
    for modality in Modality:
        mine, theirs = found[modality], known[modality]
        assert mine[0].data.dtype == theirs[0].data.dtype, modality
        assert mine[0].data.shape[1:] == theirs[0].data.shape[1:], modality
        assert len(mine) == pytest.approx(len(theirs), abs=1), modality


def test_a_dead_camera_takes_the_colour_from_depth_and_normals(mini):
    (item,) = [i for i in of(mini, 'missing') if i.id == 'missing/0000/no_camera/0']
    chosen = worlds.shown_by(item.tensors).evidence().chosen
    assert {Modality.DEPTH, Modality.NORMAL} <= set(chosen)
    assert not {Modality.IMAGE, Modality.VIDEO} & set(chosen)
    assert Modality.IMAGE in Shown((Modality.DEPTH,), worlds.world_seed(5, 0)).evidence().chosen


def test_asked_in_vain_means_that_nothing_shown_can_tell(mini):
    tells = {'sound': {'audio'}, 'motion': {'imu'}, 'moving': {'video'}}
    for item in of(mini, 'missing'):
        if item.group == 'in vain':
            assert item.answers == (language.UNKNOWN,)
            blocks = set(item.facts['blocks'])
            assert not blocks & tells.get(item.facts['asked'], {'image', 'video', 'point', 'fmri'})
            assert is_right(item, 'I cannot tell.') and not is_right(item, 'yes')


def test_inputs_without_any_measurement_are_left_out():
    shown = Shown((Modality.DEPTH,), worlds.world_seed(5, 0))
    engine = SimpleNamespace(preprocessor=SimpleNamespace(tensors=lambda chosen, end_ns: {}))
    assert worlds.tensors_of(shown)(engine) == {}
    with pytest.raises(ValueError, match='of another benchmark'):
        worlds.shown_by(None)


@pytest.mark.parametrize(('text', 'metres'), [
    ('about 2 metres', 2.0), ('2.4 m', 2.4), ('It is three meters away.', 3.0), ('80 cm', 0.8),
    ('2', 2.0), ('about 1.5', 1.5), ('1,5 metres', 1.5), ('near', None), ('', None),
    ('two chairs', None), ('unknown', None)])
def test_metres_are_read(text, metres):
    assert measures.metres_in(text) == pytest.approx(metres)


@pytest.mark.parametrize(('text', 'degrees'), [
    ('left', measures.SIDE_DEG), ('It is on the right.', -measures.SIDE_DEG),
    ('straight ahead', 0.0), ('20 degrees to the left', 20.0), ('12.5\u00b0 right', -12.5),
    ('-15 degrees', -15.0), ('0 degrees', 0.0), ('20 degrees', None), ('left or right', None),
    ('unknown', None), ('', None)])
def test_bearings_are_read(text, degrees):
    found = measures.degrees_in(text)
    assert found == pytest.approx(degrees) if degrees is not None else found is None


def test_distances_and_bearings_are_right_within_their_limits():
    metre = measures.distance(2.4, 'How far?')
    assert metre.question.answer == 'about 2 metres'
    for text, right in (('about 2 metres', True), ('3 metres', True), ('2.4 m', True),
                        ('about 1 metre', False), ('3.2 m', False), ('near', False)):
        assert measures.is_right(metre.kind, metre.truth, metre.question, text) is right, text
    place = measures.bearing(math.radians(15.0), 'Where?')          # beside the limit, 15.5
    for text, right in (('ahead', True), ('on the left', True), ('right', False),
                        ('20 degrees to the left', True), ('30 degrees to the left', False)):
        assert measures.is_right(place.kind, place.truth, place.question, text) is right, text
    degrees = measures.bearing(math.radians(-12.0), 'How many degrees?', measures.DEGREES)
    assert degrees.question.answer == '12 degrees to the right'
    for text, right in (('12 degrees to the right', True), ('20 degrees right', True),
                        ('12 degrees to the left', False), ('ahead', False), ('', False)):
        assert measures.is_right(degrees.kind, degrees.truth, degrees.question, text) is right


def test_the_table_of_tasks_has_it(monkeypatch):
    monkeypatch.setattr('onellm_ros.evaluation.robot.plan.Plan.guesser_worlds', 5)
    task = find_task('robot-world')
    assert (task.version, task.splits[0], task.data) == (VERSION, 'test', False)
    items = list(task.read(None, 'mini', **{
        **task.options, 'worlds': 2, 'conditions': 'alone', 'modalities': 'audio, imu',
        'questions': 2}))
    assert {item.facts['source'] for item in items} == {'audio', 'imu'}
    assert len(items) <= 2 * 2 * 3
    shuffled = list(task.read(None, 'mini', **{**task.options, 'worlds': 2, 'shuffled': 1,
                                               'modalities': 'imu'}))
    assert {item.facts['condition'] for item in shuffled} == {'alone', 'caption'}
    asked = [i for i in shuffled if '/0000/' in i.id]
    assert {worlds.shown_by(i.tensors).world for i in asked} == {worlds.world_seed(2026, 1)}
    with pytest.raises(ValueError, match='of shuffled worlds'):
        list(task.read(None, 'mini', **{**task.options, 'shuffled': 1, 'conditions': 'noisy'}))
    with pytest.raises(ValueError, match='expected one of test, mini'):
        list(task.read(None, 'train', **task.options))


def test_a_truth_without_objects_is_asked_what_can_be_asked(monkeypatch):
    empty = Truth(3, (), 'standing still', 'silence', 'wood', 'white', 10.0)
    monkeypatch.setattr('onellm_ros.evaluation.robot.worlds.truth_of', lambda seed: empty)
    items = list(read_items(Plan(worlds=1, guesser_worlds=1, conditions=(
        'alone', 'together', 'missing', 'noisy', 'contradict', 'measure'))))
    assert not of(items, 'contradict')
    assert {i.facts['kind'] for i in of(items, 'measure')} == {measures.FREE}
    assert robot_world(items, told(items, first_answers(items)), Tools()).value == 100.0
