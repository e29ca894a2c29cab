"""Questions and captions about the simulated world: right, answerable, balanced, readable."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from onellm_ros.modality import Modality
from onellm_ros.simulation import asking
from onellm_ros.simulation import asking_objects as ao
from onellm_ros.simulation import asking_senses as senses
from onellm_ros.simulation import language as lang
from onellm_ros.simulation.patterns import KIND_NAMES, VARIED
from onellm_ros.simulation.truth import COLOURS, KINDS, MOTIONS, SOUNDS, SeenObject, Truth
from onellm_ros.simulation.varied import expand, renamed, varied_question
from onellm_ros.simulation.wording import WORDINGS

IMAGE, VIDEO, DEPTH, POINT = Modality.IMAGE, Modality.VIDEO, Modality.DEPTH, Modality.POINT
NORMAL, IMU, AUDIO, FMRI = Modality.NORMAL, Modality.IMU, Modality.AUDIO, Modality.FMRI
ALL = frozenset(Modality)


def thing(index: int, kind: str, colour: str, bearing: float, distance: float, pixels: float,
          visible: float = 1.0, direction: str = '') -> SeenObject:
    place = 'ahead' if abs(bearing) < 0.27 else 'left' if bearing > 0 else 'right'
    return SeenObject(index, kind, colour, place, distance, bearing, pixels, visible, direction)


TRUTH = Truth(
    seed=1, motion='turning left', sound='an alarm', floor='carpet', wall_colour='white',
    clear_m=3.1, seen=(
        thing(1, 'chair', 'blue', 0.0, 3.1, 0.06),
        thing(2, 'ball', 'red', 0.5, 1.05, 0.03),
        thing(3, 'ball', 'green', -0.5, 4.0, 0.02),
        thing(4, 'person', 'orange', -0.1, 5.1, 0.01, direction='away from the robot'),
        thing(5, 'cup', 'white', 0.4, 2.0, 0.003)))


def draws(family, truth=TRUTH, modality=IMAGE, number=300):
    rng = np.random.default_rng(0)
    found = [family(truth, modality, rng) for _ in range(number)]
    return {(' '.join(d.slots.values()), d.answer) for d in found if d is not None}


def test_largest_nearest_and_single_objects():
    assert draws(ao.object_largest) == {('', 'a blue chair')}
    assert draws(ao.object_largest, modality=NORMAL) == {('', 'a chair')}
    assert draws(ao.object_nearest) == {('', 'a red ball')}
    assert draws(ao.place_nearest) == {('', 'left')}
    # The left holds a ball and a small cup, ahead two things: only the right side is asked about.
    assert draws(ao.object_place) == {('on the right', 'a green ball')}


def test_no_largest_object_where_two_are_alike():
    alike = replace(TRUTH, seen=(TRUTH.seen[0], replace(TRUTH.seen[1], pixels=0.055)))
    assert draws(ao.object_largest, alike) == set()


def test_colour_only_of_single_clear_kinds():
    answers = {(slots.split(' The')[0], answer) for slots, answer in draws(ao.colour)}
    assert answers == {('the chair', 'blue'), ('the person', 'orange')}


def test_counts():
    kinds = draws(ao.count_kind)
    assert ('balls', 'two') in kinds
    assert ('chairs', 'one') in kinds
    assert not any('cups' in slots for slots, _ in kinds)     # one cup is there but too small
    assert ('sofas', 'zero') in kinds
    colours = dict(draws(ao.count_colour))
    assert colours['red'] == 'one'
    assert colours['purple'] == 'zero'
    assert 'white' not in colours
    assert draws(ao.count_all) == set()
    assert draws(ao.count_all, replace(TRUTH, seen=TRUTH.seen[:4])) == {('', 'four')}


def test_presence_is_right_and_never_about_small_things():
    there = {f'{t.colour} {t.kind}' for t in TRUTH.seen}
    for name, answer in draws(ao.presence, number=2000):
        assert 'cup' not in name or answer == 'no'
        assert name != 'a cup'
        if ' in ' in name:
            found = f"{name.split(' in ')[1]} person" in there
        elif len(name.split()) == 3:
            found = name.split(' ', 1)[1] in there
        else:
            found = any(t.kind == name.split()[1] for t in TRUTH.seen)
        assert found == (answer == 'yes'), name


def test_place_range_distance():
    places = {slots.split(' The')[0]: answer for slots, answer in draws(ao.place)}
    assert places['the chair'] == 'ahead'
    assert places['the red ball'] == 'left'
    assert places['the green ball'] == 'right'
    assert 'the ball' not in places
    ranges = {s.split(' The')[0]: a for s, a in draws(ao.near_or_far)}
    assert ranges == {'the chair': 'far', 'the blue chair': 'far', 'the person': 'far',
                      'the person in orange': 'far'}
    close = replace(TRUTH, seen=(replace(TRUTH.seen[0], distance_m=1.2),))
    assert {a for _, a in draws(ao.near_or_far, close)} == {'near'}
    metres = {s.split(' The')[0]: a for s, a in draws(ao.distance, modality=POINT)}
    assert metres['the chair'] == 'about 3 metres'
    assert not any('ball' in name for name in metres)       # balls are seen from near only
    without_colour = {s.split(' The')[0] for s, _ in draws(ao.distance, modality=DEPTH)}
    assert without_colour == {'the chair', 'the person'}


def test_values_near_limits_are_not_asked():
    edge = replace(TRUTH, clear_m=1.6, seen=(thing(1, 'chair', 'red', 0.28, 2.4, 0.05),))
    for family in (ao.place, ao.distance, senses.clear_way, senses.clear_space):
        assert not any(family(edge, DEPTH, np.random.default_rng(i)) for i in range(20)) or (
            family is senses.clear_space)
    close = replace(edge, seen=(thing(1, 'chair', 'red', 0.0, 2.1, 0.05),))
    assert draws(ao.near_or_far, close) == set()


def test_relations():
    for slots, answer in draws(ao.relation_side):
        one, other, side = slots.rsplit(' the ', 1)[0], '', slots.split()[-1]
        assert side in ('left', 'right') and answer in ('yes', 'no')
        assert one and not other
    sides = draws(ao.relation_side)
    assert ('the red ball the green ball left', 'yes') in sides
    assert ('the green ball the red ball left', 'no') in sides
    assert ('the red ball the green ball right', 'no') in sides
    nearer = dict(draws(ao.relation_nearer))
    assert nearer['the chair the red ball'] == 'the red ball'
    assert nearer['the red ball the chair'] == 'the red ball'


def test_way_motion_sound_moving():
    assert draws(senses.clear_way) == {('', 'yes')}
    assert draws(senses.clear_space) == {('', 'about 3 metres')}
    assert draws(senses.clear_way, replace(TRUTH, clear_m=0.8)) == {('', 'no')}
    assert draws(senses.floor) == {('', 'carpet')}
    assert draws(senses.motion_what) == {('', 'turning left')}
    answers = dict(draws(senses.motion_is))
    assert answers['turning left'] == answers['turning'] == answers['moving'] == 'yes'
    assert answers['turning right'] == answers['standing still'] == 'no'
    heard = dict(draws(senses.sound_is))
    assert heard.pop('an alarm') == 'yes'
    assert set(heard.values()) == {'no'}
    assert draws(senses.sound_quiet, replace(TRUTH, sound='silence')) == {('', 'yes')}
    assert draws(senses.moving_what) == {('', 'a person in orange')}
    assert draws(senses.moving_any) == {('', 'yes')}
    assert {a for _, a in draws(senses.moving_way)} == {'away from the robot'}
    hidden = replace(TRUTH, seen=(replace(TRUTH.seen[3], direction='', moves=True),))
    for family in (senses.moving_what, senses.moving_any, senses.moving_way):
        assert draws(family, hidden) == set()
    assert draws(senses.moving_any, replace(TRUTH, seen=TRUTH.seen[:3])) == {('', 'no')}
    sideways = replace(TRUTH, seen=(replace(TRUTH.seen[3], direction='to the left'),))
    assert draws(senses.moving_way, sideways) == set()        # the robot itself is turning
    assert {a for _, a in draws(senses.moving_way, replace(sideways, motion='standing still'))
            } == {'to the left'}


def test_every_modality_asks_only_its_types():
    rng = np.random.default_rng(3)
    for modality in Modality:
        for _ in range(40):
            for q in lang.questions(lang.random_truth(rng), modality, rng, 4):
                assert q.type in asking.FAMILIES[modality]
                assert q.modality is modality
                assert q.answer and q.question[0].isupper()
                assert lang.is_correct(q, q.answer)
                assert all(lang.is_correct(q, other) for other in q.accept)
                assert not lang.is_correct(q, lang.UNKNOWN)
                assert '{' not in q.question


def test_same_seed_same_questions():
    def said(seed: int):
        rng = np.random.default_rng(seed)
        return [lang.questions(TRUTH, m, rng, 5) for m in Modality] + [
            lang.unknown_questions(TRUTH, frozenset((IMAGE,)), rng, 5),
            lang.mixed_questions(TRUTH, ALL, rng, 5), lang.caption(TRUTH, ALL, rng)]
    assert said(5) == said(5)
    assert said(5) != said(6)


def guesser_report(worlds: int, per_world: int):
    """Accuracy of the most frequent answer of a question's text, and the share of its class."""
    rng = np.random.default_rng(11)
    train: dict[str, Counter] = defaultdict(Counter)
    test = []
    for index in range(worlds):
        truth = lang.random_truth(rng)
        for modality in Modality:
            for q in lang.questions(truth, modality, rng, per_world):
                if index % 4:
                    train[q.question][q.answer] += 1
                else:
                    test.append(q)
    right: dict[str, list[bool]] = defaultdict(list)
    for q in test:
        known = train.get(q.question)
        guess = known.most_common(1)[0][0] if known else ''
        right[q.type].append(lang.is_correct(q, guess))
    return {name: sum(values) / len(values) for name, values in right.items()}


def test_guesser_stays_near_chance():
    found = guesser_report(1500, 3)
    print({name: round(value, 3) for name, value in sorted(found.items())})
    limits = {'object': 0.12, 'colour': 0.28, 'count': 0.48, 'presence': 0.6, 'place': 0.46,
              'range': 0.62, 'relation': 0.55, 'floor': 0.4, 'distance': 0.4, 'clear': 0.5,
              'motion': 0.5, 'sound': 0.55, 'moving': 0.5}
    assert set(found) == set(limits)
    for name, limit in limits.items():
        assert found[name] <= limit, (name, found[name])


@pytest.mark.parametrize(('family', 'classes'), [
    (senses.motion_is, senses.MOTION_PHRASES), (senses.sound_is, SOUNDS[1:])])
def test_yes_is_as_frequent_as_no(family, classes):
    rng = np.random.default_rng(2)
    counts: dict[str, Counter] = defaultdict(Counter)
    for index in range(24000):
        truth = replace(TRUTH, motion=MOTIONS[index % len(MOTIONS)],
                        sound=SOUNDS[index % len(SOUNDS)])
        draw = family(truth, IMU, rng)
        if draw is not None and rng.random() < asking.keep(draw):
            counts[next(iter(draw.slots.values()))][draw.answer] += 1
    assert set(counts) == set(classes)
    for phrase, answers in counts.items():
        assert 0.4 < answers['yes'] / answers.total() < 0.6, (phrase, answers)


def test_held_out_wordings_are_never_said_in_training():
    for family, (training, held_out) in WORDINGS.items():
        assert not set(training) & set(held_out)
        assert len(set(training)) == len(training) >= 4, family
        assert len(held_out) >= 2
    assert not set(lang.CAPTION_PROMPTS) & set(lang.CAPTION_PROMPTS_HELD_OUT)
    assert lang.CAPTION_PROMPTS[0] == 'Describe what you sense.'
    rng = np.random.default_rng(4)
    heard: dict[str, set[str]] = {said: set() for said in lang.SAID}
    for _ in range(150):
        truth = lang.random_truth(rng)
        for said, texts in heard.items():
            for modality in Modality:
                texts |= {q.question for q in lang.questions(truth, modality, rng, 3, said=said)}
            for q in (lang.unknown_questions(truth, ALL - {AUDIO}, rng, 2, said=said)
                      + lang.mixed_questions(truth, ALL, rng, 2, said=said)):
                texts.add(q.question)
    assert not heard['held_out'] & (heard['plain'] | heard['varied'])
    assert len(heard['varied']) > 2 * len(heard['plain'])


def test_varied_wordings_are_whole_and_keep_what_is_asked_about():
    rng = np.random.default_rng(5)
    slots = {'the': 'the green lamp', 'The': 'The green lamp', 'other': 'the ball', 'np': 'a cone',
             'plural': 'cups', 'sound': 'an alarm', 'doing': 'turning', 'colour': 'purple',
             'floor': 'tile', 'side': 'left', 'place': 'straight ahead'}
    assert set(VARIED) == set(WORDINGS)
    for family, (training, held_out) in WORDINGS.items():
        wanted = {slot for slot in slots if f'{{{slot}}}' in training[0].replace('{The}', '{the}')}
        texts = {varied_question(family, slots, rng) for _ in range(200)}
        assert len(texts) > 60, family
        for text in texts:
            assert not set('[]{}|') & set(text) and '  ' not in text, text
            assert 'purple' in text.lower() or 'colour' not in wanted
            assert 'green' in text.lower() or 'the' not in wanted
            assert 'left' in text.lower() or 'side' not in wanted
        assert not {lang.word_question(family, slots, rng, 'held_out') for _ in range(20)} & texts
        assert all(text.format(**slots) for text in held_out)
    assert {expand('[a|b|] c', rng) for _ in range(50)} == {'a c', 'b c', 'c'}


def test_names_that_people_use():
    rng = np.random.default_rng(6)
    found = [renamed({'the': 'the red sofa', 'np': 'an orange shelf', 'plural': 'people',
                      'doing': 'slowing down', 'sound': 'barking'}, rng) for _ in range(300)]
    assert {f['the'] for f in found} == {'the red sofa', 'the red couch', 'the red settee'}
    assert {f['plural'] for f in found} == {'people', 'humans', 'human beings'}
    assert {f['np'] for f in found} == {'an orange shelf', 'an orange bookshelf', 'an orange rack'}
    assert {'braking', 'slowing down'} < {f['doing'] for f in found}
    assert {'a dog', 'barking'} < {f['sound'] for f in found}
    assert all(f['The'] == lang.w.sentence_case(f['the']) for f in found)
    for names in KIND_NAMES.values():
        assert all(one not in KINDS and one[0] not in 'aeiou' for one, _ in names)


def test_yes_no_about_one_thing():
    assert draws(ao.colour_is) >= {('the chair The chair blue', 'yes'),
                                   ('the chair The chair red', 'no')}
    assert ('the ball The ball red', 'yes') not in draws(ao.colour_is)     # there are two balls
    places = draws(ao.place_is)
    assert ('the chair The chair straight ahead', 'yes') in places
    assert ('the chair The chair on the left', 'no') in places
    anything = draws(ao.presence_colour)
    assert ('blue', 'yes') in anything and ('purple', 'no') in anything
    assert not any(slots == 'white' for slots, _ in anything)              # too small to be sure
    assert draws(ao.presence_place) == {('on the left', 'yes'), ('straight ahead', 'yes'),
                                        ('on the right', 'yes')}
    assert ('on the right', 'no') in draws(ao.presence_place, replace(TRUTH, seen=TRUTH.seen[:1]))
    assert draws(senses.floor_is) >= {('carpet', 'yes'), ('wood', 'no')}


def test_every_type_has_six_wordings_and_two_held_out():
    types: dict[str, list[set[str]]] = defaultdict(lambda: [set(), set()])
    for name, pair in WORDINGS.items():
        for total, texts in zip(types[name.split('.')[0]], pair, strict=True):
            total |= set(texts)
    assert {'object', 'colour', 'count', 'presence', 'place', 'range', 'relation', 'floor',
            'distance', 'clear', 'motion', 'sound', 'moving', 'mixed'} == set(types)
    assert all(len(train) >= 6 and len(held) >= 2 for train, held in types.values())


def test_unknown_questions_ask_for_what_is_missing():
    rng = np.random.default_rng(8)
    for _ in range(300):
        truth = lang.random_truth(rng)
        present = frozenset(m for m in Modality if rng.random() < 0.4) or frozenset((IMU,))
        for q in lang.unknown_questions(truth, present, rng, 3):
            assert (q.type, q.answer) == ('unknown', 'unknown')
            assert q.modality in present
            if AUDIO in present:
                assert not any(word in q.question.lower() for word in ('hear', 'sound'))
            if IMU in present:
                assert 'robot doing' not in q.question
            seen = {t.kind for t in truth.seen}
            if present & lang.VISUAL and ('colour' in q.question or 'far' in q.question):
                assert not any(f'the {kind}' in q.question.lower() for kind in seen)


def test_unknown_needs_a_modality():
    with pytest.raises(ValueError, match='no modality'):
        lang.unknown_questions(TRUTH, frozenset(), np.random.default_rng(0), 1)


def test_mixed_questions():
    rng = np.random.default_rng(1)
    found = {(q.question, q.answer) for _ in range(200)
             for q in lang.mixed_questions(TRUTH, frozenset((IMAGE, IMU, AUDIO)), rng, 4)}
    assert ('What do you see and hear?', 'a blue chair and an alarm') in found
    assert ('Name the motion and the sound.', 'turning left and an alarm') in found
    assert ('What do you hear?', 'an alarm') in found
    assert any('the chair' in question and answer == 'blue' for question, answer in found)


@pytest.mark.parametrize(('one', 'other'), [
    ('Two.', '2'), ('about 3 metres', '3 m'), ('About three meters.', '3 metres'),
    ('A red ball', 'the red ball'), ('a person in red', 'a red person'),
    ('It is turning left.', 'turning left'), ('The robot is turning left', 'turning left'),
    ('on the left', 'left'), ('Straight ahead', 'in front'), ('to the left side', 'left'),
    ('I hear an alarm', 'alarm'), ('about 1 metre away', '1 meter'), ('I cannot tell.', 'unknown'),
    ("I don't know", 'unknown'), ('nearby', 'near'), ('far away', 'far'), ('2.0 m', 'two metres'),
    ('There are two', '2')])
def test_normalise_equal(one, other):
    assert lang.normalise(one) == lang.normalise(other)


@pytest.mark.parametrize(('one', 'other'), [
    ('a red ball', 'a blue ball'), ('2', '3'), ('left', 'right'),
    ('turning left', 'turning right'),
    ('about 2 metres', 'about 12 metres'), ('near', 'far'), ('unknown', 'no')])
def test_normalise_different(one, other):
    assert lang.normalise(one) != lang.normalise(other)


def test_is_correct():
    yes = lang.Question('presence', IMAGE, 'Is there a ball?', 'yes')
    assert lang.is_correct(yes, 'Yes, there is a ball.')
    assert not lang.is_correct(yes, 'No')
    assert not lang.is_correct(yes, '')
    sound = lang.Question('sound', AUDIO, 'What do you hear?', 'an alarm', ('a siren',))
    assert lang.is_correct(sound, 'Siren!')
    assert lang.is_correct(sound, 'I hear an alarm.')
    assert not lang.is_correct(sound, 'a bell')


def test_plain_captions():
    def plain(*present: Modality) -> str:
        return lang.caption(TRUTH, frozenset(present), style='plain')
    assert plain(IMU) == 'The robot is turning left.'
    assert plain(AUDIO) == 'An alarm is heard.'
    assert plain(IMAGE) == (
        'There is a blue chair straight ahead far away, a red ball on the left nearby and a green '
        'ball on the right far away.')
    assert plain(DEPTH) == (
        'There is a chair straight ahead about 3 metres away, a ball on the left about 1 metre '
        'away and a ball on the right about 4 metres away. The way ahead is free for about 3 '
        'metres.')
    assert plain(NORMAL) == (
        'There is a chair straight ahead, a ball on the left and a ball on the right.')
    assert plain(FMRI) == plain(NORMAL)
    assert 'The person is moving away from the robot.' in plain(VIDEO)
    assert lang.caption(replace(TRUTH, seen=(), sound='silence'), frozenset((IMAGE, AUDIO)),
                        style='plain') == 'No object stands out. It is quiet.'


def test_caption_errors():
    with pytest.raises(ValueError, match='style'):
        lang.caption(TRUTH, ALL, style='loud')
    with pytest.raises(ValueError, match='random generator'):
        lang.caption(TRUTH, ALL)
    with pytest.raises(ValueError, match='no modality'):
        lang.caption(TRUTH, frozenset(), style='plain')


def unordered(facts: lang.Facts):
    return (facts.motion, facts.sound, facts.clear_m,
            None if facts.moving is None else Counter(facts.moving),
            None if facts.objects is None else Counter(facts.objects))


def test_captions_are_read_back():
    rng = np.random.default_rng(9)
    said = set()
    for _ in range(700):
        truth = lang.random_truth(rng)
        present = frozenset(m for m in Modality if rng.random() < 0.4) or ALL
        for style in ('plain', 'varied'):
            text = lang.caption(truth, present, rng, style=style)
            said.add(text)
            assert unordered(lang.parse_caption(text)) == unordered(
                lang.caption_facts(truth, present)), text
            scores = lang.caption_score(text, truth, present)
            assert scores and min(scores.values()) == 1.0, (text, scores)
    assert len(said) > 900


def test_caption_score_tells_faults():
    present = frozenset((IMAGE, IMU, AUDIO))
    text = ('There is a red chair on the left and a red ball on the left. The robot is turning '
            'right. An alarm is heard.')
    scores = lang.caption_score(text, TRUTH, present)
    assert scores['objects_f1'] == pytest.approx(0.8)       # two of three, none wrong
    assert scores['named_f1'] == pytest.approx(0.4)
    assert scores['colour'] == 0.0                          # of the chair; there are two balls
    assert scores['place'] == 0.0
    assert (scores['motion'], scores['sound']) == (0.0, 1.0)
    empty = lang.caption_score('', TRUTH, present)
    assert (empty['objects_f1'], empty['motion'], empty['sound']) == (0.0, 0.0, 0.0)


def test_vocabulary_holds_every_word():
    words = {word for text in lang.vocabulary_texts()
             for word in text.replace('.', ' ').replace(',', ' ').replace('?', ' ').split()}
    rng = np.random.default_rng(21)
    for _ in range(300):
        truth = lang.random_truth(rng)
        texts = [lang.caption(truth, ALL, rng)]
        for q in lang.mixed_questions(truth, ALL, rng, 4):
            texts += [q.question, q.answer]
        for text in texts:
            for word in text.replace('.', ' ').replace(',', ' ').replace('?', ' ').split():
                assert word in words, word
    assert set(KINDS) | set(COLOURS) <= words
