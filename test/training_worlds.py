"""What the tests of training share: a tiny model, a few worlds, trainers, and ranks of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import json
from pathlib import Path
import sys

import torch

from onellm_ros.config import NANO, ModelConfig
from onellm_ros.modality import Modality
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import Text, train_tokenizer
from onellm_ros.simulation.language import vocabulary_texts
from onellm_ros.training.distributed import Ranks, started_ranks
from onellm_ros.training.shards import render_shard
from onellm_ros.training.sources import Sources
from onellm_ros.training.stages import Stage
from onellm_ros.training.trainer import Options, Trainer

TINY = replace(
    NANO, name='tiny',
    encoder=replace(NANO.encoder, width=32, layers=1, heads=2),
    tokenizer=replace(NANO.tokenizer, video_frames=2, points=256, point_centres=16,
                      point_neighbours=8),
    upm=replace(NANO.upm, layers=1, heads=2, modality_tokens=4),
    llm=replace(NANO.llm, dim=32, layers=1, heads=2))
ONE_EXPERT = replace(TINY, upm=replace(TINY.upm, experts=1))


def sets(*present: tuple[Modality, ...]) -> tuple[tuple[tuple[Modality, ...], float], ...]:
    """Return sets of modalities, all equally frequent."""
    return tuple((modalities, 1.0) for modalities in present)


# Stages that go through most of what training has, in the order of a run.
CHAIN = (
    Stage('encoder', 'encoder', sets((Modality.POINT,), (Modality.IMAGE,), (Modality.IMU,)),
          ('tokenizers', 'encoder'), steps=3, batch=4, warmup=2, facts=0.3, dense=1.0),
    Stage('one', 'align', sets((Modality.IMAGE,)), ('upm',), steps=3, batch=4, warmup=1,
          questions=2, facts=1.0, told=1.0, experts=1, fresh=(Modality.IMAGE,)),
    Stage('three', 'align', sets((Modality.IMAGE, Modality.IMU), (Modality.AUDIO,)),
          ('tokenizers', 'upm', 'llm'), steps=4, batch=6, warmup=1, questions=2, facts=0.3,
          experts=3, checkpointing=True))


def render(folder: Path, shards: int = 2, worlds: int = 12) -> Path:
    """Render worlds and train a tokenizer; returns the folder."""
    torch.manual_seed(0)
    for number in range(shards):
        render_shard(folder / 'worlds', number, TINY, worlds=worlds)
    render_shard(folder / 'worlds' / 'held_out', 0, TINY, worlds=8, base_seed=1, held_out=True)
    train_tokenizer(vocabulary_texts(), TINY.llm.vocab_size).save(str(folder / 'tokenizer.json'))
    return folder


def trainer(folder: Path, out: Path, stages: Sequence[Stage], model: ModelConfig = TINY, *,
            ranks: Ranks = Ranks(), manifests: dict[str, Path] | None = None,
            on_broken: str = 'error', start: int = 0, **options) -> Trainer:
    """Return a trainer on the worlds of a folder."""
    text = Text.load(folder, model.text)
    torch.manual_seed(3)
    config = replace(model, llm=replace(model.llm, vocab_size=text.size))
    worlds = folder / 'worlds'
    sources = Sources(worlds, worlds / 'held_out', manifests or {}, manifests or {},
                      on_broken=on_broken)
    return Trainer(OneLLM(config), text, stages, out, sources, ranks=ranks, start=start,
                   options=Options(workers=0, **options))


class Killed(Exception):
    """Instead of a signal."""


def killed(run: Trainer, steps: int) -> None:
    """Run a trainer that dies when it is to take one step more than so many."""
    original, seen = run._step, []

    def step(*args) -> None:
        if len(seen) == steps:
            raise Killed
        seen.append(1)
        original(*args)

    run._step = step  # type: ignore[method-assign]
    try:
        run.run()
    except Killed:
        return
    raise AssertionError(f'it ended before it took {steps} steps')


def lines(folder: Path, *, untimed: bool = False) -> list[dict]:
    """Return the lines of a run's log.

    :param untimed: without what a clock says.
    """
    found = [json.loads(x) for x in (folder / 'log.jsonl').read_text().splitlines()]
    return [{k: v for k, v in line.items() if not (untimed and k == 'samples_per_s')}
            for line in found]


def main() -> None:
    """Be one rank: FOLDER OUT STEPS; after so many steps it dies."""
    folder, out, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    with started_ranks(torch.device('cpu')) as ranks:
        run = trainer(folder, out, CHAIN, ONE_EXPERT, ranks=ranks, precision='float32',
                      log_every=1, save_every=2, eval_batches=2)
        killed(run, steps)


if __name__ == '__main__':
    main()
