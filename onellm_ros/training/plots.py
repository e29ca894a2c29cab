"""Pictures of a run: loss and accuracy of each modality over the optimizer steps."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onellm_ros.modality import Modality
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.progress import LOG, read_log

ORDER = (*(m.value for m in Modality), 'several', 'text')
Panels = dict[str, dict[str, list[tuple[int, float]]]]
_COLOURS = (*(f'C{i}' for i in range(10)), 'black', 'gold', 'navy', 'lime', 'tan', 'teal',
            'magenta', 'salmon')
_OTHER = ('loss', 'cut tokens')
_HELD_OUT = ', held out'
_COLUMNS = 3


@dataclass
class Curves:
    """What a log says, over the optimizer steps of all stages together.

    Losses, answers that are all right, and what heads read from tokens (of stages with labels):
    modality -> curve -> (step, value). A curve's name is that of its figure, with ``, held out``
    where it is one. ``stages``: where each begins.
    """

    loss: Panels = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    accuracy: Panels = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    heads: Panels = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    stages: list[tuple[int, str]] = field(default_factory=list)


def curves(lines: list[dict[str, Any]]) -> Curves:
    """Return the curves of a log."""
    out = Curves()
    done, last, name = 0, 0, ''
    for line in lines:
        if line['stage'] != name:
            done, name = done + last, line['stage']
            out.stages.append((done, name))
        last = line['step']
        held_out = line.get('held_out')
        for key, value in (line if held_out is None else held_out).items():
            modality, mark, figure = key.partition(':' if ':' in key else '/')
            if not mark or modality not in ORDER or not isinstance(value, int | float):
                continue
            where = out.loss if figure == 'loss' else out.accuracy if mark == ':' else out.heads
            if figure == 'loss' or figure not in _OTHER:
                label = figure if held_out is None else figure + _HELD_OUT
                where[modality][label].append((done + last, value))
    return out


def plot_run(folder: Path) -> list[Path]:
    """Write ``loss.png``, ``accuracy.png`` and, with labels, ``heads.png`` into a run's folder.

    :returns: the files written; none for a log without figures.
    :raises TrainingError: if there is no log, or it is damaged.
    """
    try:
        found = curves(read_log(folder))
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f'{folder / LOG}: found a line without {error}, expected lines with '
                            'stage and step') from None
    out = []
    for name, panels, title in (
            ('loss', found.loss, 'loss'), ('accuracy', found.accuracy, 'share of right answers'),
            ('heads', found.heads, 'share that heads read right from tokens')):
        if panels:
            out.append(folder / f'{name}.png')
            _draw(out[-1], title, panels, found.stages, None if name == 'loss' else (0.0, 1.02))
    return out


def _draw(path: Path, title: str, what: Panels, stages: list[tuple[int, str]],
          limits: tuple[float, float] | None) -> None:
    """Draw one panel a modality."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in ORDER if name in what]
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.6 * columns, 3.2 * rows), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for panel, name in zip(panels, names):
        found = what[name]
        figures = sorted({label.removesuffix(_HELD_OUT) for label in found})
        for number, label in enumerate(figures):
            look = {'color': _COLOURS[number % len(_COLOURS)], 'linewidth': 1.2}
            panel.plot([], [], label=label, **look)
            for suffix, more in (('', {'linestyle': '--', 'alpha': 0.5}),
                                 (_HELD_OUT, {'marker': 'o', 'ms': 3})):
                points = found.get(label + suffix)
                if points:
                    panel.plot(*zip(*points), **look, **more)
        for start, stage in stages:
            panel.axvline(start, color='0.8', linewidth=0.8, zorder=0)
            panel.text(start, 1.0, f' {stage}', rotation=90, va='top', fontsize=6, color='0.5',
                       transform=panel.get_xaxis_transform())
        panel.set_title(name, fontsize=10)
        panel.tick_params(labelsize=8, labelbottom=True)
        panel.legend(fontsize=6, loc='upper left', bbox_to_anchor=(1.0, 1.0), frameon=False)
        if limits:
            panel.set_ylim(*limits)
    for panel in panels[len(names):]:
        panel.set_visible(False)
    figure.supxlabel('optimizer steps of all stages (dashed: in training; dots: held out)')
    figure.supylabel(title)
    figure.savefig(path, dpi=110)
