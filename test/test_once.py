"""Once: each thing is said once, limits are told, and threads do not get in each other's way."""

from __future__ import annotations

import threading

from onellm_ros.ros.once import _KINDS, _TEXTS, Once


def test_texts_that_differ_in_numbers_or_bytes_are_said_once() -> None:
    said: list[str] = []
    once = Once(said.append)
    for i in range(50):
        once('/imu', f'found {i} values, expected {i + 1}.5e-3')
        once('/imu', f'begins with {i:02x} ff 0a')
        once('/audio', f'found {i} values, expected {i + 1}.5e-3')
    assert [s.split(':')[0] for s in said] == ['/imu', '/imu', '/audio']
    assert all(s.endswith('(said once; counted in /diagnostics)') for s in said)


def test_the_last_text_of_a_kind_says_that_it_is_the_last() -> None:
    said: list[str] = []
    once = Once(said.append)
    for letter in 'abcdefghijklmnopqrstuvwxyz':
        once('/camera', f'unknown encoding x{letter}')
    assert len(said) == _TEXTS
    assert ['no more is said about it' in s for s in said] == [False] * (_TEXTS - 1) + [True]


def test_the_last_kind_says_that_it_is_the_last_and_known_ones_go_on() -> None:
    said: list[str] = []
    once = Once(said.append)
    for i in range(3 * _KINDS):
        once(f'/topic{i}', 'is wrong')
    assert len(said) == _KINDS and len(once.texts) == _KINDS, 'nor is anything held of the others'
    assert [i for i, s in enumerate(said) if 'nothing is said about further ones' in s] == [
        _KINDS - 1]
    once('/topic3', 'is wrong in another way')
    assert said[-1].startswith('/topic3: is wrong in another way')


def test_threads_say_each_thing_once_and_one_at_a_time() -> None:
    said: list[str] = []
    inside: list[str] = []

    def say(text: str) -> None:
        inside.append(text)
        if not said and len(inside) == 1:        # let the other one come in, if it can
            other.start()
            other.join(0.3)
        assert len(inside) == 1, 'two threads at once'
        said.append(text)
        inside.pop()
    once = Once(say)
    other = threading.Thread(target=lambda: [once('/a', 'is wrong'), once('/b', 'is wrong')])
    once('/a', 'is wrong')
    other.join()
    assert [s.split(' ')[0] for s in said] == ['/a:', '/b:']
