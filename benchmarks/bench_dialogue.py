"""Measure what earlier turns of a conversation do to a model's answers (docs/asking.md).

Fresh held-out worlds are rendered; each question to the colour picture is asked alone, and again
behind the earlier questions about the same picture with the model's own answers.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

from _report import Report, arguments

from onellm_ros.evaluation.robot.asking import alone as questions_to
from onellm_ros.evaluation.robot.worlds import EVIDENCE, world_seed
from onellm_ros.inference.engine import Engine
from onellm_ros.modality import Modality
from onellm_ros.simulation import language
from onellm_ros.simulation.world import World


def main() -> None:
    """Print accuracy by number of turns before the question."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    arguments(parser, repeats=1)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--worlds', type=int, default=100)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--turns', type=int, default=3)
    args = parser.parse_args()
    engine = Engine.load(args.model)
    found: dict[int, list[tuple[bool, bool, bool]]] = defaultdict(list)
    report = Report('Answers behind earlier turns', 'torch')
    worlds = 8 if args.quick else args.worlds
    for number in range(worlds):
        observation = World(world_seed(args.seed, number), held_out=True).sample()
        chosen = {m: observation.chosen()[m] for m in EVIDENCE[Modality.IMAGE]}
        prefix = engine.encode(dict(engine.preprocessor.tensors(chosen, observation.stamp_ns)))
        asked = questions_to(observation.truth, Modality.IMAGE, (args.seed, number, 0), 4,
                             'plain')
        history: list[tuple[str, str]] = []
        for question in asked:
            alone = engine.ask(prefix, question.question)
            turns = tuple(history[-args.turns:]) if args.turns else ()
            behind = engine.ask(prefix, question.question, history=turns)
            assert behind.turns == len(turns)
            found[len(turns)].append((language.is_correct(question, alone.text),
                                      language.is_correct(question, behind.text),
                                      alone.text == behind.text))
            history.append((question.question, behind.text))
    report.note(f'right answers to {sum(map(len, found.values()))} questions about {worlds} '
                'pictures, reference: the same questions asked alone')
    for turns, rows in sorted(found.items()):
        alone, behind, same = (100 * sum(column) / len(rows) for column in zip(*rows))
        name = f'behind {turns} turns ({len(rows)} questions)'
        report.add(f'right, {name}', behind, alone, unit='%', compare=False)
        report.add(f'same text, {name}', same, unit='%')
    report.finish(args.json)


if __name__ == '__main__':
    main()
