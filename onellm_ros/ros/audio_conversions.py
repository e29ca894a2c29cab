"""Microphones: every known audio message -> mono float samples.

Told apart by their fields, not by their names, because two unrelated packages are called
audio_common_msgs:

* onellm_msgs/AudioChunk: header, sample_rate_hz, channels, int16[] samples (interleaved);
* ros-drivers: AudioData {uint8[] data}, AudioDataStamped {header, audio} (bytes whose format only
  AudioInfo or the user knows; audio_capture sends mp3 unless told otherwise);
* mgonzs13: Audio {audio_data, info}, AudioStamped {header, audio}.

Several channels are averaged to one. The stamp is the time of the first sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onellm_ros.modality import Sample
from onellm_ros.ros.message_fields import (
    NANOSECONDS,
    ConversionError,
    byte_view,
    frame_id,
    number_array,
    stamp_ns,
)

# GStreamer's names, as AudioInfo.sample_format carries them -> numpy type
_PCM = {'S16LE': '<i2', 'S16BE': '>i2', 'S32LE': '<i4', 'S32BE': '>i4', 'F32LE': '<f4',
        'F32BE': '>f4', 'F64LE': '<f8', 'F64BE': '>f8', 'S8': 'i1', 'U8': 'u1'}
# PortAudio's numbers, as mgonzs13's AudioInfo.format carries them -> array field of AudioData
_PORT_AUDIO = {1: 'float32_data', 2: 'int32_data', 8: 'int16_data', 16: 'int8_data',
               32: 'uint8_data'}
_RATES_HZ = (1000, 1_000_000)     # what microphones have; a mistake beyond that
_STANDARD_RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000)


@dataclass(frozen=True)
class AudioFormat:
    """What bare audio bytes mean.

    :param sample_format: GStreamer's name of a PCM sample (``S16LE``), or ``mp3``.
    """

    rate_hz: int = 16000
    channels: int = 1
    sample_format: str = 'S16LE'

    def __post_init__(self) -> None:
        """Check the values.

        :raises ConversionError: for a rate, channel count or sample format that cannot be.
        """
        if self.rate_hz <= 0 or self.channels <= 0:
            raise ConversionError(f'found an audio format of {self.rate_hz} Hz and '
                                  f'{self.channels} channels; expected both above zero; correct '
                                  'the parameters')
        if self.sample_format not in (*_PCM, 'mp3'):
            raise ConversionError(f'found the audio sample format {self.sample_format!r}; '
                                  f'expected mp3 or one of {", ".join(_PCM)}; correct the '
                                  'parameter')

    def __str__(self) -> str:
        return f'{self.rate_hz} Hz, {self.channels} channel(s), {self.sample_format}'


def audio_format(info: Any) -> AudioFormat:
    """Return the format that a ros-drivers AudioInfo message announces.

    :raises ConversionError: for a format that is not understood.
    """
    coding = str(getattr(info, 'coding_format', '')).lower()
    if coding == 'mp3':
        sample_format = 'mp3'
    elif coding in ('', 'wave', 'wav', 'pcm', 'raw'):
        sample_format = str(getattr(info, 'sample_format', '') or 'S16LE').upper()
    else:
        raise ConversionError(f'found the audio coding {coding!r}; expected wave or mp3; set the '
                              "parameter 'format' of audio_capture to wave")
    return AudioFormat(int(info.sample_rate), int(info.channels), sample_format)


def guess_audio_format(total_bytes: int, seconds: float) -> AudioFormat:
    """Guess the format of bare 16-bit audio from how many bytes came in how many seconds.

    :returns: the standard rate with one or two channels that fits best (one channel on a tie).
    :raises ConversionError: if no standard rate is within 3 percent.
    """
    found = total_bytes / seconds / 2 if seconds > 0 else 0.0
    fits = [(abs(found / (rate * channels) - 1), channels, rate)
            for rate in _STANDARD_RATES for channels in (1, 2)]
    close = [fit for fit in fits if fit[0] < 0.03]
    if not close:
        raise ConversionError(f'found {found * 2:.0f} bytes of bare audio a second; expected '
                              'those of 16-bit audio at a standard rate; give the rate and the '
                              'channels')
    _, channels, rate = min(close, key=lambda fit: (round(fit[0], 2), fit[1]))
    return AudioFormat(rate, channels)


def _float(values: np.ndarray) -> np.ndarray:
    """Scale PCM numbers to float32 -1..1 by their type."""
    kind = values.dtype
    if kind.kind == 'f':
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise ConversionError('found NaN or infinity among audio samples; expected -1..1; '
                                  'check the publisher and the declared sample format')
        return np.clip(values, -1, 1)
    if kind.kind == 'u':
        half = float(1 << (8 * kind.itemsize - 1))
        return ((values.astype(np.float32) - half) / half).astype(np.float32)
    return values.astype(np.float32) * np.float32(1 / (1 << (8 * kind.itemsize - 1)))


def _mono(values: np.ndarray, channels: int) -> np.ndarray:
    """Average interleaved channels.

    :raises ConversionError: for no samples, or a number that the channels do not divide.
    """
    if channels <= 0:
        raise ConversionError(f'found {channels} audio channels; expected at least one; correct '
                              'the publisher')
    if values.size == 0:
        raise ConversionError('found an audio message without samples; expected some; check the '
                              'microphone')
    if values.size % channels:
        raise ConversionError(f'found {values.size} interleaved audio samples; expected a '
                              f'multiple of the {channels} channels; correct the declared '
                              'channels')
    wave = _float(values)
    if channels == 1:
        return wave
    mixed = wave[::channels].copy()
    for channel in range(1, channels):
        mixed += wave[channel::channels]
    mixed /= np.float32(channels)
    return mixed


def _bare_bytes(data: Any, fmt: AudioFormat) -> np.ndarray:
    """Return mono float samples of bare PCM bytes."""
    if fmt.sample_format == 'mp3':
        raise ConversionError('found mp3 packets where single messages are converted; expected '
                              'PCM; use AudioDecoder, which keeps the state of the codec')
    data = byte_view(data)
    dtype = np.dtype(_PCM[fmt.sample_format])
    if data.size % dtype.itemsize:
        raise ConversionError(f'found {data.size} bytes of audio; expected a multiple of '
                              f'{dtype.itemsize} for {fmt.sample_format}; correct the declared '
                              'sample format')
    return _mono(data.view(dtype), fmt.channels)


def _port_audio(audio: Any) -> tuple[np.ndarray, int]:
    """Return mono samples and rate of mgonzs13's Audio {audio_data, info}."""
    info = audio.info
    name = _PORT_AUDIO.get(int(info.format))
    if name is None:
        raise ConversionError(f'found the audio format {info.format}; expected 1 (float32), '
                              '2 (int32), 8 (int16), 16 (int8) or 32 (uint8); correct the '
                              'publisher')
    dtype = np.dtype(name.split('_')[0])
    return _mono(number_array(getattr(audio.audio_data, name), dtype), int(info.channels)), \
        int(info.rate)


def _decode(message: Any, defaults: AudioFormat) -> tuple[np.ndarray, int]:
    """Return mono float samples and their rate from any known audio message."""
    if hasattr(message, 'samples') and hasattr(message, 'sample_rate_hz'):
        rate, channels = int(message.sample_rate_hz), int(message.channels)
        wave = _mono(number_array(message.samples, np.int16), channels)
    else:
        audio = getattr(message, 'audio', message)
        if hasattr(audio, 'audio_data') and hasattr(audio, 'info'):
            wave, rate = _port_audio(audio)
        elif hasattr(audio, 'data'):
            wave, rate = _bare_bytes(audio.data, defaults), defaults.rate_hz
        else:
            raise ConversionError(f'found a {type(message).__name__} on an audio topic; expected '
                                  'onellm_msgs/AudioChunk or a message of audio_common_msgs; '
                                  'check the type of the topic')
    if not _RATES_HZ[0] <= rate <= _RATES_HZ[1]:
        raise ConversionError(f'found an audio rate of {rate} Hz; expected {_RATES_HZ[0]} to '
                              f'{_RATES_HZ[1]}; correct the publisher')
    return wave, rate


def audio_sample(message: Any, defaults: AudioFormat | None = None, receive_ns: int = 0,
                 topic: str = '') -> Sample:
    """Convert one audio message by itself.

    :param defaults: what bare bytes mean (AudioData carries no format).
    :param receive_ns: when a message without a header arrived: the end of its samples.
    :param topic: name to keep in the sample.
    :returns: an audio sample, float32 [n] mono in -1..1 at ``rate_hz``.
    :raises ConversionError: for messages that are not understood.
    """
    wave, rate = _decode(message, defaults or AudioFormat())
    stamp = stamp_ns(message)
    if not hasattr(message, 'header') and receive_ns:
        stamp = receive_ns - wave.size * NANOSECONDS // rate
    return Sample(stamp, wave, frame_id(message), rate_hz=float(rate), topic=topic)


def mp3_frames_fill(data: np.ndarray) -> bool:
    """Tell whether bytes are a chain of whole MPEG layer 3 frames (and not PCM by chance)."""
    if data.size < 4 or data[0] != 0xFF or data[1] < 0xE0:
        return False
    raw, position = bytes(data), 0
    rates1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    rates2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    while position + 4 <= len(raw):
        head = int.from_bytes(raw[position:position + 4], 'big')
        version, layer = head >> 19 & 3, head >> 17 & 3
        bit_rate, rate = head >> 12 & 15, head >> 10 & 3
        if head >> 21 != 0x7FF or version == 1 or layer != 1 or bit_rate in (0, 15) or rate == 3:
            return False
        hertz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
        factor, table = (144000, rates1) if version == 3 else (72000, rates2)
        position += factor * table[bit_rate] // hertz + (head >> 9 & 1)
    return position > 0 and position == len(raw)


class AudioDecoder:
    """Converts a stream of audio messages: continuous stamps without headers, and mp3 packets.

    Messages without a header are stamped by their arrival, made continuous: a chunk begins where
    the one before ended unless the arrival disagrees by more than ``slack_ns``.

    :param defaults: what bare bytes mean; mp3 is recognised by itself.
    :param slack_ns: allowed difference between arrival and the continued stream.
    """

    def __init__(self, defaults: AudioFormat | None = None, slack_ns: int = 250_000_000) -> None:
        """Start a stream; see the class."""
        self.defaults = defaults or AudioFormat()
        self.slack_ns = slack_ns
        self._end_ns: int | None = None
        self._codec: Any = None

    def add(self, message: Any, receive_ns: int, topic: str = '') -> Sample | None:
        """Convert the next message.

        :param receive_ns: when it arrived.
        :param topic: name to keep in the sample.
        :returns: an audio sample; None while a codec waits for more packets.
        :raises ConversionError: for messages that are not understood.
        """
        bare = getattr(getattr(message, 'audio', message), 'data', None)
        packets = None if bare is None else byte_view(bare)
        if packets is not None and self._is_mp3(packets):
            decoded = self._decode_mp3(packets)
            if decoded is None:
                return None
            wave, rate = decoded
        else:
            wave, rate = _decode(message, self.defaults)
        stamp = stamp_ns(message)
        if not hasattr(message, 'header'):
            stamp = self._continue(receive_ns - wave.size * NANOSECONDS // rate)
            self._end_ns = stamp + wave.size * NANOSECONDS // rate
        return Sample(stamp, wave, frame_id(message), rate_hz=float(rate), topic=topic)

    def _continue(self, begin_ns: int) -> int:
        """Return where a chunk begins that, by its arrival, began at ``begin_ns``."""
        if self._end_ns is not None and abs(begin_ns - self._end_ns) <= self.slack_ns:
            return self._end_ns
        return begin_ns

    def _is_mp3(self, data: np.ndarray) -> bool:
        """Tell whether this stream is mp3."""
        if self._codec is not None or self.defaults.sample_format == 'mp3':
            return True
        return data.size > 0 and (bytes(data[:3]) == b'ID3' or mp3_frames_fill(data))

    def _decode_mp3(self, data: np.ndarray) -> tuple[np.ndarray, int] | None:
        """Return mono samples and rate of the mp3 packets in ``data``; None if none is whole."""
        try:
            import av
        except ImportError as error:
            raise ConversionError('found audio in mp3; expected PCM, because the package av is '
                                  "not installed; set audio_capture's parameter 'format' to "
                                  'wave, or install av') from error
        if self._codec is None:
            self._codec = av.CodecContext.create('mp3', 'r')
        waves: list[np.ndarray] = []
        rate = 0
        try:
            for packet in self._codec.parse(bytes(data)):
                for frame in self._codec.decode(packet):
                    rate = frame.sample_rate
                    waves.append(frame.to_ndarray().astype(np.float32).mean(axis=0))
        except av.error.FFmpegError as error:
            raise ConversionError(f'found {data.size} bytes of audio that are no mp3 ({error}); '
                                  'expected whole packets; check the declared format') from error
        return (np.concatenate(waves), rate) if waves else None
