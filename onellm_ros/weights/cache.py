"""The cache of models from a hub, in the layout that Hugging Face's tools share.

``models--OWNER--NAME/`` holds ``blobs/`` (files by their checksum), ``snapshots/COMMIT/`` (links
to them by their names) and ``refs/`` (which commit a branch was). Beside these stand this
project's records of what a complete commit consists of. Nothing here needs a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path, PurePosixPath
import re
from typing import Any

from onellm_ros.model.files import CheckpointError, read_json, write_atomically
from onellm_ros.weights.errors import WeightsError

SCHEME = 'hub:'
MAIN = 'main'
_NAME = re.compile(r'[\w][\w.-]*(/[\w][\w.-]*)?')
_REVISION = re.compile(r'[\w][\w./-]*')
_COMMIT = re.compile(r'[0-9a-f]{40}')


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    :param path: its name, folders separated by ``/``.
    :param size: in bytes.
    :param checksum: SHA-256 (64 digits), or git's SHA-1 of small files (40).
    """

    path: str
    size: int
    checksum: str


def parse_name(name: str) -> tuple[str, str]:
    """Return repository and revision of ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.

    A leading ``hub:`` may stand before it.

    :raises WeightsError: for something else.
    """
    repo, _, revision = name.removeprefix(SCHEME).partition('@')
    revision = revision or MAIN
    if not _NAME.fullmatch(repo) or not _REVISION.fullmatch(revision) or '..' in name:
        raise WeightsError(f'{name!r}: expected OWNER/NAME or OWNER/NAME@REVISION')
    return repo, revision


def cache_root() -> Path:
    """Return the cache that HF_HUB_CACHE (or HF_HOME) names, or its default.

    :raises WeightsError: if huggingface_hub is not installed.
    """
    return Path(client().constants.HF_HUB_CACHE).expanduser()


def client() -> Any:
    """Return the package huggingface_hub, which knows the user's settings.

    :raises WeightsError: if it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError:
        raise WeightsError('models of a hub need the package huggingface_hub: install it with '
                           'pip') from None
    return huggingface_hub


class Cache:
    """What is known and stored of one repository."""

    def __init__(self, repo: str, root: Path | None = None) -> None:
        self.repo = repo
        self.folder = (root or cache_root()) / ('models--' + repo.replace('/', '--'))

    def commit(self, revision: str) -> str | None:
        """Return the commit that a revision was when it was last looked up, if one is noted."""
        if _COMMIT.fullmatch(revision):
            return revision
        path = self.folder / 'refs' / revision
        found = path.read_text(encoding='utf-8', errors='replace') if path.is_file() else ''
        return found.strip() if _COMMIT.fullmatch(found.strip()) else None

    def blob(self, file: RemoteFile) -> Path:
        """Return where the content of a file lies."""
        return self.folder / 'blobs' / file.checksum

    def snapshot(self, commit: str) -> Path:
        """Return the folder of a commit's files."""
        return self.folder / 'snapshots' / commit

    def _record(self, commit: str) -> Path:
        return self.folder / 'onellm' / f'{commit}.json'

    def files(self, commit: str) -> list[RemoteFile] | None:
        """Return what a complete commit consists of, if it has been fetched completely.

        :raises WeightsError: if the record cannot be read.
        """
        path = self._record(commit)
        if not path.is_file():
            return None
        try:
            return [RemoteFile(**entry) for entry in read_json(path)['files']]
        except (CheckpointError, KeyError, TypeError) as error:
            raise WeightsError(f'{path}: not readable ({error}); remove it and pull again'
                               ) from error

    def missing(self, commit: str, files: Sequence[RemoteFile]) -> list[str]:
        """Return the files of a commit that are not there in full."""
        folder = self.snapshot(commit)
        return [file.path for file in files if not (folder / file.path).is_file()
                or (folder / file.path).stat().st_size != file.size]

    def link(self, commit: str, file: RemoteFile) -> None:
        """Put a file that was fetched under its name."""
        target = self.snapshot(commit) / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f'.{target.name}.{os.getpid()}')
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(self.blob(file), target.parent))
        temporary.replace(target)

    def remember(self, revision: str, commit: str, files: Sequence[RemoteFile]) -> None:
        """Note that a commit is complete, and that the revision is this commit."""
        path = self._record(commit)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(
            {'repository': self.repo, 'files': [asdict(file) for file in files]},
            indent=1).encode())
        if revision != commit:
            ref = self.folder / 'refs' / revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(ref, commit.encode())


def check_path(path: str) -> str:
    """Return the name of a file of a repository, if it stays inside of its folder.

    :raises WeightsError: if it does not.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith('/') or '..' in parts or '\\' in path or '\0' in path:
        raise WeightsError(f'the hub names a file {path!r}, which does not stay in its folder')
    return path


def find_cached(name: str) -> Path:
    """Return the folder of a model that has been fetched.

    :param name: ``hub:OWNER/NAME`` or ``hub:OWNER/NAME@REVISION``.
    :raises WeightsError: if it has not been, or not completely; the text says how to.
    """
    repo, revision = parse_name(name)
    cache = Cache(repo)
    how = f'onellm pull {repo}' + (f' --revision {revision}' if revision != MAIN else '')
    commit = cache.commit(revision)
    if commit is None or not cache.snapshot(commit).is_dir():
        raise WeightsError(f'{name}: not in the cache {cache.folder.parent}; fetch it with '
                           f'`{how}`')
    files = cache.files(commit)
    lost = cache.missing(commit, files) if files is not None else []
    if lost:
        raise WeightsError(f'{name}: {lost[0]} is missing or not whole in '
                           f'{cache.snapshot(commit)}; fetch it again with `{how}`')
    return cache.snapshot(commit)
