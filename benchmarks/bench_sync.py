"""Measure the synchronizer: CPU time a message, windows made, beside message_filters.

The peer is ApproximateTimeSynchronizer, in this run, on the same messages: the module
message_filters of a sourced ROS 2, or of a folder (of ROS 1, too)::

    apt-get download python3-message-filters python3-genpy python3-genmsg
    for package in python3-*.deb; do dpkg -x $package /tmp/peer; done
    python benchmarks/bench_sync.py --message-filters /tmp/peer/usr/lib/python3/dist-packages

Without the module, ours stands alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
import gc
from pathlib import Path
import random
import sys
import time
import tracemalloc
from types import SimpleNamespace
from typing import Any

from _message_filters import Peer, load_peer
from _report import Report, Timing, arguments, timed
import numpy as np

from onellm_ros.modality import Modality, Sample
from onellm_ros.ros.message_fields import stamp_ns
from onellm_ros.synchronizer import StreamSpec, Synchronizer, Window, WindowSpec

MS, S = 1_000_000, 1_000_000_000
RATES = {'image': 30, 'depth': 30, 'points': 10, 'imu': 200, 'audio': 31}  # Hz
PUBLISHED_US = 186  # a message of message_filters with these five streams, on another machine
QUEUES = (10, 50, 200)
SLOP_S = 0.1
POLL_NS = 50 * MS
NO_DATA = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Message:
    """A message as it arrives: with a header for the peer, as a sample for us."""

    arrival_ns: int
    stream: str
    index: int
    header: Any
    sample: Sample


# -- what arrives -----------------------------------------------------------------------------


def record(rates: dict[str, int], seconds: float, *, lag_ms: dict[str, int] | None = None,
           until_s: dict[str, float] | None = None, jitter_ms: int = 0, late: float = 0.0,
           twice: float = 0.0) -> list[tuple[int, str, int]]:
    """Return (arrival, stream, stamp) of messages, in order of arrival.

    :param lag_ms: how late a stream arrives. :param until_s: when a stream falls silent.
    :param jitter_ms: further lateness of a message, drawn evenly from 0 to this.
    :param late: share of messages that are 0.5 s later. :param twice: that come twice.
    """
    chance = random.Random(0)
    out = []
    for offset, (name, rate) in enumerate(rates.items()):
        for i in range(round(min(seconds, (until_s or {}).get(name, seconds)) * rate)):
            stamp = 1_700_000_000 * S + i * S // rate + offset * MS // 7
            arrival = stamp + (lag_ms or {}).get(name, 0) * MS + chance.randint(0, jitter_ms) * MS
            if chance.random() < late:
                arrival += S // 2
            out.append((arrival, name, stamp))
            if chance.random() < twice:
                out.append((arrival + MS, name, stamp))
    return sorted(out)


def heard(messages: Sequence[Message]) -> list[tuple[int, Any]]:
    """Return messages as the peer takes them."""
    return [(m.index, m.header) for m in messages]


def messages_of(recorded: Sequence[tuple[int, str, int]], names: Sequence[str],
                make_stamp: Callable[[int], Any]) -> list[Message]:
    """Return the messages of a recording, made ahead of what is measured."""
    return [Message(arrival, name, names.index(name),
                    SimpleNamespace(header=SimpleNamespace(stamp=make_stamp(stamp))),
                    Sample(stamp, NO_DATA)) for arrival, name, stamp in recorded]


def many(count: int) -> dict[str, int]:
    """Return so many streams with the rates of the five in turn."""
    rates = list(RATES.values())
    return {f'{name}{i // len(RATES) or ""}': rates[i % len(RATES)]
            for i, name in zip(range(count), list(RATES) * count)}


# -- ours -------------------------------------------------------------------------------------


def spec_of(rates: dict[str, int], required: bool = False, **times: int) -> WindowSpec:
    """Return windows over these streams; times as in ``WindowSpec``."""
    return WindowSpec(tuple(StreamSpec(name, Modality.IMAGE, required, capacity=8192)
                            for name in rates), **times)


def windows_of(spec: WindowSpec, messages: Sequence[Message]) -> list[tuple[Window, int]]:
    """Return the windows and when each closed, with 20 polls a second as in the node."""
    sync, out, polled = Synchronizer(spec), [], 0
    for message in messages:
        now = message.arrival_ns
        if now - polled >= POLL_NS:
            polled = now
            out += [(window, now) for window in sync.poll(now)]
        out += [(window, now) for window in sync.add(message.stream, message.sample, now)]
    return out


def cpu_us(spec: WindowSpec, messages: Sequence[Message], repeats: int, whole: bool = False
           ) -> Timing:
    """Return microseconds of CPU a message, polls included.

    :param whole: from the message: its stamp is read and its sample made, too.
    """
    ready = [(m.arrival_ns, m.stream, m.sample) for m in messages]
    raw = [(m.arrival_ns, m.stream, m.header) for m in messages]

    def samples() -> None:
        sync, polled = Synchronizer(spec), 0
        for now, stream, sample in ready:
            if now - polled >= POLL_NS:
                polled = now
                sync.poll(now)
            sync.add(stream, sample, now)

    def headers() -> None:
        sync, polled = Synchronizer(spec), 0
        for now, stream, message in raw:
            if now - polled >= POLL_NS:
                polled = now
                sync.poll(now)
            sync.add(stream, Sample(stamp_ns(message), NO_DATA, topic=stream), now)

    run = timed(headers if whole else samples, repeats, clock=time.process_time)
    return run.scaled(1e6 / len(messages))


# -- cases ------------------------------------------------------------------------------------


class Bench:
    """The cases."""

    def __init__(self, report: Report, peer: Peer | None, repeats: int, seconds: float) -> None:
        self.report, self.peer = report, peer
        self.repeats, self.seconds = repeats, seconds

    def messages(self, rates: dict[str, int], **options: Any) -> list[Message]:
        """Return the messages of a case, see :func:`record`."""
        return messages_of(record(rates, self.seconds, **options), list(rates),
                           self.peer.stamp if self.peer else lambda ns: SimpleNamespace(
                               sec=ns // S, nanosec=ns % S))

    def peer_us(self, messages: Sequence[Message], streams: int, queue: int) -> Timing | None:
        """Return the peer's microseconds of CPU a message; one repeat where it is stopped."""
        values: list[float] = []
        while self.peer and len(values) < self.repeats:
            cost, _, taken = self.peer.run(heard(messages), streams, queue, SLOP_S)
            values.append(cost)
            if taken < len(messages):
                self.report.note(f'message_filters did not get through: stopped at message '
                                 f'{taken} of {len(messages)}')
                break
        return Timing(tuple(values)) if values else None

    def cost(self, case: str, rates: dict[str, int], *, required: bool = False,
             queue: int | None = QUEUES[0], whole: bool = False,
             times: dict[str, int] | None = None, **options: Any) -> float:
        """Add a row of CPU time a message; returns ours.

        :param queue: of the peer; None: it has nothing like this case.
        """
        messages = self.messages(rates, **options)
        ours = cpu_us(spec_of(rates, required, **times or {}), messages, self.repeats, whole)
        other = self.peer_us(messages, len(rates), queue) if queue else None
        self.report.add(case, ours, other, goal='<= 6', unit='us/msg')
        return ours.median

    def five(self) -> None:
        """Five streams, and the sizes of the peer's queue."""
        self.report.note('CPU time a message, five streams; "from the header": the stamp is read '
                         'and the sample made, too, as the peer does')
        self.cost('five streams', RATES)
        for queue in QUEUES if self.peer else QUEUES[:1]:
            self.cost(f'from the header (queue {queue})', RATES, queue=queue, whole=True)

    def disorder(self) -> None:
        """Out of order, late, twice, one stream behind."""
        self.report.note('CPU time a message, when things are not in order')
        shuffled: dict[str, Any] = {'jitter_ms': 100}
        spec = spec_of(RATES)
        wanted, found = ([(w.end_ns, {n: [s.stamp_ns for s in m] for n, m in w.members.items()})
                          for w, _ in windows_of(spec, self.messages(RATES, **options))]
                         for options in ({}, shuffled))
        both = min(len(wanted), len(found))
        if not both or wanted[:both] != found[:both]:
            sys.exit('windows differ with the order of arrival')
        self.cost('out of order by up to 0.1 s: same windows', RATES, **shuffled)
        self.cost('1 % late by 0.5 s, 1 % twice', RATES, late=0.01, twice=0.01)
        self.cost('points 0.4 s behind the others', RATES, lag_ms={'points': 400})
        self.cost('points silent', RATES, until_s={'points': 0})
        self.cost('points silent and required', RATES, until_s={'points': 0}, required=True)

    def growth(self) -> None:
        """More streams, longer windows."""
        self.report.note('CPU time a message, as streams and windows grow')
        costs = []
        for count in (2, 5, 10, 20):
            costs.append(self.cost(f'{count} streams', many(count)))
        self.cost('20 streams, one 0.4 s behind', many(20), lag_ms={'points': 400}, queue=None)
        lengths = []
        for length_s in (0.5, 1.0, 4.0):
            lengths.append(self.cost(f'windows of {length_s:g} s, one a second', RATES, queue=None,
                                     times={'length_ns': round(length_s * S)}))
        self.cost('windows of 4 s, ten a second', RATES, queue=None,
                  times={'length_ns': 4 * S, 'period_ns': S // 10})
        self.report.add('growth from 2 to 20 streams', costs[-1] / costs[0], unit='times',
                        goal='<= 2')
        self.report.add('growth from 0.5 to 4 s', lengths[-1] / lengths[0], unit='times',
                        goal='<= 2')

    def windows(self) -> None:
        """Which windows are made, and when, while a stream is silent."""
        self.report.note('windows closed, and how long after their end (0.1 s is the lateness '
                         "they allow); the peer's sets")
        expected = int(self.seconds) - 1
        half = self.seconds / 2
        for case, required, until in (
                ('all speak', False, {}),
                ('no points', False, {'points': 0.0}),
                ('no points, required', True, {'points': 0.0}),
                ('points stop half way', False, {'points': half}),
                ('required points stop', True, {'points': half})):
            messages = self.messages(RATES, until_s=until)
            made = windows_of(spec_of(RATES, required), messages)
            sets = None
            if self.peer:
                sets = self.peer.run(heard(messages), len(RATES), QUEUES[0], SLOP_S)[1]
            self.report.add(f'windows, {case}', len(made), sets, goal=f'>= {expected}',
                            unit='windows', compare=False)
            self.report.add(f'closed after, {case}', Timing(tuple(
                (now - w.end_ns) / S for w, now in made)), unit='s')
            closed = sum(m.sample.stamp_ns < made[-1][0].end_ns for m in messages)
            inside = sum(len(m) for w, _ in made for m in w.members.values())
            self.report.add(f'messages in one, {case}', 100 * inside / closed,
                            None if sets is None else 100 * sets * len(RATES) / len(messages),
                            unit='%', compare=False)

    def memory(self) -> None:
        """Peak of what is allocated beside the messages themselves."""
        self.report.note('peak of memory beside the messages, five streams')
        messages = self.messages(RATES)
        spec = spec_of(RATES)

        def ours() -> None:
            sync = Synchronizer(spec)
            for message in messages:
                sync.add(message.stream, message.sample, message.arrival_ns)

        peer = self.peer
        other = None
        if peer:
            all_of = heard(messages)
            other = _peak_kib(lambda: peer.run(all_of, len(RATES), QUEUES[-1], SLOP_S))
        self.report.add(f'allocation (queue {QUEUES[-1]})', _peak_kib(ours), other, unit='KiB')


def _peak_kib(function: Callable[[], object]) -> float:
    """Return the most KiB that were allocated at a time during a call."""
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1] / 1024
    finally:
        tracemalloc.stop()


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments(parser, repeats=7)
    parser.add_argument('--seconds', type=float, default=20, help='of messages (default 20)')
    parser.add_argument('--message-filters', type=Path, metavar='FOLDER',
                        help='where the module message_filters lies, if it cannot be imported')
    args = parser.parse_args()
    if args.seconds < 4:
        parser.error(f'--seconds: expected at least 4, found {args.seconds:g}')
    peer = load_peer(args.message_filters)
    report = Report('Synchronizer beside message_filters', 'numpy', 'ros-rclpy')
    repeats, seconds = (3, 5.0) if args.quick else (args.repeats, args.seconds)
    print(f'{seconds:g} s of {", ".join(f"{n} {r} Hz" for n, r in RATES.items())}; medians of '
          f'{repeats} repeats (lowest to highest); process time, garbage collection on')
    if peer:
        print(f"reference: message_filters' ApproximateTimeSynchronizer {peer.name}; "
              f'slop {SLOP_S:g} s, queue {QUEUES[0]} unless another is named')
    else:
        print(f'message_filters: found none (see --message-filters), not measured here; measured '
              f'elsewhere: {PUBLISHED_US} us a message with these five streams')
    bench = Bench(report, peer, repeats, seconds)
    for case in (bench.five, bench.disorder, bench.growth, bench.windows, bench.memory):
        case()
    report.finish(args.json)


if __name__ == '__main__':
    main()
