"""Stamping: which time a message counts for, by the policy of its source.

==========  =================================================================================
header      its stamp, whatever clock that is of; the time of receipt where it is zero
receive     the time of receipt, always
shift       its stamp, corrected by the estimated offset while its clock is another one
refuse      its stamp; messages with a stamp of zero, or of another clock, are not used
==========  =================================================================================

``clocks.py`` estimates the offsets, under every policy, so that they can be told. Where the stamps
of all inputs are off alike, a recording is played: that is no fault, and said once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from onellm_ros.modality import Sample
from onellm_ros.node_config import InputConfig
from onellm_ros.perception.clocks import Continued, StreamClock
from onellm_ros.perception.sources import SECOND_NS, SourceSpec
from onellm_ros.windows import Event

_ZERO = 'found a stamp of zero, expected the time of measurement; '


@dataclass(frozen=True)
class Heard:
    """What a message's stamp means for it.

    :param refused: why it is not used; empty: it is. :param told: what is odd about it.
    :param waiting: it is not used, because too little is known of its clock yet.
    """

    refused: str = ''
    told: str = ''
    waiting: bool = False


_FINE, _WAITING = Heard(), Heard(waiting=True)


class Stamping:
    """The clocks of all sources, and what is done about them.

    :param on_event: called with what should be told of a clock, once.
    """

    def __init__(self, config: InputConfig, on_event: Callable[[Event], None]) -> None:
        self._config, self._on_event = config, on_event
        self._tolerance_ns = round(config.clock_tolerance_s * SECOND_NS)
        self._clocks: dict[str, StreamClock] = {}
        self._sounds: dict[str, Continued] = {}
        self._sources: dict[str, SourceSpec] = {}
        self._told: set[tuple[str, str]] = set()
        self._message: tuple[int, int] = (0, 0)

    def clear(self) -> None:
        """Forget the clocks; what was told stays told."""
        self._clocks.clear()
        self._sounds.clear()

    def policy(self, source: SourceSpec) -> str:
        """Return which policy a source has."""
        return source.stamps or self._config.stamp_policy

    def clock(self, name: str) -> StreamClock | None:
        """Return the clock of a source; None before its first stamp."""
        return self._clocks.get(name)

    def hear(self, source: SourceSpec, stamp_ns: int | None, receive_ns: int) -> Heard:
        """Take the stamp of a message before its samples.

        :param stamp_ns: of its header; None: it has none.
        :param receive_ns: time of receipt; 0: not known (no simulated time yet).
        """
        self._message = (stamp_ns or 0, receive_ns)
        policy = self.policy(source)
        if stamp_ns is None:
            return _FINE
        if stamp_ns == 0:
            if policy == 'refuse':
                return Heard(f'{_ZERO}mend the driver, or set {self._remedy(source)} to receive')
            return _FINE if policy == 'receive' else Heard(
                told=f'{_ZERO}the time of receipt is taken instead')
        if receive_ns == 0:
            return _FINE
        clock = self._clocks.get(source.name)
        if clock is None:
            clock = self._clocks[source.name] = StreamClock(self._tolerance_ns)
            self._sources[source.name] = source
        if clock.observe(stamp_ns, receive_ns):
            self._tell(stamp_ns)
        if policy == 'refuse' and clock.differs:
            return Heard(
                f"found stamps {clock.offset_ns / SECOND_NS:+.3f} s from this node's clock, "
                f'expected at most {self._config.clock_tolerance_s:g} s; have the driver stamp '
                f"with the node's clock, or set {self._remedy(source)} to shift or receive")
        return _WAITING if policy in ('shift', 'refuse') and clock.waiting else _FINE

    def stamped(self, source: SourceSpec, sample: Sample) -> Sample:
        """Return a sample of the message that was heard last with the time that it counts for."""
        stamp_ns, receive_ns = self._message
        policy = self.policy(source)
        if sample.stamp_ns == 0:
            return replace(sample, stamp_ns=receive_ns)
        if stamp_ns and policy == 'receive' and receive_ns:
            if sample.rate_hz > 0:
                sound = self._sounds.setdefault(source.name, Continued())
                length_ns = round(len(sample.data) / sample.rate_hz * SECOND_NS)
                return replace(sample, stamp_ns=sound.begin(receive_ns, length_ns))
            return replace(sample, stamp_ns=sample.stamp_ns - stamp_ns + receive_ns)
        clock = self._clocks.get(source.name)
        if stamp_ns and policy == 'shift' and clock is not None and clock.differs:
            return replace(sample, stamp_ns=clock.shifted(sample.stamp_ns))
        return sample

    def _remedy(self, source: SourceSpec) -> str:
        return f'source.{source.name}.stamps' if source.stamps else 'inputs.stamp_policy'

    def _tell(self, stamp_ns: int) -> None:
        """Say which clocks differ, each once, now that one is known better."""
        known = {name: clock for name, clock in self._clocks.items() if clock.settled}
        agree = [name for name, clock in known.items() if not clock.differs]
        for name, clock in known.items():
            policy = self.policy(self._sources[name])
            kind = 'clock' if agree or policy != 'header' else 'elsewhen'
            if not clock.differs or (name, kind) in self._told:
                continue
            if kind == 'elsewhen' and ('', kind) in self._told:
                continue            # the others of a recording are off alike
            self._told |= {(name, kind), ('', kind)}
            off = f"the stamps of {name} are {clock.offset_ns / SECOND_NS:+.3f} s from this " \
                "node's clock"
            if kind == 'elsewhen':
                text = f'{off}: is a recording played? with use_sim_time the node has its clock'
            elif policy == 'header':
                text = (f'{off}, while those of {", ".join(agree)} agree with it; have its driver '
                        f'stamp with the same clock, or set source.{name}.stamps (or '
                        'inputs.stamp_policy) to shift or receive')
            else:
                text = f'{off}: ' + {
                    'shift': 'they are corrected by that',
                    'receive': 'the time of receipt is taken instead',
                    'refuse': 'its messages are refused'}[policy]
            self._on_event(Event(kind, name, stamp_ns, text))
