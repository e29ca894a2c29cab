"""Measure what earlier turns of a conversation do to a model's answers (docs/asking.md).

Fresh held-out worlds are rendered; each question to the colour picture is asked alone, and again
behind the earlier questions about the same picture with the model's own answers.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

from onellm_ros.evaluation.robot_world import EVIDENCE, _questions, world_seed
from onellm_ros.inference.engine import Engine
from onellm_ros.modality import Modality
from onellm_ros.simulation import language
from onellm_ros.simulation.world import World


def main() -> None:
    """Print accuracy by number of turns before the question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--worlds', type=int, default=100)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--turns', type=int, default=3)
    args = parser.parse_args()
    engine = Engine.load(args.model)
    found: dict[int, list[tuple[bool, bool, bool]]] = defaultdict(list)
    for number in range(args.worlds):
        observation = World(world_seed(args.seed, number), held_out=True).sample()
        chosen = {m: observation.chosen()[m] for m in EVIDENCE[Modality.IMAGE]}
        prefix = engine.encode(dict(engine.preprocessor.tensors(chosen, observation.stamp_ns)))
        asked = _questions(observation.truth, Modality.IMAGE, (args.seed, number, 0), 4, 'plain')
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
    print('turns before  questions  alone  with turns  same text')
    for turns, rows in sorted(found.items()):
        share = [sum(column) / len(rows) for column in zip(*rows)]
        print(f'{turns:12d}  {len(rows):9d}  {share[0]:.3f}  {share[1]:10.3f}  {share[2]:9.3f}')


if __name__ == '__main__':
    main()
