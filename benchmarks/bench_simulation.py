"""Measure the simulated world: milliseconds a view, complete samples a second; draw a sheet.

Without arguments it prints the figures; ``--sheet views.png`` saves twelve views with their truth.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
import statistics
import time

from _report import Report, arguments
import numpy as np

from onellm_ros.simulation.render import Camera, render
from onellm_ros.simulation.truth import Truth
from onellm_ros.simulation.world import World

FULL = {'cloud_points': 8192, 'video': (8, 112, 112)}


def view_ms(width: int, height: int, supersample: bool, repeats: int, worlds: int = 8
            ) -> tuple[float, float]:
    """Return median wall and CPU milliseconds of one view (colour, depth, normals, ids)."""
    walls, cpus = [], []
    for seed in range(worlds):
        world = World(seed, held_out=True)
        camera = Camera(width, height)
        prims, room = world.stage.primitives(), world.stage.room
        base = world.pose(world.seconds)
        render(prims, room, camera, base, supersample=supersample)
        for _ in range(repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            render(prims, room, camera, base, supersample=supersample)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    return statistics.median(walls) * 1e3, statistics.median(cpus) * 1e3


def make_samples(first: int, count: int) -> tuple[float, float]:
    """Make complete samples; returns wall and CPU seconds without the first (compilation)."""
    World(first).sample(**FULL)
    wall, cpu = time.perf_counter(), time.process_time()
    for seed in range(first + 1, first + 1 + count):
        World(seed).sample(**FULL)
    return time.perf_counter() - wall, time.process_time() - cpu


def sheet(path: str, first: int, columns: int = 4, count: int = 12) -> None:
    """Save a grid of views of held-out worlds with what is true of them."""
    import cv2
    tiles = []
    for seed in range(first, first + count):
        world = World(seed, held_out=True, camera=Camera(448, 336))
        observation = world.sample(parts=('image',))
        tile = np.full((336 + 92, 448, 3), 255, np.uint8)
        tile[:336] = observation.image
        for row, text in enumerate(truth_lines(observation.truth)):
            cv2.putText(tile, text, (4, 350 + 15 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.40,
                        (0, 0, 0), 1, cv2.LINE_AA)
        tiles.append(tile)
    rows = [np.hstack(tiles[i:i + columns]) for i in range(0, count, columns)]
    cv2.imwrite(path, np.vstack(rows)[..., ::-1])


def truth_lines(truth: Truth) -> list[str]:
    """Return the truth as up to six short lines."""
    lines = [f'{o.colour} {o.kind} {o.place} {o.distance_m:.1f} m, visible {o.visible:.2f}'
             f'{" moves " + o.direction if o.direction else ""}' for o in truth.seen[:5]]
    lines.append(f'{truth.motion}; {truth.sound}; {truth.floor} floor, {truth.wall_colour} walls, '
                 f'clear {truth.clear_m:.1f} m')
    return lines


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    arguments(parser, repeats=10)
    parser.add_argument('--sheet', metavar='FILE', help='save twelve views with their truth')
    parser.add_argument('--first', type=int, default=0, help='seed of the first view')
    parser.add_argument('--samples', type=int, default=60, help='complete samples a process')
    parser.add_argument('--processes', type=int, default=2)
    args = parser.parse_args()
    if args.sheet:
        sheet(args.sheet, args.first)
        return
    report = Report('The simulated world', 'numba', 'numpy')
    repeats, samples = (2, 20) if args.quick else (args.repeats, args.samples)
    report.note(f'views: median of {repeats} repeats in each of 8 worlds, one thread')
    for width, height in ((224, 168), (640, 480)):
        for smooth in (False, True):
            wall, cpu = view_ms(width, height, smooth, repeats)
            name = f'view {width}x{height}{", smooth edges" if smooth else ""}'
            report.add(name, wall, unit='ms')
            report.add(f'  of it CPU, {name}', cpu, unit='ms')
    n = args.processes
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(n, mp_context=context) as pool:
        results = list(pool.map(make_samples, [10_000 * i for i in range(n)], [samples] * n))
    report.note('complete samples: 224x168 view with smooth edges, depth, normals, ids, cloud of '
                f'8192, 8 frames of 112x112, 2 s IMU, 2 s audio; {samples} a process')
    report.add(f'complete samples, {n} processes', sum(samples / wall for wall, _ in results),
               unit='a second', goal='>= 25')
    report.add('CPU of one', statistics.mean(c for _, c in results) / samples * 1e3, unit='ms')
    report.finish(args.json)


if __name__ == '__main__':
    main()
