"""An OpenAI-compatible endpoint, asked over plain HTTP, whose replies are recorded."""

from __future__ import annotations

from contextlib import suppress
import hashlib
import http.client
import json
import os
from pathlib import Path
import threading
import time
from typing import Any
import urllib.error
import urllib.request

TIMEOUT_S = 120.0
ATTEMPTS = 6
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_AGAIN = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))    # states that may pass
_SHOWN = 300        # characters of a server's text


class EndpointError(RuntimeError):
    """The endpoint did not answer, or not as expected; says what it said."""


class Endpoint:
    """Asks a model, once for each question ever.

    :param address: as ``http://host:8000/v1``; empty: only what is recorded can be asked.
    :param key: sent, kept nowhere.
    :param record: file of prompts and replies, JSONL; None: none is kept.
    :raises EndpointError: for a record that is not understood.
    """

    def __init__(self, address: str, model: str, key: str = '',
                 record: Path | None = None) -> None:
        self._address = f'{address.rstrip("/")}/chat/completions' if address else ''
        self._model, self._key, self._record = model, key, record
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()
        self._failed: EndpointError | None = None
        if record is not None and record.exists():
            self._read(record)

    def _read(self, record: Path) -> None:
        """Take over recorded replies; a last line that a kill cut off is taken away."""
        data = record.read_bytes()
        whole = data[:data.rfind(b'\n') + 1]
        if len(whole) < len(data):
            os.truncate(record, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                self._known[str(row['key'])] = str(row['reply'])
            except (ValueError, KeyError, TypeError) as error:
                raise EndpointError(
                    f'{record}, line {number}: found {line[:80]!r} ({error}), expected an object '
                    'with key and reply; take the line away, and it is asked again') from error

    def ask(self, prompt: str, temperature: float = 0.0, max_tokens: int = 128) -> str:
        """Return the reply to a prompt; may be called from several threads.

        :raises EndpointError: if there is none; whatever was answered before is recorded.
        """
        asked = {'model': self._model, 'temperature': temperature, 'max_tokens': max_tokens,
                 'prompt': prompt}
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
        with self._lock:
            if key in self._known:
                return self._known[key]
            if not self._address:
                raise EndpointError(f'no judge is named, and {self._record} holds no reply of '
                                    f'{self._model} to some of the prompts')
            if self._failed:            # of the others that wait, none tries for minutes again
                raise self._failed
        try:
            reply = self._request({
                'model': self._model, 'temperature': temperature, 'max_tokens': max_tokens,
                'messages': [{'role': 'user', 'content': prompt}]})
        except EndpointError as error:
            self._failed = error
            raise
        with self._lock:
            self._known[key] = reply
            if self._record is not None:
                self._record.parent.mkdir(parents=True, exist_ok=True)
                with self._record.open('a', encoding='utf-8') as file:
                    file.write(json.dumps({'key': key, **asked, 'reply': reply},
                                          ensure_ascii=False) + '\n')
        return reply

    def _request(self, body: dict[str, Any]) -> str:
        headers = {'Content-Type': 'application/json'}
        if self._key:
            headers['Authorization'] = f'Bearer {self._key}'
        said = ''
        for attempt in range(ATTEMPTS):
            wait_s = min(_FIRST_WAIT_S * 2 ** attempt, _LONGEST_WAIT_S)
            try:
                request = urllib.request.Request(
                    self._address, json.dumps(body).encode(), headers, method='POST')
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                    answer = response.read()
                content = json.loads(answer)['choices'][0]['message']['content']
                if content is None or isinstance(content, str):
                    return content or ''
                said = f'found the content {content!r:.{_SHOWN}}, expected a text'
            except urllib.error.HTTPError as error:
                text = error.read().decode(errors='replace')[:_SHOWN]
                said = f'HTTP {error.code}: {text}'
                if error.code not in _AGAIN:
                    break
                asked_s = error.headers.get('Retry-After', '')
                if asked_s.isdigit():
                    wait_s = min(max(wait_s, float(asked_s)), _LONGEST_WAIT_S)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                said = (f'found {answer[:_SHOWN]!r}, expected choices[0].message.content '
                        f'({error!r})')
            except (OSError, http.client.HTTPException) as error:
                said = f'no answer: {getattr(error, "reason", None) or repr(error)}'
            if attempt + 1 < ATTEMPTS:
                _sleep(wait_s)
        else:
            said += f' (asked {ATTEMPTS} times)'
        raise EndpointError(f'the judge at {self._address}, model {self._model}: {said}')


def recorded_model(record: Path | None) -> str:
    """Return the model whose reply was recorded last; empty: there is none."""
    lines = record.read_bytes().splitlines() if record and record.is_file() else []
    for line in reversed(lines):
        with suppress(ValueError, KeyError, TypeError):     # a kill may have cut the last one
            return str(json.loads(line)['model'])
    return ''


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
