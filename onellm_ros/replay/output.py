"""Where the windows of a replay go: a file, the terminal, a report, and how far it is.

Owns the order in which these are written, so that a kill at any moment can be gone on from: the
file of results first; a report may lack windows that the file has, never the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

from onellm_ros.replay.records import Record, ReplayError, ResultFile, Summary
from onellm_ros.replay.run import Recording, check_same
from onellm_ros.replay.work import Item, Task

_LINE_EVERY_S = 30.0


class Progress:
    """A bar on stderr where somebody watches, else a line now and then; in recorded seconds."""

    def __init__(self, recordings: Sequence[Recording], stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._recordings = recordings
        self._before = [0.0]
        for recording in recordings:
            self._before.append(
                self._before[-1] + (recording.end_ns - recording.start_ns) * 1e-9)
        shown = self._stream.isatty()
        self._bar = tqdm(total=round(self._before[-1], 1), desc='replay', disable=not shown,
                         file=self._stream, mininterval=0.5,
                         bar_format='{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s '
                                    'recorded [{elapsed}<{remaining}{postfix}]')
        self._begun = self._told_s = time.monotonic()
        self._fresh = 0

    def at(self, bag: int, now_ns: int, fresh: bool) -> None:
        """Tell which time of a recording is reached."""
        self._fresh += fresh
        recording = self._recordings[bag]
        reached = self._before[bag] + max(0.0, (now_ns - recording.start_ns) * 1e-9)
        self._bar.update(max(0.0, min(reached, self._before[bag + 1]) - self._bar.n)
                         if not self._bar.disable else 0)
        now_s = time.monotonic()
        if self._bar.disable and now_s - self._told_s >= _LINE_EVERY_S:
            self._told_s = now_s
            rate = self._fresh / max(now_s - self._begun, 1e-9)
            print(f'onellm replay: {reached:.0f} of {self._before[-1]:.0f} s recorded, '
                  f'{rate:.2f} windows/s', file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """Say something beside the bar."""
        if self._bar.disable:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


def readable(record: Mapping[str, Any], recording: Recording) -> str:
    """Return a window as lines for people; times are seconds since the recording's begin."""
    begin, end = ((record[k] - recording.origin_ns) * 1e-9 for k in ('start_ns', 'end_ns'))
    held = ' '.join(m['modality'] for m in record['modalities'] if m['seen']) or 'nothing'
    said = record.get('error') and f'failed: {record["error"]}'
    lines = [f'[{begin:.2f} - {end:.2f} s] ({held}) {said or record.get("text", "")}'.rstrip()]
    for answer in record.get('answers', ()):
        sure = answer['confidence']
        lines.append(f'    {answer["question"]} -> ' + (
            f'{answer["answer"]}' + (f' ({sure:.2f})' if sure is not None else '')
            if answer['error'] == 'NONE' else f'{answer["error"]}: {answer["error_msg"]}'))
    return '\n'.join(lines)


def open_report(path: Path, header: Mapping[str, Any], done: Sequence[Record], expected: int
                ) -> Any:
    """Begin a report, or go on with the one of the windows that are done.

    :param expected: windows that there will be, about.
    :raises ReplayError: if it cannot be written, or the file is something else.
    """
    from onellm_ros.report.html import CutReport, HtmlReport, ReportError, is_report
    from onellm_ros.report.html_window import plain
    try:
        if path.exists() and not is_report(path):
            raise ReplayError(f'--html {path}: found a file that is no report of a replay; it is '
                              'not overwritten; give another --html, or remove it')
        if done and path.exists():
            with suppress(CutReport):
                report = HtmlReport.resume(path, max(r['end_ns'] for r in done))
                if report.header == plain(header) and report.windows <= len(done):
                    return report
                report.abandon()
        return HtmlReport.begin(path, header, expected_windows=expected or None)
    except ReportError as error:
        raise ReplayError(f'--html: {error}') from error


class Sink:
    """Takes the windows in order.

    :param file: results; None: windows are printed to stdout.
    :param report: of ``open_report``, if one is wanted.
    :param keep: windows are kept in ``records`` as they would stand in a file.
    """

    def __init__(self, recordings: Sequence[Recording], progress: Progress,
                 file: ResultFile | None = None, report: Any = None, *, keep: bool = False,
                 out: Callable[[str], None] | None = None) -> None:
        self._recordings, self._progress = recordings, progress
        self._file, self._report, self._keep = file, report, keep
        self._out = out or self._print
        self.records: list[Record] = []
        self.summary = Summary()
        self.fresh = 0
        self._done = file.done if file is not None else []
        for record in self._done:
            self.summary.add(record)
        self._places: dict[int, int] = {}       # of a task's next window, by its number
        self._next = 0

    def _print(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def begin(self, places: Mapping[int, int]) -> None:
        """Say where tasks begin among all windows, by their numbers, that were begun before."""
        self._places = dict(places)

    def take(self, task: Task, item: Item) -> None:
        """Write a window, or check that it is what was written before."""
        place = self._places.setdefault(task.number, self._next)
        self._places[task.number] = place + 1
        self._next = place + 1
        record = item.record
        if not item.fresh:
            known = self._done[place] if place < len(self._done) else None
            assert self._file is not None
            check_same(record, known, self._file.path)
            assert known is not None
            record = known
        else:
            self.fresh += 1
            self.summary.add(record)
            if self._file is not None:
                self._file.add(record)
                record = self._file.kept(record)
            else:
                record['window'] = place
                self._out(readable(record, self._recordings[task.bag]))
            if self._keep:
                self.records.append(record)
        if self._report is not None and place >= self._report.windows:
            self._reporting(self._report.add, record, item.pictures or {})
        self._progress.at(task.bag, item.now_ns, item.fresh)

    def close(self, wall_s: float) -> Record:
        """End file and report.

        :returns: the summary.
        :raises ReplayError: if they cannot be written.
        """
        summary = dict(self.summary.counts)
        summary['wall_s'] = round(wall_s, 3)
        summary['windows_per_s'] = round(self.fresh / max(wall_s, 1e-9), 3)
        if self._file is not None:
            self._file.close(summary)
        if self._report is not None:
            self._reporting(self._report.close,
                            summary if self._file is None else self._file.kept(summary))
        return summary

    def _reporting(self, write: Callable[..., None], *values: Any) -> None:
        """Write to the report.

        :raises ReplayError: if that fails; it tells what there is of the results.
        """
        from onellm_ros.report.html import ReportError
        try:
            write(*values)
        except ReportError as error:
            there = 'the windows that are printed are not kept: --out FILE keeps them' \
                if self._file is None else \
                f'{self._file.path} holds {self._file.count} windows, and is gone on with'
            raise ReplayError(f'--html: {error}; {there}') from error

    def abandon(self) -> None:
        """Leave file and report as they stand, to be gone on with."""
        if self._file is not None:
            self._file.abandon()
        if self._report is not None:
            self._report.abandon()
