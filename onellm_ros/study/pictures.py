"""Pictures of a study: every run by arm, and the arms of each comparison by modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from onellm_ros.study.arms import BASE, COMPARISONS
from onellm_ros.study.table import KEYS, OVERALL, Result, rows

FILES = ('study_overall.png', 'study_modalities.png')


def draw(results: Sequence[Result], guesser: Mapping[str, float], folder: Path) -> list[Path]:
    """Write ``FILES`` into a folder; returns them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = rows(results)
    figure = Figure(figsize=(8.0, 4.2), layout='constrained')
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for place, row in enumerate(table):
        own = [r.score(OVERALL) for r in results if r.arm == row.arm]
        panel.plot([place] * len(own), own, 'o', color='C0', alpha=0.6)
        panel.plot([place - 0.25, place + 0.25], [fmean(own)] * 2, color='black')
        if row.arm == BASE.name:
            panel.axhline(fmean(own), color='0.6', linewidth=0.8, linestyle='--', zorder=0)
    if guesser:
        panel.axhline(fmean(guesser.values()), color='C3', linewidth=0.8, label='guesser')
        panel.legend(fontsize=8)
    panel.set_xticks(range(len(table)), [row.arm for row in table], rotation=20, fontsize=8)
    panel.set_ylabel('share of exact answers, held out')
    panel.set_title('each dot a seed, the bar their mean', fontsize=10)
    figure.savefig(folder / FILES[0], dpi=110)

    named = {row.arm: row for row in table}
    figure = Figure(figsize=(11.0, 6.4), layout='constrained')
    FigureCanvasAgg(figure)
    for panel, (name, arms) in zip(figure.subplots(2, 2, sharey=True).flatten(),
                                   COMPARISONS.items()):
        shown = [arm for arm in arms if arm in named]
        for number, arm in enumerate(shown):
            found = [named[arm].scores[key] for key in KEYS]
            at = [x + 0.8 * ((number + 0.5) / len(shown) - 0.5) for x in range(len(KEYS))]
            panel.bar(at, [f.mean for f in found], 0.8 / len(shown), label=arm,
                      yerr=[f.spread or 0.0 for f in found], error_kw={'linewidth': 0.8})
        for x, key in enumerate(KEYS[1:], 1):
            if guesser:
                panel.plot([x - 0.4, x + 0.4], [guesser[key]] * 2, color='black', linewidth=0.8)
        panel.set_xticks(range(len(KEYS)), KEYS, fontsize=8)
        panel.set_title(name, fontsize=10)
        panel.legend(fontsize=7)
    figure.supylabel('share of exact answers, held out (black lines: guesser)')
    figure.savefig(folder / FILES[1], dpi=110)
    return [folder / name for name in FILES]
