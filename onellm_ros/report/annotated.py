"""The picture that a running robot shows of what it senses and says: fast, and drawn again often.

Owns the layout: the camera large, the other senses as insets beside it, traces below, the words at
the bottom. What is absent takes no room. ``picture.py`` draws one window for a report instead,
with axes and legends, and takes a hundred times longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import math

import cv2
import numpy as np

from onellm_ros.modality import Modality, Sample
from onellm_ros.report.annotated_fonts import font_for, lacking
from onellm_ros.report.annotated_insets import Inset, insets_of
from onellm_ros.report.annotated_text import (
    ACCENT,
    AMBER,
    BACK,
    INK,
    PALE,
    PANEL,
    Canvas,
    Colour,
    cut,
    lines_that_fit,
)
from onellm_ros.report.annotated_traces import Trace, traces_of

LEAST_SIZE, MOST_SIZE = (320, 240), (3840, 2160)
_ABOUT = 'about this:'
Box = tuple[int, int, int, int]     # left, top, width, height in pixels


@dataclass(frozen=True, eq=False)
class Shown:
    """What an annotated picture shows; everything may be absent.

    :param samples: by modality. Of the image one a camera, the first is shown large; of the other
        pictures, clouds and vectors one a topic; of the IMU and the microphones the last seconds.
    :param text: what was said. :param head: a line above it, such as its age and the model.
    :param old: the text is too old to speak of what is seen.
    :param facts: of the window, each with whether it is a warning; the first are the likeliest to
        find room.
    :param silent_s: for topics that have stopped: for how long, seconds.
    :param trace_s: length of the traces, seconds.
    :param font: file of a font for the text; empty: DejaVu Sans, or one of the system that has
        letters which that lacks.
    :param about: picture that the text is about, where that is not the one shown large.
    """

    samples: Mapping[Modality, Sequence[Sample]] = field(default_factory=dict)
    text: str = ''
    head: str = ''
    old: bool = False
    facts: Sequence[tuple[str, bool]] = ()
    silent_s: Mapping[str, float] = field(default_factory=dict)
    trace_s: float = 3.0
    font: str = ''
    about: Sample | None = None


def annotated_picture(shown: Shown, size: tuple[int, int] = (960, 540)) -> np.ndarray:
    """Draw one picture.

    :param size: width and height in pixels.
    :returns: uint8 [H, W, 3] RGB.
    :raises ValueError: for a size below 320 x 240 or above 3840 x 2160.
    """
    width, height = size
    if not all(a <= b <= c for a, b, c in zip(LEAST_SIZE, size, MOST_SIZE, strict=True)):
        raise ValueError(f'picture size: found {width} x {height}, expected '
                         f'{LEAST_SIZE[0]} x {LEAST_SIZE[1]} to {MOST_SIZE[0]} x {MOST_SIZE[1]}')
    canvas = Canvas(np.full((height, width, 3), BACK, np.uint8),
                    min(width / 960, height / 540), shown.font or font_for(shown.text))
    gap, bar = canvas.length(8), round(canvas.size(13) * 2)
    _facts(canvas, [*_unreadable(canvas, shown.text), *shown.facts],
           (gap, 0, width - 2 * gap, bar))
    camera, insets = insets_of(shown.samples)
    traces = traces_of(shown.samples, shown.trace_s)
    top, bottom = bar, height - gap
    if camera or insets or traces:
        words = max(round(0.2 * height), round(canvas.size(12) * 4.2))
        if not _words_fit(canvas, shown, width - 2 * gap, words):
            words = max(words, round(0.36 * height))
        _words(canvas, shown, (gap, bottom - words, width - 2 * gap, words))
        bottom -= words + gap
    else:
        _words(canvas, shown, (gap, top, width - 2 * gap, bottom - top))
    if traces:
        room = (bottom - top) if not (camera or insets) else max(
            round(0.14 * height), round(canvas.size(10) * 4))
        _traces(canvas, traces, (gap, bottom - room, width - 2 * gap, room), shown.silent_s)
        bottom -= room + gap
    if camera or insets:
        _views(canvas, camera, insets, (gap, top, width - 2 * gap, bottom - top), shown.silent_s)
    return canvas.finished()


# ---- words --------------------------------------------------------------------------------------

def _facts(canvas: Canvas, facts: Sequence[tuple[str, bool]], box: Box) -> None:
    """Write the facts in one line, as many as there is room for."""
    left, top, width, height = box
    pixels, x = canvas.size(13), float(left)
    for number, (text, warns) in enumerate(facts):
        if number:
            x += canvas.write(x, top + height / 2, '  ·  ', pixels, PALE, anchor='lm')
        fitting = cut(text, left + width - x, pixels, path=canvas.path)
        x += canvas.write(x, top + height / 2, fitting, pixels, AMBER if warns else INK,
                          anchor='lm')
        if fitting != text:
            return


def _unreadable(canvas: Canvas, text: str) -> list[tuple[str, bool]]:
    """Return what there is to say of letters that cannot be drawn."""
    count = len(lacking(text, canvas.path))
    return [(f'letters of the text that no font found here has: {count}; install one, or set the '
             'parameter font', True)] if count else []


def _words_room(canvas: Canvas, shown: Shown, width: int, height: int) -> tuple[int, int, Box]:
    """Return the room for the lines of a text in its box, and the box of the picture beside it."""
    inner, line = canvas.length(10), round(1.55 * canvas.size(12)) if shown.head else 0
    top = canvas.length(7) + line
    room, rest = width - canvas.length(4) - 2 * inner, height - top - canvas.length(5)
    if shown.about is None:
        return room, rest, (0, 0, 0, 0)
    shape = shown.about.data.shape
    _, _, wide, high = _fit((shape[0], shape[1]), (0, 0, round(0.25 * width), rest))
    taken = max(wide, math.ceil(canvas.width(_ABOUT, canvas.size(12))))
    return room - taken - inner, rest, (width - inner - taken, top, wide, high)


def _words_fit(canvas: Canvas, shown: Shown, width: int, height: int) -> bool:
    room, rest, _ = _words_room(canvas, shown, width, height)
    lines, _ = lines_that_fit(shown.text, room, rest, canvas.size(19), canvas.path)
    return not lines[-1].endswith(' …')


def _words(canvas: Canvas, shown: Shown, box: Box) -> None:
    """Write what was said into a box; an old text is pale and has an amber mark.

    At its right stands the picture that it is about, where that is not the one shown large.
    """
    left, top, width, height = box
    _fill(canvas, box, PANEL)
    mark = AMBER if shown.old else ACCENT
    edge = canvas.length(4)
    _fill(canvas, (left, top, edge, height), mark)
    inner, small = canvas.length(10), canvas.size(12)
    x, y = left + edge + inner, top + canvas.length(7)
    room, rest, (about_x, about_y, wide, high) = _words_room(canvas, shown, width, height)
    if shown.head:
        canvas.write(x, y, cut(shown.head, room, small, True), small, mark, bold=True)
    if shown.about is not None and high > 0:
        x0, y0 = left + about_x, top + about_y
        canvas.pixels[y0:y0 + high, x0:x0 + wide] = _resized(shown.about.data, wide, high)
        if shown.head:
            canvas.write(x0, y, _ABOUT, small, PALE)
    y = top + height - canvas.length(5) - rest
    lines, pixels = lines_that_fit(shown.text, room, rest, canvas.size(19), canvas.path)
    for line in lines:
        canvas.write(x, y, line, pixels, PALE if shown.old else INK)
        y += round(1.27 * pixels)


def _fill(canvas: Canvas, box: Box, colour: Colour) -> None:
    left, top, width, height = box
    canvas.pixels[top:top + height, left:left + width] = colour


# ---- pictures -----------------------------------------------------------------------------------

def _views(canvas: Canvas, camera: Inset | None, insets: list[Inset], box: Box,
           silent_s: Mapping[str, float]) -> None:
    """Draw the camera large and the insets in a grid beside it (or alone)."""
    left, top, width, height = box
    gap, head, beside = canvas.length(8), _title_height(canvas), 0
    if camera is not None:
        if not insets:
            _view(canvas, camera, (left, top, width, height), silent_s, centred=True)
            return
        shown = _fit(camera.shape, (left, top + head, round(0.68 * width), height - head))
        title = canvas.width(f'{camera.title}  {camera.note}', canvas.size(11), bold=True)
        beside = max(shown[2], min(round(title), round(0.3 * width)))
    first, room = (beside + gap, width - beside - gap) if camera is not None else (0, width)
    rows, columns = _grid(len(insets), room, height, head)
    boxes = []
    for number in range(len(insets)):
        row, column = divmod(number, columns)
        x0, x1 = (first + round((room + gap) * c / columns) for c in (column, column + 1))
        y0, y1 = (top + round((height + gap) * r / rows) for r in (row, row + 1))
        boxes.append((x0, y0, x1 - x0 - gap, y1 - y0 - gap))
    if camera is not None:      # what is free at the right stands at both sides
        used = max(x + min(max(_fit(inset.shape, (0, 0, w, h - head))[2], canvas.length(230)), w)
                   for inset, (x, _, w, h) in zip(insets, boxes, strict=True))
        left += (width - used) // 2
        _view(canvas, camera, (left, top, beside, height), silent_s)
    for inset, (x, y, w, h) in zip(insets, boxes, strict=True):
        _view(canvas, inset, (left + x, y, w, h), silent_s, centred=camera is None)


def _grid(count: int, width: int, height: int, title: int) -> tuple[int, int]:
    """Return rows and columns that make ``count`` pictures of 4:3 the largest.

    Several full rows are chosen before a slightly larger single one: they fill the room better.
    """
    def side(rows: int) -> float:
        columns = math.ceil(count / rows)
        better = 1.1 if rows > 1 and rows * columns == count else 1.0
        return better * min(width / columns, (height / rows - title) * 4 / 3)
    rows = max(range(1, count + 1), key=side)
    return rows, math.ceil(count / rows)


def _title_height(canvas: Canvas) -> int:
    return round(1.6 * canvas.size(11))


def _view(canvas: Canvas, inset: Inset, box: Box, silent_s: Mapping[str, float],
          centred: bool = False) -> None:
    """Draw a picture whole into a box, its title above it."""
    left, top, width, height = box
    head, pixels = _title_height(canvas), canvas.size(11)
    x, y, w, h = _fit(inset.shape, (left, top + head, width, height - head))
    if w < 2 or h < 2:
        return
    if centred:
        x, y = left + (width - w) // 2, y + (height - head - h) // 2
    base = y - canvas.length(4)
    # the title may be wider than a slim picture, not than its box
    room = left + width - x
    silent = silent_s.get(inset.topic)
    title = cut(inset.title, room, pixels, True)
    used = canvas.write(x, base, title, pixels, INK, anchor='ls', bold=True)
    note = inset.note if silent is None else f'silent for {silent:.1f} s'
    used += canvas.length(7)
    canvas.write(x + used, base, cut(note, room - used, pixels, path=canvas.path), pixels,
                 PALE if silent is None else AMBER, anchor='ls')
    canvas.pixels[y:y + h, x:x + w] = _resized(inset.draw(w, h), w, h)
    if silent is not None:
        edge = canvas.length(2)
        cv2.rectangle(canvas.pixels, (x, y), (x + w - 1, y + h - 1), AMBER, edge)


def _fit(shape: tuple[int, int], box: Box) -> Box:
    """Return where a picture [H, W] lies that fills a box as far as its proportions allow."""
    left, top, width, height = box
    high, wide = max(shape[0], 1), max(shape[1], 1)
    scale = min(width / wide, height / high)
    return left, top, min(max(1, round(wide * scale)), width), min(max(1, round(high * scale)),
                                                                   height)


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return uint8 [height, width, 3]; tiny pictures keep their pixels, huge ones are thinned."""
    high, wide = picture.shape[:2]
    if (high, wide) == (height, width):
        return picture
    steps = max(1, high // height // 3), max(1, wide // width // 3)
    picture = np.ascontiguousarray(picture[::steps[0], ::steps[1]])
    if high > height or wide > width:
        how = cv2.INTER_AREA
    else:
        how = cv2.INTER_NEAREST if max(high, wide) < 64 else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=how)


# ---- traces -------------------------------------------------------------------------------------

def _traces(canvas: Canvas, traces: Sequence[Trace], box: Box, silent_s: Mapping[str, float]
            ) -> None:
    """Draw traces side by side, each with its title above and its limits at the right."""
    left, top, width, height = box
    gap, head, pixels = canvas.length(8), _title_height(canvas), canvas.size(11)
    small = canvas.size(10)
    limits = round(3.6 * small) if height - head > 2.6 * small else 0
    for number, trace in enumerate(traces):
        x0, x1 = (left + round((width + gap) * n / len(traces)) for n in (number, number + 1))
        inner = (x0, top + head, x1 - x0 - gap, height - head)
        if inner[2] < 8 or inner[3] < 4:
            continue
        _fill(canvas, inner, PANEL)
        trace.draw(canvas.pixels[inner[1]:inner[1] + inner[3],
                                 x0:x0 + inner[2] - (limits if inner[2] > 3 * limits else 0)])
        silent = silent_s.get(trace.topic)
        base = top + head - canvas.length(4)
        used = canvas.write(x0, base, cut(trace.title, inner[2], pixels, True), pixels, INK,
                            anchor='ls', bold=True) + canvas.length(7)
        note = trace.note if silent is None else f'silent for {silent:.1f} s'
        colour = PALE if silent is None else AMBER
        canvas.write(x0 + used, base, cut(note, inner[2] - used, pixels), pixels, colour,
                     anchor='ls')
        if not limits or inner[2] <= 3 * limits:
            continue
        for y, anchor, limit in ((inner[1] + 2, 'ra', trace.high),
                                 (inner[1] + inner[3] - 2, 'rd', trace.low)):
            canvas.write(x0 + inner[2] - 3, y, limit, small, PALE, anchor=anchor)
