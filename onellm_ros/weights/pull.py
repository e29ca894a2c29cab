"""Fetching a model from a hub: into the cache, or into a directory of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import errno
from fnmatch import fnmatchcase
import os
from pathlib import Path
import shutil
from typing import Any

from onellm_ros.weights.cache import Cache, RemoteFile
from onellm_ros.weights.errors import WeightsError
from onellm_ros.weights.hub import Hub, HubUnreachable, digest, missing_bytes

# Formats that nothing here reads, and what a repository's page shows.
SKIPPED = ('*.bin', '*.msgpack', '*.h5', '*.onnx', '*.onnx_data', '*.gguf', '*.ot', '*.tflite',
           'original/*', '.git*', '*/.git*', '*.png', '*.jpg', '*.jpeg', '*.gif', '*.mp4')
_GB = 1e9
_PARTIAL = '.onellm-pull'


@dataclass(frozen=True)
class Pulled:
    """A model that was fetched.

    :param folder: where it lies.
    :param commit: of the repository.
    :param files: what was to be had of it.
    :param skipped: files of the repository that were left out.
    :param note: why it comes from the cache, if the hub was not asked.
    """

    folder: Path
    commit: str
    files: tuple[RemoteFile, ...]
    skipped: tuple[str, ...] = ()
    note: str = ''


def _wanted(file: RemoteFile) -> bool:
    return not any(fnmatchcase(file.path, pattern) for pattern in SKIPPED)


def _holds(path: Path, file: RemoteFile) -> bool:
    """Say whether a file is there with the right content."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open('rb') as stream:
        return digest(stream, file) == file.checksum


def _check_room(folder: Path, needed: int) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WeightsError(f'{folder}: {needed / _GB:.2f} GB are needed, {free / _GB:.2f} GB are '
                           'free')


def _into_cache(hub: Hub, cache: Cache, revision: str, commit: str, files: Sequence[RemoteFile],
                told: Callable[[int], Any]) -> Path:
    """Fetch what the cache lacks."""
    done, left = set(), []
    for file in files:
        # What lies there is read, not only measured: a disk may have changed it.
        if _holds(cache.snapshot(commit) / file.path, file):
            done.add(file.path)
        elif not _holds(cache.blob(file), file):
            left.append(file)
            continue
        told(file.size)
    for file in left:
        cache.blob(file).unlink(missing_ok=True)
    _check_room(cache.folder, sum(missing_bytes(file, cache.blob(file)) for file in left))
    for file in left:
        hub.fetch(hub.url(cache.repo, commit, file), file, cache.blob(file), told)
    for file in files:
        if file.path not in done:
            cache.link(commit, file)
    cache.remember(revision, commit, files)
    return cache.snapshot(commit)


def _into_folder(hub: Hub, cache: Cache, commit: str, files: Sequence[RemoteFile], folder: Path,
                 told: Callable[[int], Any]) -> Path:
    """Fetch into a directory what it lacks, from the cache where that has it."""
    if folder.exists() and not folder.is_dir():
        raise WeightsError(f'{folder}: expected a directory, found a file')
    left = []
    for file in files:
        target = folder / file.path
        if not target.exists():
            left.append(file)
        elif _holds(target, file):
            told(file.size)
        else:
            raise WeightsError(f'{target}: exists and is not the file of {cache.repo}; remove it, '
                               'or choose another directory')
    partial = folder / _PARTIAL
    _check_room(folder, sum(missing_bytes(file, partial / file.checksum) for file in left))
    for file in left:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        piece = partial / file.checksum
        if _holds(cache.blob(file), file):
            partial.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cache.blob(file), piece)
            told(file.size)
        else:
            hub.fetch(hub.url(cache.repo, commit, file), file, piece, told)
        os.replace(piece, target)
    if partial.is_dir():
        shutil.rmtree(partial)
    return folder


def pull(repo: str, revision: str = 'main', *, to: Path | None = None,
         endpoint: str | None = None, everything: bool = False,
         told: Callable[[int], Any] = lambda _: None,
         total: Callable[[int], Any] = lambda _: None) -> Pulled:
    """Fetch a model, or find it in the cache where the hub cannot be asked.

    Interrupted, the same call goes on from where it stopped. A file appears under its name only
    when its checksum is the one that the hub states.

    :param repo: ``OWNER/NAME``.
    :param revision: branch, tag or commit.
    :param to: directory to write to; default: the cache, from where ``hub:OWNER/NAME`` loads it.
    :param endpoint: address of the hub; default: HF_ENDPOINT, or Hugging Face's.
    :param everything: fetch formats that are not read here too.
    :param told: called with the bytes of each piece.
    :param total: called with the bytes of all, before the first piece.
    :raises WeightsError: if it cannot be had; the text says why and what to do.
    """
    cache, hub = Cache(repo), Hub(endpoint)
    note = ''
    try:
        commit, found = hub.files(repo, revision)
        files = [file for file in found if everything or _wanted(file)]
        skipped = tuple(file.path for file in found if file not in files)
    except HubUnreachable as error:
        known = cache.commit(revision)
        stored = cache.files(known) if known else None
        if known is None or stored is None or cache.missing(known, stored):
            raise HubUnreachable(f'{error}. {repo}@{revision} is not whole in the cache '
                                 f'{cache.folder.parent} either') from error
        commit, files, skipped, note = known, stored, (), str(error)
    files.sort(key=lambda file: file.size)      # what tells about the weights comes before them
    if not files:
        raise WeightsError(f'{repo}, revision {revision}: expected files, found none that are '
                           f'read here (of {len(skipped)})')
    total(sum(file.size for file in files))
    try:
        folder = _into_cache(hub, cache, revision, commit, files, told) if to is None else (
            _into_folder(hub, cache, commit, files, to, told))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise WeightsError(f'{error.filename or to or cache.folder}: no room left; what was '
                           'fetched is kept, and the same command goes on from there') from error
    return Pulled(folder, commit, tuple(files), skipped, note)
