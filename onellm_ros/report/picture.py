"""One picture of what the robot sensed in a window, and what was said about it.

Owns the layout and the drawing of every modality; knows nothing of ROS, windows or models. Absent
modalities show as empty panels that say so. Drawn with matplotlib's Agg canvas: no screen needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image
from scipy import signal

from onellm_ros.modality import Modality, Sample
from onellm_ros.report.panels import colour_wheel_normals, depth_colours, film_strip, top_view
from onellm_ros.report.words import BoxOfWords

Chosen = Mapping[Modality, Sequence[Sample]]

DPI = 100
INK, PALE, PAPER = '#1d2733', '#8a94a0', '#f4f5f7'
AXES_COLOURS = ('#d1495b', '#2e8b57', '#2f6db5')          # x, y, z
TITLES = {
    Modality.IMAGE: 'image', Modality.DEPTH: 'depth', Modality.NORMAL: 'surface normals',
    Modality.POINT: 'point cloud from above', Modality.VIDEO: 'video',
    Modality.IMU: 'accelerometer', Modality.AUDIO: 'microphone', Modality.FMRI: 'fMRI'}


def window_picture(chosen: Chosen, text: str, *, truth: str = '', title: str = '',
                   expert_weights: Mapping[Modality, np.ndarray] | None = None,
                   size: tuple[int, int] = (1280, 800)) -> Image.Image:
    """Return a picture of one window.

    :param chosen: samples of the window by modality, canonical arrays, ordered by stamp.
    :param text: what the model said. :param truth: what was really there, if known.
    :param title: headline, e.g. the time and the latency.
    :param expert_weights: share of each expert per modality, [K] or [1, K].
    :param size: width and height in pixels, at least 640 x 400.
    :returns: an RGB picture of that size.
    :raises ValueError: for a size too small to read.
    """
    if size[0] < 640 or size[1] < 400:
        raise ValueError(f'picture size is {size}: expected at least 640 x 400')
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, facecolor='white')
    canvas = FigureCanvasAgg(figure)
    scale = min(size[0] / 1280, size[1] / 800)
    figure.text(0.016, 0.972, title or 'what the robot sensed', fontsize=15 * scale, color=INK,
                va='center', weight='bold')
    present = {m: list(s) for m, s in chosen.items() if len(s)}
    for column, (modality, draw) in enumerate((
            (Modality.IMAGE, _image), (Modality.DEPTH, _depth), (Modality.NORMAL, _normal),
            (Modality.POINT, _points))):
        _panel(figure, (0.016 + 0.245 * column, 0.6, 0.232, 0.32), present, modality, draw,
               scale)
    upper, lower, height = 0.43, 0.25, 0.125
    left, width = 0.042, 0.25
    _panel(figure, (left, upper, width, height), present, Modality.IMU, _accelerometer, scale)
    _panel(figure, (left, lower, width, height), present, Modality.IMU, _gyroscope, scale,
           'gyroscope')
    left = 0.334
    _panel(figure, (left, upper, width, height), present, Modality.AUDIO, _waveform, scale)
    _panel(figure, (left, lower, width, height), present, Modality.AUDIO, _spectrogram, scale,
           'spectrogram')
    left, width = 0.616, 0.368
    _panel(figure, (left, upper, width, height), present, Modality.VIDEO, _video, scale)
    if expert_weights:
        _panel(figure, (left, lower, 0.185, height), present, Modality.FMRI, _fmri, scale)
        axes = figure.add_axes((left + 0.248, lower, width - 0.248, height))
        _experts(axes, expert_weights, scale)
    else:
        _panel(figure, (left, lower, width, height), present, Modality.FMRI, _fmri, scale)
    _words(figure, canvas, text, truth, scale)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _panel(figure: Figure, box: tuple[float, float, float, float],
           present: Mapping[Modality, list[Sample]], modality: Modality,
           draw: Callable[[Axes, list[Sample], float], None], scale: float,
           title: str = '') -> None:
    """Draw one modality into a box of the figure, or say that it is absent."""
    axes = figure.add_axes(box)
    axes.tick_params(labelsize=7.5 * scale, colors=PALE, length=2, pad=1.5)
    for spine in axes.spines.values():
        spine.set_color('#c9ced4')
    axes.set_title(title or TITLES[modality], fontsize=9.5 * scale, color=INK, loc='left', pad=4)
    if modality in present:
        draw(axes, present[modality], scale)
        return
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(PAPER)
    axes.text(0.5, 0.5, f'no {modality.value} in this window', transform=axes.transAxes,
              ha='center', va='center', fontsize=9 * scale, color=PALE)


def _note(axes: Axes, text: str, scale: float) -> None:
    axes.set_title(text, fontsize=8 * scale, color=PALE, loc='right', pad=4)


def _show(axes: Axes, picture: np.ndarray) -> None:
    """Show a picture whole, in its own proportions."""
    axes.imshow(picture, interpolation='bilinear' if picture.shape[0] < 300 else 'antialiased')
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(PAPER)
    axes.set_anchor('N')


# ---- pictures -----------------------------------------------------------------------------------

def _image(axes: Axes, samples: list[Sample], scale: float) -> None:
    data = samples[-1].data
    _show(axes, data)
    _note(axes, f'{data.shape[1]} x {data.shape[0]}', scale)


def _depth(axes: Axes, samples: list[Sample], scale: float) -> None:
    depth = samples[-1].data
    measured = depth[np.isfinite(depth) & (depth > 0)]
    if not measured.size:
        _show(axes, np.full((*depth.shape, 3), 0.6))
        _note(axes, 'nothing measured', scale)
        return
    low, high = (float(v) for v in np.percentile(measured, (0.5, 99.5)))
    high = max(high, low + 0.05)
    _show(axes, depth_colours(depth, low, high))
    bar = axes.inset_axes((0.0, -0.075, 1.0, 0.04))
    ramp = np.linspace(low, high, 256)[None, :]
    bar.imshow(depth_colours(ramp, low, high), aspect='auto', extent=(low, high, 0, 1))
    bar.set_yticks([])
    bar.tick_params(labelsize=7.5 * scale, colors=PALE, length=2, pad=1)
    for spine in bar.spines.values():
        spine.set_visible(False)
    share = 100.0 * (1.0 - measured.size / depth.size)
    _note(axes, 'metres' if share < 0.5 else f'metres, {share:.0f} % without (grey)', scale)


def _normal(axes: Axes, samples: list[Sample], scale: float) -> None:
    _show(axes, colour_wheel_normals(samples[-1].data))
    _note(axes, 'red right, green up, blue facing', scale)


def _points(axes: Axes, samples: list[Sample], scale: float) -> None:
    cloud = np.concatenate([s.data for s in samples])
    picture, (x0, x1, y0, y1), coloured = top_view(cloud, 'optical' in samples[-1].frame_id)
    axes.imshow(picture, extent=(y1, y0, x0, x1), interpolation='nearest')
    axes.plot(0, 0, marker='^', color=INK, markersize=7 * scale, clip_on=False)
    box = axes.get_window_extent()
    middle, half = (y0 + y1) / 2, (x1 - x0) / 2 * box.width / box.height
    axes.set_xlim(middle + half, middle - half)
    axes.set_ylim(x0, x1)
    axes.set_facecolor('white')
    axes.locator_params(nbins=6)
    axes.tick_params(direction='in', pad=-10 * scale, length=3)
    _note(axes, f'{len(cloud)} points, m' + ('' if coloured else ', colour = height'), scale)


def _video(axes: Axes, samples: list[Sample], scale: float) -> None:
    frames = [s.data for s in samples]
    box, (height, width) = axes.get_window_extent(), frames[-1].shape[:2]
    _show(axes, film_strip(frames, max(3, min(6, round(box.width * height / box.height / width)))))
    axes.set_anchor('NW')
    seconds = (samples[-1].stamp_ns - samples[0].stamp_ns) * 1e-9
    _note(axes, f'{len(samples)} frames over {seconds:.1f} s', scale)


def _fmri(axes: Axes, samples: list[Sample], scale: float) -> None:
    values = np.asarray(samples[-1].data, dtype=np.float64).ravel()
    rows = 8 if values.size >= 64 else 1
    grid = values[:values.size // rows * rows].reshape(rows, -1)
    finite = np.abs(values[np.isfinite(values)])
    size = (float(np.percentile(finite, 99)) if finite.size else 0.0) or 1.0
    axes.imshow(grid, cmap='RdBu_r', vmin=-size, vmax=size, aspect='auto',
                interpolation='nearest')
    axes.set_xticks([])
    axes.set_yticks([])
    kind = ', synthetic' if 'synthetic' in samples[-1].frame_id + samples[-1].topic else ''
    _note(axes, f'{values.size} voxels{kind}', scale)


# ---- traces -------------------------------------------------------------------------------------

def _trace(axes: Axes, samples: list[Sample], scale: float, first: int, unit: str,
           least: float) -> None:
    end = samples[-1].stamp_ns
    t = np.array([(s.stamp_ns - end) * 1e-9 for s in samples])
    values = np.stack([s.data[first:first + 3] for s in samples])
    for k, (name, colour) in enumerate(zip('xyz', AXES_COLOURS)):
        axes.plot(t, values[:, k], color=colour, lw=0.9 * scale, label=name,
                  marker='.' if len(t) < 5 else None)
    finite = values[np.isfinite(values)]
    if finite.size:
        low, high = float(finite.min()), float(finite.max())
        room = max(least - (high - low), 0.12 * (high - low)) / 2
        axes.set_ylim(low - room, high + room)
    axes.set_xlim(min(t[0], -0.01), 0.0)
    axes.locator_params(axis='x', nbins=5)
    axes.grid(color='#e6e8eb', lw=0.6)
    _note(axes, unit, scale)


def _accelerometer(axes: Axes, samples: list[Sample], scale: float) -> None:
    _trace(axes, samples, scale, 0, 'm/s² with gravity', 4.0)
    axes.legend(loc='lower center', bbox_to_anchor=(0.5, 0.97), fontsize=8 * scale, ncols=3,
                frameon=False, handlelength=0.9, columnspacing=0.7, labelcolor=PALE,
                borderaxespad=0.0)
    axes.tick_params(labelbottom=False)


def _gyroscope(axes: Axes, samples: list[Sample], scale: float) -> None:
    _trace(axes, samples, scale, 3, 'rad/s over seconds', 0.5)


def _heard(samples: list[Sample]) -> tuple[np.ndarray, float]:
    """Return the chunks on one time axis (gaps are silent): float [n] and the rate."""
    rate = samples[0].rate_hz
    if not rate > 0:
        raise ValueError(f'audio chunk with rate {rate} Hz: expected Sample.rate_hz > 0')
    first = samples[0].stamp_ns
    end = max((s.stamp_ns - first) * 1e-9 + len(s.data) / s.rate_hz for s in samples)
    wave = np.zeros(max(1, round(end * rate)), np.float32)
    for s in samples:
        piece = np.asarray(s.data, dtype=np.float32)
        if s.rate_hz != rate:
            n = round(len(piece) * rate / s.rate_hz)
            piece = np.interp(np.arange(n) * s.rate_hz / rate, np.arange(len(piece)), piece)
        at = round((s.stamp_ns - first) * 1e-9 * rate)
        wave[at:at + len(piece)] = piece[:len(wave) - at]
    return wave, rate


def _waveform(axes: Axes, samples: list[Sample], scale: float) -> None:
    wave, rate = _heard(samples)
    bins = min(480, len(wave))
    cut = np.linspace(0, len(wave), bins, endpoint=False).astype(int)
    t = cut / rate - len(wave) / rate
    axes.fill_between(t, np.minimum.reduceat(wave, cut), np.maximum.reduceat(wave, cut),
                      color='#5b5f97', lw=0.4)
    top = max(float(np.abs(wave).max()) * 1.1, 0.02)
    axes.set_ylim(-top, top)
    axes.set_xlim(t[0], 0.0)
    axes.locator_params(axis='x', nbins=5)
    axes.tick_params(labelbottom=False)
    axes.grid(color='#e6e8eb', lw=0.6)
    level = 20 * np.log10(max(float(np.sqrt(np.mean(wave ** 2))), 1e-6))
    _note(axes, f'{rate / 1000:g} kHz, {level:.0f} dB', scale)


def _spectrogram(axes: Axes, samples: list[Sample], scale: float) -> None:
    wave, rate = _heard(samples)
    length = min(512, len(wave))
    padded = np.pad(wave, (0, max(0, length - len(wave))))
    _, _, stft = signal.stft(padded, rate, nperseg=length, noverlap=length * 3 // 4)
    power = 20 * np.log10(np.abs(stft) + 1e-7)
    top = float(power.max())
    seconds = len(wave) / rate
    axes.imshow(power, origin='lower', aspect='auto', cmap='magma', vmin=top - 75, vmax=top,
                extent=(-seconds, 0.0, 0.0, rate / 2000))
    axes.locator_params(axis='x', nbins=5)
    _note(axes, 'kHz over seconds', scale)


def _experts(axes: Axes, weights: Mapping[Modality, np.ndarray], scale: float) -> None:
    names = list(weights)
    grid = np.stack([np.asarray(weights[m], dtype=np.float64).ravel() for m in names])
    axes.imshow(grid, cmap='Purples', vmin=0.0, vmax=max(1e-9, float(grid.max())) * 1.3,
                aspect='auto')
    axes.set_yticks(range(len(names)), [str(m) for m in names], fontsize=7.5 * scale, color=INK)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(names) <= 6:
        for (row, column), value in np.ndenumerate(grid):
            axes.text(column, row, f'{value:.2f}', ha='center', va='center', color=INK,
                      fontsize=7 * scale)
    axes.set_title('experts', fontsize=9.5 * scale, color=INK, loc='left', pad=4)


# ---- words --------------------------------------------------------------------------------------

def _words(figure: Figure, canvas: FigureCanvasAgg, text: str, truth: str, scale: float) -> None:
    """Draw what was said, and beside it what was there if that is known."""
    boxes = [(0.016, 0.968 if not truth else 0.484, 'the model says', text, '#eaf0fc', '#3a5fb0')]
    if truth:
        boxes.append((0.514, 0.47, 'what was really there', truth, PAPER, '#6b7580'))
    drawn = []
    for left, width, head, words, colour, accent in boxes:
        axes = figure.add_axes((left, 0.022, width, 0.18), facecolor=colour)
        axes.set_xticks([])
        axes.set_yticks([])
        for side, spine in axes.spines.items():
            spine.set_visible(side == 'left')
        axes.spines['left'].set(color=accent, linewidth=3 * scale, capstyle='butt')
        drawn.append(BoxOfWords(axes, canvas.get_renderer(), head, words or '(nothing)', accent,
                                scale))
    points = min(box.fitting_points(13.0) for box in drawn)      # the same, to be compared
    for box in drawn:
        box.draw(points, INK)
