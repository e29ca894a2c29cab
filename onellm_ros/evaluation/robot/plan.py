"""What robot-world asks: how many worlds, under which conditions, which modalities together.

Frozen with the version: whoever changes a value here raises ``VERSION`` (``frozen``).
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from pathlib import Path

from onellm_ros.modality import PROMPT_ORDER, Modality
from onellm_ros.simulation import language

VERSION = 1
SEED = 2026                     # of no training, and of no evaluation before version 1
SPLITS = {'test': 200, 'mini': 20}      # worlds; mini are the first ones of test
GUESSER_WORLDS = 200
CONDITIONS = ('alone', 'caption', 'together', 'missing', 'noisy', 'stale', 'contradict',
              'measure')
SHUFFLED = CONDITIONS[:3]       # what can be asked with another world's evidence

_IMAGE, _VIDEO, _DEPTH, _NORMAL, _POINT, _AUDIO, _IMU, _FMRI = PROMPT_ORDER
Modalities = tuple[Modality, ...]

# Modalities shown together. Pairs: senses that tell of different things (the question needs the
# right one, or both), senses that tell of the same things (each can help the other or mislead it);
# then what a robot carries, and all eight.
SETS: tuple[Modalities, ...] = (
    (_IMAGE, _AUDIO),           # different: what is seen and heard
    (_VIDEO, _AUDIO),           # different; the paper's pair
    (_IMAGE, _IMU),             # different: what is seen, and how the robot moves
    (_AUDIO, _IMU),             # different, nothing is seen
    (_VIDEO, _IMU),             # own motion against that of things
    (_IMAGE, _VIDEO),           # the same scene, at rest and in motion
    (_IMAGE, _DEPTH),           # an RGB-D camera
    (_IMAGE, _POINT),           # camera and lidar
    (_DEPTH, _POINT),           # two senses of distance
    (_IMAGE, _FMRI),            # the same objects, one of them in a code without sizes
    (_IMAGE, _AUDIO, _IMU),     # a small robot
    (_IMAGE, _POINT, _AUDIO, _IMU),         # a larger one
    (_DEPTH, _NORMAL, _POINT),              # geometry
    PROMPT_ORDER)
# What is gone of all eight (or: what alone is left), and whose question is then asked in vain.
VAIN: tuple[tuple[str, Modalities, Modality], ...] = (
    ('no microphone', tuple(m for m in PROMPT_ORDER if m is not _AUDIO), _AUDIO),
    ('no IMU and no video', tuple(m for m in PROMPT_ORDER if m not in (_IMU, _VIDEO)), _IMU),
    ('no video', tuple(m for m in PROMPT_ORDER if m is not _VIDEO), _VIDEO),
    ('nothing that sees', (_AUDIO, _IMU), _IMAGE),
    ('an image alone, asked for sounds', (_IMAGE,), _AUDIO),
    ('an image alone, asked for motion', (_IMAGE,), _IMU),
    ('sound alone, asked for objects', (_AUDIO,), _IMAGE))
# A sensor is gone, whose questions others can answer. Without the camera depth and normals have no
# colour picture beside them.
FALLBACK: tuple[tuple[str, Modalities, Modality], ...] = (
    ('no camera', (_DEPTH, _NORMAL, _POINT, _AUDIO, _IMU, _FMRI), _IMAGE),
    ('no camera, a cloud is left', (_POINT,), _IMAGE),
    ('no depth camera', (_IMAGE, _VIDEO, _POINT, _AUDIO, _IMU, _FMRI), _DEPTH),
    ('no lidar', (_IMAGE, _VIDEO, _DEPTH, _NORMAL, _AUDIO, _IMU, _FMRI), _POINT))
AGES_S = (0.0, 0.5, 2.0, 5.0)   # 2 s: a whole window ago
# The first shows one world, the second another one.
PAIRS: tuple[tuple[Modality, Modality], ...] = (
    (_IMAGE, _VIDEO), (_IMAGE, _NORMAL), (_IMAGE, _POINT), (_IMAGE, _FMRI), (_VIDEO, _POINT),
    (_DEPTH, _POINT))
UNRELATED: tuple[tuple[Modality, Modality], ...] = ((_IMAGE, _AUDIO), (_IMAGE, _IMU))
# Sets that are asked for metres, for free metres ahead, for places, and for degrees.
METRES: tuple[Modalities, ...] = ((_IMAGE,), (_DEPTH,), (_POINT,), (_IMAGE, _DEPTH), PROMPT_ORDER)
FREE: tuple[Modalities, ...] = ((_DEPTH,), (_POINT,), PROMPT_ORDER)
PLACES: tuple[Modalities, ...] = (
    (_IMAGE,), (_VIDEO,), (_DEPTH,), (_NORMAL,), (_POINT,), (_FMRI,), PROMPT_ORDER)
DEGREES: tuple[Modalities, ...] = ((_IMAGE,), (_POINT,), PROMPT_ORDER)
# Questions of an evidence, where it is not ``Plan.questions``.
NOISY_QUESTIONS, MISSING_QUESTIONS, CONTRADICTIONS, MEASURED = 3, 2, 2, 2


@dataclass(frozen=True)
class Plan:
    """What a run asks.

    :param worlds: how many. :param questions: to each modality alone in each world; one more has
        no answer in the evidence ('unknown').
    :param said: how questions are worded, one of ``language.SAID``.
    :param modalities: conditions that show others are left out.
    :param conditions: some of CONDITIONS.
    :param shuffled: show the evidence of another world: a model that looks falls to the guesser.
    :param rendered: folder of the worlds that the model was trained on: tells worlds that show
        objects together which no training world shows together.
    :param captions: worlds that are described, too; None: a quarter of them, 50 at most.
    :param guesser_worlds: worlds that the guesser learns from.
    """

    seed: int = SEED
    worlds: int = SPLITS['test']
    questions: int = 4
    said: str = 'plain'
    modalities: Modalities = tuple(Modality)
    conditions: tuple[str, ...] = CONDITIONS
    shuffled: bool = False
    rendered: Path | None = None
    captions: int | None = None
    guesser_worlds: int = GUESSER_WORLDS

    @property
    def described(self) -> int:
        """Worlds that are also described."""
        return min(math.ceil(self.worlds / 4), 50) if self.captions is None else self.captions

    def check(self) -> None:
        """Refuse what means nothing.

        :raises ValueError: with what was found and expected.
        """
        from onellm_ros.evaluation.robot.worlds import EVIDENCE, WORLDS_A_SEED
        if self.said not in language.SAID:
            raise ValueError(f'found wording {self.said!r}, expected one of '
                             f'{", ".join(language.SAID)}')
        if self.worlds < 1 or self.questions < 1 or not self.modalities:
            raise ValueError('expected at least one world, one modality and one question')
        if self.seed < 0:
            raise ValueError(f'found seed {self.seed}, expected 0 or more')
        strangers = [str(m) for m in self.modalities if m not in EVIDENCE]
        if strangers:
            raise ValueError(f'found the modality {strangers[0]}, which these worlds do not have; '
                             f'expected some of {", ".join(EVIDENCE)}')
        odd = [name for name in self.conditions if name not in CONDITIONS]
        if odd or not self.conditions:
            raise ValueError(f'found condition {odd[0] if odd else ""!r}, expected some of '
                             f'{", ".join(CONDITIONS)}')
        apart = [name for name in self.conditions if name not in SHUFFLED]
        if self.shuffled and apart:
            raise ValueError(f'found condition {apart[0]} of shuffled worlds, expected some of '
                             f'{", ".join(SHUFFLED)}')
        if self.worlds + 2 + self.guesser_worlds > WORLDS_A_SEED:
            raise ValueError(f'{self.worlds} worlds: at most '
                             f'{WORLDS_A_SEED - 2 - self.guesser_worlds} have a seed')
