"""A hub on this machine: the part of the protocol that fetching a model needs."""

from __future__ import annotations

from collections import Counter
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import threading
from typing import Any
import urllib.parse

COMMIT = 'c0ffee' + '0' * 34


def git_sha1(data: bytes) -> str:
    """Return the name that git gives to a file's content."""
    return hashlib.sha1(f'blob {len(data)}\0'.encode() + data).hexdigest()


class FakeHub:
    """One repository, ``acme/robot``, with the branch ``main`` and the tag ``v1``.

    :param files: path -> content; from ``large`` bytes on they are stored as LFS (SHA-256).
    Attributes that a test may set: ``cut`` (path -> bytes after which the connection breaks),
    ``cuts`` (how often), ``wrong`` (paths whose content is not what the checksum says),
    ``whole`` (ranges are not understood), ``token`` (needed), ``broken`` (status of every answer).
    ``asked``: (path of the repository, Range or '') of every file that was asked for.
    """

    def __init__(self, files: dict[str, bytes], large: int = 500) -> None:
        self.files, self.large = files, large
        self.cut: dict[str, int] = {}
        self.cuts = 1
        self.wrong: set[str] = set()
        self.whole = False
        self.token = ''
        self.broken = 0
        self.asked: list[tuple[str, str]] = []
        self.sent: Counter[str] = Counter()
        self.leaked: list[str] = []
        self.pages = 2
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self) -> None:  # noqa: N802 (the name that http.server calls)
                hub.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        port = self.server.server_address[1]
        self.endpoint = f'http://127.0.0.1:{port}'
        self.store = f'http://localhost:{port}/store'        # another host, as large files have
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self.server.shutdown()
        self.server.server_close()

    def ranges(self, path: str) -> list[str]:
        """Return the ranges that were asked for of a file."""
        return [r for name, r in self.asked if name == path]

    def tree(self) -> list[dict[str, Any]]:
        """Return what the hub says of its files."""
        out: list[dict[str, Any]] = [{'type': 'directory', 'path': 'llm', 'oid': '0' * 40,
                                      'size': 0}]
        for path, data in self.files.items():
            entry = {'type': 'file', 'path': path, 'size': len(data), 'oid': git_sha1(data)}
            if len(data) >= self.large:
                entry['lfs'] = {'oid': hashlib.sha256(data).hexdigest(), 'size': len(data),
                                'pointerSize': 134}
            out.append(entry)
        return out

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        url = urllib.parse.urlsplit(request.path)
        path = urllib.parse.unquote(url.path)
        if self.broken:
            return self.say(request, self.broken, b'out of order')
        if path.startswith('/store/'):
            if request.headers.get('Authorization'):
                self.leaked.append(path)
            return self.content(request, path.removeprefix('/store/'))
        if self.token and request.headers.get('Authorization') != f'Bearer {self.token}':
            return self.say(request, 401, b'', {'X-Error-Code': 'RepoNotFound'})
        api, resolve = '/api/models/acme/robot/', f'/acme/robot/resolve/{COMMIT}/'
        if path in (f'{api}revision/main', f'{api}revision/v1', f'{api}revision/{COMMIT}'):
            return self.say(request, 200, json.dumps({'sha': COMMIT}).encode())
        if path.startswith(f'{api}revision/'):
            return self.say(request, 404, b'', {'X-Error-Code': 'RevisionNotFound'})
        if path == f'{api}tree/{COMMIT}':
            start = int(urllib.parse.parse_qs(url.query).get('cursor', ['0'])[0])
            page = self.tree()[start:start + self.pages]
            end = start + self.pages
            link = f'<{self.endpoint}{path}?recursive=true&cursor={end}>; rel="next"'
            return self.say(request, 200, json.dumps(page).encode(),
                            {'Link': link} if end < len(self.tree()) else {})
        if path.startswith(resolve):
            name = path.removeprefix(resolve)
            if len(self.files.get(name, b'')) >= self.large:
                return self.say(request, 302, b'', {
                    'Location': f'{self.store}/{urllib.parse.quote(name)}'})
            return self.content(request, name)
        return self.say(request, 404, b'', {'X-Error-Code': 'RepoNotFound'})

    def content(self, request: BaseHTTPRequestHandler, name: str) -> None:
        """Send a file, or the rest of it."""
        wanted = request.headers.get('Range', '')
        self.asked.append((name, wanted))
        data = self.files[name]
        if name in self.wrong:
            data = bytes(len(data))
        start = int(wanted.removeprefix('bytes=').rstrip('-')) if wanted and not self.whole else 0
        rest = data[start:]
        end = self.cut.get(name)
        if end is not None and self.sent[name] < self.cuts:
            self.sent[name] += 1
            head = f'HTTP/1.1 {206 if start else 200} x\r\nContent-Length: {len(rest)}\r\n\r\n'
            request.wfile.write(head.encode() + rest[:max(end - start, 0)])
            request.wfile.flush()
            request.close_connection = True
            return None
        headers = {'Content-Range': f'bytes {start}-{len(data) - 1}/{len(data)}'} if start else {}
        return self.say(request, 206 if start else 200, rest, headers)

    def say(self, request: BaseHTTPRequestHandler, status: int, body: bytes,
            headers: dict[str, str] | None = None) -> None:
        """Send an answer."""
        request.send_response(status)
        for key, value in {'Content-Length': str(len(body)), **(headers or {})}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(body)
