"""The report of a replay that a browser shows: one HTML file, written window by window.

Owns the file: its head, what a kill may leave of it, and how much of it is pictures. The file
needs nothing beside it and asks nothing of a network (its own policy forbids it); without
JavaScript the words are readable. A window is one line, so that a file that was cut anywhere is
shown by a browser up to its last whole window, and can be gone on with.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

from onellm_ros.report.html_thumbnails import thumbnails
from onellm_ros.report.html_window import (
    ARTICLE,
    END_OF_WINDOW,
    Record,
    bag_of,
    safe,
    script_json,
    window_line,
)

__all__ = ['CutReport', 'HtmlReport', 'ReportError', 'is_report', 'thumbnails']

FORMAT = 1                      # of the file; another one is not gone on with
MOST_BYTES = 100_000_000        # of a report; what browsers open within seconds
_STATE = '<script type="application/json" id="report">'
_BEGIN = ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
          '<meta http-equiv="Content-Security-Policy" content="')
_POLICY = "default-src 'none'; img-src data:; style-src 'sha256-"
_HERE = Path(__file__).parent
_SCRIPTS = ('html_page.js', 'html_cards.js', 'html_timeline.js')


class ReportError(ValueError):
    """A report that cannot be written or gone on with; the text says what to do."""


class CutReport(ReportError):
    """Of a report there is not even the head: it can be begun anew, and not gone on with."""


class HtmlReport:
    """A report in the making. Nothing of a window is kept in memory once it is written.

    :meth:`begin` or :meth:`resume` make one. Pictures are left out, evenly over the replay where
    its length is known (``expected_windows``) and else at the end, once the file would grow
    beyond ``most_bytes``; the page says so. Words are never left out.

    Attributes: ``path``, ``header`` (as it stands in the file), ``windows`` (written so far) and
    ``last_end_ns`` (of the newest of them; None before the first).
    """

    def __init__(self, file: BinaryIO, state: Mapping[str, Any]) -> None:
        self._file = file
        self.path = Path(file.name)
        self._state = dict(state)
        self._origins_ns: dict[int, int] = {}       # of each recording, by its number
        self.header: dict[str, Any] = self._state['header']
        self._bags = _names(self.header)
        self.windows = 0
        self.last_end_ns: int | None = None

    @classmethod
    def begin(cls, path: str | os.PathLike[str], header: Mapping[str, Any], *,
              expected_windows: int | None = None, most_bytes: int = MOST_BYTES) -> HtmlReport:
        """Start a report; a file of this name is replaced.

        :param header: of the replay: ``model``, ``bags``, ``settings``, ``questions``.
        :param expected_windows: of the whole replay, if it is known.
        :raises ReportError: if the file cannot be written.
        """
        state = {'onellm_report': FORMAT, 'expected_windows': expected_windows,
                 'most_bytes': most_bytes, 'header': dict(header)}
        text = script_json(state)
        report = cls(_open(path, 'wb'), json.loads(text))
        try:
            report._write(_head(report.header, text).encode('utf-8', 'replace'))
        except BaseException:
            report.abandon()
            raise
        return report

    @classmethod
    def resume(cls, path: str | os.PathLike[str], keep_until_end_ns: int) -> HtmlReport:
        """Go on with a report that was cut, or that is whole, as if it had just been written.

        What is half written is cut off, and what :meth:`close` wrote. ``last_end_ns`` tells what
        is left; windows between it and ``keep_until_end_ns`` must be added again.

        :param keep_until_end_ns: windows that end later are cut off (they stand in order).
        :raises ReportError: if it is no report, of another version of this package, or cannot be
            written. :raises CutReport: if it was cut within its head.
        """
        file = _open(path, 'r+b')
        try:
            report = cls(file, _state_of(path, file))
            end = file.tell()                       # of what is kept
            for line in _whole_lines(file):
                found = ARTICLE.match(line)
                if found is None or not line.endswith(END_OF_WINDOW):
                    if report.windows or line.startswith(b'<article'):
                        break                       # half a window, or what stands behind them
                    end += len(line)
                    continue
                _, start_ns, end_ns, bag = (int(v or 0) for v in found.groups())
                if end_ns > keep_until_end_ns:
                    break
                end += len(line)
                report._count(bag, start_ns, end_ns)
            if not report.windows:                  # of a file cut within its head
                file.seek(0)
                file.truncate(0)
                report._write(_head(report.header, script_json(report._state)).encode(
                    'utf-8', 'replace'))
            else:
                file.truncate(end)
            file.seek(0, os.SEEK_END)
        except BaseException as error:
            with suppress(OSError):
                file.close()
            if isinstance(error, OSError):
                raise ReportError(f'report {os.fspath(path)}: {error.strerror}; expected a file '
                                  'that can be read and written') from error
            raise
        return report

    def add(self, record: Record, pictures: Mapping[str, bytes] | None = None) -> None:
        """Append a window; afterwards it is in the file, whatever happens to this process.

        :param record: one line of the replay's JSONL; ``start_ns`` and ``end_ns`` are needed.
        :param pictures: small pictures by modality, as of :func:`thumbnails`.
        :raises ReportError: for a record without its times, or if it cannot be written.
        :raises ValueError: for a picture that is neither JPEG, PNG nor SVG.
        """
        bag = bag_of(record)
        name = self._bags[bag] if 1 < len(self._bags) > bag else ''
        room = self._has_room()
        try:
            origin = self._origins_ns.get(bag, int(record['start_ns']))
            line = window_line(self.windows, record, origin, pictures or {} if room else None,
                               name)
        except KeyError as error:
            raise ReportError(f'window {record.get("window", self.windows)}: found no {error}, '
                              'expected start_ns, end_ns and, of each modality that has any '
                              'samples, first_ns and last_ns') from error
        self._write(line)
        self._count(bag, int(record['start_ns']), int(record['end_ns']))

    def close(self, summary: Mapping[str, Any]) -> None:
        """End the report.

        :param summary: of the replay, any names and values; shown as a table.
        :raises ReportError: if it cannot be written.
        """
        self._write((
            f'</main>\n<section id="summary"><h2>Summary</h2>{_table(summary)}</section>\n'
            '</body></html>\n').encode('utf-8', 'replace'))
        self._file.close()

    def abandon(self) -> None:
        """Leave the file as it stands, to be gone on with by :meth:`resume`."""
        with suppress(OSError):     # it would write again what it could not write
            self._file.close()

    def _write(self, data: bytes) -> None:
        """Write to the end of the file, so that it is there whatever happens."""
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            stay = f'its {self.windows} windows stay: ' if self.windows else ''
            raise ReportError(f'report {self.path}: {error.strerror}; {stay}make room, or give '
                              'another file, and give the same command again') from error

    def _count(self, bag: int, start_ns: int, end_ns: int) -> None:
        self._origins_ns.setdefault(bag, start_ns)
        self.windows += 1
        self.last_end_ns = end_ns

    def _has_room(self) -> bool:
        """Return whether the next window may have pictures."""
        most, expected = self._state['most_bytes'], self._state['expected_windows']
        share = min(self.windows / expected, 1.0) if expected else 1.0
        return not self.windows or self._file.tell() < most * share


# ---- reading back -------------------------------------------------------------------------------

def is_report(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a report, or the begin of one that was cut: it may be replaced.

    :raises ReportError: if it cannot be read.
    """
    begin = (_BEGIN + _POLICY).encode()
    try:
        with _open(path, 'rb') as file:
            return begin.startswith(file.read(len(begin)))
    except OSError as error:
        raise ReportError(f'report {os.fspath(path)}: {error.strerror}') from error


def _open(path: str | os.PathLike[str], mode: str) -> BinaryIO:
    try:
        return cast(BinaryIO, open(path, mode))
    except OSError as error:
        raise ReportError(f'report {os.fspath(path)}: {error.strerror}; expected a file that can '
                          f'be {"written" if mode == "wb" else "read and written"}') from error


def _state_of(path: str | os.PathLike[str], file: BinaryIO) -> dict[str, Any]:
    """Return the state that stands in the first lines, the file placed behind it."""
    for line in (file.readline() for _ in range(3)):
        if line.startswith(_STATE.encode()) and line.endswith(b'</script>\n'):
            state = json.loads(line[len(_STATE):-len('</script>\n')])
            if state.get('onellm_report') == FORMAT:
                return dict(state)
            raise ReportError(f'report {os.fspath(path)}: found format '
                              f'{state.get("onellm_report")}, expected {FORMAT}: it was written '
                              'by another version; write a new one to another file')
        if not line.endswith(b'\n') and is_report(path):
            raise CutReport(f'report {os.fspath(path)}: found only the begin of its head; write '
                            'it anew')
    raise ReportError(f'report {os.fspath(path)}: found no report of a replay in it; give '
                      'another file, or remove this one')


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    for line in file:
        if not line.endswith(b'\n'):
            return
        yield line


# ---- the head -----------------------------------------------------------------------------------

def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _names(header: Mapping[str, Any]) -> list[str]:
    """Return the recordings' names: the last parts of their paths, where these are different."""
    bags = [str(bag) for bag in header.get('bags') or ()]
    names = [Path(bag).name or bag for bag in bags]
    return names if len(set(names)) == len(names) else bags


def _head(header: Mapping[str, Any], state: str) -> str:
    """Return all that stands before the first window."""
    script = "'use strict';(() => {\n" + ''.join(
        (_HERE / name).read_text(encoding='utf-8') for name in _SCRIPTS) + '})();\n'
    style = (_HERE / 'html_page.css').read_text(encoding='utf-8')
    bags = [str(bag) for bag in header.get('bags') or ()]
    title = ', '.join(_names(header)) or 'replay'
    policy = (f"{_POLICY}{_hash(style)}'; "
              f"script-src 'sha256-{_hash(script)}'; base-uri 'none'; form-action 'none'")
    about: dict[str, Any] = {'Bags' if len(bags) > 1 else 'Bag': '\n'.join(bags) or 'unknown',
                             'Model': header.get('model') or 'unknown'}
    questions = [one.get('question', one) if isinstance(one, Mapping) else one
                 for one in header.get('questions') or ()]
    if questions:
        about['Asked of every window'] = '\n'.join(str(one) for one in questions)
    settings = header.get('settings') or {}
    more = (f'<details><summary>Settings</summary>{_table(settings)}</details>'
            if settings else '')
    return '\n'.join((
        f'{_BEGIN}{policy}">',
        f'{_STATE}{state}</script>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">',
        f'<title>{safe(title)} – onellm replay</title>',
        f'<style>{style}</style>',
        f'<script>{script}</script>',
        f'</head><body><header><p class="kicker">onellm replay</p><h1>{safe(title)}</h1>'
        f'<div id="counts"></div><div id="about">{_table(about)}</div>{more}</header>',
        '<noscript><p class="note">Pictures, timeline and search need JavaScript; all words '
        'stand below.</p></noscript>',
        '<div id="app"></div>', '<main id="windows">', ''))


def _flat(value: object, name: str = '') -> Iterable[tuple[str, str]]:
    """Yield names and values of nested mappings, names joined by dots."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f'{name}.{key}' if name else str(key))
    elif isinstance(value, (list, tuple)):
        yield name, ', '.join(str(v) for v in value) or '(none)'
    else:
        yield name, '(not set)' if value is None else str(value)


def _table(values: Mapping[str, Any]) -> str:
    rows = ''.join(f'<tr><th>{safe(key)}</th><td>{safe(value)}</td></tr>'
                   for key, value in _flat(values))
    return f'<table class="about">{rows}</table>'
