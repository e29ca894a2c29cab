"""A stage of training as data: which modalities, which parts learn, on which data, how long.

A stage of kind ``encoder`` predicts dense labels and facts from the encoder's tokens; ``language``
trains the LLM on questions and captions about scenes that are told by their slots (``slots.py``)
in place of modality tokens; ``align`` takes signals through encoder and UPM into the LLM, with any
of three losses: on answers, on what the slots of the modality tokens should say, and on being like
the tokens of told scenes. A batch has one set of modalities. ``recipes.py`` holds the stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from onellm_ros.modality import Modality, in_order
from onellm_ros.model.onellm import PARTS
from onellm_ros.model.text import TEMPLATES

KINDS_OF_STAGE = ('language', 'encoder', 'align')
# Scenes told by a generator, worlds rendered by ``shards.py``, or annotated files on disk.
DATA = ('told', 'worlds', 'manifest')
Set = tuple[tuple[Modality, ...], float]
# What a command line may change.
SETTABLE = ('steps', 'batch', 'accumulate', 'questions', 'unknowns', 'captions', 'learning_rate',
            'warmup', 'floor', 'weight_decay', 'clip', 'answers', 'facts', 'told', 'dense',
            'experts', 'max_tokens', 'checkpointing')


@dataclass(frozen=True)
class Stage:
    """One stage.

    :param sets: (modalities that a batch holds, relative frequency) each; no modality: text alone.
        A stage on a manifest may leave it empty: then as often as the manifest says.
    :param trains: parts that learn: ``tokenizers``, ``encoder``, ``upm``, ``llm``.
    :param only: of these only what has one of the names in its own: those of modalities, for what
        is theirs alone, or ``experts``, for those of the UPM; empty: all.
    :param steps: optimizer steps.
    :param data: ``told`` (language), ``worlds`` or ``manifest`` (align).
    :param batch: samples of an optimizer step, over all ranks and parts.
    :param accumulate: parts that a rank takes its share of a batch in, one after another.
    :param questions: questions asked of each world.
    :param unknowns: share of the worlds that are asked one thing more that nobody can tell.
    :param captions: share of the worlds that are described, too.
    :param learning_rate: peak, after ``warmup`` optimizer steps; cosine down to ``floor`` of it.
    :param betas: of AdamW. :param clip: largest norm of the gradient.
    :param answers: weight of the loss on answers (align); 0: the LLM is not run.
    :param facts: weight of the loss on facts (encoder) or slots (align).
    :param told: weight of the distance from the tokens of told scenes (align).
    :param dense: weight of the dense head's loss (encoder).
    :param experts: of the UPM from this stage on; 0: as it has. One expert becomes several by
        copying (``experts.py``).
    :param fresh: modalities that begin here; their input projections are fitted to the encoder's
        features first (training from scratch).
    :param copied: modalities whose modality tokens and projections begin as those of image (of the
        ``fresh`` ones all but the input projection).
    :param template: chat template from this stage on; empty: as the model has.
    :param max_tokens: text tokens of an example from a manifest; 0: as the LLM has room for.
    :param checkpointing: compute activations again in the backward pass instead of keeping them.
    """

    name: str
    kind: str
    sets: tuple[Set, ...]
    trains: tuple[str, ...]
    steps: int
    data: str = 'worlds'
    batch: int = 48
    accumulate: int = 1
    questions: int = 6
    unknowns: float = 0.5
    captions: float = 0.5
    learning_rate: float = 1e-3
    warmup: int = 200
    floor: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    answers: float = 1.0
    facts: float = 0.0
    told: float = 0.0
    dense: float = 0.0
    experts: int = 0
    fresh: tuple[Modality, ...] = ()
    copied: tuple[Modality, ...] = ()
    template: str = ''
    max_tokens: int = 0
    checkpointing: bool = False
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what a typing mistake would silently break.

        :raises ValueError: naming the stage, what was found and what was expected.
        """
        def expect(good: object, text: str) -> None:
            if not good:
                raise ValueError(f'stage {self.name}: {text}')

        expect(self.kind in KINDS_OF_STAGE,
               f'unknown kind {self.kind!r}, expected one of {KINDS_OF_STAGE}')
        unknown = sorted(set(self.trains) - set(PARTS))
        expect(not unknown and self.trains,
               f'unknown parts {unknown}, expected some of {", ".join(PARTS)}')
        expected = {'language': ('told',), 'encoder': ('worlds',)}.get(
            self.kind, ('worlds', 'manifest'))
        expect(self.data in expected, f'found data {self.data!r} for kind {self.kind}, expected '
               f'{" or ".join(expected)}')
        expect(self.sets or self.data == 'manifest', 'found no modalities')
        expect(all(share > 0 for _, share in self.sets), 'found a set with a frequency that is '
               'not above 0')
        if self.data == 'manifest':
            expect(all(len(present) <= 1 for present, _ in self.sets),
                   'found several modalities in one batch, expected one or none: items of a '
                   'manifest have one signal')
            expect(not (self.facts or self.told or self.dense),
                   'found a loss on facts, told scenes or dense labels, expected none with a '
                   'manifest: only rendered worlds have such labels')
        else:
            expect(all(present for present, _ in self.sets), 'found text without any modality, '
                   'expected it only with a manifest')
        expect(self.kind != 'align' or self.answers or self.facts or self.told,
               'found no loss, expected answers, facts or told above 0')
        expect(not self.template or self.template in TEMPLATES,
               f'template: found {self.template!r}, expected one of {TEMPLATES}')
        for key, least in (('steps', 0), ('batch', 1), ('accumulate', 1), ('questions', 1),
                           ('warmup', 0), ('experts', 0), ('max_tokens', 0), ('floor', 0),
                           ('answers', 0), ('facts', 0), ('told', 0), ('dense', 0),
                           ('weight_decay', 0)):
            expect(getattr(self, key) >= least,
                   f'{key}: found {getattr(self, key)}, expected at least {least}')
        for key in ('learning_rate', 'clip'):
            expect(getattr(self, key) > 0, f'{key}: found {getattr(self, key)}, expected more '
                   'than 0')

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """All modalities that its sets name, in the order of :class:`Modality`."""
        named = {m for present, _ in self.sets for m in present}
        return tuple(in_order(named))

    def learns(self, name: str) -> bool:
        """Say whether a parameter of a part that learns does."""
        return not self.only or not set(self.only).isdisjoint(name.split('.'))


def from_manifest(stage: Stage) -> Stage:
    """Return a stage as it trains from a manifest: on answers alone, modalities as it says.

    :raises ValueError: for a stage of another kind than align.
    """
    if stage.data == 'manifest':
        return stage
    if stage.kind != 'align':
        raise ValueError(f'stage {stage.name}: of kind {stage.kind}, which needs the simulated '
                         'world; only stages of kind align train from a manifest')
    return replace(stage, data='manifest', sets=(), facts=0.0, told=0.0, answers=1.0)


def changed(stage: Stage, changes: Mapping[str, str]) -> Stage:
    """Return a stage with other values of some fields, given as texts.

    :raises ValueError: for a field that cannot be changed, or a value that is none.
    """
    kinds = {f.name: type(getattr(stage, f.name)) for f in fields(stage)}
    out: dict[str, Any] = {}
    for key, text in changes.items():
        if key not in SETTABLE:
            raise ValueError(f'stage {stage.name}: found {key!r}, expected one of '
                             f'{", ".join(SETTABLE)}')
        kind = kinds[key]
        try:
            if kind is bool:
                out[key] = {'true': True, 'false': False}[text.lower()]
            else:
                out[key] = kind(text)
        except (ValueError, KeyError):
            expected = {int: 'a whole number', float: 'a number', bool: 'true or false'}[kind]
            raise ValueError(f'stage {stage.name}: {key}: found {text!r}, expected '
                             f'{expected}') from None
    return replace(stage, **out)
