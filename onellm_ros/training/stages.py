"""The stages of training as data: which modalities, which parts learn, for how long.

A stage of kind ``encoder`` predicts the dense labels and facts from the encoder's tokens;
``language`` trains the LLM on text alone (the scene given as words); ``align`` trains on questions
and captions about one set of modalities a batch. The paper starts from CLIP and Llama 2 and so has
only the last kind; at nano's size nothing pretrained exists, so encoder and LLM come first.
"""

from __future__ import annotations

from dataclasses import dataclass

from onellm_ros.modality import Modality

IMG, VID, AUD, PTS, DEP, NRM, IMU, FMR = (
    Modality.IMAGE, Modality.VIDEO, Modality.AUDIO, Modality.POINT, Modality.DEPTH,
    Modality.NORMAL, Modality.IMU, Modality.FMRI)


@dataclass(frozen=True)
class Stage:
    """One stage.

    :param sets: (modalities that a batch holds, relative frequency) each.
    :param trains: parts that learn: ``tokenizers``, ``encoder``, ``upm``, ``llm``.
    :param batch: worlds a batch; :param questions: questions asked of each world.
    :param unknowns: share of the worlds that are asked one thing more that nobody can tell.
    :param captions: share of the worlds that are described, too.
    :param learning_rate: peak, after ``warmup`` steps; cosine down to a twentieth of it.
    :param facts: weight of the facts heads' loss beside the loss on answers.
    :param dense: weight of the dense heads' loss in a stage of kind ``align``.
    :param match_scale: begin with modality tokens of the size of the LLM's word embeddings.
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
    match_scale: bool = False

    def __post_init__(self) -> None:
        """Check what a typing mistake would silently break."""
        if self.kind not in ('encoder', 'language', 'align'):
            raise ValueError(f'stage {self.name}: unknown kind {self.kind!r}, expected encoder, '
                             'language or align')
        unknown = set(self.trains) - {'tokenizers', 'encoder', 'upm', 'llm'}
        if unknown:
            raise ValueError(f'stage {self.name}: unknown parts {sorted(unknown)}, expected '
                             'tokenizers, encoder, upm, llm')


NANO_RECIPE = (
    Stage('language', 'language', (((IMG, DEP, VID, AUD, IMU, PTS, NRM, FMR), 1),), ('llm',),
          steps=800, batch=32, questions=4, learning_rate=1.5e-3),
    Stage('encoder', 'encoder',
          (((IMG,), 6), ((DEP,), 2), ((NRM,), 1), ((VID,), 0.7), ((PTS,), 2), ((AUD,), 1),
           ((IMU,), 0.3), ((FMR,), 0.3)),
          ('tokenizers', 'encoder'), steps=2400, batch=64),
    Stage('align', 'align',
          (((IMG,), 6), ((DEP,), 2), ((PTS,), 1.5), ((AUD,), 0.7), ((IMU,), 0.7), ((VID,), 0.7),
           ((NRM,), 0.7), ((FMR,), 0.5), ((IMG, IMU), 0.5), ((PTS, IMU), 0.3), ((IMG, AUD), 0.3),
           ((IMG, DEP, AUD, IMU), 1.3), ((IMG, DEP, PTS, AUD, IMU), 0.5),
           ((IMG, VID, DEP, NRM, PTS, AUD, IMU, FMR), 1.0)),
          ('tokenizers', 'encoder', 'upm', 'llm'), steps=1500, batch=48, questions=3, dense=0.5,
          match_scale=True))

RECIPES: dict[str, tuple[Stage, ...]] = {'nano': NANO_RECIPE}
