"""A replay's results as lines of JSON: a header, one line a window, a summary.

Owns the format, and reading back a file that was cut: whole lines count, half a line does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
import json
import math
from pathlib import Path
from typing import Any, BinaryIO

from onellm_ros.choose import Report, Selection
from onellm_ros.modality import Modality, in_order
from onellm_ros.perception.results import Described, Question, Reply

FORMAT = 1
Record = dict[str, Any]
# What differs from run to run; --no-times leaves it out.
TIMES = frozenset({'encode_s', 'first_token_s', 'total_s', 'wall_s', 'windows_per_s'})


class ReplayError(ValueError):
    """A replay that cannot be done as asked; the text says what was found and what to do."""


def number(value: Any) -> float | None:
    """Return a number with at most nine digits; None for NaN, infinity and None."""
    if value is None or not math.isfinite(value):
        return None
    return float(f'{value:.9g}')


def _report(report: Report, modality: Modality, weights: Sequence[float] | None) -> Record:
    return {'modality': modality.value, 'topics': list(report.topics), 'count': report.count,
            'first_ns': report.first_ns, 'last_ns': report.last_ns,
            'max_skew_ns': report.max_skew_ns, 'late': report.late, 'dropped': report.dropped,
            'seen': weights is not None,
            'expert_weights': [number(w) for w in weights or ()]}


def _modalities(selection: Selection, weights: Mapping[Modality, Sequence[float]]
                ) -> list[Record]:
    """Return what the window has, and what the model was shown of it.

    ``seen``: it was shown to the model; normals that were computed from depth have its stamps.
    """
    known = {r.modality: r for r in selection.reports}
    derived = known.get(Modality.DEPTH)
    out = [_report(report, modality, weights.get(modality)) for modality, report in known.items()]
    if derived is not None:
        out += [_report(derived, modality, weights[modality]) for modality in weights
                if modality not in known]
    return out


def window_record(bag: int, selection: Selection, closed_ns: int) -> Record:
    """Return what is known of a window before the model has seen it."""
    return {'window': 0, 'bag': bag, 'start_ns': selection.start_ns, 'end_ns': selection.end_ns,
            'closed_ns': closed_ns, 'closed_by': selection.closed_by,
            'silent': list(selection.silent), 'modalities': _modalities(selection, {})}


def add_description(record: Record, found: Described) -> None:
    """Add a description, or why there is none."""
    answer = found.answer
    record['modalities'] = _modalities(found.selection, found.weights)
    record['left_out'] = {m.value: found.left_out[m] for m in in_order(found.left_out)}
    record['prompt'] = found.prompt
    if answer is None:
        record['error'] = 'nothing in the window can be used: ' + (
            '; '.join(found.left_out.values()) or 'it holds nothing that the model is shown')
    else:
        record |= {'text': answer.text, 'finish_reason': answer.finish_reason,
                   'tokens': answer.tokens, 'confidence': number(answer.confidence)}
    record |= {'encode_s': number(found.encode_s), 'first_token_s': number(found.first_token_s),
               'total_s': number(found.total_s)}


def add_answer(record: Record, question: Question, reply: Reply) -> None:
    """Add an answer, or why there is none."""
    answer = reply.answer if reply.error == 'NONE' else None
    if reply.weights and not any(m['seen'] for m in record['modalities']) and reply.selection:
        record['modalities'] = _modalities(reply.selection, reply.weights)
    index = -1 if answer is None or answer.choice_index is None else answer.choice_index
    record.setdefault('answers', []).append({
        'question': question.text, 'answer': '' if answer is None else answer.text,
        'error': reply.error, 'error_msg': reply.error_msg,
        'confidence': None if answer is None else number(answer.confidence),
        'choice_index': index,
        'choice_probabilities': [] if answer is None else
        [number(p) for p in answer.choice_probabilities],
        'finish_reason': reply.finish_reason, 'tokens': 0 if answer is None else answer.tokens,
        'first_token_s': number(reply.first_token_s), 'total_s': number(reply.total_s)})


def question_mapping(question: Question) -> Record:
    """Return a question for the header."""
    out: Record = {'question': question.text, 'max_tokens': question.max_tokens}
    if question.temperature:
        out['temperature'] = number(question.temperature)
    if question.choices:
        out['choices'] = list(question.choices)
    if question.modalities is not None:
        out['modalities'] = [m.value for m in in_order(question.modalities)]
    return out


def without_times(value: Any) -> Any:
    """Return a record without what differs from run to run."""
    if isinstance(value, Mapping):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    if isinstance(value, list):
        return [without_times(v) for v in value]
    return value


def line_of(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line of UTF-8."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode(
        'utf-8', 'replace') + b'\n'


class Summary:
    """The counts of a replay's windows: they follow from its records alone."""

    def __init__(self) -> None:
        self.counts: Record = dict.fromkeys((
            'windows', 'described', 'failed', 'answers', 'unanswered', 'closed_by_deadline',
            'late', 'dropped', 'tokens'), 0)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one window."""
        answers, modalities = record.get('answers', ()), record['modalities']
        good = [a for a in answers if a['error'] == 'NONE']
        for name, more in (
                ('windows', 1), ('described', 'text' in record), ('failed', 'error' in record),
                ('answers', len(good)), ('unanswered', len(answers) - len(good)),
                ('closed_by_deadline', record['closed_by'] == 'deadline'),
                ('late', sum(m['late'] for m in modalities)),
                ('dropped', sum(m['dropped'] for m in modalities)),
                ('tokens', record.get('tokens', 0) + sum(a['tokens'] for a in answers))):
            self.counts[name] += int(more)


class ResultFile:
    """A file of results in the making, or one that is gone on with.

    Attributes: ``done`` (records that were there), ``finished`` (the summary was there, too),
    ``count`` (windows that are in it now).

    :param times: whether records keep what differs from run to run.
    :raises ReplayError: if the file is of another replay, or cannot be written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, times: bool = True) -> None:
        self.path, self._times = path, times
        self.done: list[Record] = []
        self.finished = False
        try:
            self._file: BinaryIO = open(path, 'a+b')
            self._resume(header)
            self.count = len(self.done)
        except OSError as error:
            raise ReplayError(f'{path}: {error.strerror}; expected a file that can be written'
                              ) from error

    def _resume(self, header: Mapping[str, Any]) -> None:
        """Read what is there, cut off what is half, and place the file behind it."""
        self._file.seek(0)
        keep = 0
        for index, (line, value) in enumerate(_whole_lines(self._file)):
            if index == 0:
                self._compare(value, header)
            elif isinstance(value, dict) and 'summary' in value:
                self.finished = True
            elif isinstance(value, dict) and 'end_ns' in value and not self.finished:
                self.done.append(value)
            else:
                raise ReplayError(f'{self.path}: line {index + 1} is no window of a replay; '
                                  'expected a file that onellm replay wrote; give another --out')
            keep += len(line)
        self._file.seek(0, 2)
        if not keep and self._file.tell():
            self._file.seek(0)
            start = self._file.read(16)
            if not b'{"onellm_replay"'.startswith(start) and not start.startswith(
                    b'{"onellm_replay"'):
                raise ReplayError(f'{self.path}: found a file that is no replay; it is not '
                                  'overwritten; give another --out, or remove it')
        self._file.truncate(keep)
        if not keep:
            self._write(header)

    def _compare(self, found: Any, header: Mapping[str, Any]) -> None:
        if not isinstance(found, dict) or 'onellm_replay' not in found:
            raise ReplayError(f'{self.path}: found a file that is no replay; it is not '
                              'overwritten; give another --out, or remove it')
        wanted = json.loads(line_of(header))
        differs = list(_differences(found, wanted))
        if differs:
            raise ReplayError(f'{self.path} holds another replay, which cannot be gone on with: '
                              + '; '.join(differs[:5]) + '; give another --out, or remove it')

    def _write(self, record: Mapping[str, Any]) -> None:
        try:
            self._file.write(line_of(record))
            self._file.flush()
        except OSError as error:
            raise ReplayError(f'{self.path}: {error.strerror}; what is written stays: make room '
                              'and give the same command again') from error

    def add(self, record: Record) -> None:
        """Number a window and append it; afterwards it is in the file, whatever happens."""
        record['window'] = self.count
        self._write(self.kept(record))
        self.count += 1

    def kept(self, record: Record) -> Record:
        """Return what the file has of a window or of the summary."""
        return record if self._times else without_times(record)

    def close(self, summary: Record) -> None:
        """End the file."""
        if not self.finished:
            self._write({'summary': self.kept(summary)})
        self._file.close()

    def abandon(self) -> None:
        """Leave the file as it stands, to be gone on with."""
        with suppress(OSError):     # it would write again what it could not write
            self._file.close()


def _whole_lines(file: Iterable[bytes]) -> Iterator[tuple[bytes, Any]]:
    """Yield lines and their values, up to the first that is not whole."""
    for line in file:
        if not line.endswith(b'\n'):
            return
        try:
            value = json.loads(line)
        except ValueError:          # a block of zeros that a power cut left
            return
        yield line, value


def _differences(found: Any, wanted: Any, name: str = '') -> Iterator[str]:
    """Yield in words where two headers differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*wanted, *found]):
            yield from _differences(found.get(key), wanted.get(key),
                                    f'{name}.{key}' if name else str(key))
    elif found != wanted:
        yield f'{name}: the file has {_short(found)}, the command gives {_short(wanted)}'


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:160] + ' ...'


def read_results(path: Path) -> tuple[Record, list[Record]]:
    """Return header and records of a file of results.

    :raises ReplayError: if it is none.
    """
    try:
        with path.open('rb') as file:
            values = [value for _, value in _whole_lines(file)]
    except OSError as error:
        raise ReplayError(f'{path}: {error.strerror}; expected what onellm replay wrote'
                          ) from error
    if not values or 'onellm_replay' not in values[0]:
        raise ReplayError(f'{path}: expected what onellm replay wrote, found no header')
    return values[0], [v for v in values[1:] if 'end_ns' in v]
