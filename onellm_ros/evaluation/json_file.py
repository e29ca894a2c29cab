"""JSON texts read element by element, so that the line of each is known.

The values themselves are decoded by the standard library; what is done here is to walk through the
lists and objects around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import json
from pathlib import Path
import re
from typing import Any

from onellm_ros.evaluation.item import AnnotationError

_SPACE = re.compile(r'[ \t\r\n]*')
_DECODER = json.JSONDecoder()
_NO_SPACE = re.compile(r'\S')


@dataclass(frozen=True, eq=False)
class Element:
    """One element of a list, or of an object by its keys.

    :param line: where it starts, counted from 1. :param name: its place, such as ``questions[3]``.
    :param key: in an object; else empty.
    """

    value: Any
    line: int
    name: str
    key: str = ''


class _Cursor:
    """A place in a JSON text that moves forward."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text, self.at = path, text, 0
        self.name = ''              # of the element at the place
        self._line, self._counted = 1, 0

    def line(self) -> int:
        """Return the line of the place."""
        self._line += self.text.count('\n', self._counted, self.at)
        self._counted = self.at
        return self._line

    def skip(self) -> str:
        """Move over white space and return the next character; empty at the end."""
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return self.text[self.at:self.at + 1]

    def fault(self, what: str) -> AnnotationError:
        """Return an error that names the line and the element."""
        return AnnotationError(self.path, self.line(),
                               f'{self.name}: {what}' if self.name else what)

    def error(self, expected: str) -> AnnotationError:
        """Return an error that shows what is at the place."""
        found = self.text[self.at:self.at + 20]
        if found:
            return self.fault(f'found {found!r}, expected {expected}')
        return self.fault(f'found the end of the file, expected {expected}; the file is cut short')

    def value(self, name: str = '') -> Any:
        """Return the value at the place, and move behind it.

        :param name: of the element, for errors.
        :raises AnnotationError: if it is no JSON.
        """
        self.name = name or self.name
        try:
            value, self.at = _DECODER.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            self.at = error.pos
            if not _NO_SPACE.search(self.text, error.pos) or error.msg.startswith('Unterminated'):
                raise self.fault(f'found no whole JSON ({error.msg}), expected its end; the file '
                                 'is cut short') from None
            raise self.error(f'JSON ({error.msg})') from None
        except (RecursionError, ValueError) as error:
            raise self.fault(f'cannot be read as JSON: {error}') from None
        return value

    def members(self) -> Iterator[str | int]:
        """Yield the keys of the object, or the numbers of the list, at the place.

        The place is then that of the value, which the caller must move over.
        """
        listed = self.text[self.at] == '['
        closing, number = ']' if listed else '}', 0
        self.at += 1
        if self.skip() == closing:
            self.at += 1
            return
        while True:
            if listed:
                yield number
            else:
                if self.skip() != '"':
                    raise self.error('a key in quotes')
                key = self.value()
                if self.skip() != ':':
                    raise self.error("':'")
                self.at += 1
                self.skip()
                yield key
            mark = self.skip()
            if mark not in (',', closing):
                raise self.error(f"',' or {closing!r}")
            self.at += 1
            if mark == closing:
                return
            number += 1
            self.skip()


def elements(path: Path, text: str, trail: tuple[str, ...] = ()) -> Iterator[Element]:
    """Yield the elements of a list, or of an object by its keys.

    The text is read to its end: what is wrong behind the elements is told after the last one.

    :param path: the file that the text is from, for errors.
    :param trail: keys of objects that lead there; none: the whole file.
    :raises AnnotationError: where the text is no JSON, nothing is there, or a key comes twice.
    """
    cursor = _Cursor(path, text)
    cursor.skip()
    yield from _elements(cursor, trail, '')
    if cursor.skip():
        raise cursor.error('the end of the file')


def _elements(cursor: _Cursor, trail: tuple[str, ...], name: str) -> Iterator[Element]:
    """Yield the elements of what lies at the place, and move over it."""
    opening, line = cursor.skip(), cursor.line()
    if opening != '{' and (trail or opening != '['):
        raise cursor.error((f'{name}: ' if name else '') + (
            f'an object with {trail[0]!r}' if trail else 'a list or an object'))
    seen: dict[str, int] = {}
    for key in cursor.members():
        start = cursor.line()
        if isinstance(key, int):
            here = f'{name}[{key}]'
            yield Element(cursor.value(here), start, here)
            continue
        if key in seen:
            raise AnnotationError(cursor.path, start, f'{name + ": " if name else ""}found the '
                                  f'key {key!r} again, first in line {seen[key]}; expected each '
                                  'once')
        seen[key] = start
        if not trail:
            here = f'{name}[{key!r}]'
            yield Element(cursor.value(here), start, here, key)
        elif key == trail[0]:
            yield from _elements(cursor, trail[1:], f'{name}.{key}' if name else key)
        else:
            cursor.value()
    if trail and trail[0] not in seen:
        raise AnnotationError(cursor.path, line, f'found the keys {", ".join(seen) or "none"}, '
                                                 f'expected {trail[0]!r}')


def heads(path: Path, text: str) -> dict[str, Any]:
    """Return the keys of an object: texts and numbers with their value, all else as None.

    :returns: nothing for a list.
    :raises AnnotationError: where the text is no JSON.
    """
    cursor, found = _Cursor(path, text), {}
    if cursor.skip() == '{':
        for key in cursor.members():
            value = cursor.value()
            found[str(key)] = None if isinstance(value, list | dict) else value
    return found
