"""What the results of a study say: means, spreads, differences to the base, a table of them.

An arm and the base with the same seed begin with the same images, see the same batches in the same
order and are asked the same held-out questions, so their differences are taken seed by seed. The
interval of a mean difference is Student's, of 95 %; with one seed there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from onellm_ros.modality import Modality
from onellm_ros.study.arms import ARMS, BASE, COMPARISONS, WORDS, StudyError
from onellm_ros.study.single import RESULTS

GUESSER, SETTING = 'guesser.json', 'setting.json'
CONFIDENCE = 0.95
OVERALL = 'overall'
KEYS = (OVERALL, *(m.value for m in Modality))


@dataclass(frozen=True)
class Result:
    """What one run scored: the share of exact answers by modality."""

    arm: str
    seed: int
    accuracy: Mapping[str, float]
    samples: Mapping[str, int]
    seconds: float

    def score(self, key: str) -> float:
        """Return the accuracy of a modality, or the mean of all of them (``OVERALL``)."""
        return fmean(self.accuracy.values()) if key == OVERALL else self.accuracy[key]


@dataclass(frozen=True)
class Figure:
    """A mean over seeds, its standard deviation and the bounds of the mean, None with one seed."""

    mean: float
    spread: float | None
    low: float | None
    high: float | None

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def figure(values: Sequence[float]) -> Figure:
    """Return mean, spread and interval of some values, one a seed."""
    mean = fmean(values)
    if len(values) < 2:
        return Figure(mean, None, None, None)
    spread = stdev(values)
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * spread / len(values) ** 0.5
    return Figure(mean, spread, mean - half, mean + half)


@dataclass(frozen=True)
class Row:
    """One arm of the table: its scores and its differences to the base, by ``KEYS``.

    ``differences`` is empty for the base, and where no seed is common.
    """

    arm: str
    seeds: tuple[int, ...]
    scores: Mapping[str, Figure]
    differences: Mapping[str, Figure]
    samples: int
    seconds: float


def load_results(folder: Path) -> list[Result]:
    """Return the results of a study, in the order of the arms.

    :raises StudyError: if there are none, or one cannot be read.
    """
    found, order = [], [arm.name for arm in ARMS]
    for path in sorted((folder / RESULTS).glob('*.json')):
        try:
            values = json.loads(path.read_text())
            found.append(Result(values['arm'], values['seed'], values['accuracy'],
                                values['samples'], values['seconds']))
            order.index(found[-1].arm)
        except (ValueError, KeyError, OSError) as error:
            raise StudyError(f'{path}: {error!r}; expected the result of a run; remove it, and '
                             'the study makes it anew') from None
    if not found:
        raise StudyError(f'{folder / RESULTS}: found no results, expected those of `onellm study '
                         f'findings --out {folder}`')
    return sorted(found, key=lambda result: (order.index(result.arm), result.seed))


def rows(results: Sequence[Result]) -> list[Row]:
    """Return the table of some results."""
    by_arm: dict[str, dict[int, Result]] = {}
    for result in results:
        by_arm.setdefault(result.arm, {})[result.seed] = result
    base = by_arm.get(BASE.name, {})
    out = []
    for arm, own in by_arm.items():
        common = [] if arm == BASE.name else [seed for seed in own if seed in base]
        out.append(Row(
            arm, tuple(own),
            {key: figure([r.score(key) for r in own.values()]) for key in KEYS},
            {key: figure([own[s].score(key) - base[s].score(key) for s in common])
             for key in KEYS} if common else {},
            sum(next(iter(own.values())).samples.values()),
            fmean(r.seconds for r in own.values())))
    return out


def _plus_minus(value: Figure) -> str:
    return f'{value.mean:.3f}' + ('' if value.spread is None else f' ± {value.spread:.3f}')


def _difference(value: Figure) -> str:
    text = f'{value.mean:+.3f}'
    return text if value.low is None else f'{text} [{value.low:+.3f}, {value.high:+.3f}]'


def verdict(table: Sequence[Row]) -> str:
    """Return in words what of the differences is more than noise."""
    compared = [row for row in table if row.differences]
    if not compared:
        return 'Nothing to compare: no arm has a seed in common with the base.'
    if all(row.differences[OVERALL].low is None for row in compared):
        return ('One seed each: nothing can be said about noise, and no difference here is a '
                'finding.')
    beyond = [row for row in compared if row.differences[OVERALL].beyond_noise]
    within = [row for row in compared if row not in beyond]
    out = [f'{row.arm} {row.differences[OVERALL].mean:+.3f}' for row in beyond]
    parts = [f'Beyond the noise of the seeds: {", ".join(out) if out else "none"}.']
    if within:
        widest = max(row.differences[OVERALL].high - row.differences[OVERALL].mean  # type: ignore
                     for row in within if row.differences[OVERALL].high is not None)
        parts.append(f'Within it: {", ".join(row.arm for row in within)} (the interval holds 0; '
                     f'half of the widest is {widest:.3f}, so a smaller true difference would '
                     'not show).')
    parts.append(f'Of {len(compared)} intervals of 95 %, {0.05 * len(compared):.2f} would leave 0 '
                 'out by chance.')
    return ' '.join(parts)


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f'| {" | ".join(cells)} |' for cells in (head, ['---'] * len(head), *body)]


def markdown(results: Sequence[Result], setting: Mapping[str, Any],
             guesser: Mapping[str, float]) -> str:
    """Return the table of a study as markdown.

    :param setting: of the study, from its ``setting.json``.
    :param guesser: accuracy by modality of one that sees only the question.
    """
    table = rows(results)
    budget = setting['budget']
    named = {row.arm: row for row in table}
    body = []
    for comparison, arms in COMPARISONS.items():
        for name in arms:
            if name in named and (len([a for a in arms if a in named]) > 1):
                row = named[name]
                gap = row.differences.get(OVERALL)
                body.append([comparison, WORDS[name], str(len(row.seeds)),
                             _plus_minus(row.scores[OVERALL]),
                             '' if gap is None else _difference(gap),
                             '' if gap is None or gap.low is None
                             else 'yes' if gap.beyond_noise else 'no', str(row.samples)])
    if not body:
        row = table[0]
        body = [['', WORDS[row.arm], str(len(row.seeds)), _plus_minus(row.scores[OVERALL]), '', '',
                 str(row.samples)]]
    out = [
        f'Encoder {setting["encoder"]}, LLM {setting["llm"]}; {budget["worlds"]} worlds to train '
        'on, '
        f'{budget["held_out"]} held-out ones with {budget["eval_questions"]} questions to each '
        f'modality; {budget["image_steps"]} steps on images, {budget["steps"]} on all modalities, '
        f'{budget["batch"]} samples each; weights of the losses: answers {budget["answers"]:g} '
        f'(images {budget["image_answers"]:g}), slots {budget["facts"]:g}, told scenes '
        f'{budget["told"]:g}.', '',
        *_lines(['what', 'arm', 'seeds', 'accuracy', 'difference to base [95 %]', 'beyond noise',
                 'samples'], body), '', verdict(table), '',
        'By modality (mean ± standard deviation over the seeds):', '',
        *_lines(['arm', *KEYS[1:]], [
            [row.arm, *(_plus_minus(row.scores[key]) for key in KEYS[1:])] for row in table] + (
            [['guesser', *(f'{guesser[key]:.3f}' for key in KEYS[1:])]] if guesser else []))]
    compared = [row for row in table if row.differences]
    if compared:
        out += ['', 'Difference to the base by modality (mean [95 %]; bold: beyond noise):', '',
                *_lines(['arm', *KEYS[1:]], [
                    [row.arm, *(f'**{text}**' if gap.beyond_noise else text for gap, text in (
                        (row.differences[key], _difference(row.differences[key]))
                        for key in KEYS[1:]))] for row in compared])]
    if guesser:
        out += ['', f'The guesser sees only the question; over all modalities it is right in '
                    f'{fmean(guesser.values()):.3f} of the cases.']
    return '\n'.join(out) + '\n'
