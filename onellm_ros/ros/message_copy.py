"""Copies messages of any origin into rclpy messages by field names, arrays without loops."""

from __future__ import annotations

import array
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np


@lru_cache(maxsize=256)
def message_class(type_name: str) -> Any:
    """Return the class of ``package/msg/Name``.

    :raises ImportError: if the package is not installed or has no such message.
    """
    parts = type_name.split('/')
    if len(parts) not in (2, 3) or not all(parts):
        raise ImportError(f'found the message type {type_name!r}, expected package/msg/Name')
    module = import_module(f'{parts[0]}.msg')
    found = getattr(module, parts[-1], None)
    if found is None:
        raise ImportError(f'the package {parts[0]} has no message {parts[-1]}')
    return found


def fill_message(target: Any, source: Any) -> Any:
    """Copy the fields of ``source`` that ``target`` has (any case: ROS 1 says K, ROS 2 says k).

    :param target: an rclpy message, changed in place.
    :param source: a message of any origin with the same field names.
    :returns: ``target``.
    """
    names = {name.lower(): name for name in vars(source)} if hasattr(source, '__dict__') else {}
    for field, kind in zip(target.get_fields_and_field_types(), target.SLOT_TYPES, strict=True):
        name = field if hasattr(source, field) else names.get(field.lower())
        if name is not None:
            setattr(target, field, _value(getattr(target, field), kind, getattr(source, name)))
    return target


def _value(default: Any, kind: Any, value: Any) -> Any:
    """Return ``value`` as the type that a field with this default and slot type takes."""
    if hasattr(default, 'get_fields_and_field_types'):
        return fill_message(default, value)
    if isinstance(default, array.array):
        numbers = np.ascontiguousarray(value, dtype=np.dtype(default.typecode))
        return array_of(numbers, default.typecode)
    if isinstance(default, np.ndarray):
        return np.asarray(value, dtype=default.dtype).reshape(default.shape)
    if isinstance(default, list):
        element: Any = getattr(kind, 'value_type', None)
        if hasattr(element, 'namespaces'):
            made = message_class(f'{element.namespaces[0]}/msg/{element.name}')
            return [fill_message(made(), item) for item in value]
        return [item.item() if isinstance(item, np.generic) else item for item in value]
    if isinstance(default, bytes):
        return value if isinstance(value, bytes) else bytes([int(value)])
    return type(default)(value)


def array_of(values: np.ndarray, typecode: str) -> array.array:
    """Return numbers as the array that rclpy takes without a check of every element."""
    filled = array.array(typecode)
    numbers = np.ascontiguousarray(values, dtype=np.dtype(typecode))
    filled.frombytes(numbers.reshape(-1).view(np.uint8).data)
    return filled
