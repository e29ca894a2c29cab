"""Clocks of the inputs: how far the stamps of a stream are from the clock that receives them.

A driver may stamp with the uptime of its sensor, with a host's clock that is minutes off, or with
wall time beside a simulation. This module owns estimating that offset from pairs of (stamp, time
of receipt) and correcting stamps by it; what becomes of such messages is the intake's business.
It is pure Python and knows neither ROS nor samples.

A message can only come later than it was sent. So the pair with the least delay of the last
seconds is the one that the transport disturbed least, and its difference is the offset (with the
smallest latency in it, some milliseconds).
"""

from __future__ import annotations

from collections import deque

SECOND_NS = 1_000_000_000
SETTLE = 3                          # pairs before the offset counts as known,
SETTLE_NS = 3 * SECOND_NS // 10     # and the time that they must span: no burst after a stall
JUMP_AFTER_NS = SECOND_NS           # pairs that agree with each other for so long are a new offset
_BUCKET_NS = SECOND_NS
_BUCKETS = 10                       # the offset is the best of so many seconds: drift is followed
_SLEW = 100                         # corrected stamps follow a drift by 1/100 at most


class StreamClock:
    """The clock of one stream beside the clock that receives it.

    :param tolerance_ns: offsets below this are latency; above, the stream has another clock.
    """

    def __init__(self, tolerance_ns: int = SECOND_NS) -> None:
        if tolerance_ns <= 0:
            raise ValueError(f'tolerance_ns: expected more than 0, found {tolerance_ns}')
        self.tolerance_ns = tolerance_ns
        self.jumps = 0
        self.clear()

    def clear(self) -> None:
        """Forget what was seen."""
        self.differs = False
        self._best: deque[tuple[int, int]] = deque(maxlen=_BUCKETS)  # (second, stamp - receipt)
        self._pairs = 0
        self._first_ns = self._span_ns = 0
        self._newest = 0                    # the newest pair's difference
        self._suspects: list[tuple[int, int]] = []
        self._used: int | None = None       # what stamps are corrected by, following the estimate
        self._used_at_ns = 0

    @property
    def settled(self) -> bool:
        """Tell whether enough pairs were seen to rely on the offset."""
        return self._pairs >= SETTLE and self._span_ns >= SETTLE_NS

    @property
    def waiting(self) -> bool:
        """Tell whether the newest stamp says another offset than is known, or none is known.

        It is a wild one, was held up for long, or the first of another clock: more will show.
        """
        return bool(self._suspects) or (not self.settled and abs(self._newest) > self.tolerance_ns)

    @property
    def offset_ns(self) -> int:
        """Return the stream's clock less the receiver's; 0 before any pair."""
        return max((best for _, best in self._best), default=0)

    def observe(self, stamp_ns: int, receive_ns: int) -> bool:
        """Take the stamp of a message and the time of its receipt.

        :returns: whether :attr:`settled` or :attr:`differs` changed, or the clock jumped.
        """
        before = (self.settled, self.differs, self.jumps)
        difference = stamp_ns - receive_ns
        self._newest = difference
        if self._pairs and abs(difference - self.offset_ns) > self.tolerance_ns:
            self._suspect(difference, receive_ns)
        else:
            self._suspects.clear()
            self._take(difference, receive_ns)
        far = abs(self.offset_ns)
        if self.settled:  # leaves at half of where it enters, so that it does not flutter
            self.differs = far > (self.tolerance_ns // 2 if self.differs else self.tolerance_ns)
        self._follow(receive_ns)
        return before != (self.settled, self.differs, self.jumps)

    def _take(self, difference: int, receive_ns: int) -> None:
        second = receive_ns // _BUCKET_NS
        if not self._pairs:
            self._first_ns = receive_ns
        self._pairs += 1
        self._span_ns = max(self._span_ns, receive_ns - self._first_ns)
        if self._best and self._best[-1][0] == second:
            difference = max(difference, self._best.pop()[1])
        self._best.append((second, difference))

    def _suspect(self, difference: int, receive_ns: int) -> None:
        """Put aside a pair far from the estimate: several that agree for a while replace it."""
        suspects = self._suspects
        if suspects and abs(difference - suspects[-1][0]) > self.tolerance_ns:
            suspects.clear()
        suspects.append((difference, receive_ns))
        span_ns = receive_ns - suspects[0][1]
        if not self.settled:
            enough = len(suspects) >= SETTLE and span_ns >= SETTLE_NS
        else:
            enough = len(suspects) >= SETTLE and span_ns >= JUMP_AFTER_NS
        if span_ns < 0 or len(suspects) > 100_000:
            suspects.clear()
        elif enough:
            self.jumps += self.settled
            pairs, self._suspects = list(suspects), []
            self._best.clear()
            self._pairs, self._span_ns, self._used = 0, 0, None
            for pair in pairs:
                self._take(*pair)

    def _follow(self, now_ns: int) -> None:
        """Let the correction follow the estimate, slowly: order and spacing of stamps stay."""
        wanted = self.offset_ns
        if self._used is None or not self.settled or abs(wanted - self._used) > self.tolerance_ns:
            self._used = wanted
        else:
            step = max(now_ns - self._used_at_ns, 0) // _SLEW
            self._used += min(max(wanted - self._used, -step), step)
        self._used_at_ns = now_ns

    def shifted(self, stamp_ns: int) -> int:
        """Return a stamp of the stream on the receiver's clock.

        The spacing of the stamps is the driver's; the jitter of the transport does not come in.
        """
        return stamp_ns - (self._used or 0)


class Continued:
    """Makes chunks of sound that are stamped by their arrival follow each other without a gap.

    :param slack_ns: a chunk whose arrival disagrees by more begins anew.
    """

    def __init__(self, slack_ns: int = SECOND_NS // 4) -> None:
        self.slack_ns = slack_ns
        self._end_ns: int | None = None

    def begin(self, receive_ns: int, length_ns: int) -> int:
        """Return when a chunk began.

        :param receive_ns: its arrival: about its end. :param length_ns: how long it sounds.
        """
        begin = receive_ns - length_ns
        if self._end_ns is not None and abs(begin - self._end_ns) <= self.slack_ns:
            begin = self._end_ns
        self._end_ns = begin + length_ns
        return begin
