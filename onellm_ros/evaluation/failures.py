"""Pictures of wrong answers, to see what a model does not see."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from onellm_ros.evaluation.evidence import Evidence
from onellm_ros.report.picture import window_picture
from onellm_ros.simulation.language import Question

A_KIND = 2              # pictures of each modality and question type


class Failures:
    """Draws the first wrong answers of each modality and question type.

    :param folder: where the pictures go; made if it does not exist.
    :raises OSError: if it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._drawn: Counter[tuple[str, str]] = Counter()

    def __call__(self, evidence: Evidence, question: Question, answer: str, right: bool) -> None:
        """Draw one answer if it is wrong and its kind has not been drawn often."""
        key = (question.modality.value, question.type)
        if right or self._drawn[key] >= A_KIND:
            return
        self._drawn[key] += 1
        picture = window_picture(
            evidence.chosen, f'{question.question} {answer}', truth=question.answer,
            title=f'{key[0]}, {key[1]}: wrong')
        picture.save(self.folder / f'{key[0]}-{key[1]}-{self._drawn[key]}.png')
