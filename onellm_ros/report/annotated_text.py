"""Text for pictures that are drawn often: fonts, measuring, and a canvas that takes words late.

Owns the colours, the letters' size and how text that does not fit is cut. Pillow draws it; shapes
are drawn with OpenCV on the array before. Nothing here knows of modalities or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
import re
import unicodedata

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onellm_ros.report.words import fitted

Colour = tuple[int, int, int]
BACK, PANEL, NO_DATA = (17, 21, 28), (29, 35, 45), (96, 101, 108)
INK, PALE, AMBER, ACCENT = (235, 239, 244), (150, 160, 173), (255, 184, 77), (122, 170, 255)
LEAST_PIXELS = 8.0          # smaller letters cannot be read
MOST_LETTERS = 2000         # of a text; nobody reads more in a picture
_LONG_WORD = re.compile(r'(\S{24})(?=\S{8})')
_UNPRINTABLE = frozenset(('Cc', 'Cs', 'Co', 'Cn'))


@lru_cache(maxsize=8)
def font_path(bold: bool) -> str:
    """Return the file of DejaVu Sans; empty if there is none."""
    name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
    path = Path(matplotlib.get_data_path(), 'fonts', 'ttf', name)
    if path.is_file():
        return str(path)
    from matplotlib.font_manager import FontProperties, findfont  # searches the system: slow
    return str(findfont(FontProperties(family='DejaVu Sans', weight='bold' if bold else 'normal')))


@lru_cache(maxsize=256)
def font(pixels: float, bold: bool = False, path: str = '') -> ImageFont.FreeTypeFont:
    """Return letters of a size.

    :param path: TrueType or OpenType file to use instead of DejaVu Sans.
    :raises OSError: if the file is not there or is no font.
    """
    return ImageFont.truetype(path or font_path(bold), max(pixels, 1.0))


def printable(text: str) -> str:
    """Return a text without what cannot be drawn: control characters and the like are blanks."""
    text = text[:MOST_LETTERS].replace('\r\n', '\n')
    return ''.join(c if c == '\n' or unicodedata.category(c) not in _UNPRINTABLE else ' '
                   for c in text)


class _Ruler:
    """Measures as matplotlib's renderer does, with the letters that Pillow draws."""

    def __init__(self, path: str) -> None:
        self._path = path

    def get_text_width_height_descent(self, text: str, properties: object, _: bool
                                      ) -> tuple[float, float, float]:
        face = font(properties.get_size(), path=self._path)  # type: ignore[attr-defined]
        left, top, right, bottom = face.getbbox(text)
        return float(face.getlength(text)), float(bottom - top), 0.0


@lru_cache(maxsize=16)
def lines_that_fit(text: str, width: int, height: int, pixels: float, path: str = ''
                   ) -> tuple[tuple[str, ...], float]:
    """Return a text in lines that fit into a box, and the size of their letters in pixels.

    :param pixels: wanted size; long texts get smaller letters, and are cut with an ellipsis where
        even those do not suffice.
    """
    least = max(LEAST_PIXELS, 0.62 * pixels)
    text = _LONG_WORD.sub(r'\1 ', printable(text).strip())     # measured by the letter: slow
    words, size = fitted(_Ruler(path), text, max(width, 1), max(height, 1),
                         max(pixels, least), least)
    return tuple(words.split('\n')), size


def cut(text: str, width: float, pixels: float, bold: bool = False, path: str = '') -> str:
    """Return one line of text, its end replaced by an ellipsis if it is wider than ``width``."""
    text = printable(text).replace('\n', ' ')
    face = font(pixels, bold, path)
    if face.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if face.getlength(text[:middle].rstrip() + '…') <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + '…' if low else ''


@dataclass
class _Word:
    x: float
    y: float
    text: str
    pixels: float
    colour: Colour
    anchor: str
    bold: bool
    path: str


@dataclass
class Canvas:
    """An array to draw on, and the words that are written on it at the end.

    :param pixels: uint8 [H, W, 3].
    :param scale: of all sizes, 1 for a picture of 960 x 540.
    :param path: font file for the words; empty: DejaVu Sans.
    """

    pixels: np.ndarray
    scale: float
    path: str = ''
    _words: list[_Word] = field(default_factory=list)

    def size(self, pixels: float) -> float:
        """Return a size of letters at the canvas' scale, never too small to read."""
        return max(LEAST_PIXELS, pixels * self.scale)

    def length(self, value: float) -> int:
        """Return a length at the canvas' scale, at least one pixel."""
        return max(1, round(value * self.scale))

    def width(self, text: str, pixels: float, bold: bool = False) -> float:
        """Return how wide one line is, pixels."""
        return float(font(pixels, bold, '' if bold else self.path).getlength(text))

    def write(self, x: float, y: float, text: str, pixels: float, colour: Colour, *,
              anchor: str = 'la', bold: bool = False) -> float:
        """Write one line; return its width.

        :param x: pixels; so is ``y``. :param anchor: Pillow's: ``la`` left top, ``rm`` right
            middle and so on.
        """
        text = printable(text).replace('\n', ' ')
        self._words.append(_Word(x, y, text, pixels, colour, anchor, bold,
                                 '' if bold else self.path))
        return self.width(text, pixels, bold)

    def finished(self) -> np.ndarray:
        """Return the picture with its words, uint8 [H, W, 3]."""
        image = Image.fromarray(self.pixels)
        pen = ImageDraw.Draw(image)
        for word in self._words:
            pen.text((word.x, word.y), word.text, fill=word.colour, anchor=word.anchor,
                     font=font(word.pixels, word.bold, word.path))
        self._words.clear()
        return np.asarray(image)
