"""What the demonstration says: lines as things happen, and the summary at its end.

This module owns the measured figures: latencies, and how well descriptions fit the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import json
import math
from pathlib import Path
from statistics import fmean, median

from onellm_msgs.msg import Description

from onellm_ros.modality import Modality, parse_modality
from onellm_ros.ros.demo_questions import DemoQuestion
from onellm_ros.ros.message_fields import stamp_ns
from onellm_ros.simulation.language import caption, caption_score
from onellm_ros.simulation.truth import Truth

_SCORES = {
    'objects_f1': 'objects named (F1)', 'named_f1': 'objects with colour (F1)',
    'place': 'places right', 'metres': 'distances right', 'motion': 'motion right',
    'sound': 'sound right', 'moving': 'moving things right', 'clear': 'free way right'}


@dataclass(frozen=True, eq=False)
class Said:
    """A description as it arrived.

    :param end_to_text_s: its arrival less the window's end; NaN where the clocks differ (a bag).
    :param closed_to_text_s: its arrival less that of the report of its window; NaN without one.
    """

    message: Description
    since_start_s: float
    end_to_text_s: float
    closed_to_text_s: float

    @property
    def end_ns(self) -> int:
        """The window's end."""
        return stamp_ns(self.message.window_end)

    @property
    def modalities(self) -> frozenset[Modality]:
        """What the model saw."""
        return frozenset(parse_modality(r.modality) for r in self.message.modalities)


@dataclass(frozen=True)
class Answered:
    """A question with its answer, or why there is none.

    :param right: None where the truth is not known or gives no single answer.
    """

    question: DemoQuestion
    answer: str
    error: str
    truth: str
    right: bool | None
    seconds: float

    def lines(self) -> list[str]:
        """Return it as lines for people."""
        verdict = {True: '  (right)', False: '  (wrong)', None: ''}[self.right]
        out = [f'         asked: {self.question.text}']
        if self.error:
            out.append(f'    no answer: {self.error}')
        else:
            out.append(f'        answer: {self.answer or "(nothing)"}{verdict}   '
                       f'[{self.seconds:.2f} s]')
        return out + ([f'         truth: {self.truth}'] if self.truth else [])


def description_lines(said: Said, truth: Truth | None) -> list[str]:
    """Return a description, and the truth below it where it is known."""
    latency = said.end_to_text_s if math.isfinite(said.end_to_text_s) else said.closed_to_text_s
    after = 'end' if math.isfinite(said.end_to_text_s) else 'closing'
    timing = f'{latency:.2f} s after its {after}' if math.isfinite(latency) else 'time unknown'
    seen = ', '.join(r.modality for r in said.message.modalities)
    text = said.message.text or f'(nothing; {said.message.finish_reason})'
    out = [f'{said.since_start_s:6.1f} s  window of {seen}; {timing}', f'          says: {text}']
    if truth is not None:
        out.append(f'         truth: {true_text(said, truth)}')
    return out


def true_text(said: Said, truth: Truth) -> str:
    """Return what a perfect description would say from the same modalities."""
    return caption(truth, said.modalities, style='plain')


@dataclass
class Summary:
    """Everything that was measured.

    :param skipped: windows that closed and were not described.
    :param judged: descriptions whose truth is known.
    """

    model: str = ''
    first_s: float = math.nan
    descriptions: list[Said] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    skipped: int = 0
    judged: int = 0

    def add(self, said: Said, truth: Truth | None) -> None:
        """Count a description."""
        self.model = said.message.model
        self.skipped += said.message.skipped_windows
        self.descriptions.append(said)
        if truth is not None and said.modalities:
            self.judged += 1
            for name, value in caption_score(said.message.text, truth, said.modalities).items():
                self.scores.setdefault(name, []).append(value)

    def latencies(self) -> dict[str, float]:
        """Return median latencies in seconds, those that were measured."""
        messages = [s.message for s in self.descriptions]
        found = {
            'window end to text': [s.end_to_text_s for s in self.descriptions],
            'window closed to text': [s.closed_to_text_s for s in self.descriptions],
            'encode': [m.encode_s for m in messages],
            'first token': [m.first_token_s for m in messages],
            'whole text': [m.total_s for m in messages],
            'question to answer': [a.seconds for a in self.answers if not a.error]}
        return {name: middle for name, values in found.items()
                if math.isfinite(middle := _median(values))}

    def lines(self) -> list[str]:
        """Return the summary as lines for people."""
        out = [f'{len(self.descriptions)} descriptions by {self.model}, {self.skipped} windows '
               f'skipped; the first after {self.first_s:.1f} s']
        out.append('median latency: ' + ', '.join(
            f'{name} {value:.3f} s' for name, value in self.latencies().items()))
        if self.scores:
            shares = ', '.join(f'{text} {fmean(self.scores[name]):.2f}'
                               for name, text in _SCORES.items() if name in self.scores)
            out.append(f'against the truth of {self.judged} windows (1: all right): {shares}')
        judged = [a.right for a in self.answers if a.right is not None]
        failed = sum(bool(a.error) for a in self.answers)
        out.append(f'questions: {len(self.answers)} asked'
                   + (f', {sum(judged)} of {len(judged)} right' if judged else '')
                   + (f', {failed} without an answer' if failed else ''))
        return out

    def write(self, path: Path) -> None:
        """Write the figures as JSON."""
        path.write_text(json.dumps({
            'model': self.model, 'first_description_s': self.first_s,
            'descriptions': len(self.descriptions), 'skipped_windows': self.skipped,
            'median_latency_s': self.latencies(),
            'scores': {name: fmean(values) for name, values in self.scores.items()},
            'answers': [{'question': a.question.text, 'answer': a.answer, 'error': a.error,
                         'truth': a.truth, 'right': a.right, 'seconds': a.seconds}
                        for a in self.answers]}, indent=1) + '\n', encoding='utf-8')


def _median(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return median(finite) if finite else math.nan
