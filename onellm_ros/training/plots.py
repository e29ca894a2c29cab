"""Pictures of a run: loss and accuracy of each modality over the samples seen."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from onellm_ros.modality import Modality
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.progress import LOG, read_log

ORDER = (*(m.value for m in Modality), 'several', 'text')
Curves = dict[str, dict[str, list[tuple[int, float]]]]
_OTHER = ('loss', 'cut tokens')
_COLUMNS = 3


def curves(lines: list[dict[str, Any]]) -> tuple[Curves, Curves, list[tuple[int, str]]]:
    """Return what a log says, over the optimizer steps of all stages together.

    :returns: losses and accuracies as modality -> curve -> (step, value); a curve's name is that
        of its figure, with ``held out`` where it is one; and where each stage begins.
    """
    losses: Curves = defaultdict(lambda: defaultdict(list))
    accuracies: Curves = defaultdict(lambda: defaultdict(list))
    stages: list[tuple[int, str]] = []
    done, last, name = 0, 0, ''
    for line in lines:
        if line['stage'] != name:
            done, name = done + last, line['stage']
            stages.append((done, name))
        last = line['step']
        held_out = line.get('held_out')
        for key, value in (line if held_out is None else held_out).items():
            modality, mark, figure = key.partition(':' if ':' in key else '/')
            if not mark or modality not in ORDER or not isinstance(value, int | float):
                continue
            label = figure if held_out is None else f'{figure}, held out'
            if figure == 'loss':
                losses[modality][label].append((done + last, value))
            elif figure not in _OTHER:
                accuracies[modality][label].append((done + last, value))
    return losses, accuracies, stages


def plot_run(folder: Path) -> list[Path]:
    """Write ``loss.png`` and ``accuracy.png`` into a run's folder.

    :returns: the files written; none for a log without figures.
    :raises TrainingError: if there is no log, or it is damaged.
    """
    try:
        losses, accuracies, stages = curves(read_log(folder))
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f'{folder / LOG}: found a line without {error}, expected lines with '
                            'stage and step') from None
    out = []
    for name, what, limits in (('loss', losses, None), ('accuracy', accuracies, (0.0, 1.02))):
        if what:
            out.append(folder / f'{name}.png')
            _draw(out[-1], name, what, stages, limits)
    return out


def _draw(path: Path, title: str, what: Curves, stages: list[tuple[int, str]],
          limits: tuple[float, float] | None) -> None:
    """Draw one panel a modality."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in ORDER if name in what]
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.4 * rows), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for panel, name in zip(panels, names):
        found = what[name]
        figures = sorted({label.removesuffix(', held out') for label in found})
        for number, label in enumerate(figures):
            for suffix, style in (('', {'alpha': 0.6}), (', held out', {'marker': 'o', 'ms': 3})):
                points = found.get(label + suffix)
                if points:
                    panel.plot(*zip(*points), color=f'C{number % 10}', label=label + suffix,
                               linestyle='-' if suffix else '--', linewidth=1.2, **style)
        for start, stage in stages:
            panel.axvline(start, color='0.8', linewidth=0.8, zorder=0)
            panel.text(start, 1.0, f' {stage}', rotation=90, va='top', fontsize=6, color='0.5',
                       transform=panel.get_xaxis_transform())
        panel.set_title(name, fontsize=10)
        panel.tick_params(labelsize=8)
        panel.legend(fontsize=5.5, ncols=2, loc='best')
        if limits:
            panel.set_ylim(*limits)
    for panel in panels[len(names):]:
        panel.set_visible(False)
    figure.supxlabel('optimizer steps of all stages')
    figure.supylabel(title)
    figure.savefig(path, dpi=110)
