"""Our own benchmark, the one that a robot needs: held-out simulated worlds with exact truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.robot.plan import (
    CONDITIONS,
    SEED,
    SHUFFLED,
    SPLITS,
    VERSION,
    Plan,
)
from onellm_ros.evaluation.task import Tables, Task
from onellm_ros.modality import PROMPT_ORDER, Modality, parse_modality

_CAPTION_TOKENS = 160           # the longest one, of all modalities, is about 70 words
_FETCH = 'the worlds are rendered from their seeds while the model is asked'


def plan_of(split: str, *, seed: int = SEED, worlds: int = 0, questions: int = 4,
            wording: str = 'plain', modalities: str = '', conditions: str = '', shuffled: int = 0,
            rendered: str = '') -> Plan:
    """Return what a split asks with the user's options.

    :param worlds: 0: as many as the split has. :param modalities: comma-separated; empty: all.
    :param conditions: likewise. :param shuffled: 1: show the evidence of another world.
    :param rendered: folder of the worlds that the model was trained on; empty: none is known.
    :raises ValueError: for a value that means nothing.
    """
    if split not in SPLITS:
        raise ValueError(f'found split {split!r}, expected one of {", ".join(SPLITS)}')
    if shuffled not in (0, 1):
        raise ValueError(f'found shuffled={shuffled}, expected 0 or 1')
    if worlds < 0:
        raise ValueError(f'found worlds={worlds}, expected 0 (those of the split) or more')
    named = [name.strip() for name in conditions.split(',') if name.strip()]
    chosen = [parse_modality(name) for name in modalities.split(',') if name.strip()]
    plan = Plan(
        seed=seed, worlds=worlds or SPLITS[split], questions=questions, said=wording,
        modalities=tuple(m for m in Modality if m in chosen) + tuple(
            m for m in chosen if m not in tuple(Modality)) or tuple(Modality),
        conditions=tuple(named) or (SHUFFLED if shuffled else CONDITIONS),
        shuffled=bool(shuffled), rendered=Path(rendered) if rendered else None)
    plan.check()
    return plan


def _read(root: Path, split: str, **options: int | float | str) -> Iterator[Item]:
    plan = plan_of(split, **options)  # type: ignore[arg-type]
    try:
        from onellm_ros.evaluation.robot.reading import read_items
    except ModuleNotFoundError as error:
        raise ValueError(f'robot-world renders simulated worlds: {error}; install the '
                         'requirements of the package') from error
    yield from read_items(plan, progress=None)


def _tables(items: Sequence[Item], predictions: Sequence[Prediction]) -> Tables:
    from onellm_ros.evaluation.robot.tables import tables
    return tables(items, predictions)


TASKS: tuple[Task, ...] = (
    Task(name='robot-world', title='Held-out simulated worlds of a robot, exact truth',
         modalities=PROMPT_ORDER, form='question', metrics=('robot_world',), read=_read,
         splits=tuple(SPLITS), fetch=_FETCH, version=VERSION, max_tokens=_CAPTION_TOKENS,
         data=False, tables=_tables,
         options={'seed': SEED, 'worlds': 0, 'questions': 4, 'wording': 'plain', 'modalities': '',
                  'conditions': '', 'shuffled': 0, 'rendered': ''},
         facts={
             'conditions': ', '.join(CONDITIONS),
             'seed': 'which worlds; 2026 is the frozen benchmark',
             'worlds': 'how many; 0: those of the split (test 200, mini its first 20)',
             'questions': 'to each modality alone in each world, and one more without an answer',
             'wording': 'plain, varied (many others), held_out (never said in training)',
             'modalities': 'comma-separated; empty: all eight',
             'shuffled': '1: show another world than the one asked about, to tell how much of an '
                         'accuracy comes from looking',
             'rendered': 'folder of the worlds of training: scores worlds on their own whose '
                         'objects none of them shows together'}),)
