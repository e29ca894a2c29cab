"""Pictures and clouds that wait to be converted until a window takes them.

Of thirty pictures a second a window takes a few, so most need never be converted. This module owns
telling, from the fields beside the data, whether a message is like one that was converted; what
its content alone can show (a depth picture without any measurement, a broken jpeg) is found when
it is converted. It works by field names, no ROS is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onellm_ros.choose import ChoiceSpec, Selection, choose
from onellm_ros.modality import Modality, Sample
from onellm_ros.ros.conversions import frame_id, stamp_ns
from onellm_ros.windows import Window

_NONE = np.empty(0, np.uint8)
LATER = frozenset({Modality.IMAGE, Modality.DEPTH, Modality.NORMAL, Modality.POINT})


def look_of(message: Any) -> tuple[Any, ...] | None:
    """Return all of a message that decides, but for its data, whether it can be converted.

    Two messages with the same look and the same type are both understood or both not.

    :returns: None for a type that is not known here, or a message that lacks fields.
    """
    try:
        if hasattr(message, 'encoding'):
            return (message.encoding, message.width, message.height, message.step,
                    message.is_bigendian, len(message.data))
        if hasattr(message, 'point_step'):
            row_bytes = message.width * message.point_step
            row_step = row_bytes if message.height == 1 else message.row_step
            return (message.point_step, bool(message.is_bigendian), message.height,
                    row_bytes > 0, row_step == row_bytes,
                    len(message.data) == row_step * message.height,
                    tuple((f.name, f.offset, f.datatype, f.count) for f in message.fields))
        if hasattr(message, 'format'):
            return message.format, bytes(memoryview(message.data)[:4]), len(message.data) > 64
    except (AttributeError, TypeError, ValueError):
        pass
    return None


class _Slot:
    """The message of a pending sample, then what was made of it; shared by its copies."""

    __slots__ = ('convert', 'made', 'message', 'why')

    def __init__(self, message: Any, convert: Callable[[Any], Sample]) -> None:
        self.message, self.convert = message, convert
        self.made: Sample | None = None
        self.why: Exception | None = None

    def make(self) -> Sample:
        if self.why is not None:
            raise self.why
        if self.made is None:
            message, self.message = self.message, None
            try:
                self.made = self.convert(message)
            except Exception as error:
                self.why = error.with_traceback(None)
                raise
        return self.made


@dataclass(frozen=True, eq=False)
class Pending(Sample):
    """A sample whose array is not made yet: ``data`` is empty, :meth:`made` is the whole one.

    :param owner: whose message it is, for who is told that it cannot be used.
    """

    slot: _Slot = field(default_factory=lambda: _Slot(None, lambda _: Sample(0, _NONE)))
    owner: Any = None

    def made(self) -> Sample:
        """Return the sample, converted at the first call; each call gives the same object.

        :raises Exception: what the conversion raised, each time.
        """
        made = self.slot.make()
        if (made.stamp_ns, made.frame_id) != (self.stamp_ns, self.frame_id):
            made = self.slot.made = replace(made, stamp_ns=self.stamp_ns, frame_id=self.frame_id)
        return made


def pending(message: Any, topic: str, convert: Callable[[Any], Sample], owner: Any) -> Pending:
    """Return the sample of a message that ``convert`` will make when it is needed.

    :param topic: kept in the sample. :param owner: see :class:`Pending`.
    """
    return Pending(stamp_ns(message), _NONE, frame_id(message), topic=topic,
                   slot=_Slot(message, convert), owner=owner)


class _Unusable(Exception):
    """A pending sample that cannot be made."""

    def __init__(self, sample: Pending, why: Exception) -> None:
        super().__init__(str(why))
        self.sample, self.why = sample, why


def _made(sample: Sample) -> Sample:
    if not isinstance(sample, Pending):
        return sample
    try:
        return sample.made()
    except Exception as error:
        raise _Unusable(sample, error) from error


def _whole(selection: Selection) -> Selection:
    """Return a selection with all its samples made."""
    return replace(
        selection,
        samples={m: tuple(_made(s) for s in found) for m, found in selection.samples.items()},
        offers=tuple(replace(o, samples=tuple(_made(s) for s in o.samples))
                     for o in selection.offers))


def _without(window: Window, slot: _Slot) -> Window:
    """Return a window without the samples of one message."""
    members: Iterator[tuple[str, tuple[Sample, ...]]] = (
        (name, tuple(s for s in found if not (isinstance(s, Pending) and s.slot is slot)))
        for name, found in window.members.items())
    return replace(window, members={name: found for name, found in members if found})


def choose_made(window: Window, spec: ChoiceSpec, tell: Callable[[Any, Exception], None]
                ) -> Selection:
    """Take out of a window what the model sees of it, and convert that and nothing else.

    As if what cannot be converted had never come: another sample is taken in its place.

    :param tell: (owner, why), called once for each sample that cannot be converted.
    """
    if spec.place is not None:
        place = spec.place
        spec = replace(spec, place=lambda modality, sample: place(modality, _made(sample)))
    while True:
        try:
            return _whole(choose(window, spec))
        except _Unusable as error:
            slot = error.sample.slot
            window = _without(window, slot)
            if slot.convert is not _told:
                slot.convert = _told
                tell(error.sample.owner, error.why)


def _told(message: Any) -> Sample:
    """Stand for the conversion of a message of which was told that it cannot be used."""
    raise AssertionError('what failed is not converted again')
