"""The items of robot-world, world by world: alone, together, with senses missing, and described.

Items that ask for the same answer of other evidence carry the id of the item that asked it of one
modality alone (``alone`` in their facts), so that tables can set both beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
import sys
from typing import Any

import numpy as np

from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.robot import disturbed, worlds
from onellm_ros.evaluation.robot.asking import (
    Guessers,
    alone_in,
    item_of,
    mixed,
)
from onellm_ros.evaluation.robot.plan import (
    FALLBACK,
    MISSING_QUESTIONS,
    SETS,
    VAIN,
    Modalities,
    Plan,
)
from onellm_ros.evaluation.robot.worlds import Shown, world_seed
from onellm_ros.modality import Modality
from onellm_ros.simulation import language
from onellm_ros.simulation.asking import FAMILIES
from onellm_ros.simulation.language import UNKNOWN, Question

_ORDER = tuple(Modality)
_SET, _UNKNOWN = 10, 11         # of random numbers
Alone = dict[Modality, list[tuple[str, Question]]]      # ids and questions


def named(blocks: Modalities) -> str:
    """Return the name of a set of modalities."""
    return 'all' if set(blocks) == set(Modality) else '+'.join(blocks)


def read_items(plan: Plan, progress: bool | None = False) -> Iterator[Item]:
    """Yield what a plan asks, world by world; items of the same evidence follow each other.

    :param progress: show a progress bar of the guesser's worlds; None: if stderr is a terminal.
    :raises ValueError: for a plan that means nothing, before the first item.
    """
    from tqdm import tqdm

    plan.check()
    known = None if plan.rendered is None else worlds.shown_together(plan.rendered)
    hidden = not (sys.stderr.isatty() if progress is None else progress)
    truths = list(tqdm(worlds.held_out_truths(plan.seed, plan.guesser_worlds), 'guesser',
                       plan.guesser_worlds, disable=hidden))
    guessers = Guessers(truths, plan)
    for number in range(plan.worlds):
        by_evidence: dict[str, list[Item]] = {}
        for item in _World(plan, number, guessers, known).items():
            by_evidence.setdefault(item.evidence, []).append(item)
        for items in by_evidence.values():
            yield from items


class _World:
    """The items of one world."""

    def __init__(self, plan: Plan, number: int, guessers: Guessers, known: Any) -> None:
        self.plan, self.number, self.guessers = plan, number, guessers
        self.seed = world_seed(plan.seed, number)
        self.truth = worlds.truth_of(self.seed)
        self.shown = self.seed if not plan.shuffled else world_seed(
            plan.seed, (number + 1) % max(plan.worlds, 2))
        self.new = '' if known is None else (
            'seen' if worlds.objects_of(self.truth) in known else 'new')
        self.alone: Alone = {
            m: [(self.key('alone', m.value, place), question)
                for place, question in enumerate(alone_in(plan, self.truth, number, m))]
            for m in plan.modalities}

    def key(self, condition: str, what: str, place: int) -> str:
        """Return an item's id."""
        return f'{condition}/{self.number:04d}/{what}/{place}'

    def rng(self, *use: int) -> np.random.Generator:
        """Return random numbers of this world for one use."""
        return np.random.default_rng((self.plan.seed, self.number, *use))

    def fits(self, blocks: Modalities) -> bool:
        """Whether the plan shows these modalities."""
        return set(blocks) <= set(self.plan.modalities)

    def items(self) -> Iterator[Item]:
        """Yield what is asked of this world."""
        makers = {
            'alone': self.alone_items, 'caption': self.captions, 'together': self.together,
            'missing': self.missing, 'noisy': lambda: disturbed.noisy_items(self),
            'stale': lambda: disturbed.stale_items(self),
            'contradict': lambda: disturbed.contradicting_items(self),
            'measure': lambda: disturbed.measured_items(self)}
        for condition, make in makers.items():
            if condition in self.plan.conditions:
                yield from make()

    def alone_items(self) -> Iterator[Item]:
        """Each modality alone, and one question without an answer in it."""
        for modality, asked in self.alone.items():
            shown = Shown((modality,), self.shown)
            for key, question in asked:
                unknown = question.type == 'unknown'
                facts = {'objects': self.new} if self.new and not unknown else {}
                yield item_of(key, 'alone', question, shown, self.guessers.guess(question),
                              'unknown' if unknown else modality.value, **facts)

    def captions(self) -> Iterator[Item]:
        """A description from each modality alone, and from all of them."""
        if self.number >= self.plan.described:
            return
        sets: list[Modalities] = [(m,) for m in self.plan.modalities]
        if len(sets) > 1:
            sets.append(self.plan.modalities)
        for blocks in sets:
            present = frozenset(blocks)
            question = Question('caption', blocks[0], language.CAPTION_PROMPTS[0],
                                language.caption(self.truth, present, style='plain'))
            what = blocks[0].value if len(blocks) == 1 else 'together'
            yield item_of(self.key('caption', what, 0), 'caption', question,
                          Shown(blocks, self.shown), '', told=what, truth=asdict(self.truth))

    def answerable(self, modality: Modality) -> list[tuple[str, Question]]:
        """Return what the modality was asked alone and can tell."""
        return [(key, q) for key, q in self.alone[modality] if q.type != 'unknown']

    def together(self) -> Iterator[Item]:
        """Ask sets what their members were asked alone, across two of them, and in vain."""
        for place, blocks in enumerate(SETS):
            if not self.fits(blocks):
                continue
            rng, name, shown = self.rng(_SET, place), named(blocks), Shown(blocks, self.shown)
            asked: list[tuple[Question, dict[str, str]]] = []
            for modality in blocks:
                found = self.answerable(modality)
                if found:
                    key, question = found[int(rng.integers(len(found)))]
                    asked.append((question, {'alone': key}))
            both = mixed(self.truth, blocks, (self.plan.seed, self.number, _SET, place, 1),
                         self.plan.said)
            asked += [(both, {})] if both is not None else []
            asked += [(q, {}) for q in language.unknown_questions(
                self.truth, frozenset(blocks), self.rng(_UNKNOWN, place), 1, said=self.plan.said)]
            for index, (question, facts) in enumerate(asked):
                yield item_of(self.key('together', name, index), 'together', question, shown,
                              self.guessers.guess(question), set=name, **facts)

    def missing(self) -> Iterator[Item]:
        """Ask for what is not shown, and for what another sense can still tell."""
        for name, blocks, modality in VAIN:
            if not self.fits((*blocks, modality)):
                continue
            found = [(key, q) for key, q in self.answerable(modality)
                     if modality is not Modality.VIDEO or q.type == 'moving']
            for index, (key, question) in enumerate(found[:MISSING_QUESTIONS]):
                vain = replace(question, answer=UNKNOWN, accept=(), type='unknown')
                yield item_of(self.key('missing', name.replace(' ', '_'), index), 'missing', vain,
                              Shown(blocks, self.shown), self.guessers.guess(vain), 'in vain',
                              case=name, alone=key, asked=question.type)
        for name, blocks, modality in FALLBACK:
            if not self.fits((*blocks, modality)):
                continue
            told = {kind for block in blocks for kind in FAMILIES[block]}
            found = [(key, q) for key, q in self.answerable(modality) if q.type in told]
            for index, (key, question) in enumerate(found[:MISSING_QUESTIONS]):
                yield item_of(self.key('missing', name.replace(' ', '_'), index), 'missing',
                              question, Shown(blocks, self.shown, colour=Modality.IMAGE in blocks),
                              self.guessers.guess(question), 'told by others', case=name,
                              alone=key)
