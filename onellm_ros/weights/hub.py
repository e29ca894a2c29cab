"""What a hub says about a repository, and its files: plain HTTP, resumed and checked.

Hugging Face's own client drops what it has of a file when its process ends, and compares sizes
only. Here a file goes on where the last process stopped, and is checked against the checksum that
the hub states before it gets its name.
"""

from __future__ import annotations

from collections.abc import Callable
import fcntl
import hashlib
import http.client
import json
from pathlib import Path
import re
import time
from typing import Any, BinaryIO
import urllib.error
import urllib.parse
import urllib.request

from onellm_ros.weights.cache import RemoteFile, check_path, client
from onellm_ros.weights.errors import WeightsError

ATTEMPTS = 5                    # without a byte in between
WAIT_S = 1.0                    # before the second attempt; doubled each time
TIMEOUT_S = 30.0
_CHUNK = 1 << 20
_SENT = {'User-Agent': 'onellm_ros'}
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
# What can go wrong on the way; all but HTTPError (the hub's answer) may pass.
_BROKEN = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)


class HubUnreachable(WeightsError):
    """No answer from the hub."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects without telling another host who asks."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any,
                         newurl: str) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and (urllib.parse.urlsplit(newurl)[:2]
                                != urllib.parse.urlsplit(req.full_url)[:2]):
            new.remove_header('Authorization')
        return new


def _reason(error: BaseException) -> str:
    inner = getattr(error, 'reason', None)
    return str(inner or error) or type(error).__name__


class Hub:
    """A hub at an address.

    :param endpoint: its address; default: HF_ENDPOINT, or Hugging Face's.
    :param token: for repositories that are not open to all; default: the one of ``hf auth login``
        or HF_TOKEN.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        constants = client().constants
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip('/')
        if urllib.parse.urlsplit(self.endpoint).scheme not in ('http', 'https'):
            raise WeightsError(f'endpoint: expected http://... or https://..., found '
                               f'{self.endpoint!r}')
        self.offline = bool(constants.HF_HUB_OFFLINE)
        self._token = token or client().get_token()
        self._opener = urllib.request.build_opener(_Redirects())

    def _open(self, url: str, start: int = 0) -> Any:
        """Ask once.

        :raises urllib.error.HTTPError: if the hub refuses.
        :raises OSError: or HTTPException, if it cannot be reached.
        """
        request = urllib.request.Request(url, headers=_SENT)
        if start:
            request.add_header('Range', f'bytes={start}-')
        if self._token and url.startswith(self.endpoint + '/'):
            request.add_header('Authorization', f'Bearer {self._token}')
        return self._opener.open(request, timeout=TIMEOUT_S)

    def _refused(self, error: urllib.error.HTTPError, what: str) -> WeightsError:
        """Say why the hub does not give something."""
        kind = error.headers.get('X-Error-Code', '')
        said = error.headers.get('X-Error-Message', '') or error.reason
        login = ('; `hf auth login` or HF_TOKEN gives access' if not self._token
                 else '; the account of your token has none')
        texts = {'RepoNotFound': f'no such repository, or not open to you{login}',
                 'RevisionNotFound': 'no such revision',
                 'EntryNotFound': 'no such file',
                 'GatedRepo': f'its owner asks you to accept terms on its page first{login}'}
        known = texts.get(kind) or {
            401: f'no such repository, or not open to you{login}', 403: f'access denied{login}',
            404: 'not found'}.get(error.code, '')
        return WeightsError(f'{what} at {self.endpoint}: {known or "refused"} '
                            f'(HTTP {error.code}: {said})')

    def _unreachable(self, error: BaseException) -> HubUnreachable:
        return HubUnreachable(
            f'{self.endpoint}: no answer ({_reason(error)}); look after the network and the '
            'proxy (HTTPS_PROXY), or name another address with --endpoint or HF_ENDPOINT')

    def _json(self, url: str, what: str) -> tuple[Any, str]:
        """Return what the hub says, and the address of the next page."""
        if self.offline:
            raise HubUnreachable('HF_HUB_OFFLINE is set: the hub is not asked')
        for attempt in range(ATTEMPTS):
            try:
                with self._open(url) as answer:
                    values = json.loads(answer.read())
                    match = _NEXT.search(answer.headers.get('Link', ''))
                    return values, match.group(1) if match else ''
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code != 429 or attempt == ATTEMPTS - 1:
                    raise self._refused(error, what) from error
            except _BROKEN as error:
                refused = isinstance(getattr(error, 'reason', error), ConnectionRefusedError)
                if attempt == ATTEMPTS - 1 or refused:
                    raise self._unreachable(error) from error
            except ValueError as error:
                raise WeightsError(f'{url}: expected JSON from the hub: {error}') from error
            time.sleep(WAIT_S * 2 ** attempt)
        raise AssertionError('not reached')

    def files(self, repo: str, revision: str) -> tuple[str, list[RemoteFile]]:
        """Return commit and files of a repository.

        :raises HubUnreachable: if there is no answer.
        :raises WeightsError: if the hub refuses, or says what makes no sense.
        """
        what = f'{repo}, revision {revision}'
        base = f'{self.endpoint}/api/models/{repo}'
        try:
            info, _ = self._json(f'{base}/revision/{urllib.parse.quote(revision, safe="")}', what)
            commit = str(info['sha'])
            if not re.fullmatch('[0-9a-f]{40}', commit):
                raise WeightsError(f'{what}: expected a commit, found {commit!r}')
            url, found = f'{base}/tree/{commit}?recursive=true', []
            while url:
                page, url = self._json(url, what)
                found += [RemoteFile(check_path(entry['path']), int(entry['size']),
                                     _checksum(entry)) for entry in page
                          if entry['type'] == 'file']
        except (KeyError, TypeError) as error:
            raise WeightsError(f'{what}: {self.endpoint} answers otherwise than a hub does '
                               f'({type(error).__name__}: {error})') from error
        return commit, found

    def url(self, repo: str, commit: str, file: RemoteFile) -> str:
        """Return the address of a file's content."""
        return f'{self.endpoint}/{repo}/resolve/{commit}/{urllib.parse.quote(file.path)}'

    def fetch(self, url: str, file: RemoteFile, target: Path, told: Callable[[int], Any]) -> None:
        """Fetch a file; what an earlier call left at ``target.incomplete`` is not fetched again.

        :param told: called with the bytes of each piece, at first of what is there already.
        :raises WeightsError: if the checksum is another, or the hub cannot be reached.
        """
        partial = _partial(target)
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open('a+b') as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WeightsError(f'{file.path}: another process is fetching it') from None
            have = stream.seek(0, 2)
            if have > file.size:
                stream.truncate(have := 0)
            told(have)
            self._append(url, file, stream, told)
            found = digest(stream, file)
        if found != file.checksum:
            partial.unlink()
            raise WeightsError(f'{file.path}: expected the checksum {file.checksum}, found '
                               f'{found}; the file has been removed, fetch it again')
        partial.replace(target)

    def _append(self, url: str, file: RemoteFile, stream: BinaryIO, told: Callable[[int], Any]
                ) -> None:
        """Write what is missing of a file, going on where the connection broke."""
        failures = 0
        while (start := stream.seek(0, 2)) < file.size:
            try:
                with self._open(url, start) as answer:
                    if start and answer.status != 206:      # the server sends all of it again
                        stream.truncate(0)
                        told(-start)
                    self._copy(answer, file, stream, told)
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code != 429:
                    raise self._refused(error, file.path) from error
                failure: BaseException = error
            except _BROKEN as error:
                failure = error
            else:
                failure = ConnectionError('the connection ended early')
            if stream.seek(0, 2) > start:
                failures = 0
            if stream.tell() >= file.size:
                return
            failures += 1
            if failures == ATTEMPTS:
                raise HubUnreachable(f'{self._unreachable(failure)}. {stream.tell()} of '
                                     f'{file.size} bytes of {file.path} are kept: the same '
                                     'command goes on from there') from failure
            time.sleep(WAIT_S * 2 ** (failures - 1))

    def _copy(self, answer: Any, file: RemoteFile, stream: BinaryIO, told: Callable[[int], Any]
              ) -> None:
        while True:
            chunk = answer.read1(_CHUNK)
            if not chunk:
                return
            if stream.tell() + len(chunk) > file.size:
                raise WeightsError(f'{file.path}: expected {file.size} bytes, the server sends '
                                   'more')
            stream.write(chunk)
            told(len(chunk))


def _partial(target: Path) -> Path:
    """Return where what has been fetched of a file stands until it is whole."""
    return target.with_name(target.name + '.onellm.incomplete')


def missing_bytes(file: RemoteFile, target: Path) -> int:
    """Return how much of a file is still to be fetched to ``target``."""
    partial = _partial(target)
    have = partial.stat().st_size if partial.is_file() else 0
    return file.size - have if have <= file.size else file.size


def _checksum(entry: dict[str, Any]) -> str:
    """Return the checksum of a file as the hub states it."""
    found = str((entry.get('lfs') or {}).get('oid') or entry['oid'])
    found = found.removeprefix('sha256:')
    if not re.fullmatch('[0-9a-f]{40}|[0-9a-f]{64}', found):
        raise WeightsError(f'{entry["path"]}: expected a checksum from the hub, found {found!r}')
    return found


def digest(stream: BinaryIO, file: RemoteFile) -> str:
    """Return the checksum of what a stream holds, of the kind that the file states."""
    size = stream.seek(0, 2)
    found = hashlib.sha256() if len(file.checksum) == 64 else hashlib.sha1(
        f'blob {size}\0'.encode())
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        found.update(chunk)
    return found.hexdigest()
