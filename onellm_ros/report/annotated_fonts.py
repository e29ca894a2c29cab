"""Fonts that have the letters of a text: DejaVu Sans lacks those of Chinese and other scripts.

Owns which letters a font has, and finding one of the system's that has them (with fontconfig's
``fc-list``, where it is installed). A text is drawn in one font.
"""

from __future__ import annotations

from functools import lru_cache
import re
import subprocess

from matplotlib.ft2font import FT2Font

from onellm_ros.report.annotated_text import font, font_path, printable

_LIST = ('fc-list', '-f', '%{index}\t%{color}\t%{file}\t%{charset}\n', ':scalable=true')
_LIST_S = 10.0
_STYLE = re.compile(r'(?i)bold|italic|oblique|mono|thin|light|black|condensed|emoji')
# What no font draws, or each draws as nothing.
_NO_LETTERS = re.compile(r'[\s\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u2064\ufe00-\ufe0f\ufeff]')


@lru_cache(maxsize=8)
def _letters(path: str) -> frozenset[int]:
    """Return the letters that a font file has."""
    return frozenset(FT2Font(path or font_path(False)).get_charmap())


@lru_cache(maxsize=64)
def lacking(text: str, path: str = '') -> frozenset[str]:
    """Return the letters of a text that a font lacks.

    :param path: file of the font; empty: DejaVu Sans.
    """
    letters = _letters(path)
    return frozenset(c for c in _NO_LETTERS.sub('', printable(text)) if ord(c) not in letters)


def _listed() -> str:
    """Return what ``fc-list`` says; empty if there is none."""
    try:
        return subprocess.run(_LIST, capture_output=True, text=True, errors='replace',
                              timeout=_LIST_S, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ''


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[tuple[str, tuple[tuple[int, int], ...]], ...]:
    """Return the system's fonts, upright ones of a common weight first: file, ranges of letters.

    Asked once: fonts that are installed later are found by the next process.
    """
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    for line in _listed().splitlines():
        index, colour, path, charset = (line.split('\t') + [''] * 4)[:4]
        # of a collection the first face; coloured ones cannot be drawn in any size
        if not index.isdecimal() or int(index) or colour == 'True' or path in found:
            continue
        ends = [r.partition('-') for r in charset.split()]
        try:
            found[path] = tuple((int(a, 16), int(b or a, 16)) for a, _, b in ends)
        except ValueError:
            continue
    return tuple(sorted(found.items(), key=lambda item: (
        bool(_STYLE.search(item[0])), 'Sans' not in item[0], item[0])))


@lru_cache(maxsize=64)
def _font_with(letters: frozenset[str]) -> str:
    """Return the file of the font that has the most of these letters; empty: none has any."""
    codes = [ord(c) for c in letters]
    best, most = '', 0
    for path, ranges in _system_fonts():
        count = sum(any(a <= code <= b for a, b in ranges) for code in codes)
        if count > most:
            try:
                font(12.0, path=path)
            except OSError:
                continue
            best, most = path, count
    return best


def font_for(text: str) -> str:
    """Return the file of a font that lacks fewer letters of a text than DejaVu Sans does.

    :returns: empty: DejaVu Sans has the most.
    """
    missing = lacking(text)
    if not missing:
        return ''
    path = _font_with(frozenset(_NO_LETTERS.sub('', printable(text))))
    return path if path and len(lacking(text, path)) < len(missing) else ''
