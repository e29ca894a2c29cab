"""A directory that appears whole under its name, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
import errno
import os
from pathlib import Path
import shutil
from types import TracebackType

from onellm_ros.weights.errors import WeightsError

# Files of tokenizers, taken along as they are.
TOKENIZERS = ('tokenizer.model', 'tokenizer.json', 'tokenizer_config.json',
              'special_tokens_map.json', 'added_tokens.json', 'vocab.json', 'merges.txt',
              'chat_template.jinja', 'generation_config.json')
# What a model directory may hold: only such a directory is replaced.
_KNOWN_FILES = frozenset({
    'config.json', 'params.json', 'model.safetensors', 'base.safetensors',
    'consolidated.00-of-01.pth', *TOKENIZERS})
_KNOWN_FOLDERS = frozenset({'llm', 'released'})
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_GB = 1e9


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def sync_folder(folder: Path) -> None:
    """Have the file system keep the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Output:
    """Writes a directory beside its final name and renames it when all of it is written.

    As a context manager it gives the folder to write to. Left by an error (a full disk, Ctrl-C) it
    removes that folder; one that a killed process left behind is removed by the next.

    :param target: the final name.
    :param force: replace a model directory of that name.
    :param needed: bytes that will be written.
    :param sources: directories that are read; none of them may be the target or lie inside.
    :raises WeightsError: if the target exists, is no directory to replace, or has no room.
    """

    def __init__(self, target: Path, *, force: bool = False, needed: int = 0,
                 sources: Sequence[Path] = ()) -> None:
        self.target = target.absolute()
        self.force, self.needed = force, needed
        self._part = self.target.with_name(f'.{self.target.name}.part-{os.getpid()}')
        self._check(sources)

    def _check(self, sources: Sequence[Path]) -> None:
        real = self.target.resolve()
        if not self.target.name or real == real.parent:
            raise WeightsError(f'{self.target}: expected the name of a new directory')
        for source in map(Path.resolve, sources):
            if real == source or real in source.parents or source in real.parents:
                raise WeightsError(f'{self.target}: the result must stand beside what is read '
                                   f'({source}), not in it or around it')
        if self.target.exists() or self.target.is_symlink():
            if not self.target.is_dir() or self.target.is_symlink():
                raise WeightsError(f'{self.target}: exists and is no directory')
            if any(self.target.iterdir()) and not self.force:
                raise WeightsError(f'{self.target}: exists; give another name, or --force to '
                                   'replace it')
            foreign = sorted(
                p.name for p in self.target.iterdir()
                if p.name not in (_KNOWN_FOLDERS if p.is_dir() else _KNOWN_FILES))
            if foreign:
                raise WeightsError(f'{self.target}: not replaced, since it holds {foreign[0]!r}, '
                                   'which is no part of a model directory; remove it yourself')

    def __enter__(self) -> Path:
        parent = self.target.parent
        parent.mkdir(parents=True, exist_ok=True)
        stem = f'.{self.target.name}.part-'
        for old in parent.iterdir():
            number = old.name.removeprefix(stem)
            if old.name.startswith(stem) and number.isdigit() and (
                    int(number) == os.getpid() or not _runs(int(number))):
                shutil.rmtree(old)
        free = shutil.disk_usage(parent).free
        if free < self.needed:
            raise WeightsError(f'{parent}: {self.needed / _GB:.2f} GB are needed, {free / _GB:.2f}'
                               ' GB are free; nothing was written')
        self._part.mkdir()
        return self._part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._publish()
        except BaseException:
            shutil.rmtree(self._part, ignore_errors=True)
            raise
        if error is not None:
            shutil.rmtree(self._part, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise WeightsError(f'{self.target.parent}: no room left while writing '
                               f'{self.needed / _GB:.2f} GB ({error.strerror}); what was written '
                               'has been removed') from error

    def _publish(self) -> None:
        for folder in (*(p for p in self._part.rglob('*') if p.is_dir()), self._part):
            sync_folder(folder)
        old = self.target.with_name(f'.{self.target.name}.part-{os.getpid()}-old')
        if self.target.exists():
            self.target.rename(old)
        try:
            self._part.rename(self.target)
        except BaseException:
            if old.exists():
                old.rename(self.target)
            raise
        sync_folder(self.target.parent)
        if old.exists():
            shutil.rmtree(old)
