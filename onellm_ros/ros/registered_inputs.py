"""Topics of registered modalities: named as the modality, with messages as its spec says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import importlib
from typing import Any

from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality, ModalityError, Sample, in_order, spec_of


def message_class(name: str) -> Any:
    """Return the class of a message type such as ``onellm_msgs/msg/AudioChunk``.

    :raises ConfigError: if there is no such type in this installation.
    """
    parts = name.split('/')
    if len(parts) not in (2, 3):
        raise ConfigError(f'message type {name!r}: expected package/msg/Name')
    try:
        return getattr(importlib.import_module(f'{parts[0]}.msg'), parts[-1])
    except (ImportError, AttributeError) as error:
        raise ConfigError(f'message type {name!r} is not installed ({error}); install the package '
                          f'{parts[0]} or choose another type') from error


def add_streams(streams: dict[str, Modality], modalities: Iterable[Modality]) -> None:
    """Add a stream for each registered modality whose spec names its messages."""
    for modality in in_order(modalities):
        spec = spec_of(modality)
        if spec is not None and spec.message:
            streams.setdefault(modality.value, modality)


def registered(streams: Mapping[str, Modality]
               ) -> Iterator[tuple[str, Any, Callable[..., Sample]]]:
    """Yield stream, message class and conversion of the registered modalities among streams.

    :raises ConfigError: if type or conversion are not there.
    """
    for name, modality in streams.items():
        spec = spec_of(modality)
        if spec is not None:
            try:
                yield name, message_class(spec.message), spec.converter()
            except ModalityError as error:
                raise ConfigError(str(error)) from error
