"""Which camera picture a text is about: the camera has moved on by the time it is said.

Owns small copies of the pictures of the last seconds, and picking the one that the model saw by
the stamps that windows and descriptions report. Knows neither rclpy nor drawing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import cv2

from onellm_ros.modality import Modality, Sample
from onellm_ros.ros.message_fields import stamp_ns

SECOND_NS = 1_000_000_000
WIDTH, HEIGHT = 320, 240    # of the copies, pixels at most
_APART_NS = SECOND_NS // 10     # pictures of one topic that are kept
_NEAR_NS = 3 * SECOND_NS // 10  # the model saw one that is as near as this
_MOST = 80                  # pictures, some seconds of one camera
_MOST_WINDOWS = 60          # that wait for their text: a slow model takes a minute


class Frames:
    """Remembers pictures; :meth:`see` what is drawn, :meth:`note` windows, :meth:`hold` texts."""

    def __init__(self) -> None:
        self._seen: deque[Sample] = deque(maxlen=_MOST)
        self._of_windows: dict[int, Sample] = {}
        self._held: Sample | None = None
        self._wanted: tuple[Sequence[str], int] = (), 0

    def clear(self) -> None:
        """Forget everything."""
        self._seen.clear()
        self._of_windows.clear()
        self._held, self._wanted = None, ((), 0)

    def see(self, pictures: Iterable[Sample]) -> None:
        """Keep small copies of pictures, uint8 [H, W, 3], that are new."""
        for picture in pictures:
            before = next((s for s in reversed(self._seen) if s.topic == picture.topic), None)
            if before is None or abs(picture.stamp_ns - before.stamp_ns) >= _APART_NS:
                self._seen.append(_small(picture))

    def _near(self, wanted: tuple[Sequence[str], int], *more: Sample | None) -> Sample | None:
        """Return the picture of some topics that is nearest to a stamp."""
        topics, stamp_ns = wanted
        found = [s for s in (*self._seen, *more) if s is not None and s.topic in topics
                 and abs(s.stamp_ns - stamp_ns) <= _NEAR_NS]
        return min(found, key=lambda s: abs(s.stamp_ns - stamp_ns), default=None)

    def note(self, end_ns: int, reports: Iterable[Any]) -> None:
        """Keep the picture of a window whose text may come long after it.

        :param end_ns: of the window. :param reports: its ModalityReports.
        """
        found = self._near(_wanted(reports))
        if found is not None:
            self._of_windows[end_ns] = found
        while len(self._of_windows) > _MOST_WINDOWS:
            del self._of_windows[next(iter(self._of_windows))]

    def hold(self, end_ns: int, reports: Iterable[Any]) -> None:
        """Pick the picture of the text that has come; it is kept until the next one.

        :param end_ns: of its window. :param reports: its ModalityReports.
        """
        self._wanted = _wanted(reports)
        self._held = self._near(self._wanted, self._of_windows.get(end_ns))
        for other in [ns for ns in self._of_windows if ns <= end_ns]:
            del self._of_windows[other]

    def about(self, shown: Sample) -> Sample | None:
        """Return the picture that the text is about; None: it is the one shown, or not known."""
        held = self._held = self._near(self._wanted, self._held)
        if held is None or (held.topic == shown.topic and
                            abs(held.stamp_ns - shown.stamp_ns) < _APART_NS):
            return None
        return held


def _wanted(reports: Iterable[Any]) -> tuple[Sequence[str], int]:
    """Return the topics and the newest stamp of the pictures that a window or text is made of."""
    for report in reports:
        if report.modality == Modality.IMAGE.value and report.count:
            return tuple(report.topics), stamp_ns(report.last_stamp)
    return (), 0


def _small(picture: Sample) -> Sample:
    high, wide = picture.data.shape[:2]
    scale = min(WIDTH / wide, HEIGHT / high)
    if scale >= 1.0:
        return picture
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    step = max(1, int(1 / scale / 3))       # huge ones are thinned first: faster
    return replace(picture, data=cv2.resize(picture.data[::step, ::step], size,
                                            interpolation=cv2.INTER_AREA))
