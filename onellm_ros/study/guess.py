"""How far a guesser gets that sees only the question: what accuracies are to be read against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from onellm_ros.evaluation.guesser import Guesser
from onellm_ros.modality import Modality
from onellm_ros.simulation import language
from onellm_ros.simulation.language import Question
from onellm_ros.training.shards import Shards

MOST_WORLDS = 1024


def _questions(folder: Path, worlds: Iterable[int], count: int) -> Iterator[
        tuple[Modality, Question]]:
    shards = Shards(folder)
    for world in worlds:
        truth = shards.truth(world)
        for index, modality in enumerate(Modality):
            rng = np.random.default_rng([world, index])
            asked = language.questions(truth, modality, rng, max(2, count))
            yield from ((modality, asked[int(i)]) for i in rng.permutation(len(asked))[:count])


def guessed(data: Path, worlds: int, held_out: int, questions: int) -> dict[str, float]:
    """Return the share of right guesses by modality, of questions as the study asks them."""
    learned: dict[Modality, list[Question]] = {m: [] for m in Modality}
    for modality, question in _questions(data, range(min(worlds, MOST_WORLDS)), questions):
        learned[modality].append(question)
    guessers = {m: Guesser(found) for m, found in learned.items()}
    right: dict[Modality, list[bool]] = {m: [] for m in Modality}
    for modality, question in _questions(data / 'held_out', range(held_out), questions):
        right[modality].append(guessers[modality].guess(question) == question.answer)
    return {m.value: round(sum(found) / max(1, len(found)), 4) for m, found in right.items()}
