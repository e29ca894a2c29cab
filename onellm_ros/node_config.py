"""What the perception node can be told: its settings, their limits and what they mean.

Every default of the node is written here, once; ROS parameters and config/onellm.yaml derive from
here (``ros/parameters.py``). Nothing here imports torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onellm_ros.config import MAX_TOKENS, ConfigError


def _setting(default: Any, text: str, *, low: float | None = None, high: float | None = None,
             one_of: tuple[str, ...] = (), live: bool = False) -> Any:
    """Return a field of a node's settings: default, what it means, limits, changeable while on."""
    return field(default=default, metadata={'text': text, 'low': low, 'high': high,
                                            'one_of': one_of, 'live': live})


@dataclass(frozen=True)
class WindowConfig:
    """How the perception node cuts time into windows."""

    length_s: float = _setting(1.0, 'Length of a window, seconds.', low=0.01, high=3600.0)
    period_s: float = _setting(1.0, 'Time from one window to the next, seconds.',
                               low=0.01, high=3600.0)
    lateness_s: float = _setting(0.1, 'How late a message may come by its stamp, seconds.',
                                 low=0.0, high=60.0)
    deadline_s: float = _setting(
        0.5, 'Wall-clock seconds that a window waits past its end for a silent input.',
        low=0.001, high=600.0)
    silence_s: float = _setting(2.0, 'An input silent for so many seconds is not waited for.',
                                low=0.1, high=3600.0)
    video_s: float = _setting(2.0, 'How far back the frames of the video reach, seconds.',
                              low=0.1, high=60.0)
    merge_points: bool = _setting(
        False, 'Join all clouds of a window that are in one frame, instead of the newest alone.')
    required: tuple[str, ...] = _setting(
        (), 'Inputs (modalities) that a window waits for; empty: every one that has spoken.')
    kept: int = _setting(8, 'Windows kept for questions about the past, at most.',
                         low=1, high=1000)
    kept_mb: int = _setting(
        256, 'Memory of the windows kept, MiB; the oldest go first, the newest always stays.',
        low=1, high=1_000_000)

    def __post_init__(self) -> None:
        """Check what one value alone cannot tell."""
        if self.lateness_s > min(self.deadline_s, 1.0):
            raise ConfigError(f'window.lateness_s: found {self.lateness_s}, expected at most the '
                              f'deadline_s of {self.deadline_s} and 1 s')


@dataclass(frozen=True)
class InputConfig:
    """How the perception node reads its inputs."""

    stamp_policy: str = _setting(
        'receive', 'What a stamp of zero means: take the time of receipt, or refuse the message.',
        one_of=('receive', 'refuse'))
    reliability: str = _setting(
        'auto',
        'QoS of the subscriptions; auto: reliable where all publishers of a topic are, else '
        'best effort, which connects to every publisher but can lose large messages.',
        one_of=('auto', 'best_effort', 'reliable'))
    audio_type: str = _setting(
        'onellm_msgs/msg/AudioChunk',
        'Message type of the audio input; those of both audio_common_msgs work too.')
    audio_rate_hz: int = _setting(
        16000, 'Samples a second of audio bytes that do not say it (AudioData).',
        low=1000, high=384000)
    audio_channels: int = _setting(1, 'Channels of audio bytes that do not say it.',
                                   low=1, high=64)
    audio_format: str = _setting('S16LE', 'Sample format of audio bytes that do not say it.')


@dataclass(frozen=True)
class DescribeConfig:
    """The descriptions that the perception node publishes."""

    enabled: bool = _setting(True, 'Describe windows; false: only answer questions.', live=True)
    prompt: str = _setting('', 'What the model is asked for; empty: what it was trained on.',
                           live=True)
    max_tokens: int = _setting(MAX_TOKENS, 'Tokens that a description may have.', low=1, high=4096,
                               live=True)
    temperature: float = _setting(0.0, '0: the likeliest token each time; more is more random.',
                                  low=0.0, high=10.0, live=True)


@dataclass(frozen=True)
class AskConfig:
    """The questions that the perception node answers."""

    max_tokens: int = _setting(MAX_TOKENS, 'Tokens of an answer where the question does not say.',
                               low=1, high=4096, live=True)
    max_tokens_limit: int = _setting(512, 'Tokens that a question may ask for.', low=1, high=4096,
                                     live=True)
    wait_s: float = _setting(3.0, 'How long a question waits for a first window, seconds.',
                             low=0.0, high=600.0, live=True)
    timeout_s: float = _setting(30.0, 'A question not answered by then ends, seconds.',
                                low=0.1, high=3600.0, live=True)
    waiting: int = _setting(8, 'Questions that may wait; further ones are rejected.',
                            low=1, high=1000, live=True)


@dataclass(frozen=True)
class NodeConfig:
    """Everything that the perception node can be told; its ROS parameters derive from this."""

    model: str = _setting('nano', 'Name or folder of the model.')
    device: str = _setting('auto', 'Where it computes: auto, cpu, cuda or cuda:N.')
    modalities: tuple[str, ...] = _setting(
        (), 'What the model is shown; empty: all that it knows. While the node is configured, '
        'those that it was configured with can be restricted.', live=True)
    base_frame: str = _setting('base_link', 'Frame named in the headers of the outputs.')
    diagnostics_period_s: float = _setting(1.0, 'Time between diagnostics, seconds.',
                                           low=0.1, high=3600.0)
    window: WindowConfig = field(default_factory=WindowConfig)
    inputs: InputConfig = field(default_factory=InputConfig)
    describe: DescribeConfig = field(default_factory=DescribeConfig)
    ask: AskConfig = field(default_factory=AskConfig)
    rate_hz: float = _setting(
        0.0, 'At most so many descriptions a second; windows between are skipped. 0: no limit.',
        low=0.0, high=100.0, live=True)
    min_interval_s: float = _setting(
        0.0, 'Rest from the end of one description to the start of the next, seconds, so that '
        'others get the processor.', low=0.0, high=3600.0, live=True)
    preempt: bool = _setting(
        True, 'A question ends the description in the making, whose window is then described '
        'anew, or skipped for a newer one; never two descriptions in a row.', live=True)
    turns: int = _setting(
        3, 'Last questions and answers of a conversation that are put before the next question.',
        low=0, high=100, live=True)
    conversations: int = _setting(16, 'Conversations remembered; the one unused for longest is '
                                  'forgotten first.', low=1, high=10000, live=True)
    conversation_s: float = _setting(
        600.0, 'A conversation is forgotten when nobody asked in it for so long, seconds.',
        low=1.0, high=86400.0, live=True)
    threads: int = _setting(
        0, 'CPU threads of the model; 0: one for a small model on the CPU, else as torch has it.',
        low=0, high=1024)
    memory_mb: int = _setting(
        0, 'Memory that model and kept windows may take, MiB; computed before anything is '
        'loaded. 0: what the device has free.', low=0, high=100_000_000)
    heartbeat_hz: float = _setting(
        1.0, 'Messages a second on ~/heartbeat, in every state of the node; 0: none.',
        low=0.0, high=100.0, live=True)
    stall_s: float = _setting(
        10.0, 'A token (or encoding a window) that takes longer is a warning in the '
        'diagnostics, three times as long an error; seconds.', low=0.1, high=3600.0, live=True)
