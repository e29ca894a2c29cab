"""Definitions of installed message types, as text: a recording carries them with its messages.

Taken from the message classes themselves, so that any installed package will do, built from source
or not; constants and defaults, which no serialized message shows, are left out.
"""

from __future__ import annotations

import re
from typing import Any

from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from onellm_ros.ros.message_copy import message_class

_BASIC = {'boolean': 'bool', 'octet': 'byte', 'float': 'float32', 'double': 'float64'}
_SEQUENCE = re.compile(r'sequence<(.+?)(?:, (\d+))?>')
_ARRAY = re.compile(r'(.+)\[(\d+)\]')
_TEXT = re.compile(r'(w?string)<(\d+)>')


def _field_type(name: str) -> tuple[str, str]:
    """Return a field's type as a .msg file writes it: element and what stands behind it."""
    if found := _SEQUENCE.fullmatch(name):
        element, _ = _field_type(found[1])
        return element, f'[<={found[2]}]' if found[2] else '[]'
    if found := _ARRAY.fullmatch(name):
        element, _ = _field_type(found[1])
        return element, f'[{found[2]}]'
    if found := _TEXT.fullmatch(name):
        return f'{found[1]}<={found[2]}', ''
    return _BASIC.get(name, name), ''


def definitions_of(type_name: str) -> dict[str, str]:
    """Return the definition of a message type and of all that it is made of, by their names.

    :param type_name: ``package/msg/Name``.
    :raises ImportError: if a package is not installed.
    """
    out: dict[str, str] = {}
    waiting = [type_name]
    while waiting:
        name = waiting.pop()
        if name in out:
            continue
        lines = []
        for field, kind in message_class(name).get_fields_and_field_types().items():
            element, behind = _field_type(kind)
            lines.append(f'{element}{behind} {field}')
            package, slash, short = element.partition('/')
            if slash:
                waiting.append(f'{package}/msg/{short.rpartition("/")[2]}')
        out[name] = '\n'.join(lines) + '\n'
    return out


class Types:
    """The types of a recording: those of Jazzy, and installed ones beside them."""

    def __init__(self) -> None:
        self.store: Any = get_typestore(Stores.ROS2_JAZZY)

    def learn(self, type_name: str) -> None:
        """Make a type known.

        :raises ImportError: if it is not installed. :raises ValueError: if it is not understood.
        """
        if type_name in self.store.fielddefs:
            return
        known: dict[str, Any] = {}
        try:
            for name, text in definitions_of(type_name).items():
                if name not in self.store.fielddefs:
                    known.update(get_types_from_msg(text, name))
            self.store.register(known)
        except TypesysError as error:
            raise ValueError(f'{type_name}: {error}') from error
