"""Presets: a model's sizes and the stages that train it.

``onellm_7b`` holds the paper's values (arXiv 2312.03700): progressive alignment in three stages
with encoder and LLM frozen, then instruction tuning of the LLM alone. ``nano`` starts with nothing
pretrained, so its LLM and its encoder are trained first; the same three stages and the tuning
follow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from onellm_ros.config import PRESETS, ModelConfig
from onellm_ros.modality import Modality
from onellm_ros.model.text import RELEASED_SYSTEM
from onellm_ros.training.stages import Set, Stage

IMG, VID, AUD, PTS, DEP, NRM, IMU, FMR = (
    Modality.IMAGE, Modality.VIDEO, Modality.AUDIO, Modality.POINT, Modality.DEPTH,
    Modality.NORMAL, Modality.IMU, Modality.FMRI)
STAGE_2, STAGE_3 = (VID, AUD, PTS), (DEP, NRM, IMU, FMR)


@dataclass(frozen=True)
class Recipe:
    """A preset of ``onellm train``.

    :param model: the sizes. :param stages: in order, their names all different.
    :param needs: parts that must come pretrained (``--init``).
    :param int8: the trained model is written as int8 rows, else as float16.
    :param coarse: parts whose int8 rows have 31 steps instead of 127: they pack to 0.7.
    :param save_every: optimizer steps between checkpoints.
    """

    name: str
    model: ModelConfig
    stages: tuple[Stage, ...]
    needs: tuple[str, ...] = ()
    int8: bool = True
    coarse: tuple[str, ...] = ()
    save_every: int = 200

    def stage(self, name: str) -> Stage:
        """Return the stage of a name.

        :raises ValueError: if there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ValueError(f'preset {self.name} has no stage {name!r}, expected one of '
                         f'{", ".join(s.name for s in self.stages)}')


def evenly(*modalities: Modality) -> tuple[Set, ...]:
    """Return batches of one modality each, all equally frequent: balanced replay."""
    return tuple(((modality,), 1.0) for modality in modalities)


_PAPER = Stage('stage_1', 'align', evenly(IMG), ('upm',), steps=200_000, data='manifest',
               batch=5120, learning_rate=5e-5, warmup=2000, floor=0.0, weight_decay=0.1, clip=2.0,
               experts=1, max_tokens=96, checkpointing=True)
# Thousands of conversations of the paper's instruction mix.
_MIX: tuple[Set, ...] = (
    ((IMG,), 1216), ((VID,), 461), ((AUD,), 60), ((PTS,), 70), ((DEP,), 50), ((NRM,), 50),
    ((IMU,), 50), ((FMR,), 9), ((), 40))
# The paper gives one epoch of 2006 K, batches of 512 and 96 K iterations, which do not fit
# together unless an iteration takes 21; one epoch is 3918 steps of 512, and its warm-up of 2000
# in 96 K iterations is 82 of these.
ONELLM_7B = Recipe('onellm_7b', replace(
    PRESETS['onellm_7b'], text=replace(
        PRESETS['onellm_7b'].text, template='training', system=RELEASED_SYSTEM)), (
    _PAPER,
    replace(_PAPER, name='stage_2', sets=evenly(IMG, *STAGE_2), trains=('tokenizers', 'upm'),
            batch=1080, learning_rate=1e-5, experts=3),
    replace(_PAPER, name='stage_3', sets=evenly(IMG, *STAGE_2, *STAGE_3),
            trains=('tokenizers', 'upm'), steps=100_000, batch=1080, learning_rate=1e-5,
            experts=3),
    replace(_PAPER, name='instruct', sets=_MIX, trains=('llm',), steps=3918, warmup=82, batch=512,
            learning_rate=2e-5, experts=3, max_tokens=0, template='training')),
    needs=('encoder', 'llm'), int8=False, save_every=1000)

# What is asked about, and what the LLM is told of before: each alone, and sets of a robot.
_ASKED: tuple[Set, ...] = (
    ((IMG,), 4), ((DEP,), 1.5), ((PTS,), 1.5), ((AUD,), 1), ((IMU,), 1), ((VID,), 1),
    ((NRM,), 0.7), ((FMR,), 0.7), ((IMG, IMU), 0.5), ((PTS, IMU), 0.3), ((IMG, AUD), 0.3),
    ((IMG, DEP, AUD, IMU), 1.0), ((IMG, DEP, PTS, AUD, IMU), 0.5),
    ((IMG, VID, DEP, NRM, PTS, AUD, IMU, FMR), 1.0))
_LANGUAGE = Stage('language', 'language', _ASKED, ('llm',), steps=9400, data='told', batch=32,
                  questions=5, learning_rate=1e-3)
_ENCODER = Stage('encoder', 'encoder',
                 (((IMG,), 3), ((VID,), 4), ((DEP,), 1), ((NRM,), 1), ((PTS,), 4), ((AUD,), 0.4),
                  ((IMU,), 0.15), ((FMR,), 0.25)),
                 ('tokenizers', 'encoder'), steps=7000, batch=64, facts=0.3, dense=1.0)
# Its tokenizers learn with the encoder, so that only the UPM is left to the stages.
_STAGE = Stage('stage_1', 'align', evenly(IMG), ('upm',), steps=2400, batch=32, warmup=50,
               answers=0.0, facts=1.0, told=1.0, experts=1, fresh=(IMG,))
# The UPM meets the LLM's own loss here, once its tokens say what the LLM was told before.
_STAGE_3 = replace(_STAGE, name='stage_3', sets=evenly(IMG, *STAGE_2, *STAGE_3), steps=1300,
                   batch=24, questions=3, answers=1.0, told=0.5, experts=3, copied=STAGE_3,
                   fresh=(IMU, FMR))
_INSTRUCT = Stage('instruct', 'align', _ASKED, ('llm',), steps=1300, batch=16, questions=4,
                  learning_rate=6e-4, warmup=50, experts=3)
NANO_RECIPE = Recipe('nano', PRESETS['nano'], (
    _LANGUAGE,
    _ENCODER,
    _STAGE,
    replace(_STAGE, name='stage_2', sets=evenly(IMG, *STAGE_2), steps=1300, experts=3,
            copied=STAGE_2, fresh=(AUD,)),
    _STAGE_3,
    _INSTRUCT,
    # Both again for longer, with more of what was answered worst.
    replace(_STAGE_3, name='replay', steps=4400, learning_rate=8e-4, copied=(), fresh=(), sets=(
        ((IMG,), 1.5), ((VID,), 2.5), ((AUD,), 0.3), ((PTS,), 2.5), ((DEP,), 0.8), ((NRM,), 1),
        ((IMU,), 0.3), ((FMR,), 1.6))),
    replace(_INSTRUCT, name='tune', steps=2600, sets=(
        ((IMG,), 4), ((VID,), 2), ((PTS,), 2), ((DEP,), 1.2), ((AUD,), 0.7), ((IMU,), 0.7),
        ((NRM,), 0.8), ((FMR,), 1), ((IMG, IMU), 0.4), ((PTS, IMU), 0.3), ((IMG, AUD), 0.3),
        ((IMG, DEP, AUD, IMU), 1.0), ((IMG, DEP, PTS, AUD, IMU), 0.6),
        ((IMG, VID, DEP, NRM, PTS, AUD, IMU, FMR), 1.2)))),
    coarse=('upm', 'llm'))

RECIPES = {r.name: r for r in (NANO_RECIPE, ONELLM_7B)}
