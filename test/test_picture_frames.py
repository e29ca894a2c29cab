"""Which camera picture a text is about."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from onellm_ros.modality import Sample
from onellm_ros.ros.picture_frames import _MOST, HEIGHT, WIDTH, Frames

S = 1_000_000_000
BASE = 1_700_000_000 * S
FRONT = '/front'


def picture(stamp_ns: int, topic: str = FRONT, shape: tuple[int, int] = (48, 64)) -> Sample:
    data = np.full((*shape, 3), (stamp_ns // (S // 10)) % 251, np.uint8)
    return Sample(stamp_ns, data, 'camera', topic=topic)


def reports(stamp_ns: int, topic: str = FRONT, modality: str = 'image') -> list[Any]:
    stamp = SimpleNamespace(sec=stamp_ns // S, nanosec=stamp_ns % S)
    return [SimpleNamespace(modality='depth', topics=['/d'], count=1, last_stamp=stamp),
            SimpleNamespace(modality=modality, topics=[topic], count=1, last_stamp=stamp)]


def seen(*stamps: int, **more: Any) -> Frames:
    frames = Frames()
    for stamp_ns in stamps:
        frames.see([picture(stamp_ns, **more)])
    return frames


def test_the_picture_nearest_to_what_the_model_saw_is_found() -> None:
    frames = seen(*(BASE + i * S // 5 for i in range(10)))
    frames.hold(BASE + S, reports(BASE + 9 * S // 10 + 5))
    about = frames.about(picture(BASE + 2 * S))
    assert about is not None and about.stamp_ns == BASE + S
    assert frames.about(picture(BASE + S)) is None, 'it is the one shown'
    frames.hold(BASE + 9 * S, reports(BASE + 9 * S))
    assert frames.about(picture(BASE + 20 * S)) is None, 'nothing was seen near it'
    frames.see([picture(BASE + 9 * S)])          # drawn later than the text came
    later = frames.about(picture(BASE + 20 * S))
    assert later is not None and later.stamp_ns == BASE + 9 * S


def test_another_topic_or_a_text_without_a_picture_has_none() -> None:
    frames = seen(BASE)
    for told in (reports(BASE, '/rear'), reports(BASE, modality='imu'), [], reports(0)):
        frames.hold(BASE, told)
        assert frames.about(picture(BASE + S)) is None
    frames.hold(BASE, reports(BASE))
    other = frames.about(picture(BASE, '/rear'))
    assert other is not None and other.topic == FRONT, 'another camera is shown large'
    frames.clear()
    assert frames.about(picture(BASE + S)) is None


def test_a_slow_models_picture_is_kept_from_its_window_to_its_next_text() -> None:
    frames = seen(BASE)
    frames.note(BASE, reports(BASE))
    for i in range(1, 600):                      # a minute
        frames.see([picture(BASE + i * S // 10)])
        if i % 10 == 0 and i < 500:
            frames.note(BASE + i * S // 10, reports(BASE + i * S // 10))
    frames.hold(BASE, reports(BASE))
    for _ in range(3):
        about = frames.about(picture(BASE + 60 * S))
        assert about is not None and about.stamp_ns == BASE
        frames.see([picture(BASE + 61 * S)])


def test_memory_is_bounded() -> None:
    frames = Frames()
    for i in range(400):
        frames.see([picture(BASE + i * S // 60, shape=(1080, 1920))] if i % 20 == 0 else
                   [picture(BASE + i * S // 60)])
        frames.note(i, reports(BASE + i * S // 60))
    assert len(frames._seen) <= 400 // 6 + 1 and len(frames._of_windows) == 60
    assert max(s.data.nbytes for s in frames._seen) <= WIDTH * HEIGHT * 3
    frames = seen(*(BASE + i * S for i in range(3 * _MOST)))
    assert len(frames._seen) == _MOST


def test_slim_pictures_are_copied_too() -> None:
    for shape in ((1, 5000), (5000, 1), (1280, 720), (1, 1)):
        small = seen(BASE, shape=shape)._seen[0].data
        assert small.ndim == 3 and 1 <= small.shape[0] <= HEIGHT and 1 <= small.shape[1] <= WIDTH
    assert seen(BASE, shape=(1280, 720))._seen[0].data.shape == (240, 135, 3)
