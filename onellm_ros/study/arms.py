"""The arms of the study as data: what each changes, and the stages that train it.

The base is the paper's way: one projection trained on images, copied to several experts with a
soft router, then trained on all modalities together. Every other arm changes one field of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

from onellm_ros.modality import Modality
from onellm_ros.training.recipes import evenly
from onellm_ros.training.stages import Set, Stage

IMAGE_STAGE, STAGE = 'image', 'align'
# Their features look like nothing that the image's projection knows: its copy would not help.
UNLIKE_PICTURES = (Modality.AUDIO, Modality.IMU, Modality.FMRI)


class StudyError(RuntimeError):
    """A study cannot begin or go on; says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class Arm:
    """One way to train the projection.

    :param name: of the arm.
    :param joint: one projection for all modalities; else one for each, trained on it alone.
    :param beginning: ``images``: copies of the one expert that images trained. Else at random,
        ``mixed``: with the same samples of each modality, those images among the others; or
        ``even``: with as many samples in all, as many of each modality.
    :param experts: of the projection. :param router: that weighs them.
    """

    name: str
    joint: bool = True
    beginning: str = 'images'
    experts: int = 3
    router: str = 'sigmoid'

    @property
    def image_first(self) -> bool:
        """Whether it begins with what images taught."""
        return self.beginning == 'images'


BASE = Arm('base')
ARMS = (BASE,
        replace(BASE, name='separate', joint=False),
        replace(BASE, name='random-mixed', beginning='mixed'),
        replace(BASE, name='random', beginning='even'),
        replace(BASE, name='experts-1', experts=1),
        replace(BASE, name='experts-5', experts=5),
        replace(BASE, name='router-constant', router='constant'),
        replace(BASE, name='router-sparse', router='sparse'),
        replace(BASE, name='router-softmax', router='softmax'))
# The comparisons of the paper, each with the base among them, in the order of the tables.
COMPARISONS = {
    'training': ('base', 'separate'), 'beginning': ('base', 'random-mixed', 'random'),
    'experts': ('experts-1', 'base', 'experts-5'),
    'router': ('router-constant', 'router-sparse', 'base', 'router-softmax')}
WORDS = {
    'base': 'joint, image first, 3 experts, soft router (sigmoid, as released)',
    'separate': 'a projection for each modality alone',
    'random-mixed': 'random beginning, the same samples of each modality, mixed',
    'random': 'random beginning, as many samples in all, as many of each modality',
    'experts-1': '1 expert', 'experts-5': '5 experts', 'router-constant': 'constant router',
    'router-sparse': 'sparse router', 'router-softmax': 'soft router (softmax)'}


def changes(arm: Arm) -> dict[str, object]:
    """Return the fields in which an arm differs from the base."""
    own, base = asdict(arm), asdict(BASE)
    return {f.name: own[f.name] for f in fields(Arm)
            if f.name != 'name' and own[f.name] != base[f.name]}


def chosen_arms(names: Sequence[str]) -> tuple[Arm, ...]:
    """Return the arms of some names, all without any; the base is always among them.

    :raises StudyError: for a name that is none.
    """
    known = [arm.name for arm in ARMS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise StudyError(f'--arms: found {unknown[0]!r}, expected some of {", ".join(known)}')
    return tuple(arm for arm in ARMS if not names or arm is BASE or arm.name in names)


@dataclass(frozen=True)
class Budget:
    """How much a run is given.

    :param worlds: to train on; :param held_out: to score on.
    :param image_steps: of the stage on images; :param steps: of that on all modalities.
    :param batch: samples a step; :param questions: asked of each.
    :param eval_questions: asked of each held-out world, about each modality.
    :param answers: weight of the loss on answers in the stage on all modalities.
    :param image_answers: that in the stage on images; 0: the language model is not run in it.
    :param facts: weight of the loss on what the slots of the tokens should say.
    :param told: weight of the distance from the tokens that the language model learned from.
    :param eval_batch: held-out worlds that are scored at once.
    """

    worlds: int = 3072
    held_out: int = 256
    image_steps: int = 400
    steps: int = 120
    batch: int = 32
    questions: int = 2
    eval_questions: int = 4
    learning_rate: float = 1e-3
    answers: float = 1.0
    image_answers: float = 0.0
    facts: float = 1.0
    told: float = 0.0
    eval_batch: int = 64

    def __post_init__(self) -> None:
        """Check that every modality gets the same number of steps.

        :raises StudyError: naming the number.
        """
        for name in ('worlds', 'held_out', 'batch', 'questions', 'eval_questions'):
            if getattr(self, name) < 1:
                raise StudyError(f'{name}: found {getattr(self, name)}, expected at least 1')
        for name in ('image_steps', 'steps'):
            found, each = getattr(self, name), len(Modality)
            if found < each or found % each:
                raise StudyError(f'--{name.replace("_", "-")}: found {found}, expected a multiple '
                                 f'of {each}: every modality gets as many')


QUICK = Budget(worlds=512, held_out=64, image_steps=24, steps=16)


@dataclass(frozen=True)
class Part:
    """One training of an arm: all modalities, or one of them.

    :param modalities: that it is trained and scored on.
    """

    modalities: tuple[Modality, ...]
    stage: Stage


def _stage(budget: Budget, name: str, sets: tuple[Set, ...], steps: int, experts: int,
           fresh: Sequence[Modality], copied: Sequence[Modality], answers: float) -> Stage:
    return Stage(name, 'align', sets, ('upm',), steps=steps, batch=budget.batch,
                 questions=budget.questions, unknowns=0.0, captions=0.0,
                 learning_rate=budget.learning_rate, warmup=max(1, steps // 10),
                 answers=answers, facts=budget.facts, told=budget.told, experts=experts,
                 fresh=tuple(fresh), copied=tuple(copied))


def image_stage(budget: Budget) -> Stage:
    """Return the stage that all arms but one begin with: images, one expert."""
    only = (Modality.IMAGE,)
    return _stage(budget, IMAGE_STAGE, evenly(*only), budget.image_steps, 1, only, (),
                  budget.image_answers)


def parts(arm: Arm, budget: Budget) -> tuple[Part, ...]:
    """Return the trainings of an arm; each modality gets as many samples in all of them.

    Only a projection with a random beginning gets more, as many as the images that the others
    began with: those images (``mixed``), or samples of all modalities (``even``).
    """
    everything = tuple(Modality)
    if not arm.image_first:
        groups, steps = [everything], budget.image_steps + budget.steps
    elif arm.joint:
        groups, steps = [everything], budget.steps
    else:
        groups, steps = [(m,) for m in everything], budget.steps // len(everything)
    out = []
    for group in groups:
        sets = evenly(*group)
        if arm.beginning == 'mixed':
            each = budget.steps // len(everything)
            sets = tuple(((m,), each + (budget.image_steps if m is Modality.IMAGE else 0.0))
                         for m in group)
        fresh = [m for m in group if not arm.image_first or m in UNLIKE_PICTURES]
        copied = [m for m in group if arm.image_first and m is not Modality.IMAGE]
        out.append(Part(group, _stage(budget, STAGE, sets, steps, arm.experts, fresh, copied,
                                      budget.answers)))
    return tuple(out)


def samples(arm: Arm, budget: Budget) -> dict[Modality, int]:
    """Return how many samples of each modality an arm is trained on, from its beginning."""
    out = dict.fromkeys(Modality, 0)
    for part in parts(arm, budget):
        shares = sum(share for _, share in part.stage.sets)
        for (modality,), share in part.stage.sets:
            out[modality] += round(part.stage.steps * budget.batch * share / shares)
    if arm.image_first:
        out[Modality.IMAGE] += budget.image_steps * budget.batch
    return out
