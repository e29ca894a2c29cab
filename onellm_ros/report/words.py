"""Text fitted into a box of a figure: wrapped by its measured width, smaller if it is long."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

LINE_SPACING = 1.25
LEAST_POINTS = 8.0      # what is longer is cut


class _Ruler:
    """Measures words at one size of letters, in pixels."""

    def __init__(self, renderer: RendererAgg, points: float) -> None:
        self._renderer = renderer
        self._font = FontProperties(size=points)
        self._known: dict[str, float] = {}
        self.space = self.width('a a') - self.width('aa')
        self.line = LINE_SPACING * self._renderer.get_text_width_height_descent(
            'lp', self._font, False)[1]

    def width(self, word: str) -> float:
        if word not in self._known:
            self._known[word] = self._renderer.get_text_width_height_descent(
                word, self._font, False)[0]
        return self._known[word]

    def pieces(self, word: str, width: float) -> list[str]:
        """Return a word cut into pieces that are not wider than ``width``."""
        out = []
        while len(word) > 1 and self.width(word) > width:
            cut = max(1, int(len(word) * width / self.width(word)))
            while cut > 1 and self.width(word[:cut]) > width:
                cut -= 1
            out.append(word[:cut])
            word = word[cut:]
        return [*out, word]

    def wrapped(self, text: str, width: float, most: int) -> tuple[list[str], bool]:
        """Return at most ``most`` lines, and whether that is all of the text."""
        lines: list[str] = []
        for paragraph in text.splitlines():
            line, used = '', 0.0
            for word in (p for w in paragraph.split() for p in self.pieces(w, width)):
                if line and used + self.space + self.width(word) > width:
                    lines.append(line)
                    if len(lines) > most:
                        return lines[:most], False
                    line, used = '', 0.0
                used += self.width(word) + (self.space if line else 0.0)
                line = f'{line} {word}' if line else word
            lines.append(line)
        return lines[:most], len(lines) <= most


def fitted(renderer: RendererAgg, text: str, width: float, height: float, points: float,
           least: float) -> tuple[str, float]:
    """Return the text in lines that fit into a box, and its size; cut with an ellipsis if need be.

    :param width: of the box in pixels; so is ``height``.
    :param points: size of the letters; what is long gets smaller ones, down to ``least``.
    """
    while True:
        ruler = _Ruler(renderer, points)
        most = max(1, int(height / ruler.line))
        lines, whole = ruler.wrapped(text, width, most)
        if whole:
            return '\n'.join(lines), points
        if points <= least:
            break
        points = max(least, points * 0.94)
    last = lines[-1]
    while last and ruler.width(last + ' …') > width:
        last = last[:-1].rstrip()
    return '\n'.join([*lines[:-1], last + ' …']), points


class BoxOfWords:
    """A small headline and words below it that fill axes.

    :param accent: colour of the headline. :param scale: of all sizes, 1 for a large figure.
    """

    def __init__(self, axes: Axes, renderer: RendererAgg, head: str, words: str, accent: str,
                 scale: float) -> None:
        self._axes, self._renderer = axes, renderer
        self._head, self._words, self._accent, self._scale = head, words, accent, scale
        box = axes.get_window_extent(renderer)
        self._left, self._top, self._first = (v * scale for v in (12.0, 9.0, 29.0))
        self._size = box.width, box.height
        self._room = box.width - 2 * self._left, box.height - self._first - 7.0 * scale

    def _fitted(self, points: float) -> tuple[str, float]:
        return fitted(self._renderer, self._words, *self._room, points * self._scale,
                      min(points, LEAST_POINTS) * self._scale)

    def fitting_points(self, most: float) -> float:
        """Return the largest size of letters, up to ``most``, at which the words fit."""
        return self._fitted(most)[1] / self._scale

    def draw(self, points: float, ink: str) -> None:
        """Draw it in letters of ``points``; what does not fit is cut."""
        width, height = self._size
        x = self._left / width
        self._axes.text(x, 1 - self._top / height, self._head, transform=self._axes.transAxes,
                        fontsize=8.5 * self._scale, color=self._accent, va='top', weight='bold')
        text, size = self._fitted(points)
        self._axes.text(x, 1 - self._first / height, text, transform=self._axes.transAxes,
                        fontsize=size, color=ink, va='top', linespacing=LINE_SPACING,
                        parse_math=False)
