"""Pictures of wrong answers, to see what a model does not see.

``python -m onellm_ros.evaluation.failures RUN --out DIR`` draws those of a run of robot-world to
modalities alone (RUN: what ``onellm eval`` says that it wrote).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
import sys

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

    def wanted(self, question: Question) -> bool:
        """Whether wrong answers to such a question have not been drawn often."""
        return self._drawn[question.modality.value, question.type] < A_KIND

    def __call__(self, evidence: Evidence, question: Question, answer: str, right: bool) -> None:
        """Draw one answer if it is wrong and its kind has not been drawn often."""
        key = (question.modality.value, question.type)
        if right or not self.wanted(question):
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


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the wrong answers of a run; returns the exit status."""
    from onellm_ros.evaluation.robot.scoring import question_of, rows_of
    from onellm_ros.evaluation.robot.worlds import shown_by
    from onellm_ros.evaluation.runs import read_run

    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('run', type=Path, help='folder of a run of robot-world')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='of the pictures')
    args = parser.parse_args(argv)
    try:
        run = read_run(args.run)
        if run.task.name != 'robot-world':
            raise ValueError(f'{args.run}: found a run of {run.task.name}, expected robot-world')
        failures = Failures(args.out)
        for row in rows_of(run.items, run.predictions):
            question = question_of(row.item)
            if row.condition == 'alone' and not row.right and failures.wanted(question):
                failures(shown_by(row.item.tensors).evidence(), question, row.text, row.right)
        print(failures.sheet() or 'nothing was wrong')
    except (ValueError, OSError) as error:
        print(f'failures: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
