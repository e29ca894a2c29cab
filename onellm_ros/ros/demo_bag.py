"""What the demonstration does with a recording: which topics it plays, and what it shows of it.

This module owns the check before anything is started and the samples for the picture; the playing
is ``bag_player``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onellm_ros.modality import Modality, Sample
from onellm_ros.replay.bag_sources import BagError
from onellm_ros.replay.bags import open_bag
from onellm_ros.replay.matching import match_topics, samples
from onellm_ros.ros.bag_player import input_name

_BEYOND_NS = 2_000_000_000       # topics are recorded in the order of arrival, not of stamps


@dataclass(frozen=True)
class BagPlan:
    """A recording that can be played.

    :param choices: topic -> modality that the user asked for.
    :param start_ns: time of its first message. :param seconds: its length.
    :param inputs: inputs of the perception node that it feeds.
    :param arguments: of ``bag_player``. :param lines: topics, for people.
    """

    path: Path
    choices: Mapping[str, str]
    start_ns: int
    seconds: float
    inputs: tuple[str, ...]
    arguments: tuple[str, ...]
    lines: tuple[str, ...]


def topic_choices(words: list[str]) -> dict[str, str]:
    """Read TOPIC=MODALITY words.

    :raises BagError: for a word without a name on both sides.
    """
    choices = {}
    for word in words:
        topic, sign, modality = word.rpartition('=')
        if not (topic and sign and modality):
            raise BagError(f'found --topics {word!r}; expected TOPIC=MODALITY, for example '
                           '/camera/color/image_raw=image')
        choices[topic] = modality
    return choices


def plan_bag(path: Path, choices: Mapping[str, str]) -> BagPlan:
    """Open a recording and match its topics.

    :param choices: topic -> modality (or ``none``) that the user asks for.
    :raises BagError: for a recording that cannot be played, with the reason.
    :raises ValueError: for a modality that does not exist.
    """
    with open_bag(path) as bag:
        match = match_topics(bag, choices)
        start_ns, seconds = bag.start_ns, (bag.end_ns - bag.start_ns) * 1e-9
        lines = (*match.lines(), *(f'  problem: {p}' for p in bag.problems))
        if not match.used:
            reasons = '; '.join(f'{topic}: {why}' for topic, why in match.unused.items())
            raise BagError(f'found no topic in {path} that the model could use '
                           f'({reasons or "it has no topics"}); give --topics TOPIC=MODALITY to '
                           'insist')
        inputs = tuple(dict.fromkeys(input_name(match, topic) for topic in match.used))
    maps = [word for topic, modality in choices.items()
            for word in ('--map', f'{topic}={modality}')]
    return BagPlan(path, dict(choices), start_ns, seconds, inputs, (str(path), *maps), lines)


def samples_between(plan: BagPlan, first_ns: int, last_ns: int) -> dict[Modality, list[Sample]]:
    """Return the samples of a recording with stamps from ``first_ns`` to ``last_ns``.

    :returns: by modality, in the order of their stamps.
    """
    out: dict[Modality, list[Sample]] = {}
    with open_bag(plan.path) as bag:
        for modality, sample in samples(bag, match_topics(bag, plan.choices)):
            if first_ns <= sample.stamp_ns <= last_ns:
                out.setdefault(modality, []).append(sample)
            elif sample.stamp_ns > last_ns + _BEYOND_NS:
                break
    for found in out.values():
        found.sort(key=lambda s: s.stamp_ns)
    return out
