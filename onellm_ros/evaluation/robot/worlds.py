"""The worlds of the benchmark by seed, and what an item shows of them.

Owns the numbering of the worlds (none is ever a training world: see ``World``), the description of
what is shown (:class:`Shown`) and its rendering, which happens when a model is asked, once for
items that show the same world.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from onellm_ros.evaluation.evidence import Evidence
from onellm_ros.evaluation.robot import live
from onellm_ros.evaluation.robot.noise import noisy
from onellm_ros.modality import Modality, Sample, prompt_order
from onellm_ros.simulation.truth import Truth
from onellm_ros.simulation.world import World

# What the model is given for a question to a modality; the first one is its block in the prompt,
# the others go into that block.
EVIDENCE: dict[Modality, tuple[Modality, ...]] = {
    **{m: (m,) for m in Modality},
    Modality.DEPTH: (Modality.DEPTH, Modality.IMAGE),
    Modality.NORMAL: (Modality.NORMAL, Modality.IMAGE)}
WORLDS_A_SEED = 1_000_000
Samples = Mapping[Modality, list[Sample]]


def world_seed(seed: int, number: int) -> int:
    """Return the seed of world ``number`` of an evaluation."""
    return seed * WORLDS_A_SEED + number


def held_out_truths(seed: int, worlds: int) -> Iterator[Truth]:
    """Yield the truths of worlds that no evaluation of this seed asks about."""
    for number in range(worlds):
        yield World(world_seed(seed, WORLDS_A_SEED - 1 - number), held_out=True).truth()


@lru_cache(maxsize=16)
def truth_of(world: int) -> Truth:
    """Return what is true at the end of a world's window."""
    return World(world, held_out=True).truth()


@lru_cache(maxsize=4)
def window_of(world: int) -> tuple[Samples, int]:
    """Return what a world's sensors gave, by modality, and the window's end in ns."""
    observation = World(world, held_out=True).sample()
    return observation.chosen(), observation.stamp_ns


def forget() -> None:
    """Forget the worlds rendered so far."""
    for kept in (truth_of, window_of):
        kept.cache_clear()


def objects_of(truth: Truth) -> frozenset[tuple[str, str]]:
    """Return kinds and colours of all that a world shows."""
    return frozenset((thing.kind, thing.colour) for thing in truth.seen)


def shown_together(folder: Path) -> set[frozenset[tuple[str, str]]]:
    """Return which objects rendered worlds show together.

    :raises ValueError: if there are no rendered worlds in the folder.
    """
    from onellm_ros.training.shards import Shards
    shards = Shards(folder)
    if not len(shards):
        raise ValueError(f'rendered={folder}: found no rendered worlds, expected the folder '
                         'that `onellm train --data` was given')
    return {objects_of(shards.truth(world)) for world in range(len(shards))}


@dataclass(frozen=True)
class Shown:
    """What an item shows.

    :param blocks: modalities that the prompt holds.
    :param world: seed of the world, of a live one if ``age_s`` is 0 or more.
    :param others: modalities whose samples another world gave, and its seed.
    :param disturbed: name of a disturbance in ``noise.KINDS``; empty: none. :param level: of it.
    :param age_s: how old the newest sample of a live world is, seconds; below 0: not a live world.
    :param colour: whether depth and normals come with the colour picture (not with a dead camera).
    """

    blocks: tuple[Modality, ...]
    world: int
    others: tuple[tuple[Modality, int], ...] = ()
    disturbed: str = ''
    level: int = 0
    age_s: float = -1.0
    colour: bool = True

    @property
    def key(self) -> str:
        """Its name: the same evidence has the same name."""
        parts = ['+'.join(self.blocks), str(self.world)]
        parts += [f'{modality}={seed}' for modality, seed in self.others]
        parts += [f'{self.disturbed}.{self.level}'] if self.disturbed else []
        parts += [f'{self.age_s:g}s'] if self.age_s >= 0 else []
        parts += [] if self.colour else ['no-colour']
        return ' '.join(parts)

    def evidence(self) -> Evidence:
        """Return the samples that are shown; renders the world if it is not the last one."""
        chosen, end_ns = live.window_of(self.world, live.NOW_S - self.age_s) \
            if self.age_s >= 0 else window_of(self.world)
        foreign = {modality: window_of(seed)[0][modality] for modality, seed in self.others}
        wanted = {part for block in self.blocks for part in EVIDENCE[block]}
        if not self.colour:
            wanted -= {Modality.IMAGE, Modality.VIDEO} - set(self.blocks)
        samples = {m: foreign.get(m) or chosen[m] for m in prompt_order(wanted)}
        if self.disturbed:
            modality = Modality(self.disturbed.split('.')[0])
            samples[modality] = noisy(samples[modality], self.disturbed, self.level, self.world)
        return Evidence(self.blocks, samples, end_ns)


def inputs(evidence: Evidence, engine: Any) -> dict[Modality, Any]:
    """Return a model's inputs of what is shown; data without a measurement give none.

    :param engine: an ``onellm_ros.inference.engine.Engine``.
    """
    tensors = engine.preprocessor.tensors(evidence.chosen, evidence.end_ns)
    return {block: tensors[block] for block in evidence.blocks if block in tensors}


def _rendered(shown: Shown, engine: Any) -> dict[Modality, Any]:
    return inputs(shown.evidence(), engine)


def tensors_of(shown: Shown) -> partial[dict[Modality, Any]]:
    """Return what gives a model's inputs of what is shown when it is called with an engine."""
    return partial(_rendered, shown)


def shown_by(tensors: Any) -> Shown:
    """Return what the item with these ``tensors`` shows.

    :raises ValueError: for those of another benchmark.
    """
    if not (isinstance(tensors, partial) and tensors.func is _rendered):
        raise ValueError('found an item of another benchmark, expected one of robot-world')
    found: Shown = tensors.args[0]
    return found
