"""Simulated worlds rendered to disk: what training reads.

A shard is a folder with one ``.npy`` file a signal and a ``truth.jsonl``; it appears under its
final name only when it is complete, so that a killed writer leaves nothing half-done behind. The
arrays are stored small (pictures at the model's size, half precision where that loses nothing) and
are opened as memory maps. Worlds are numbered; a shard's number fixes the seeds of its worlds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
import json
import multiprocessing
import os
from pathlib import Path
import re
import shutil
from typing import TYPE_CHECKING

import numpy as np
import torch

from onellm_ros.config import ModelConfig
from onellm_ros.preprocess import (
    audio_tensor,
    denormalise,
    depth_tensor,
    image_tensor,
    normal_tensor,
    point_tensor,
)
from onellm_ros.simulation.truth import COLOURS, KINDS, SeenObject, Truth

if TYPE_CHECKING:
    from onellm_ros.simulation.world import Observation

GRID = 16                       # cells a side of the dense labels
FLOOR, WALL, FIRST_KIND = 0, 1, 2
IGNORE = 255
SHARD_WORLDS = 512
_MOVES = re.compile(r'"direction": "\w')       # of a line of ``truth.jsonl``


def truth_from_json(text: str) -> Truth:
    """Return the record of one line of ``truth.jsonl``."""
    values = json.loads(text)
    values['seen'] = tuple(SeenObject(**item) for item in values['seen'])
    return Truth(**values)


def made(signal: np.ndarray | None) -> np.ndarray:
    """Return a signal of an observation that was asked for whole."""
    if signal is None:
        raise ValueError('an observation without all of its signals cannot be stored; sample the '
                         'world without `parts`')
    return signal


def dense_labels(observation: Observation) -> tuple[np.ndarray, np.ndarray]:
    """Return what each cell of the picture shows.

    :returns: uint8 [GRID, GRID, 2] (FLOOR, WALL, FIRST_KIND + index in KINDS or IGNORE; index of
        the colour or IGNORE) and float16 [GRID, GRID] (metres, NaN unknown).
    """
    ids, depth = made(observation.ids), made(observation.depth)
    rows = ((np.arange(GRID) + 0.5) * ids.shape[0] / GRID).astype(int)
    cols = ((np.arange(GRID) + 0.5) * ids.shape[1] / GRID).astype(int)
    cells = ids[np.ix_(rows, cols)]
    colours = list(COLOURS)
    kind = np.full(cells.shape, IGNORE, np.uint8)
    colour = np.full(cells.shape, IGNORE, np.uint8)
    kind[cells == 0] = FLOOR
    kind[cells < 0] = WALL
    for item in observation.truth.seen:
        mask = cells == item.object_id
        kind[mask] = FIRST_KIND + KINDS.index(item.kind)
        colour[mask] = colours.index(item.colour)
    return np.stack([kind, colour], -1), depth[np.ix_(rows, cols)].astype(np.float16)


@dataclass(frozen=True)
class Packed:
    """One world as a shard stores it."""

    arrays: dict[str, np.ndarray]
    truth: Truth


def pack(observation: Observation, config: ModelConfig) -> Packed:
    """Return the arrays of one observation: what the live path would hand to the tokenizers."""
    size, tokenizer = config.encoder.image_size, config.tokenizer
    fit = tokenizer.image_fit
    dense, distance = dense_labels(observation)

    def pictures(rgb: np.ndarray) -> np.ndarray:
        small = denormalise(image_tensor(rgb, size, fit)) * 255
        return small.round().to(torch.uint8).movedim(-3, -1).numpy()

    return Packed({
        'image': pictures(made(observation.image)),
        'video': pictures(made(observation.video)),
        'depth': depth_tensor(observation.depth, size, fit,
                              tokenizer.depth_encoding)[0].half().numpy(),
        'normal': normal_tensor(observation.normal, size, fit)[0].half().numpy(),
        'point': point_tensor(observation.cloud, tokenizer.points,
                              tokenizer.point_frame).half().numpy(),
        'audio': audio_tensor(observation.audio, observation.audio_rate_hz,
                              tokenizer).half().numpy(),
        'imu': made(observation.imu).astype(np.float32),
        'fmri': made(observation.fmri).astype(np.float32),
        'dense': dense,
        'distance': distance}, observation.truth)


def world_seed(base_seed: int, shard: int, index: int) -> int:
    """Return the seed of a world of a shard; ``base_seed`` names the collection."""
    return base_seed * 100_000_000 + shard * SHARD_WORLDS + index


def render_shard(folder: Path, shard: int, config: ModelConfig, *, base_seed: int = 0,
                 worlds: int = SHARD_WORLDS, held_out: bool = False) -> Path:
    """Render one shard unless it is there; returns its folder."""
    # Imported here: the renderer compiles itself, which only writers need to wait for.
    from onellm_ros.simulation.world import World
    final = folder / f'shard-{shard:05d}'
    if final.exists():
        return final
    temporary = folder / f'.partial-{shard:05d}-{os.getpid()}'
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tokenizer = config.tokenizer
    size = config.encoder.image_size
    video = (tokenizer.video_frames, -(-size * 4 // 3), size)
    arrays: dict[str, np.ndarray] = {}
    with open(temporary / 'truth.jsonl', 'w') as lines:
        for index in range(worlds):
            world = World(world_seed(base_seed, shard, index), held_out=held_out)
            packed = pack(world.sample(cloud_points=tokenizer.points, video=video), config)
            for name, value in packed.arrays.items():
                if name not in arrays:
                    arrays[name] = np.lib.format.open_memmap(
                        temporary / f'{name}.npy', 'w+', value.dtype, (worlds, *value.shape))
                arrays[name][index] = value
            lines.write(json.dumps(asdict(packed.truth)) + '\n')
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]
    arrays.clear()
    try:
        temporary.rename(final)
    except OSError:
        if not final.exists():
            raise
        shutil.rmtree(temporary)                # another writer was first, with the same worlds
    return final


class Shards:
    """All complete shards below a folder; ``refresh`` finds those that were added since.

    :raises FileNotFoundError: by ``row`` and ``truth`` when nothing is rendered yet.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._arrays: list[dict[str, np.ndarray]] = []
        self._truths: list[list[str]] = []
        self._names: set[str] = set()
        self.index: list[tuple[int, int]] = []
        self.moving: list[int] = []             # worlds in which something moves in view
        self.refresh()

    def refresh(self) -> int:
        """Open new shards; returns the number of worlds at hand."""
        for path in sorted(self.folder.glob('shard-*')):
            if path.name in self._names:
                continue
            self._names.add(path.name)
            self._arrays.append({file.stem: np.load(file, mmap_mode='r')
                                 for file in sorted(path.glob('*.npy'))})
            lines = (path / 'truth.jsonl').read_text().splitlines()
            self.moving += [len(self.index) + row for row, line in enumerate(lines)
                            if _MOVES.search(line)]
            self.index.extend((len(self._truths), row) for row in range(len(lines)))
            self._truths.append(lines)
        return len(self.index)

    def __len__(self) -> int:
        return len(self.index)

    def truth(self, world: int) -> Truth:
        """Return the truth of a world."""
        shard, row = self.index[world]
        return truth_from_json(self._truths[shard][row])

    def row(self, world: int, name: str) -> np.ndarray:
        """Return a signal of a world, as stored."""
        shard, row = self.index[world]
        return self._arrays[shard][name][row]

    def rows(self, worlds: list[int], name: str) -> np.ndarray:
        """Return a signal of several worlds, stacked."""
        return np.stack([self.row(world, name) for world in worlds])


def _render_many(folder: str, shards: list[int], config: ModelConfig, base_seed: int,
                 worlds: int, held_out: bool) -> None:
    os.nice(5)
    torch.set_num_threads(1)
    for shard in shards:
        render_shard(Path(folder), shard, config, base_seed=base_seed, worlds=worlds,
                     held_out=held_out)


def start_rendering(folder: Path, shards: Iterator[int] | range, config: ModelConfig, *,
                    processes: int = 1, base_seed: int = 0, worlds: int = SHARD_WORLDS,
                    held_out: bool = False) -> list[multiprocessing.process.BaseProcess]:
    """Start processes that render the given shards; they are daemons and may be joined."""
    folder.mkdir(parents=True, exist_ok=True)
    for partial in folder.glob('.partial-*'):
        if not Path(f'/proc/{partial.name.rsplit("-", 1)[1]}').exists():
            shutil.rmtree(partial, ignore_errors=True)     # of a writer that was killed
    numbers = list(shards)
    context = multiprocessing.get_context('spawn')
    started: list[multiprocessing.process.BaseProcess] = []
    for part in range(processes):
        process = context.Process(
            target=_render_many, daemon=True,
            args=(str(folder), numbers[part::processes], config, base_seed, worlds, held_out))
        process.start()
        started.append(process)
    return started
