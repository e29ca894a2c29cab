"""Pictures of wrong answers, to see what a model does not see."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from onellm_ros.evaluation.evidence import Evidence
from onellm_ros.report.picture import window_picture
from onellm_ros.simulation.language import Question

A_KIND = 2              # pictures of each modality and question type
SHEET = 'sheet.png'
_COLUMNS, _WIDTH, _GAP = 3, 560, 12      # of the sheet, pixels


class Failures:
    """Draws the first wrong answers of each modality and question type.

    :param folder: where the pictures go; made if it does not exist.
    :raises OSError: if it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._drawn: Counter[tuple[str, str]] = Counter()
        self._first: list[Path] = []

    def __call__(self, evidence: Evidence, question: Question, answer: str, right: bool) -> None:
        """Draw one answer if it is wrong and its kind has not been drawn often."""
        key = (question.modality.value, question.type)
        if right or self._drawn[key] >= A_KIND:
            return
        self._drawn[key] += 1
        picture = window_picture(
            evidence.chosen, f'{question.question} {answer}', truth=question.answer,
            title=f'{key[0]}, {key[1]}: wrong')
        path = self.folder / f'{key[0]}-{key[1]}-{self._drawn[key]}.png'
        picture.save(path)
        if self._drawn[key] == 1:
            self._first.append(path)

    def sheet(self, most: int = 12) -> Path | None:
        """Put the first wrong answer of each kind beside each other; returns the picture's file.

        :param most: pictures; of more kinds, some of each modality in turn.
        :returns: None if nothing was wrong.
        """
        by_modality: dict[str, list[Path]] = {}
        for path in self._first:
            by_modality.setdefault(path.name.split('-')[0], []).append(path)
        rounds = zip_longest(*by_modality.values())
        chosen = [path for turn in rounds for path in turn if path is not None][:most]
        if not chosen:
            return None
        pictures = [Image.open(path).convert('RGB') for path in chosen]
        small = [p.resize((_WIDTH, round(p.height * _WIDTH / p.width))) for p in pictures]
        rows = [small[start:start + _COLUMNS] for start in range(0, len(small), _COLUMNS)]
        heights = [max(p.height for p in row) + _GAP for row in rows]
        sheet = Image.new('RGB', (min(len(small), _COLUMNS) * (_WIDTH + _GAP), sum(heights)),
                          'white')
        for number, row in enumerate(rows):
            for column, picture in enumerate(row):
                sheet.paste(picture, (column * (_WIDTH + _GAP), sum(heights[:number])))
        sheet.save(self.folder / SHEET)
        return self.folder / SHEET
