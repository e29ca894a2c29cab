"""The simulated world written to disk, in the forms of OneLLM's public training data.

One file a sample. Each world gives a caption and a conversation for each modality, and a
conversation of text alone. Everything is written below a folder beside the final one and appears
under the final name only when it is whole; a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import fcntl
import json
import multiprocessing
from multiprocessing.connection import wait
import os
from pathlib import Path
import shutil
import threading
from typing import Any, TextIO

import numpy as np
import yaml

from onellm_ros.datasets.errors import DataError
from onellm_ros.datasets.render_files import write_atomically, write_signals
from onellm_ros.modality import Modality
from onellm_ros.simulation import language
from onellm_ros.simulation.truth import Truth

FORMAT = 1                      # of the files; another one cannot go on with a folder of this
_WORLDS_OF_A_SEED = 100_000_000
_TEXT_SENSES = frozenset((Modality.AUDIO, Modality.IMU))
_AT_A_TIME = 8                  # worlds that a process takes


@dataclass(frozen=True)
class RenderConfig:
    """What to render.

    :param worlds: how many. :param seed: names the collection; all follows from it.
    :param held_out: worlds and wordings that training never sees.
    :param questions: asked of each modality of a world, at most.
    :param unknowns: share of the conversations in which one thing is asked that nobody can tell.
    :param points: of a cloud. :param video: frames (over 2 s), width, height.
    """

    worlds: int
    seed: int = 0
    held_out: bool = False
    questions: int = 5
    unknowns: float = 0.5
    points: int = 8192
    video: tuple[int, int, int] = (16, 160, 120)

    def __post_init__(self) -> None:
        """Check the numbers.

        :raises DataError: naming the one that cannot be.
        """
        limits = (('worlds', self.worlds, 1, _WORLDS_OF_A_SEED), ('seed', self.seed, 0, 10**9),
                  ('questions', self.questions, 1, 100), ('points', self.points, 1, 10**6),
                  ('video frames', self.video[0], 2, 1000),
                  ('video width', self.video[1], 16, 4096),
                  ('video height', self.video[2], 16, 4096))
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise DataError(f'{name}: found {value}, expected {low} to {high}')
        if any(side % 2 for side in self.video[1:]):
            raise DataError(f'video: found {self.video[1]} x {self.video[2]} pixels, expected '
                            'even numbers, as video files want them')
        if not 0 <= self.unknowns <= 1:
            raise DataError(f'unknowns: found {self.unknowns}, expected 0 to 1')


def _turns(pairs: list[tuple[str, str]], lead: str = '') -> list[dict[str, str]]:
    """Return a conversation; the lead stands before its first question."""
    out = []
    for question, answer in pairs:
        out += [{'from': 'human', 'value': lead + question}, {'from': 'gpt', 'value': answer}]
        lead = ''
    return out


def world_language(truth: Truth, config: RenderConfig, index: int) -> dict[str, Any]:
    """Return what is said of a world: caption and conversation by modality, and of text.

    :returns: name of the modality, or ``text`` -> {caption, prompt, questions: [(q, a)]}.
    """
    out: dict[str, Any] = {}
    prompts = language.CAPTION_PROMPTS_HELD_OUT if config.held_out else language.CAPTION_PROMPTS
    said = 'held_out' if config.held_out else 'varied'
    for number, modality in enumerate(Modality):
        rng = np.random.default_rng([config.seed, index, number])
        present = frozenset((modality,))
        asked = language.questions(truth, modality, rng, config.questions, said=said)
        if rng.random() < config.unknowns:
            asked += language.unknown_questions(truth, present, rng, 1, said=said)
            asked = [asked[int(i)] for i in rng.permutation(len(asked))]
        prompt = str(prompts[int(rng.integers(len(prompts)))])
        out[modality.value] = {
            'caption': language.caption(truth, present, rng, style='varied'), 'prompt': prompt,
            'questions': [(q.question, q.answer) for q in asked]}
    rng = np.random.default_rng([config.seed, index, len(Modality)])
    told = language.caption(truth, _TEXT_SENSES, rng, style='varied')
    about = [q for modality in sorted(_TEXT_SENSES)
             for q in language.questions(truth, modality, rng, 2, said=said)]
    out['text'] = {'questions': [(f'{told} {q.question}', q.answer) for q in about]}
    return out


def _stem(index: int) -> str:
    """Return the name of a world's files, a thousand to a folder."""
    return f'{index // 1000:04d}/{index:07d}'


def render_world(folder: str, config: RenderConfig, index: int) -> int:
    """Render one world into a folder, unless its record is there; returns its number."""
    from onellm_ros.simulation.world import World  # compiles the renderer

    record = Path(folder) / 'records' / f'{_stem(index)}.json'
    if record.exists():
        return index
    world = World(config.seed * _WORLDS_OF_A_SEED + index, held_out=config.held_out)
    observation = world.sample(cloud_points=config.points, video=config.video)
    window = write_signals(Path(folder), _stem(index), observation)
    said = world_language(observation.truth, config, index)
    record.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps({'window': window, 'said': said}).encode())
    return index


_FILES = {Modality.IMAGE: 'image/{}.png', Modality.VIDEO: 'video/{}.mp4',
          Modality.DEPTH: 'depth/{}.png', Modality.NORMAL: 'normal/{}.png',
          Modality.POINT: 'point/{}.npy', Modality.AUDIO: 'audio/{}.wav',
          Modality.FMRI: 'fmri/{}.npy'}


def _named(modality: Modality, index: int, window: list[float]) -> dict[str, Any]:
    """Return the keys of an item that name its sensor files."""
    stem = _stem(index)
    if modality is Modality.IMU:
        folder, _, uid = f'imu/{stem}'.rpartition('/')
        return {'imu_path': folder, 'video_uid': uid, 'window_start': window[0],
                'window_end': window[1]}
    path = _FILES[modality].format(stem)
    if modality in (Modality.DEPTH, Modality.NORMAL):
        return {'image': _FILES[Modality.IMAGE].format(stem), f'{modality.value}_image': path}
    return {'image': path}


def _items(name: str, record: dict[str, Any], index: int) -> Iterator[dict[str, Any]]:
    """Yield what one world gives to an instruction file."""
    said = record['said'][name]
    if name == 'text':
        files, lead = {}, ''
    else:
        modality = Modality(name)
        files = _named(modality, index, record['window'])
        lead = '<image>\n' if modality is Modality.IMAGE else ''
        yield {'id': f'{index:07d}-caption', **files,
               'conversations': _turns([(said['prompt'], said['caption'])], lead)}
    if said['questions']:
        yield {'id': f'{index:07d}-questions', **files,
               'conversations': _turns(said['questions'], lead)}


def _caption_row(modality: Modality, record: dict[str, Any], index: int) -> str | dict[str, Any]:
    """Return what one world gives to an alignment file: a line of a table, or an item."""
    named = _named(modality, index, record['window'])
    caption = record['said'][modality.value]['caption']
    if modality is not Modality.IMU:
        return f'{_cell(caption)}\t{_cell(named["image"])}\n'
    uid = f'{named.pop("imu_path")}/{named["video_uid"]}'
    return {**named, 'video_uid': uid, 'text': caption}


def _cell(text: str) -> str:
    """Return a cell of a table, in quotes where it must be."""
    return '"' + text.replace('"', '""') + '"' if set(text) & set('"\t\r\n') else text


class _ListFile:
    """A JSON list that is written item by item, one a line."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, 'w', encoding='utf-8')
        self.file.write('[')
        self.count = 0

    def add(self, item: dict[str, Any]) -> None:
        self.file.write((',\n' if self.count else '\n') + json.dumps(item))
        self.count += 1

    def close(self) -> None:
        self.file.write('\n]\n')
        self.file.close()


def _write_annotations(folder: Path, config: RenderConfig) -> None:
    """Write the annotation files and the two manifests from the records of the worlds."""
    for kind in ('instruction', 'alignment'):
        (folder / kind).mkdir(exist_ok=True)
    names = (*(m.value for m in Modality), 'text')
    lists = {name: _ListFile(folder / f'instruction/{name}.json') for name in names}
    tables: dict[Modality, TextIO] = {
        m: open(folder / f'alignment/{m}.csv', 'w', encoding='utf-8')
        for m in Modality if m is not Modality.IMU}
    windows = _ListFile(folder / 'alignment/imu.json')
    for table in tables.values():
        table.write('caption\turl\n')
    for index in range(config.worlds):
        record = json.loads((folder / 'records' / f'{_stem(index)}.json').read_text())
        for name, items in lists.items():
            for item in _items(name, record, index):
                items.add(item)
        for modality in Modality:
            row = _caption_row(modality, record, index)
            if isinstance(row, str):
                tables[modality].write(row)
            else:
                windows.add(row)
    for table in tables.values():
        table.close()
    for list_file in (*lists.values(), windows):
        list_file.close()
    _write_manifests(folder, config, {name: items.count for name, items in lists.items()})


def _write_manifests(folder: Path, config: RenderConfig, counts: dict[str, int]) -> None:
    """Write manifest.yaml (instructions) and alignment.yaml (captions)."""
    instruction = [{'name': name, 'file': f'instruction/{name}.json', 'modality': name}
                   for name, count in counts.items() if count]
    alignment: list[dict[str, Any]] = []
    for modality in Modality:
        entry: dict[str, Any] = {'name': modality.value, 'file': f'alignment/{modality}.csv',
                                 'modality': modality.value, 'kind': 'alignment'}
        if modality is Modality.IMU:
            entry |= {'file': 'alignment/imu.json', 'imu': '.'}
        elif modality in (Modality.DEPTH, Modality.NORMAL):
            entry['companion'] = ['image/', f'{modality}/']
        alignment.append(entry)
    captions = {modality.value: config.worlds for modality in Modality}
    for stem, name, sets, expected in (
            ('manifest', 'simulated instructions', instruction, counts),
            ('alignment', 'simulated captions', alignment, captions)):
        (folder / f'{stem}.yaml').write_text(yaml.safe_dump(
            {'name': f'{name}, seed {config.seed}', 'expected': expected, 'sets': sets},
            sort_keys=False))


def _partial(out: Path, config: RenderConfig) -> Path:
    """Return the folder to write into, made ready.

    :raises DataError: if the final folder exists, or another set was begun.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f'{out}: exists already; give another folder, or remove it')
    partial = out.parent / f'.{out.name}.partial'
    settings = json.dumps({'format': FORMAT, **asdict(config)}, indent=1) + '\n'
    path = partial / 'settings.json'
    if path.exists() and path.read_text() != settings:
        raise DataError(f'{partial}: found an interrupted run with other settings ({path.name}); '
                        'repeat its options to go on with it, or remove it')
    partial.mkdir(parents=True, exist_ok=True)
    write_atomically(path, settings.encode())
    return partial


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Keep other processes from writing the same set, and clear what a killed one began.

    :raises DataError: if another one is at it.
    """
    with open(partial / '.lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f'{partial}: another process is writing this set') from None
        for begun in partial.rglob('.*'):
            if begun.is_file() and begun.name != '.lock':
                begun.unlink()
        yield


def _prepare() -> None:
    """Make a rendering process a modest one, which does not outlive the one that started it."""
    import torch

    os.nice(5)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process when the one behind the sentinel has ended."""
    wait([sentinel])
    os._exit(1)


def _render_chunk(folder: str, config: RenderConfig, indices: range) -> int:
    for index in indices:
        render_world(folder, config, index)
    return len(indices)


def render(out: str | Path, config: RenderConfig, *, processes: int = 1,
           progress: Callable[[int], object] = lambda count: None) -> Path:
    """Render worlds to a folder; an interrupted run with the same settings goes on.

    :param out: must not exist; it appears when all is done.
    :param processes: 1: this one. :param progress: is called with the number of worlds done since.
    :returns: the manifest of the instruction set; ``alignment.yaml`` is beside it.
    :raises DataError: if the folder exists, or a process ended early.
    """
    out = Path(out).expanduser().absolute()
    partial = _partial(out, config)
    with _alone(partial):
        _render_all(partial, config, processes, progress)
        _write_annotations(partial, config)
        shutil.rmtree(partial / 'records')
        (partial / '.lock').unlink()
        partial.rename(out)
    return out / 'manifest.yaml'


def _render_all(partial: Path, config: RenderConfig, processes: int,
                progress: Callable[[int], object]) -> None:
    """Render all worlds that are not there yet.

    :raises DataError: if a process ended early.
    """
    chunks = [range(start, min(config.worlds, start + _AT_A_TIME))
              for start in range(0, config.worlds, _AT_A_TIME)]
    if processes <= 1:
        for chunk in chunks:
            progress(_render_chunk(str(partial), config, chunk))
        return
    context = multiprocessing.get_context('spawn')
    try:
        with ProcessPoolExecutor(processes, context, _prepare) as pool:
            done = [pool.submit(_render_chunk, str(partial), config, chunk) for chunk in chunks]
            try:
                for one in done:
                    progress(one.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BrokenProcessPool:
        raise DataError(f'a rendering process ended early (killed, out of memory?); what is done '
                        f'stays in {partial}, the same command goes on with it') from None
