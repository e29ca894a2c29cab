"""The picture that a running robot shows of what it senses and says: fast, and drawn again often.

Owns the layout: the camera large, the other senses as insets beside it, traces below, the words at
the bottom. What is absent takes no room. ``picture.py`` draws one window for a report instead,
with axes and legends, and takes a hundred times longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
import math

import cv2
import numpy as np

from onellm_ros.modality import Modality, Sample
from onellm_ros.report.annotated_text import Canvas, Colour, cut, lines_that_fit
from onellm_ros.report.annotated_traces import Trace, traces_of
from onellm_ros.report.panels import colour_wheel_normals, depth_colours, scan_cloud, top_view

LEAST_SIZE, MOST_SIZE = (320, 240), (3840, 2160)
BACK, PANEL, NO_DATA = (17, 21, 28), (29, 35, 45), (96, 101, 108)
INK, PALE, AMBER, ACCENT = (235, 239, 244), (150, 160, 173), (255, 184, 77), (122, 170, 255)
_CLOUD_POINTS = 30_000      # more are thinned evenly: the picture has fewer pixels
_MOST_INSETS = 6
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
    :param font: file of a font for the text; empty: DejaVu Sans.
    """

    samples: Mapping[Modality, Sequence[Sample]] = field(default_factory=dict)
    text: str = ''
    head: str = ''
    old: bool = False
    facts: Sequence[tuple[str, bool]] = ()
    silent_s: Mapping[str, float] = field(default_factory=dict)
    trace_s: float = 3.0
    font: str = ''


@dataclass(frozen=True, eq=False)
class _Inset:
    """A small picture: ``draw`` gets width and height and returns uint8 of about that size."""

    title: str
    note: str
    shape: tuple[int, int]
    draw: Callable[[int, int], np.ndarray]
    topic: str = ''


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
                    min(width / 960, height / 540), shown.font)
    gap, bar = canvas.length(8), round(canvas.size(13) * 2)
    _facts(canvas, shown.facts, (gap, 0, width - 2 * gap, bar))
    camera, insets = _pictures(shown)
    traces = traces_of(shown.samples, shown.trace_s)
    top, bottom = bar, height - gap
    if camera or insets or traces:
        words = max(round(0.2 * height), round(canvas.size(12) * 4.2))
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


def _words(canvas: Canvas, shown: Shown, box: Box) -> None:
    """Write what was said into a box; an old text is pale and has an amber mark."""
    left, top, width, height = box
    _fill(canvas, box, PANEL)
    mark = AMBER if shown.old else ACCENT
    edge = canvas.length(4)
    _fill(canvas, (left, top, edge, height), mark)
    inner, small = canvas.length(10), canvas.size(12)
    x, room = left + edge + inner, width - edge - 2 * inner
    y = top + canvas.length(7)
    if shown.head:
        canvas.write(x, y, cut(shown.head, room, small, True), small, mark, bold=True)
        y += round(1.55 * small)
    wanted = canvas.size(19)
    lines, pixels = lines_that_fit(shown.text, room, top + height - y - canvas.length(5), wanted,
                                   canvas.path)
    for line in lines:
        canvas.write(x, y, line, pixels, PALE if shown.old else INK)
        y += round(1.27 * pixels)


def _fill(canvas: Canvas, box: Box, colour: Colour) -> None:
    left, top, width, height = box
    canvas.pixels[top:top + height, left:left + width] = colour


# ---- pictures -----------------------------------------------------------------------------------

def _pictures(shown: Shown) -> tuple[_Inset | None, list[_Inset]]:
    """Return the large picture and the small ones."""
    samples, insets = shown.samples, []
    cameras = [_camera(s) for s in samples.get(Modality.IMAGE, ())]
    for modality, make in ((Modality.DEPTH, _depth), (Modality.NORMAL, _normal)):
        insets += [make(s) for s in samples.get(modality, ())]
    insets += [_cloud(s, 'cloud from above') for s in samples.get(Modality.POINT, ())]
    insets += cameras[1:]
    for modality, found in samples.items():
        if modality.value == 'scan':
            insets += [_cloud(_scan_cloud(s), 'scan from above') for s in found]
    insets += [_vector(s) for s in samples.get(Modality.FMRI, ())]
    return (cameras[0] if cameras else None), insets[:_MOST_INSETS]


def _views(canvas: Canvas, camera: _Inset | None, insets: list[_Inset], box: Box,
           silent_s: Mapping[str, float]) -> None:
    """Draw the camera large and the insets in a grid beside it (or alone)."""
    left, top, width, height = box
    gap = canvas.length(8)
    if camera is not None:
        room = width if not insets else round(0.68 * width)
        head = _title_height(canvas)
        shown = _fit(camera.shape, (left, top + head, room, height - head))
        if not insets:
            _view(canvas, camera, (left, top, width, height), silent_s, centred=True)
            return
        _view(canvas, camera, (left, top, shown[2], height), silent_s)
        left, width = left + shown[2] + gap, width - shown[2] - gap
    rows, columns = _grid(len(insets), width, height, _title_height(canvas))
    for number, inset in enumerate(insets):
        row, column = divmod(number, columns)
        x0, x1 = (left + round((width + gap) * c / columns) for c in (column, column + 1))
        y0, y1 = (top + round((height + gap) * r / rows) for r in (row, row + 1))
        _view(canvas, inset, (x0, y0, x1 - x0 - gap, y1 - y0 - gap), silent_s,
              centred=camera is None)


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


def _view(canvas: Canvas, inset: _Inset, box: Box, silent_s: Mapping[str, float],
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


def _thinned(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return pixels [H, W, ...], those nearest to a grid if there are more than it has.

    Depths and normals are not averaged: a mean over an edge would be measured by nobody.
    """
    high, wide = values.shape[:2]
    rows = (np.arange(min(height, high)) + 0.5) * high / min(height, high)
    columns = (np.arange(min(width, wide)) + 0.5) * wide / min(width, wide)
    return values[rows.astype(int)[:, None], columns.astype(int)[None, :]]


def _bytes(colours: np.ndarray) -> np.ndarray:
    """Return colours of 0..1 as uint8."""
    return np.clip(colours * 255.0 + 0.5, 0, 255).astype(np.uint8)


def _name(what: str, sample: Sample) -> str:
    return f'{what}  {sample.topic}' if sample.topic else what


def _camera(sample: Sample) -> _Inset:
    shape = sample.data.shape
    return _Inset(_name('image', sample), f'{shape[1]} x {shape[0]}', shape[:2],
                  lambda w, h: sample.data, sample.topic)


def _depth(sample: Sample) -> _Inset:
    small = _thinned(sample.data, 640, 480)
    measured = small[np.isfinite(small) & (small > 0)]
    if not measured.size:
        return _Inset('depth', 'nothing measured', sample.data.shape[:2],
                      lambda w, h: np.full((h, w, 3), NO_DATA, np.uint8), sample.topic)
    low, high = (float(v) for v in np.percentile(measured[::3] if measured.size > 9 else measured,
                                                 (0.5, 99.5)))
    high = max(high, low + 0.05)
    return _Inset('depth', f'{low:.1f} to {high:.1f} m, near is red', sample.data.shape[:2],
                  lambda w, h: _bytes(depth_colours(_thinned(small, w, h), low, high)),
                  sample.topic)


def _normal(sample: Sample) -> _Inset:
    return _Inset('normals', 'red right, green up', sample.data.shape[:2],
                  lambda w, h: _bytes(colour_wheel_normals(_thinned(sample.data, w, h))),
                  sample.topic)


def _scan_cloud(sample: Sample) -> Sample:
    """Return a planar scan as a cloud without colours."""
    cloud = scan_cloud(np.asarray(sample.data, np.float32).reshape(-1, 2))
    return Sample(sample.stamp_ns, cloud, sample.frame_id, topic=sample.topic)


def _cloud(sample: Sample, title: str) -> _Inset:
    cloud = sample.data
    count = len(cloud)
    if count > _CLOUD_POINTS:
        cloud = cloud[::-(-count // _CLOUD_POINTS)]
    cloud = np.concatenate([cloud[:, :3], np.minimum(cloud[:, 3:6], 0.99)], axis=1)
    view, (back, front, right, most_left), coloured = top_view(
        cloud, 'optical' in sample.frame_id)
    picture = _bytes(view)
    picture[(view == 1.0).all(axis=2)] = PANEL          # nothing there: paper white so far
    row = (front / (front - back)) * len(picture)
    column = (most_left / (most_left - right)) * picture.shape[1]
    arrow = np.array([(column, row - 6), (column - 4, row + 4), (column + 4, row + 4)])
    cv2.fillConvexPoly(picture, np.rint(arrow).astype(np.int32), INK, cv2.LINE_AA)
    note = f'{count} points, {front - back:.1f} m wide'
    return _Inset(title, note if coloured or title.startswith('scan') else
                  f'{note}, high is yellow', picture.shape[:2], lambda w, h: picture, sample.topic)


def _vector(sample: Sample) -> _Inset:
    values = np.asarray(sample.data, dtype=np.float32).ravel()
    rows = max(1, math.isqrt(max(1, values.size * 3 // 4)))
    columns = max(1, math.ceil(values.size / rows))
    grid = np.zeros(rows * columns, np.float32)
    size = float(np.abs(values).max(initial=0.0)) or 1.0
    grid[:values.size] = values / size
    grid = grid.reshape(rows, columns)[..., None]
    warm, cold = np.array((224, 96, 80)), np.array((84, 140, 230))
    picture = np.where(grid > 0, grid * warm, -grid * cold) + (1 - np.abs(grid)) * PANEL
    kind = ', synthetic' if 'synthetic' in sample.frame_id + sample.topic else ''
    return _Inset('fMRI', f'{values.size} voxels{kind}', (3, 4),
                  lambda w, h: _enlarged(picture.astype(np.uint8), w, h), sample.topic)


def _enlarged(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)


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
