"""Sound of any rate to log-mel pictures: joining chunks, resampling, Kaldi's filterbank.

The filterbank follows Kaldi's definition (htk_compat, Hanning window, no dither, no energy, 25 ms
frames every 10 ms, DC removed, pre-emphasis 0.97, power spectrum, snip_edges, 20 Hz to Nyquist) on
waveforms in -1..1, the form in which the released model was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
import math
from typing import Any

import numpy as np
import torch

from onellm_ros.config import TokenizerConfig
from onellm_ros.modality import Sample
from onellm_ros.preprocess.errors import (
    NoMeasurementError,
    PreprocessError,
    as_tensor,
    shape_text,
)

FRAME_S = 0.025
HOP_S = 0.010
PRE_EMPHASIS = 0.97
LOW_HZ = 20.0
MEAN = -4.2677393
TWICE_STD = 2 * 4.5689974
EPSILON = float(np.finfo(np.float32).eps)
JITTER_S = 0.03             # a chunk this near to the end of the one before continues it


@lru_cache(maxsize=16)
def _mel_banks(mels: int, padded: int, rate: float) -> np.ndarray:
    """Return Kaldi's triangular filters, float64 [padded / 2 + 1, mels]."""
    def mel(hertz: Any) -> Any:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    low, high = mel(LOW_HZ), mel(rate / 2)
    step = (high - low) / (mels + 1)
    left = low + np.arange(mels) * step
    at = mel(np.arange(padded // 2) * (rate / padded))[:, None]
    up, down = (at - left) / step, (left + 2 * step - at) / step
    banks = np.maximum(0.0, np.minimum(up, down))
    return np.concatenate([banks, np.zeros((1, mels))])         # Kaldi leaves out the Nyquist bin


def kaldi_fbank(wave: Any, rate_hz: float = 16000.0, mels: int = 128) -> torch.Tensor:
    """Compute Kaldi log-mel filterbank features.

    Worked out in float64: in float32 the quiet bins of a loud tone are rounding noise.

    :param wave: float [n] or [B, n] in -1..1; array or tensor.
    :returns: float32 [frames, mels] or [B, frames, mels] on the input's device; frames is
        1 + (n - 25 ms) // 10 ms, or 0 for less than 25 ms.
    :raises PreprocessError: for another shape.
    """
    signal = as_tensor(wave, 'audio')
    if signal.ndim not in (1, 2):
        raise PreprocessError(
            f'audio: found a waveform of shape {shape_text(signal.shape)}, expected mono [n]')
    length, hop = int(rate_hz * FRAME_S), int(rate_hz * HOP_S)
    padded = 1 << (length - 1).bit_length()
    if signal.shape[-1] < length:
        return torch.zeros((*signal.shape[:-1], 0, mels), device=signal.device)
    frames = signal.double().unfold(-1, length, hop)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    window = torch.hann_window(length, periodic=False, dtype=torch.float64, device=signal.device)
    spectrum = torch.fft.rfft((frames - PRE_EMPHASIS * before) * window, n=padded)
    power = spectrum.real.square() + spectrum.imag.square()
    banks = torch.from_numpy(_mel_banks(mels, padded, float(rate_hz))).to(signal.device)
    return (power @ banks).clamp(min=EPSILON).log().float()


def resample(wave: np.ndarray, rate_hz: float, target_hz: float) -> np.ndarray:
    """Resample a waveform with an antialiasing polyphase filter.

    :param wave: float [n]; :param rate_hz: its samples a second.
    :returns: float32, about n * target / rate samples.
    :raises PreprocessError: for a rate that is not above 0.
    """
    if not math.isfinite(rate_hz) or rate_hz <= 0:
        raise PreprocessError(f'audio: found a rate of {rate_hz} Hz, expected one above 0; '
                              'give the rate of the microphone')
    signal = np.asarray(wave, dtype=np.float32)
    ratio = Fraction(float(target_hz) / float(rate_hz)).limit_denominator(4000)
    if ratio == 1 or len(signal) == 0:
        return signal
    if ratio == 0:
        raise PreprocessError(f'audio: found a rate of {rate_hz} Hz, expected at most 4000 times '
                              f'{target_hz} Hz; check the unit')
    from scipy.signal import resample_poly  # here: it takes a second to import

    return resample_poly(signal, ratio.numerator, ratio.denominator).astype(np.float32)


def join_chunks(chunks: Sequence[Sample], end_ns: int | None = None,
                seconds: float | None = None) -> tuple[np.ndarray, float]:
    """Join audio chunks by their stamps into one waveform.

    A chunk that starts within 30 ms of the end of the one before continues it (stamps jitter);
    a later one leaves a gap of zeros, of an earlier one the overlap is cut.

    :param chunks: audio samples, in any order.
    :param end_ns: samples from here on are left out.
    :param seconds: keep only the last seconds (before ``end_ns``, if given).
    :returns: float32 [n] and its rate in Hz.
    :raises NoMeasurementError: if nothing is left.
    :raises PreprocessError: for chunks of different rates, or that are no mono waveforms.
    """
    ordered = sorted(chunks, key=lambda chunk: chunk.stamp_ns)
    rates = sorted({float(chunk.rate_hz) for chunk in ordered})
    if len(rates) > 1:
        raise PreprocessError(f'audio: found chunks at {rates} Hz in one window, expected one '
                              'rate; connect one microphone per topic')
    if not rates:
        raise NoMeasurementError('audio: no chunk in the window')
    rate = rates[0]
    if not math.isfinite(rate) or rate <= 0:
        raise PreprocessError(f'audio: found a rate of {rate} Hz, expected one above 0')
    for chunk in ordered:
        if np.ndim(chunk.data) != 1 or np.asarray(chunk.data).dtype.kind != 'f':
            raise PreprocessError(
                f'audio: found {np.asarray(chunk.data).dtype} of shape '
                f'{shape_text(np.shape(chunk.data))}, expected float mono [n] in -1..1')
    newest = max(chunk.stamp_ns + round(len(chunk.data) / rate * 1e9) for chunk in ordered)
    stop_ns = newest if end_ns is None else min(newest, end_ns)
    start_ns = ordered[0].stamp_ns
    if seconds is not None:
        start_ns = max(start_ns, (newest if end_ns is None else end_ns) - round(seconds * 1e9))
    wave = _place(ordered, start_ns, stop_ns, rate)
    if len(wave) == 0:
        raise NoMeasurementError('audio: no sample before the end of the window')
    return np.nan_to_num(wave, nan=0.0, posinf=0.0, neginf=0.0), rate


def _place(ordered: Sequence[Sample], start_ns: int, stop_ns: int, rate: float) -> np.ndarray:
    """Put the chunks at their places between two times."""
    total = max(0, round((stop_ns - start_ns) * 1e-9 * rate))
    pieces: list[np.ndarray] = []
    head: int | None = None         # where the sound written so far ends, in samples from start_ns
    for chunk in ordered:
        data = np.asarray(chunk.data, dtype=np.float32)
        at = round((chunk.stamp_ns - start_ns) * 1e-9 * rate)
        if head is None:
            head = min(at, 0)
        if abs(at - head) <= JITTER_S * rate:
            at = head
        if at > head:
            pieces.append(np.zeros(min(at, total) - min(max(head, 0), total), np.float32))
            head = at
        fresh = data[head - at:]
        if len(fresh):
            pieces.append(fresh[max(0, -head):max(0, total - head)])
            head += len(fresh)
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def audio_tensor(wave: Any, rate_hz: float, config: TokenizerConfig, keep: str = 'last'
                 ) -> torch.Tensor:
    """Turn a waveform into the audio input: resample, remove the mean, filterbank, normalise.

    Short sound is padded with zeros behind the features, before normalisation, as in training of
    the released model; of long sound the ``last`` (live) or ``first`` frames are kept.

    :param wave: float [n] mono in -1..1; array or tensor (a tensor stays on its device).
    :param rate_hz: its samples a second.
    :returns: float32 [1, mels, frames].
    :raises NoMeasurementError: for less than one frame (25 ms).
    :raises PreprocessError: for another shape, type or rate.
    """
    if keep not in ('last', 'first'):
        raise PreprocessError(f"audio keep: found {keep!r}, expected 'last' or 'first'")
    signal = as_tensor(wave, 'audio')
    if signal.ndim != 1 or not signal.is_floating_point():
        raise PreprocessError(f'audio: found {signal.dtype} of shape {shape_text(signal.shape)}, '
                              'expected float mono [n] in -1..1')
    target = float(config.audio_rate_hz)
    if float(rate_hz) != target:
        margin = int((config.audio_seconds + 1.0) * max(float(rate_hz), 1.0))
        cut = signal[-margin:] if keep == 'last' else signal[:margin]
        signal = torch.from_numpy(resample(cut.cpu().numpy(), rate_hz, target)).to(signal.device)
    hop, length = int(target * HOP_S), int(target * FRAME_S)
    needed = (config.audio_frames - 1) * hop + length
    signal = signal[-needed:] if keep == 'last' else signal[:needed]
    if len(signal) < length:
        raise NoMeasurementError(f'audio: found {len(signal) / target * 1e3:.2f} ms, expected at '
                                 f'least {FRAME_S * 1e3:.0f} ms')
    signal = signal.double()
    features = kaldi_fbank(signal - signal.mean(), target, config.audio_mels)
    missing = config.audio_frames - len(features)
    features = torch.nn.functional.pad(features, (0, 0, 0, missing))
    return ((features - MEAN) / TWICE_STD).T.contiguous()[None]
