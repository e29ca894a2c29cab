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
        'header', 'Which time a message counts for. header: its stamp, and the time of receipt '
        'where that is zero. receive: always the time of receipt. shift: its stamp, corrected by '
        "the estimated offset where its clock is another one than the node's. refuse: its stamp; "
        'messages with a stamp of zero or of another clock are not used.',
        one_of=('header', 'receive', 'shift', 'refuse'))
    clock_tolerance_s: float = _setting(
        1.0, "Stamps further than this from the node's clock are those of another clock, seconds.",
        low=0.05, high=3600.0)
    reliability: str = _setting(
        'auto',
        'QoS of the subscriptions; auto: reliable where all publishers of a topic are, else '
        'best effort, which connects to every publisher but can lose large messages.',
        one_of=('auto', 'best_effort', 'reliable'))
    normals_frame: str = _setting(
        'camera', 'Frame of maps of normals: that of the camera, as models are trained, or the '
        'base_frame (turned by tf2 or extrinsics).', one_of=('camera', 'base'))
    audio_type: str = _setting(
        'onellm_msgs/msg/AudioChunk',
        'Message type of the audio input; those of both audio_common_msgs work too; empty: what '
        'its publisher has.')
    audio_rate_hz: int = _setting(
        16000, 'Samples a second of audio bytes that do not say it (AudioData).',
        low=1000, high=384000)
    audio_channels: int = _setting(1, 'Channels of audio bytes that do not say it.',
                                   low=1, high=64)
    audio_format: str = _setting('S16LE', 'Sample format of audio bytes that do not say it.')


@dataclass(frozen=True)
class SourceConfig:
    """One source that a robot names: the parameters ``source.NAME.*``."""

    name: str
    topic: str = _setting('', 'Topic, before remapping; needed.')
    modality: str = _setting(
        '', "Modality; empty: found from the topic's type, its name and the first message.")
    type: str = _setting('', 'Message type, such as sensor_msgs/msg/Image; empty: what the '
                         "topic's publisher has.")
    camera_info: str = _setting(
        '', 'Topic of the calibration of a picture; empty: camera_info beside the topic.')
    frame: str = _setting('', "Frame of the data; empty: the messages' frame_id.")
    reliability: str = _setting('', 'As inputs.reliability, for this source; empty: as there.',
                                one_of=('auto', 'best_effort', 'reliable'))
    stamps: str = _setting('', 'As inputs.stamp_policy, for this source; empty: as there.',
                           one_of=('header', 'receive', 'shift', 'refuse'))


@dataclass(frozen=True)
class ExtrinsicConfig:
    """Where one sensor's frame is: the parameters ``extrinsic.NAME.*``."""

    name: str
    frame: str = _setting('', 'Frame of the sensor; empty: the name.')
    xyz: tuple[float, ...] = _setting(
        (0.0, 0.0, 0.0), 'Its origin in base_frame: x forward, y left, z up, metres.')
    rpy: tuple[float, ...] = _setting(
        (0.0, 0.0, 0.0), 'Its orientation in base_frame: roll, pitch, yaw about the fixed axes '
        'x, y, z, in this order, radians (an optical frame looking forward: '
        '[-1.5708, 0.0, -1.5708]).')


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
    rate_hz: float = _setting(
        0.0, 'At most so many descriptions a second; windows between are skipped. 0: no limit.',
        low=0.0, high=100.0, live=True)
    min_interval_s: float = _setting(
        0.0, 'Rest from the end of one description to the start of the next, seconds, so that '
        'others get the processor.', low=0.0, high=3600.0, live=True)
    preempt: bool = _setting(
        True, 'A question joins the description in the making at its next token, or has it wait '
        'where the model computes one at a time; false: it waits for its end.', live=True)


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
    turns: int = _setting(
        3, 'Last questions and answers of a conversation that are put before the next question.',
        low=0, high=100, live=True)
    conversations: int = _setting(16, 'Conversations remembered; the one unused for longest is '
                                  'forgotten first.', low=1, high=10000, live=True)
    conversation_s: float = _setting(
        600.0, 'A conversation is forgotten when nobody asked in it for so long, seconds.',
        low=1.0, high=86400.0, live=True)


@dataclass(frozen=True)
class NodeConfig:
    """Everything that the perception node can be told; its ROS parameters derive from this."""

    model: str = _setting('nano', 'Name or folder of the model.')
    device: str = _setting('auto', 'Where it computes: auto, cpu, cuda or cuda:N.')
    backend: str = _setting(
        'auto', 'What computes: torch, onnx (needs an export, onellm export), or auto: what was '
        'measured to be faster here.', one_of=('auto', 'torch', 'onnx'))
    quantize: str = _setting(
        'none', "Type of the language model's weights: int8, int4 or (on GPUs that have it) fp8: "
        'less memory, on a CPU faster for large models, not exact; needs '
        'requirements/quantize.txt. none: as it computes.', one_of=('none', 'int8', 'int4', 'fp8'))
    threads: int = _setting(
        0, 'CPU threads of the model; 0: one for a small model on the CPU, else as torch has it.',
        low=0, high=1024)
    memory_mb: int = _setting(
        0, 'Memory that model and kept windows may take, MiB; computed before anything is '
        'loaded. 0: what the device has free.', low=0, high=100_000_000)
    modalities: tuple[str, ...] = _setting(
        (), 'What the model is shown; empty: all that it knows. While the node is configured, '
        'those that it was configured with can be restricted.', live=True)
    base_frame: str = _setting('base_link', 'Frame named in the headers of the outputs.')
    diagnostics_period_s: float = _setting(1.0, 'Time between diagnostics, seconds.',
                                           low=0.1, high=3600.0)
    heartbeat_hz: float = _setting(
        1.0, 'Messages a second on ~/heartbeat, in every state of the node; 0: none.',
        low=0.0, high=100.0, live=True)
    stall_s: float = _setting(
        10.0, 'A token (or encoding a window) that takes longer is a warning in the '
        'diagnostics, three times as long an error; seconds.', low=0.1, high=3600.0, live=True)
    window: WindowConfig = field(default_factory=WindowConfig)
    inputs: InputConfig = field(default_factory=InputConfig)
    describe: DescribeConfig = field(default_factory=DescribeConfig)
    ask: AskConfig = field(default_factory=AskConfig)
    sources: tuple[SourceConfig, ...] = field(default=(), metadata={
        'names': 'Names of the sources, in order of rank: of each modality the first one that a '
        'window has is used. Empty: the default table of topics (image, depth, points, ...).'})
    extrinsics: tuple[ExtrinsicConfig, ...] = field(default=(), metadata={
        'names': 'Names of the poses of sensors in base_frame, for where tf2 does not know them.'})
