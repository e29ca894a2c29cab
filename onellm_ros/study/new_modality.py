"""How many pairs a ninth modality needs: a model learns laser scans from more and more of them.

For each number of pairs and each seed, a stage adds ``scan`` to a trained model; only what is the
scan's own learns. With the most pairs and the first seed also the shared experts of the UPM learn,
with replay of worlds for the other modalities. Both are scored on scans of held-out worlds, beside
a guesser that sees only the question, and the other modalities are scored before and after. A
command that was killed goes on where it stood.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
import json
from pathlib import Path
import platform
import sys
import time
from typing import Any

import torch

from onellm_ros.evaluation.guesser import Guesser
from onellm_ros.modalities.scan import SCAN
from onellm_ros.modality import Modality
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import Text
from onellm_ros.simulation.answers import Question, is_correct
from onellm_ros.study.scan_data import scan_texts
from onellm_ros.training.losses import Losses
from onellm_ros.training.new_modality import Texts, TextSources, stage_for, with_modality
from onellm_ros.training.stages import Stage
from onellm_ros.training.trainer import Options, Trainer

LIKE = Modality.DEPTH           # tells distances, too
SCORED_AT_ONCE = 64
OWN, EXPERTS = 'own', 'experts'
EXPERTS_RATE = 3e-4             # of learning, where parts that others use learn
REPLAY = Stage('replay', 'align', tuple(((m,), 1.0) for m in Modality), ('upm',), steps=1,
               batch=16, questions=4)
_REPLAY_SEED = 7                # of the replayed worlds, among the numbers of collections
_ALL = 'answerable'             # all types but 'unknown'
Score = dict[str, list[float]]      # question type -> [right, asked]


@dataclass(frozen=True)
class Plan:
    """What a study runs.

    :param pairs: numbers of pairs. :param seeds: how many runs with each.
    :param steps: optimizer steps of a run; more, if each scan is to be seen once.
    :param held_out: pairs that are scored. :param old_worlds: that others are scored on.
    :param replay_worlds: rendered for replay; 0: the experts are left alone.
    """

    pairs: tuple[int, ...] = (100, 300, 1000, 3000, 10000)
    seeds: int = 3
    steps: int = 500
    batch: int = 16
    held_out: int = 800
    old_worlds: int = 40
    replay_worlds: int = 256


@torch.no_grad()
def score(model: OneLLM, text: Text, texts: Texts) -> Score:
    """Return how many answers a model gives exactly, by type: what greedy decoding would say."""
    losses = Losses(model, None, text.bos, torch.float32).eval()
    found: Score = defaultdict(lambda: [0.0, 0.0])
    for start in range(0, len(texts), SCORED_AT_ONCE):
        places = range(start, min(start + SCORED_AT_ONCE, len(texts)))
        _, sums = losses(stage_for(texts.modality), texts.batch(places, text))
        for kind in {q[2] for place in places for q in texts.asked[place]}:
            for name in (kind, *([_ALL] if kind != 'unknown' else [])):
                both = zip(found[name], sums[f'{texts.modality}:{kind}'], strict=True)
                found[name] = [a + b for a, b in both]
    return dict(found)


def guessed(training: Texts, texts: Texts) -> Score:
    """Return how many answers one gives who sees the questions alone, learned in training."""
    def questions(of: Texts) -> list[Question]:
        return [Question(kind, of.modality, question, answer)
                for asked in of.asked for question, answer, kind in asked]

    seen = questions(training)
    everything = Guesser(seen)
    answerable = Guesser(q for q in seen if q.type != 'unknown')
    found: Score = defaultdict(lambda: [0.0, 0.0])
    for question in questions(texts):
        guesser = everything if question.type == 'unknown' else answerable
        right = is_correct(question, guesser.guess(question))
        for name in (question.type, *([_ALL] if question.type != 'unknown' else [])):
            found[name] = [found[name][0] + right, found[name][1] + 1]
    return dict(found)


def others(model: OneLLM, text: Text, seed: int, worlds: int
           ) -> tuple[dict[str, float], list[str]]:
    """Return the accuracy of each of the eight on held-out worlds, and all answers."""
    from onellm_ros.evaluation.robot_world import engine_answerer, evaluate
    from onellm_ros.inference.engine import Engine

    said: list[str] = []
    report = evaluate(engine_answerer(Engine(model, text)), seed=seed, worlds=worlds,
                      caption_worlds=0, guesser_worlds=1, progress=False,
                      on_answer=lambda _, question, answer, right: said.append(answer))
    return {name: row['accuracy'] for name, row in report['modalities'].items()}, said


class Study:
    """Runs what a plan says, in one folder; what is there already is not done again.

    :param load: gives the model to begin with, anew each time.
    """

    def __init__(self, plan: Plan, load: Callable[[], OneLLM], text: Text, out: Path) -> None:
        self.plan, self.load, self.text, self.out = plan, load, text, out
        self.data = out / 'data'
        self.out.mkdir(parents=True, exist_ok=True)

    def run(self) -> dict[str, Any]:
        """Return the figures of the study."""
        plan, most = self.plan, max(self.plan.pairs)
        held_out = scan_texts(self.data, plan.held_out, held_out=True)
        training = scan_texts(self.data, most)
        print(f'{training.pairs} pairs of {len(training)} scans, {held_out.pairs} held out',
              flush=True)
        runs: list[dict[str, Any]] = []
        for seed in range(plan.seeds):
            for pairs in sorted(plan.pairs):
                runs.append(self._one(OWN, pairs, seed, training, held_out))
            if plan.replay_worlds and seed == 0:
                runs.append(self._one(EXPERTS, most, seed, training, held_out))
        return {'plan': vars(plan), 'guesser': _shares(guessed(training, held_out)),
                'questions': {k: int(n) for k, (_, n) in guessed(training, held_out).items()},
                'runs': runs, 'others': self._others(most)}

    def _folder(self, kind: str, pairs: int, seed: int) -> Path:
        size = f'{self.plan.steps}x{self.plan.batch}'
        return self.out / 'runs' / f'{kind}-{pairs}-{seed}-{size}'

    def _one(self, kind: str, pairs: int, seed: int, training: Texts, held_out: Texts
             ) -> dict[str, Any]:
        """Train and score once; the model stays where others are scored with it."""
        folder = self._folder(kind, pairs, seed)
        done = folder / 'score.json'
        if done.is_file():
            return dict(json.loads(done.read_text()))
        started = time.perf_counter()
        texts = training.first(pairs)
        worlds = self.data / f'worlds-{self.plan.replay_worlds}'
        if kind == EXPERTS:
            from onellm_ros.training.shards import render_shard
            render_shard(worlds, 0, self.load().config, base_seed=_REPLAY_SEED,
                         worlds=self.plan.replay_worlds)
        torch.manual_seed(seed)
        model = with_modality(self.load(), SCAN, LIKE)
        stage = stage_for(SCAN, experts=kind == EXPERTS, batch=self.plan.batch,
                          steps=max(self.plan.steps, -(-len(texts) // self.plan.batch)))
        if kind == EXPERTS:
            stage = replace(stage, learning_rate=EXPERTS_RATE)
        trainer = Trainer(
            model, self.text, (stage,), folder,
            TextSources(worlds, worlds, texts=texts, replay=REPLAY if kind == EXPERTS else None),
            options=Options(seed=seed, workers=0, eval_every=10**9))
        trainer.run()
        shares = _shares(score(trainer.finished(), self.text, held_out))
        row = {'kind': kind, 'pairs': texts.pairs, 'scans': len(texts), 'seed': seed,
               'accuracy': shares, 'seconds': round(time.perf_counter() - started, 1)}
        if seed == 0 and pairs == max(self.plan.pairs):
            from onellm_ros.model.checkpoint import save_model
            save_model(trainer.finished(), folder / 'model', torch.float32)
        (folder / 'state.pt').unlink(missing_ok=True)
        done.write_text(json.dumps(row) + '\n')
        print(f'{kind} {texts.pairs} pairs, seed {seed}: {shares[_ALL]:.3f} '
              f'({row["seconds"]:.0f} s)', flush=True)
        return row

    def _others(self, most: int) -> dict[str, Any]:
        """Return the accuracy of the eight before and after, and which answers changed."""
        from onellm_ros.model.checkpoint import load_model

        path = self._folder(OWN, most, 0) / f'others-{self.plan.old_worlds}.json'
        if path.is_file():
            return dict(json.loads(path.read_text()))
        before, said = others(self.load(), self.text, 1, self.plan.old_worlds)
        out: dict[str, Any] = {'before': before, 'answers': len(said)}
        for kind in (OWN, EXPERTS) if self.plan.replay_worlds else (OWN,):
            model = load_model(self._folder(kind, most, 0) / 'model')
            after, now = others(model, self.text, 1, self.plan.old_worlds)
            changed = sum(a != b for a, b in zip(said, now, strict=True))
            out[kind] = {'after': after, 'changed answers': changed}
        path.write_text(json.dumps(out) + '\n')
        return out


def _shares(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: round(right / asked, 4) for name, (right, asked) in sorted(found.items())}


def _spread(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return the mean of some runs, and the least and the most."""
    values = [row['accuracy'][name] for row in rows]
    mean = sum(values) / len(values)
    return f'{mean:.2f}' + (f' ({min(values):.2f}-{max(values):.2f})' if len(values) > 1 else '')


def _groups(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], list[Mapping[str, Any]]]:
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in runs:
        found[row['kind'], row['pairs']].append(row)
    return dict(sorted(found.items(), key=lambda item: (item[0][0] != OWN, item[0][1])))


def table(report: Mapping[str, Any]) -> str:
    """Return the figures as two tables in Markdown."""
    types = sorted(report['guesser'], key=lambda name: (name != _ALL, name))
    lines = ['| learns | pairs | scans | ' + ' | '.join(types) + ' |',
             '|---' * (3 + len(types)) + '|',
             '| nothing: a guess from the question alone | | | '
             + ' | '.join(f'{report["guesser"][name]:.2f}' for name in types) + ' |']
    for (kind, pairs), rows in _groups(report['runs']).items():
        what = 'its own parts' if kind == OWN else 'and the experts, with replay'
        lines.append(f'| {what} | {pairs} | {rows[0]["scans"]} | '
                     + ' | '.join(_spread(rows, name) for name in types) + ' |')
    old = report['others']
    kinds = [kind for kind in (OWN, EXPERTS) if kind in old]
    heads = {OWN: 'after, its own parts learned', EXPERTS: 'after, the experts learned, too'}
    lines += ['', '| modality | before | ' + ' | '.join(heads[k] for k in kinds) + ' |',
              '|---' * (2 + len(kinds)) + '|']
    lines += [f'| {name} | {value:.3f} | '
              + ' | '.join(f'{old[kind]["after"][name]:.3f}' for kind in kinds) + ' |'
              for name, value in old['before'].items()]
    lines.append(f'| answers changed, of {old["answers"]} | | '
                 + ' | '.join(str(old[kind]['changed answers']) for kind in kinds) + ' |')
    return '\n'.join(lines) + '\n'


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy against the number of pairs."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.0, 3.8), layout='constrained')
    groups = _groups(report['runs'])
    for name, colour in zip(sorted(report['guesser']), ('black', 'C0', 'C1', 'C2', 'C3')):
        for kind, mark in ((OWN, '.'), (EXPERTS, 'x')):
            found = [(pairs, row['accuracy'][name]) for (of, pairs), rows in groups.items()
                     if of == kind for row in rows]
            axes.plot([x for x, _ in found], [y for _, y in found], mark, color=colour)
        means = [(pairs, sum(row['accuracy'][name] for row in rows) / len(rows))
                 for (of, pairs), rows in groups.items() if of == OWN]
        axes.plot([x for x, _ in means], [y for _, y in means], color=colour, label=name)
        axes.axhline(report['guesser'][name], color=colour, linestyle=':', linewidth=1)
    axes.set(xscale='log', ylim=(0, 1), xlabel='pairs of a scan and a question',
             ylabel='answers exactly right, held-out worlds',
             title='Scan, the ninth modality (dotted: guess from the question;\n'
                   'crosses: the experts learned, too)')
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    plan = Plan()
    parser.add_argument('--model', default='nano', help='to begin with: name or folder')
    parser.add_argument('--pairs', default=','.join(map(str, plan.pairs)), metavar='N,...',
                        help='numbers of pairs (default: %(default)s)')
    for name, text in (('seeds', 'runs with each number of pairs'),
                       ('steps', 'least optimizer steps of a run; each scan is seen once'),
                       ('batch', 'scans of a step'),
                       ('held_out', 'pairs that are scored'),
                       ('old_worlds', 'worlds that the other modalities are scored on'),
                       ('replay_worlds', 'worlds rendered for replay; 0: experts never learn')):
        parser.add_argument('--' + name.replace('_', '-'), type=int, default=getattr(plan, name),
                            metavar='N', help=f'{text} (default: %(default)s)')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='folder of data, runs and figures; gone on with where it is begun')


def plan_of(args: argparse.Namespace) -> Plan:
    """Return the plan that the options say.

    :raises ValueError: naming the option.
    """
    try:
        pairs = tuple(sorted({int(word) for word in args.pairs.split(',')}))
    except ValueError:
        raise ValueError(f'--pairs: found {args.pairs!r}, expected whole numbers with commas '
                         'between them') from None
    values = {name: getattr(args, name) for name in vars(Plan()) if name != 'pairs'}
    for name, value in {'pairs': min(pairs), **values}.items():
        if value < int(name != 'replay_worlds'):
            raise ValueError(f'--{name.replace("_", "-")}: found {value}, expected more')
    return Plan(pairs, **values)


def run(args: argparse.Namespace) -> int:
    """Run the study as the options say; returns the exit status."""
    from onellm_ros.inference.locate import EngineError, find_model
    from onellm_ros.model.checkpoint import CheckpointError, load_model, weights_hash
    from onellm_ros.model.text import TextError

    try:
        plan, folder = plan_of(args), find_model(args.model)
        text = Text.load(folder, load_model(folder).config.text)
    except (ValueError, EngineError, CheckpointError, TextError) as error:
        print(f'new-modality: error: {error}', file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    started, weights = time.perf_counter(), weights_hash(folder)
    args.out.mkdir(parents=True, exist_ok=True)
    begun = args.out / 'weights.txt'
    if begun.is_file() and begun.read_text().strip() != weights:
        print(f'new-modality: error: {args.out}: begun with the weights '
              f'{begun.read_text().strip()}, found {weights}; take another --out', file=sys.stderr)
        return 2
    begun.write_text(weights + '\n')
    report = Study(plan, lambda: load_model(folder), text, args.out).run()
    report |= {'model': str(args.model), 'weights': weights,
               'machine': platform.processor() or platform.machine(),
               'minutes': round((time.perf_counter() - started) / 60, 1)}
    (args.out / 'new_modality.json').write_text(json.dumps(report, indent=1) + '\n')
    (args.out / 'new_modality.md').write_text(table(report))
    plot(report, args.out / 'new_modality.png')
    print(table(report))
    return 0


def main() -> int:
    """Run ``python -m onellm_ros.study.new_modality``."""
    parser = argparse.ArgumentParser(
        prog='new-modality', description='how many pairs a ninth modality needs')
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == '__main__':
    sys.exit(main())
