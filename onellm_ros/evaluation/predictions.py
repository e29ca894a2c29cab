"""Predictions as JSONL: one line an item, written at once, so that a kill loses a line at most.

Times stand in a file of their own: predictions are the same byte for byte in every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
import json
import math
from pathlib import Path
import re
from types import TracebackType
from typing import IO, Any

from onellm_ros.evaluation.item import BROKEN, Prediction
from onellm_ros.model.files import write_atomically

PREDICTIONS = 'predictions.jsonl'
TIMES = 'times.jsonl'
_DIGITS = 6             # of what is written of a probability
_PART = re.compile(r'predictions\.\d+-of-\d+\.jsonl|times\.\d+-of-\d+\.jsonl')


class PredictionError(ValueError):
    """A file of predictions that cannot be read; names the file and the line."""


def line_of(prediction: Prediction) -> str:
    """Return a prediction as a line of JSON, without the time that it took."""
    sure = prediction.confidence
    return json.dumps({
        'id': prediction.id, 'text': prediction.text, 'choice': prediction.choice,
        'probabilities': [round(p, _DIGITS) for p in prediction.probabilities],
        'confidence': round(sure, _DIGITS) if math.isfinite(sure) else None,
        'tokens': prediction.tokens, 'finish_reason': prediction.finish_reason,
        'error': prediction.error}, ensure_ascii=False)


def _prediction(value: Any) -> Prediction:
    """Return what a line says; all but ``id`` and ``text`` may be left out, as others write it.

    :raises KeyError, TypeError, ValueError: if it is no prediction.
    """
    key, text, sure = value['id'], value['text'], value.get('confidence')
    if not isinstance(key, str | int) or isinstance(key, bool) or not isinstance(text, str):
        raise TypeError('id and text must be texts')
    return Prediction(
        str(key), text, int(value.get('choice', -1)),
        tuple(float(p) for p in value.get('probabilities', ())),
        math.nan if sure is None else float(sure), int(value.get('tokens', 0)),
        finish_reason=str(value.get('finish_reason', 'stop')), error=str(value.get('error', '')))


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and value of the lines of a file; one that a kill cut off is left out."""
    if not path.is_file():
        return
    lines = path.read_text(encoding='utf-8').split('\n')
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                yield number, json.loads(line)
        except ValueError:
            if number < len(lines):
                raise PredictionError(
                    f'{path}, line {number}: found {line[:60]!r}, expected a JSON object; delete '
                    'the line, and it is asked again') from None


def mend(path: Path) -> None:
    """Cut off a last line that a kill left without its end."""
    data = path.read_bytes() if path.is_file() else b''
    whole = data.rfind(b'\n') + 1
    if whole < len(data):
        with path.open('r+b') as file:
            file.truncate(whole)


def files(folder: Path) -> list[Path]:
    """Return the files of a run's predictions and times: of one process, then of several."""
    parts = sorted(p for p in folder.iterdir() if _PART.fullmatch(p.name)) if folder.is_dir() \
        else []
    return [p for p in (folder / PREDICTIONS, folder / TIMES) if p.is_file()] + parts


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """Return the predictions of a run so far, by the items' ids; an answer outdoes a broken one.

    :raises PredictionError: for a line that is none.
    """
    found: dict[str, Prediction] = {}
    times: dict[str, float] = {}
    for path in files(folder):
        for number, value in _lines(path):
            try:
                if path.name.startswith('times'):
                    times[value['id']] = float(value['first_token_s'])
                else:
                    one = _prediction(value)
                    if one.finish_reason != BROKEN or one.id not in found:
                        found[one.id] = one
            except (KeyError, TypeError, ValueError) as error:
                raise PredictionError(
                    f'{path}, line {number}: found {str(value)[:60]}, expected an object with id '
                    f'and text ({error!r}); delete the line, and it is asked again') from None
    return {key: replace(one, first_token_s=times.get(key, math.nan))
            for key, one in found.items()}


def write_whole(folder: Path, predictions: Sequence[Prediction]) -> None:
    """Write all predictions of a run in their order, in place of what several processes wrote.

    What is in order already is left as it is.
    """
    timed = [p for p in predictions if math.isfinite(p.first_token_s)]
    for name, lines in ((PREDICTIONS, map(line_of, predictions)), (TIMES, map(_time_of, timed))):
        text = ''.join(line + '\n' for line in lines).encode()
        path = folder / name
        if (path.read_bytes() if path.is_file() else b'') != text:
            write_atomically(path, text)
    for path in files(folder):
        if _PART.fullmatch(path.name):
            path.unlink()


def _time_of(prediction: Prediction) -> str:
    return json.dumps({'id': prediction.id, 'first_token_s': round(prediction.first_token_s, 5)})


class Writer:
    """Appends predictions to the files of a process; a context manager.

    :param rank: of this process. :param size: how many there are.
    """

    def __init__(self, folder: Path, rank: int = 0, size: int = 1) -> None:
        part = f'.{rank}-of-{size}' if size > 1 else ''
        self._paths = [folder / f'{Path(name).stem}{part}.jsonl' for name in (PREDICTIONS, TIMES)]
        self._files: list[IO[str]] = []

    def __enter__(self) -> Writer:
        self._files = [path.open('a', encoding='utf-8', newline='\n') for path in self._paths]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for file in self._files:
            with suppress(OSError):         # what could not be written was told by add
                file.close()

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Write predictions; when it returns they outlast this process.

        :raises PredictionError: if they cannot be written.
        """
        found = list(predictions)
        timed = [p for p in found if math.isfinite(p.first_token_s)]
        # times first: a prediction that stands there is not asked again
        for file, lines in ((self._files[1], map(_time_of, timed)),
                            (self._files[0], map(line_of, found))):
            try:
                file.write(''.join(line + '\n' for line in lines))
                file.flush()
            except OSError as error:
                raise PredictionError(
                    f'{file.name}: cannot be written ({error.strerror or error}); what was '
                    'answered before is kept: mend that, and the same command goes on') from None


def values_of(mapping: Mapping[str, Any]) -> Any:
    """Return something that JSON can hold: numbers that are not finite become null."""
    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value
    return plain(mapping)
