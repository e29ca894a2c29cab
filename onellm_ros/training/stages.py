"""The stages of training as data: which modalities, which parts learn, for how long.

A stage of kind ``encoder`` predicts the dense labels and facts from the encoder's tokens; ``language``
trains the LLM on text alone (the scene given as words); ``align`` trains on questions and captions
about one set of modalities a batch. The paper starts from CLIP and Llama 2 and so has only the last
kind; at nano's size nothing pretrained exists, so encoder and LLM come first.
"""

from __future__ import annotations

from dataclasses import dataclass

from onellm_ros.modality import Modality

I, V, A, P, D, N, M, F = (
    Modality.IMAGE, Modality.VIDEO, Modality.AUDIO, Modality.POINT, Modality.DEPTH,
    Modality.NORMAL, Modality.IMU, Modality.FMRI)


@dataclass(frozen=True)
class Stage:
    """One stage.

    :param sets: (modalities that a batch holds, relative frequency) each.
    :param trains: parts that learn: ``tokenizers``, ``encoder``, ``upm``, ``llm``.
    :param batch: worlds a batch; :param questions: questions asked of each world.
    :param learning_rate: peak, after ``warmup`` steps; cosine down to a twentieth of it.
    :param facts: weight of the facts heads' loss beside the loss on answers.
    """

    name: str
    kind: str
    sets: tuple[tuple[tuple[Modality, ...], float], ...]
    trains: tuple[str, ...]
    steps: int
    batch: int = 48
    questions: int = 6
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.05
    clip: float = 1.0
    facts: float = 0.3

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
    Stage('language', 'language', (((I, D, V, A, M, P, N, F), 1),), ('llm',),
          steps=2000, batch=32, questions=6, learning_rate=1.5e-3),
    Stage('encoder', 'encoder',
          (((I,), 5), ((D,), 2), ((N,), 1), ((V,), 0.7), ((P,), 2), ((A,), 2), ((M,), 1),
           ((F,), 0.5)),
          ('tokenizers', 'encoder'), steps=6000, batch=64),
    Stage('align', 'align',
          (((I,), 5), ((D,), 2), ((P,), 2), ((A,), 1), ((M,), 1), ((V,), 1), ((N,), 1), ((F,), 0.5),
           ((I, D, A, M), 2), ((I, D, N, P, A, M), 1), ((I, V, D, N, P, A, M), 0.5)),
          ('tokenizers', 'upm', 'llm'), steps=8000, questions=5))

RECIPES: dict[str, tuple[Stage, ...]] = {'nano': NANO_RECIPE}
