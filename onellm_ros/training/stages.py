"""The stages of training as data: which modalities, which parts learn, for how long.

A stage of kind ``encoder`` predicts dense labels and facts from the encoder's tokens; ``language``
trains the LLM on questions and captions about scenes that are told by their slots (``slots.py``)
in place of modality tokens; ``project`` has the UPM make such modality tokens from signals;
``align`` trains on questions and captions about signals. A batch has one set of modalities. The
paper starts from CLIP and Llama 2 and so has only the last kind; at nano's size nothing pretrained
exists, so encoder and LLM come first.
"""

from __future__ import annotations

from dataclasses import dataclass

from onellm_ros.modality import Modality

IMG, VID, AUD, PTS, DEP, NRM, IMU, FMR = (
    Modality.IMAGE, Modality.VIDEO, Modality.AUDIO, Modality.POINT, Modality.DEPTH,
    Modality.NORMAL, Modality.IMU, Modality.FMRI)
KINDS_OF_STAGE = ('language', 'encoder', 'project', 'align')


@dataclass(frozen=True)
class Stage:
    """One stage.

    :param sets: (modalities that a batch holds, relative frequency) each.
    :param trains: parts that learn: ``tokenizers``, ``encoder``, ``upm``, ``llm``.
    :param batch: worlds a batch; :param questions: questions asked of each world.
    :param unknowns: share of the worlds that are asked one thing more that nobody can tell.
    :param captions: share of the worlds that are described, too.
    :param learning_rate: peak, after ``warmup`` steps; cosine down to a twentieth of it.
    :param facts: weight of the loss on facts (encoder) or slots (project, align).
    :param dense: weight of the dense head's loss (encoder).
    :param fresh_upm: begin by fitting the UPM's ends to encoder features and word embeddings.
    """

    name: str
    kind: str
    sets: tuple[tuple[tuple[Modality, ...], float], ...]
    trains: tuple[str, ...]
    steps: int
    batch: int = 48
    questions: int = 6
    unknowns: float = 0.5
    captions: float = 0.5
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.05
    clip: float = 1.0
    facts: float = 0.3
    dense: float = 0.0
    fresh_upm: bool = False

    def __post_init__(self) -> None:
        """Check what a typing mistake would silently break."""
        if self.kind not in KINDS_OF_STAGE:
            raise ValueError(f'stage {self.name}: unknown kind {self.kind!r}, expected one '
                             f'of {KINDS_OF_STAGE}')
        unknown = set(self.trains) - {'tokenizers', 'encoder', 'upm', 'llm'}
        if unknown:
            raise ValueError(f'stage {self.name}: unknown parts {sorted(unknown)}, expected '
                             'tokenizers, encoder, upm, llm')


# What align asks about, and what the LLM is told of before: each alone, and sets of a robot.
_ASKED = (((IMG,), 4), ((DEP,), 1.5), ((PTS,), 1.5), ((AUD,), 1), ((IMU,), 1), ((VID,), 1),
          ((NRM,), 0.7), ((FMR,), 0.7), ((IMG, IMU), 0.5), ((PTS, IMU), 0.3), ((IMG, AUD), 0.3),
          ((IMG, DEP, AUD, IMU), 1.0), ((IMG, DEP, PTS, AUD, IMU), 0.5),
          ((IMG, VID, DEP, NRM, PTS, AUD, IMU, FMR), 1.0))

NANO_RECIPE = (
    Stage('language', 'language', _ASKED, ('llm',), steps=5000, batch=32, questions=5,
          learning_rate=1e-3),
    Stage('encoder', 'encoder',
          (((IMG,), 6), ((DEP,), 2), ((NRM,), 1), ((VID,), 1), ((PTS,), 2), ((AUD,), 0.7),
           ((IMU,), 0.2), ((FMR,), 0.2)),
          ('tokenizers', 'encoder'), steps=7000, batch=64, dense=1.0),
    Stage('project', 'project',
          (((IMG,), 4), ((DEP,), 2), ((PTS,), 2), ((AUD,), 1), ((IMU,), 1), ((VID,), 1.5),
           ((NRM,), 1), ((FMR,), 1)),
          ('upm',), steps=3000, batch=32, warmup=50, facts=1.0, fresh_upm=True),
    Stage('align', 'align', _ASKED, ('upm', 'llm'), steps=3000, batch=16, questions=4,
          learning_rate=6e-4, warmup=50))

RECIPES: dict[str, tuple[Stage, ...]] = {'nano': NANO_RECIPE}
