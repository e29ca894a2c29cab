"""What the picture node says in words: lines about window and text, and the text as markers."""

from __future__ import annotations

import textwrap
from typing import Any

from builtin_interfaces.msg import Duration
from onellm_msgs.msg import Description, WindowReport
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

SECOND_NS = 1_000_000_000
_LINE_LETTERS, _MOST_LINES = 46, 12
_WHITE, _AMBER, _PALE = (1.0, 1.0, 1.0, 1.0), (1.0, 0.72, 0.3, 1.0), (0.75, 0.78, 0.82, 1.0)


def many(count: int, what: str) -> str:
    """Return a number of things: ``1 window``, ``2 windows``."""
    return f'{count} {what}' + ('' if count == 1 else 's')


def facts_of(window: WindowReport | None, text: Description | None, age_s: float, stale_s: float,
             unusable: int) -> list[tuple[str, bool]]:
    """Return what there is to say of a window, each with whether it is a warning.

    :param age_s: of the window's end. :param unusable: messages that could not be shown.
    """
    out: list[tuple[str, bool]] = []
    if window is not None:
        out.append((f'window ended {age_s:.1f} s ago', age_s > stale_s))
        if window.closed_by == WindowReport.DEADLINE:
            silent = f', silent: {", ".join(window.silent)}' if window.silent else ''
            out.append((f'closed by its deadline{silent}', True))
        empty = [r.modality for r in window.modalities
                 if not r.count and r.modality not in window.silent]
        if empty:
            out.append((f'without {", ".join(empty)}', True))
    if text is not None and text.skipped_windows:
        out.append((f'{many(text.skipped_windows, "window")} not described before this text',
                    True))
    if window is not None and text is not None and text.window_end == window.window_end:
        seen = {r.modality for r in text.modalities}
        unseen = [r.modality for r in window.modalities if r.count and r.modality not in seen]
        if unseen:
            out.append((f'not shown to the model: {", ".join(unseen)}', False))
    if unusable:
        out.append((f'{many(unusable, "unusable message")}', True))
    if window is not None:
        counts = ((window.skipped_windows, 'skipped'), (window.late, 'late'),
                  (window.dropped, 'dropped'))
        told = [f'{count} {what}' for count, what in counts if count]
        if window.time_jumps:
            told.append(many(window.time_jumps, 'time jump'))
        if told:
            out.append((f'since the start: {", ".join(told)}', False))
    return out


def head_of(text: Description, age_s: float, old: bool) -> str:
    """Return the line above a text: how old, whose, and how long it took."""
    ended = {'stop': '', 'length': ', cut at the token limit'}.get(
        text.finish_reason, f', {text.finish_reason}')
    return (f'{"OLD: " if old else ""}{age_s:.1f} s ago   {text.model or "model"}, '
            f'{many(text.tokens, "token")} in {text.total_s:.2f} s{ended}')


def said(text: Description) -> str:
    """Return the text, or that there is none."""
    return text.text.strip() or f'(the model said nothing: {text.finish_reason or "no reason"})'


def _marker(number: int, text: Description, frame: str, namespace: str) -> Marker:
    out = Marker(ns=namespace, id=number, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD,
                 frame_locked=True)         # it goes with the robot, whatever its stamp
    out.header.stamp, out.header.frame_id = text.header.stamp, frame
    out.pose.orientation.w = 1.0
    return out


def markers_of(text: Description, age_s: float, old: bool, left_s: float, frame: str,
               namespace: str, height_m: float, letter_m: float) -> MarkerArray:
    """Return a text and its age as two markers above the base frame.

    :param left_s: how long they are to be shown from now. :param frame: the base frame.
    """
    lines = [piece for line in said(text).splitlines()
             for piece in textwrap.wrap(line, _LINE_LETTERS) or ['']]
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], '…']
    words, age = (_marker(n, text, frame, namespace) for n in (0, 1))
    words.text, words.scale.z = '\n'.join(lines), letter_m
    age.text = f'{"old: " if old else ""}{age_s:.1f} s ago'
    age.scale.z = 0.7 * letter_m
    age.pose.position.z = height_m
    # a text is centred on its position
    words.pose.position.z = height_m + letter_m * (1.0 + 0.6 * len(lines))
    for marker, colour in ((words, _AMBER if old else _WHITE), (age, _AMBER if old else _PALE)):
        marker.color = ColorRGBA(**dict(zip('rgba', colour, strict=True)))
        left_ns = max(round(left_s * SECOND_NS), 1)     # 0 would be for ever
        marker.lifetime = Duration(sec=left_ns // SECOND_NS, nanosec=left_ns % SECOND_NS)
    return MarkerArray(markers=[words, age])


def no_markers(frame: str, namespace: str) -> MarkerArray:
    """Return what takes the markers away."""
    out: list[Any] = []
    for number in (0, 1):
        marker = Marker(ns=namespace, id=number, action=Marker.DELETE)
        marker.header.frame_id = frame
        out.append(marker)
    return MarkerArray(markers=out)
