"""Draws accuracy against training samples from evaluations of a run's snapshots.

Usage: python benchmarks/accuracy_curve.py --out PNG SAMPLES=RESULT.json [SAMPLES=RESULT.json ...]

Each RESULT.json is a ``result.json`` that ``onellm eval --task robot-world`` wrote of a snapshot
(``onellm train --only-export --export DIR`` writes a run as it stands), SAMPLES how many training
samples it had seen. Prints the table, too; the guesser is that of the last evaluation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def main() -> None:
    """Read the evaluations, print the table, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('results', nargs='+', metavar='SAMPLES=RESULT.json')
    parser.add_argument('--out', type=Path, required=True, metavar='PNG')
    args = parser.parse_args()
    points = []
    for text in args.results:
        samples, equals, path = text.partition('=')
        if not equals or not samples.isdigit():
            parser.error(f'found {text!r}, expected SAMPLES=RESULT.json')
        points.append((int(samples), json.loads(Path(path).read_text())['tables']))
    points.sort(key=lambda point: point[0])
    figure = Figure(figsize=(11, 4.4), layout='constrained')
    FigureCanvasAgg(figure)
    for panel, title in zip(figure.subplots(1, 2, sharey=True), ('modalities', 'question types')):
        names = list(points[-1][1][title])
        print('| samples | ' + ' | '.join(names) + ' |')
        print('|---' * (len(names) + 1) + '|')
        for samples, found in points:
            row = [found[title].get(name, {}).get('accuracy') for name in names]    # percent
            shown = ['' if value is None else f'{value / 100:.2f}' for value in row]
            print(f'| {samples} | ' + ' | '.join(shown) + ' |')
        for number, name in enumerate(names):
            curve = [(samples, found[title][name]['accuracy'] / 100) for samples, found in points
                     if name in found[title]]
            panel.plot(*zip(*curve), marker='o', markersize=3, label=name,
                       color=f'C{number % 10}', linestyle='-' if number < 10 else '--')
            guess = points[-1][1][title][name]['guesser'] / 100
            panel.plot(points[-1][0] * 1.02, guess, marker='<', markersize=4,
                       color=f'C{number % 10}')
        panel.set_title(title)
        panel.set_xlabel('training samples')
        panel.set_ylim(0, 1.02)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7, loc='center left', bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.supylabel('accuracy (triangles: guesser)')
    figure.savefig(args.out, dpi=110)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
