"""Rendered worlds for training: made when the first stage that needs them comes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import sys
import time

from onellm_ros.config import ModelConfig
from onellm_ros.training.stages import Stage


@dataclass(frozen=True)
class WorldOptions:
    """Which worlds.

    :param data: folder of those to train on; those to evaluate on are in ``held_out`` below it.
    :param worlds: to train on; :param held_out: to evaluate on.
    :param processes: that render. :param wait_for: start when so many are there; None: all.
    """

    data: Path
    worlds: int
    held_out: int
    processes: int = 2
    wait_for: int | None = None

    @property
    def held_out_folder(self) -> Path:
        """Folder of the worlds to evaluate on."""
        return self.data / 'held_out'


def wait_for_worlds(folder: Path, wanted: int, processes: list) -> None:
    """Wait until enough worlds are rendered.

    :raises RuntimeError: when the writers ended before that.
    """
    from onellm_ros.training.shards import Shards
    shards = Shards(folder)
    while len(shards) < wanted:
        if not any(p.is_alive() for p in processes) and shards.refresh() < wanted:
            raise RuntimeError(f'rendering ended with {len(shards)} of {wanted} worlds in '
                               f'{folder}; its error stands above')
        time.sleep(1.0)
        shards.refresh()
        if sys.stderr.isatty():
            print(f'\rrendered {len(shards)} of {wanted} worlds', end='', file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)


class Worlds:
    """Renders what a recipe needs, when its first stage that needs it comes."""

    def __init__(self, options: WorldOptions, config: ModelConfig):
        self.options, self.config = options, config
        self.ready = False

    def prepare(self, stage: Stage) -> None:
        """Wait until the worlds of a stage are there."""
        if stage.data != 'worlds' or not stage.steps or self.ready:
            return
        from onellm_ros.training.shards import SHARD_WORLDS, start_rendering
        options = self.options
        writers = start_rendering(options.held_out_folder, range(1), self.config, base_seed=1,
                                  held_out=True, worlds=options.held_out)
        wait_for_worlds(options.held_out_folder, options.held_out, writers)
        count = -(-options.worlds // SHARD_WORLDS)
        writers = start_rendering(options.data, range(count), self.config,
                                  processes=options.processes)
        wanted = count * SHARD_WORLDS
        wait_for_worlds(options.data, min(options.wait_for or wanted, wanted), writers)
        self.ready = True
