"""Items whose evidence is disturbed: noisy, old, or of two worlds; and those that measure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.robot import live, measures, worlds
from onellm_ros.evaluation.robot.asking import Guessers, item_of, worded
from onellm_ros.evaluation.robot.noise import KINDS, LEVELS, modality_of
from onellm_ros.evaluation.robot.plan import (
    AGES_S,
    CONTRADICTIONS,
    DEGREES,
    FREE,
    MEASURED,
    METRES,
    NOISY_QUESTIONS,
    PAIRS,
    PLACES,
    UNRELATED,
    Modalities,
    Plan,
)
from onellm_ros.evaluation.robot.pools import answers, contradictions, drawn, pool
from onellm_ros.evaluation.robot.worlds import Shown, world_seed
from onellm_ros.modality import Modality
from onellm_ros.simulation.language import Question
from onellm_ros.simulation.truth import Truth

_STALE, _CONTRADICT, _MEASURE = 20, 21, 22      # of random numbers
_PARTNERS = (1, 2)              # worlds behind this one that may contradict it


class Asker(Protocol):
    """What is known of the world that is asked about."""

    plan: Plan
    number: int
    seed: int
    truth: Truth
    guessers: Guessers

    def key(self, condition: str, what: str, place: int) -> str:
        """Return an item's id."""

    def rng(self, *use: int) -> np.random.Generator:
        """Return random numbers of this world for one use."""

    def fits(self, blocks: Modalities) -> bool:
        """Whether the plan shows these modalities."""

    def answerable(self, modality: Modality) -> list[tuple[str, Question]]:
        """Return what the modality was asked alone and can tell."""


def noisy_items(world: Asker) -> Iterator[Item]:
    """Ask what a modality was asked alone, of a disturbed sensor: one level a world, in turn."""
    level = LEVELS[world.number % len(LEVELS)]
    for kind in KINDS:
        modality = modality_of(kind)
        if not world.fits((modality,)):
            continue
        shown = Shown((modality,), world.seed, disturbed=kind, level=level)
        for index, (key, question) in enumerate(world.answerable(modality)[:NOISY_QUESTIONS]):
            yield item_of(world.key('noisy', f'{kind}.{level}', index), 'noisy', question, shown,
                          world.guessers.guess(question), noise=kind, level=level, alone=key)


def stale_items(world: Asker) -> Iterator[Item]:
    """Ask what is true now, of evidence that ends some seconds ago, in a live world.

    ``then``: what the answer was when the evidence was sensed; empty where it could not be asked.
    """
    now = live.truth_at(world.seed, live.NOW_S)
    for place, modality in enumerate(Modality):
        if not world.fits((modality,)):
            continue
        rng = world.rng(_STALE, place)
        for draw, _ in drawn([(d, d) for d in pool(now, modality).values()], rng, 1):
            question = worded(draw, modality, rng, world.plan.said)
            for age in AGES_S:
                past = pool(live.truth_at(world.seed, live.NOW_S - age), modality)
                then = past.get((draw.family, tuple(sorted(draw.slots.items()))))
                same = then is not None and bool(answers(then) & answers(draw))
                yield item_of(
                    world.key('stale', f'{modality}.{age:g}s', 0), 'stale', question,
                    Shown((modality,), world.seed, age_s=age), world.guessers.guess(question),
                    age_s=age, same=same,
                    then=[] if then is None else [then.answer, *then.accept])


def contradicting_items(world: Asker) -> Iterator[Item]:
    """Ask for what two modalities tell differently, as they show two worlds; and for what only
    one of them can tell, while the other shows another world.
    """
    for place, (first, second) in enumerate(PAIRS):
        if world.fits((first, second)):
            yield from _contradictions(world, place, first, second)
    for first, second in UNRELATED:
        if world.fits((first, second)):
            yield from _unrelated(world, first, second)


def _contradictions(world: Asker, place: int, first: Modality, second: Modality
                    ) -> Iterator[Item]:
    name, blocks = f'{first}+{second}', (first, second)
    for ahead in _PARTNERS:
        partner = world_seed(world.plan.seed, world.number + ahead)
        found = contradictions(pool(world.truth, first), pool(worlds.truth_of(partner), second))
        if found:
            break
    else:
        return
    rng = world.rng(_CONTRADICT, place)
    for index, (one, other) in enumerate(drawn(found, rng, CONTRADICTIONS)):
        question = worded(one, first, rng, world.plan.said)
        guess = world.guessers.guess(question)
        yield item_of(world.key('agree', name, index), 'agree', question,
                      Shown(blocks, world.seed), guess, pair=name)
        both = Question(question.type, first, question.question, one.answer,
                        (*one.accept, other.answer, *other.accept))
        yield item_of(world.key('contradict', name, index), 'contradict', both,
                      Shown(blocks, world.seed, ((second, partner),)), guess, pair=name,
                      first=[one.answer, *one.accept], second=[other.answer, *other.accept],
                      agree=world.key('agree', name, index))


def _unrelated(world: Asker, first: Modality, second: Modality) -> Iterator[Item]:
    """Ask what the first modality was asked alone, while the second shows the next world."""
    name = f'{first}+{second}'
    partner = world_seed(world.plan.seed, world.number + 1)
    for index, (key, question) in enumerate(world.answerable(first)[:CONTRADICTIONS]):
        yield item_of(world.key('unrelated', name, index), 'unrelated', question,
                      Shown((first, second), world.seed, ((second, partner),)),
                      world.guessers.guess(question), pair=name, alone=key)


def measured_items(world: Asker) -> Iterator[Item]:
    """Ask for distances, free metres, places and degrees: the same of each set."""
    said = world.plan.said
    things = measures.measured_things(world.truth, MEASURED)
    rng = world.rng(_MEASURE)
    asked: list[tuple[measures.Measure, tuple[Modalities, ...]]] = []
    for index, thing in enumerate(things):
        asked += [(measures.of_thing(thing, measures.DISTANCE, rng, said), METRES),
                  (measures.of_thing(thing, measures.PLACE, rng, said), PLACES)]
        if index == 0:
            asked.append((measures.of_thing(thing, measures.DEGREES, rng, said), DEGREES))
    asked.append((measures.free_way(world.truth, rng, said), FREE))
    for index, (measure, sets) in enumerate(asked):
        for blocks in sets:
            if not world.fits(blocks):
                continue
            name = 'all' if set(blocks) == set(Modality) else '+'.join(blocks)
            guess = world.guessers.guess(measure.question, measured=True)
            yield item_of(world.key('measure', name, index), 'measure', measure.question,
                          Shown(blocks, world.seed), guess, set=name, kind=measure.kind,
                          true=round(measure.truth, 3))
