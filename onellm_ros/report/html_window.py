"""One window of a report as a line of HTML: readable words, and the record for the page's script.

Owns escaping: whatever a record holds ends as text in the page. Knows nothing of files.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from html import escape
import json
import math
import re
from typing import Any

Record = Mapping[str, Any]

ARTICLE = re.compile(rb'<article class="w" id="w(\d+)" data-start="(-?\d+)" data-end="(-?\d+)"'
                     rb'(?: data-bag="(\d+)")?>')
END_OF_WINDOW = b'</article>\n'
_CONTROL = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]')
_DATED_NS = 10**17              # earlier stamps are seconds since some start, not dates
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MEMBER = ('modality', 'topics', 'count', 'late', 'dropped', 'expert_weights')
_WINDOW = ('window', 'closed_by', 'silent', 'left_out', 'prompt', 'text', 'error',
           'finish_reason', 'tokens', 'confidence', 'answers', 'encode_s', 'first_token_s',
           'total_s')


def safe(text: object) -> str:
    """Return text for HTML or an attribute, on one line; what HTML cannot hold is marked."""
    plain = _CONTROL.sub('\ufffd', str(text).replace('\r\n', '\n').replace('\r', '\n'))
    return escape(plain).replace('\n', '&#10;')


def script_json(value: object) -> str:
    """Return JSON for a script element, on one line; what JSON does not know (NaN) is null."""
    text = json.dumps(plain(value), separators=(',', ':'), allow_nan=False)
    return text.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


def plain(value: Any) -> Any:
    """Return a value as JSON takes it: arrays as lists, NaN and infinity as None; 9 digits."""
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if hasattr(value, 'tolist'):                                # NumPy
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(f'{value:.9g}') if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def clock(seconds: float) -> str:
    """Return a length of time as ``m:ss.mmm`` or ``h:mm:ss.mmm``."""
    whole = round(abs(seconds) * 1000)
    minutes, ms = divmod(whole, 60_000)
    hours, minutes = divmod(minutes, 60)
    sign = '-' if seconds < 0 and whole else ''
    start = f'{hours}:{minutes:02d}' if hours else f'{minutes}'
    return f'{sign}{start}:{ms // 1000:02d}.{ms % 1000:03d}'


def moment(stamp_ns: int) -> str:
    """Return a stamp for people: the date in UTC, or the seconds of a clock that has none."""
    if stamp_ns < _DATED_NS:
        return f'{stamp_ns // 10**9}.{stamp_ns % 10**9 // 10**6:03d} s'
    then = _EPOCH + timedelta(microseconds=stamp_ns // 1000)
    return f'{then:%Y-%m-%d %H:%M:%S}.{then.microsecond // 1000:03d} UTC'


def _member(entry: Mapping[str, Any], end_ns: int) -> dict[str, Any]:
    """Return what the page shows of a modality; ages and distances in seconds."""
    out = {key: entry[key] for key in _MEMBER if entry.get(key) not in (None, [], 0)}
    if entry.get('count'):
        out['age_s'] = (end_ns - int(entry['last_ns'])) * 1e-9
        out['span_s'] = (int(entry['last_ns']) - int(entry['first_ns'])) * 1e-9
        out['skew_s'] = int(entry.get('max_skew_ns') or 0) * 1e-9
    return out


def bag_of(record: Record) -> int:
    """Return the number of the recording that a window is of, from 0."""
    bag = record.get('bag')
    return bag if isinstance(bag, int) and bag > 0 else 0


def window_line(number: int, record: Record, origin_ns: int,
                pictures: Mapping[str, bytes] | None, bag: str = '') -> bytes:
    """Return a window as one line of HTML in UTF-8, its end included.

    :param number: place in the report, from 0. :param origin_ns: where relative time begins.
    :param pictures: by modality; None: they are left out to keep the report small.
    :param bag: name of the recording, if there are several.
    :raises KeyError: if the record lacks ``start_ns`` or ``end_ns``, or a member its stamps.
    """
    record = plain(record)
    start_ns, end_ns = int(record['start_ns']), int(record['end_ns'])
    view = {key: record[key] for key in _WINDOW if record.get(key) not in (None, [], {})}
    start_s, end_s = (start_ns - origin_ns) * 1e-9, (end_ns - origin_ns) * 1e-9
    members = [_member(entry, end_ns) for entry in record.get('modalities') or ()]
    view |= {'start': start_s, 'end': end_s, 'when': moment(end_ns), 'modalities': members}
    if bag:
        view['bag'] = bag
    if pictures is None:
        view['pictures_left_out'] = True
    words = ''.join((
        f'<h2>window {safe(record.get("window", number))} '
        f'<span>{safe(bag + ", " if bag else "")}{clock(start_s)} – {clock(end_s)}, '
        f'{safe(moment(end_ns))}</span></h2>',
        _said(record), _answers(record), _held(members, record)))
    data = {name: [_kind(picture), base64.b64encode(picture).decode('ascii')]
            for name, picture in (pictures or {}).items()}
    which = f' data-bag="{bag_of(record)}"' if bag_of(record) else ''
    line = (f'<article class="w" id="w{number}" data-start="{start_ns}" data-end="{end_ns}"'
            f'{which}><div class="s">{words}</div>'
            f'<script type="application/json">{script_json(view)}</script>'
            f'<script type="application/json">{script_json(data)}</script>')
    return line.encode() + END_OF_WINDOW


def _said(record: Record) -> str:
    if record.get('error'):
        return f'<p class="error">{safe(record["error"])}</p>'
    return f'<p class="text">{safe(record.get("text") or "(no words)")}</p>'


def _answers(record: Record) -> str:
    """Return questions and answers as a list of terms."""
    parts = []
    for one in record.get('answers') or ():
        said = one.get('answer') or one.get('error_msg') or one.get('error') or '(no words)'
        sure = one.get('confidence')
        number = f' ({sure:.2f})' if isinstance(sure, float) and math.isfinite(sure) else ''
        parts.append(f'<dt>{safe(one.get("question", ""))}</dt><dd>{safe(said)}{number}</dd>')
    return f'<dl>{"".join(parts)}</dl>' if parts else ''


def _held(members: list[dict[str, Any]], record: Record) -> str:
    """Return what the window held, in one line for those who read without the script."""
    parts = [f'{m.get("modality", "?")} {m["count"]}' for m in members if m.get('count')]
    parts += [f'{name} left out: {why}' for name, why in (record.get('left_out') or {}).items()]
    return f'<p class="held">{safe("; ".join(parts) or "nothing sensed")}</p>'


def _kind(picture: bytes) -> str:
    """Return the media type of a picture.

    :raises ValueError: for bytes that are none that the report shows.
    """
    for start, kind in ((b'\xff\xd8', 'image/jpeg'), (b'\x89PNG', 'image/png'),
                        (b'<svg', 'image/svg+xml')):
        if picture.startswith(start):
            return kind
    raise ValueError(f'picture that begins with {picture[:8]!r}: expected JPEG, PNG or SVG')
