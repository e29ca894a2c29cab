"""Preprocessing of IMU series and of sound."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from onellm_ros.config import NANO, TokenizerConfig
from onellm_ros.modality import Sample
from onellm_ros.preprocess import (
    NoMeasurementError,
    PreprocessError,
    audio_tensor,
    imu_tensor,
    join_chunks,
    kaldi_fbank,
    resample,
    resample_imu,
)

SHARED = Path(os.environ.get('ONELLM_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
END = 1_700_000_000_500_000_000
RNG = np.random.default_rng(3)


def signal(seconds):
    """Return a smooth 6-channel motion at times before the end."""
    phase = np.asarray(seconds)[:, None] * np.array([1.0, 2, 3, 1.5, 2.5, 0.5]) * 2 * np.pi
    return np.sin(phase) + np.array([0, 0, 9.81, 0, 0, 0])


def stamps(seconds):
    """Return integer nanoseconds of times before the end."""
    return END + np.round(np.asarray(seconds) * 1e9).astype(np.int64)


GRID = np.arange(-399, 1) / 200


@pytest.mark.parametrize('rate, tolerance', [(200, 1e-6), (100, 0.02), (50, 0.06), (137.3, 0.01),
                                             (1000, 0.02), (333, 0.02)])
def test_imu_any_rate_with_jitter_and_disorder(rate, tolerance):
    seconds = -np.arange(0, 2.3, 1 / rate)
    if rate != 200:
        seconds = seconds + RNG.uniform(-0.2, 0.2, len(seconds)) / rate
    order = RNG.permutation(len(seconds))
    out = imu_tensor(stamps(seconds)[order], signal(seconds)[order], END)
    assert out.shape == (6, 400) and out.dtype == torch.float32
    error = np.abs(out.numpy().T - signal(GRID))
    assert error[:-4].max() < tolerance and error.max() < 0.35


def test_imu_order_and_repeats_change_nothing():
    seconds = -np.arange(0, 2, 0.005)
    values = signal(seconds)
    good = imu_tensor(stamps(seconds), values, END)
    order = RNG.permutation(400)
    twice = np.concatenate([order, order[:50]])
    bad = values[twice].copy()
    series = resample_imu(stamps(seconds)[twice], bad, END, 200, 400)
    assert torch.equal(torch.from_numpy(series.values.T.copy()), good)
    assert (series.repeated, series.invalid, series.measured) == (50, 0, 400)
    assert '50 repeated' in series.note


def test_imu_nan_rows_are_dropped_and_counted():
    seconds = -np.arange(0, 2, 0.005)
    values = signal(seconds)
    values[10:20, 4] = np.nan
    values[100, 0] = np.inf
    series = resample_imu(stamps(seconds), values, END, 200, 400)
    assert series.invalid == 11 and series.measured == 400 and '11 rows' in series.note
    assert np.abs(series.values - signal(GRID)).max() < 0.3


def test_imu_gap_is_zero_and_short_gap_is_bridged():
    seconds = -np.arange(0, 2, 0.005)
    short = np.abs(seconds + 1.0) > 0.1
    out = resample_imu(stamps(seconds[short]), signal(seconds[short]), END, 200, 400)
    assert out.measured == 400
    long = np.abs(seconds + 1.0) > 0.3
    out = resample_imu(stamps(seconds[long]), signal(seconds[long]), END, 200, 400)
    inside = np.abs(GRID + 1.0) < 0.295
    assert np.abs(out.values[inside]).max() == 0 and out.measured in (280, 281, 282)
    keep = np.abs(GRID + 1.0) > 0.305
    assert np.allclose(out.values[keep], signal(GRID)[keep], atol=1e-5)


def test_imu_short_recording_comes_first_then_zeros():
    seconds = -np.arange(0, 0.5, 0.005)
    out = resample_imu(stamps(seconds), signal(seconds), END, 200, 400)
    assert out.measured in (100, 101)
    n = out.measured
    assert np.allclose(out.values[n - 100:n], signal(GRID[-100:]), atol=1e-5)
    assert np.abs(out.values[n:]).max() == 0 and np.abs(out.values[:n, 2]).min() > 8
    # The stream stopped a second before the end: data, then zeros where it was silent.
    seconds = seconds - 1.0
    out = resample_imu(stamps(seconds), signal(seconds), END, 200, 400)
    assert 100 <= out.measured <= 103 and np.abs(out.values[104:]).max() == 0
    one = resample_imu(stamps([-0.001]), signal([-0.001]), END, 200, 400)
    assert 1 <= one.measured <= 3


def test_imu_errors():
    with pytest.raises(NoMeasurementError, match='none of 1 samples'):
        imu_tensor(stamps([0]), np.full((1, 6), np.nan), END)
    with pytest.raises(NoMeasurementError, match='none of 1 samples'):
        imu_tensor(stamps([-60]), np.ones((1, 6)), END)
    with pytest.raises(NoMeasurementError, match='none of 0 samples'):
        imu_tensor([], np.zeros((0, 6)), END)
    with pytest.raises(NoMeasurementError, match='apart'):
        imu_tensor(stamps([-1.52, -0.52]), np.ones((2, 6)), END + 20_000_000, 1, 1)
    with pytest.raises(PreprocessError, match='integer nanoseconds'):
        imu_tensor([0.5], np.ones((1, 6)), END)
    with pytest.raises(PreprocessError, match=r'\[n, 6\]'):
        imu_tensor(stamps([0, 1]), np.ones((2, 3)), END)
    with pytest.raises(PreprocessError, match=r'\[n, 6\]'):
        imu_tensor(stamps([0]), np.ones((2, 6)), END)


def kaldi_reference(wave):
    """Return features of kaldi-native-fbank for a 16 kHz waveform in -1..1."""
    knf = pytest.importorskip('kaldi_native_fbank', reason='kaldi-native-fbank is the reference')
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = 'hanning'
    options.frame_opts.samp_freq = 16000
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = 128
    options.use_energy = False
    options.htk_compat = True
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(16000, wave.tolist())
    bank.input_finished()
    return np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])


T = np.arange(24000) / 16000
WAVES = {
    'noise': RNG.normal(0, 0.1, 24000), 'loud': RNG.uniform(-1, 1, 24000),
    'quiet': RNG.normal(0, 1e-4, 24000), 'silence': np.zeros(24000),
    'tone': np.sin(2 * np.pi * 440 * T), 'offset': 0.3 + 0.5 * np.sin(2 * np.pi * 3000 * T),
    'clicks': (np.arange(24000) % 4000 == 0).astype(float), 'odd_length': RNG.normal(0, .1, 12345),
    'square': np.sign(np.sin(2 * np.pi * 220 * T))}


@pytest.mark.parametrize('name', WAVES)
def test_fbank_agrees_with_kaldi(name):
    wave = WAVES[name].astype(np.float32)
    expected, found = kaldi_reference(wave), kaldi_fbank(wave).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() / (2 * 4.5689974) < 1e-3


def test_fbank_agrees_with_kaldi_on_recordings():
    soundfile = pytest.importorskip('soundfile', reason='soundfile reads the recordings')
    paths = sorted((SHARED / 'recordings' / 'audio').glob('*.wav'))
    if not paths:
        pytest.skip(f'no recordings in {SHARED} (set ONELLM_SHARED)')
    for path in paths:
        wave, rate = soundfile.read(path, dtype='float32', always_2d=True)
        wave = resample(wave.mean(axis=1), rate, 16000)
        expected, found = kaldi_reference(wave), kaldi_fbank(wave).numpy()
        assert np.abs(found - expected).max() / (2 * 4.5689974) < 1e-3, path.name


def test_fbank_batch_short_and_device():
    wave = RNG.normal(0, 0.1, (2, 4000)).astype(np.float32)
    out = kaldi_fbank(wave)
    assert out.shape == (2, 23, 128) and torch.allclose(out[1], kaldi_fbank(wave[1]), atol=1e-6)
    assert kaldi_fbank(wave[0, :399]).shape == (0, 128)
    if torch.cuda.is_available():
        gpu = kaldi_fbank(torch.from_numpy(wave).cuda())
        assert gpu.device.type == 'cuda' and torch.allclose(gpu.cpu(), out, atol=1e-4)
    with pytest.raises(PreprocessError, match='mono'):
        kaldi_fbank(wave[None])


@pytest.mark.parametrize('rate', [8000, 11025, 22050, 44100, 48000, 96000, 15990])
def test_resampling_keeps_a_tone(rate):
    source = np.sin(2 * np.pi * 1000 * np.arange(int(rate)) / rate).astype(np.float32)
    out = resample(source, rate, 16000)
    assert out.dtype == np.float32 and abs(len(out) - 16000) <= 2
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(out)) / 16000)
    assert np.abs(out - expected)[300:-300].max() < 0.06
    alias = np.sin(2 * np.pi * 11000 * np.arange(48000) / 48000)      # above the new Nyquist
    assert np.abs(resample(alias, 48000, 16000))[300:-300].max() < 0.01


def test_audio_tensor_pads_cuts_and_normalises():
    config = TokenizerConfig()
    wave = RNG.normal(0, 0.1, 16000).astype(np.float32) + np.float32(0.2)
    out = audio_tensor(wave, 16000, config)
    assert out.shape == (1, 128, 1024) and out.dtype == torch.float32
    expected = (kaldi_fbank(wave - wave.mean()).T + 4.2677393) / (2 * 4.5689974)
    assert torch.allclose(out[0, :, :98], expected, atol=1e-4)
    assert torch.allclose(out[0, :, 98:], torch.tensor(4.2677393 / (2 * 4.5689974)))
    long = np.concatenate([np.zeros(16000, np.float32), wave, wave, wave])
    last = audio_tensor(long, 16000, NANO.tokenizer)
    first = audio_tensor(long, 16000, NANO.tokenizer, keep='first')
    assert last.shape == first.shape == (1, 128, 256)
    assert float(last[0, 64].min()) > 0 > float(first[0, 64].min())
    assert torch.equal(audio_tensor(torch.from_numpy(wave), 16000, config), out)
    assert audio_tensor(RNG.normal(0, .1, 3 * 48000), 48000, NANO.tokenizer).isfinite().all()


def test_audio_errors():
    config = NANO.tokenizer
    with pytest.raises(NoMeasurementError, match='found 24.94 ms'):
        audio_tensor(np.zeros(399, np.float32), 16000, config)
    with pytest.raises(PreprocessError, match='above 0'):
        audio_tensor(np.zeros(16000, np.float32), 0.0, config)
    with pytest.raises(PreprocessError, match='int16'):
        audio_tensor(np.zeros(16000, np.int16), 16000, config)
    with pytest.raises(PreprocessError, match='4000 times'):
        resample(np.zeros(10), 1e9, 16000)
    with pytest.raises(PreprocessError, match='keep'):
        audio_tensor(np.zeros(16000, np.float32), 16000, config, keep='middle')


def chunks(wave, size, rate=16000.0, jitter_s=0.0):
    """Cut a waveform into stamped chunks."""
    out = []
    for start in range(0, len(wave), size):
        stamp = END + round(start / rate * 1e9) + round(RNG.uniform(-1, 1) * jitter_s * 1e9)
        out.append(Sample(stamp, wave[start:start + size], rate_hz=rate))
    return out


def test_chunks_join_without_seams():
    wave = RNG.normal(0, 0.1, 16000).astype(np.float32)
    for parts in (chunks(wave, 160), chunks(wave, 1600, jitter_s=0.01), chunks(wave, 777)[::-1]):
        joined, rate = join_chunks(parts)
        assert rate == 16000 and abs(len(joined) - 16000) <= 320
        n = min(len(joined), 16000)
        assert np.array_equal(joined[:n], wave[:n])


def test_chunks_gaps_overlaps_and_cuts():
    wave = RNG.normal(0, 0.1, 16000).astype(np.float32)
    parts = chunks(wave, 1600)
    joined, _ = join_chunks(parts[:4] + parts[5:])
    assert len(joined) == 16000 and not joined[6400:8000].any()
    assert np.array_equal(joined[8000:], wave[8000:])
    overlap = [Sample(END, wave[:8000], rate_hz=16000.0),
               Sample(END + 250_000_000, wave[4000:], rate_hz=16000.0)]
    assert np.array_equal(join_chunks(overlap)[0], wave)
    assert np.array_equal(join_chunks(parts + parts[3:4])[0], wave)          # a repeated chunk
    half, _ = join_chunks(parts, end_ns=END + 500_000_000)
    assert np.array_equal(half, wave[:8000])
    tail, _ = join_chunks(parts, end_ns=END + 900_000_000, seconds=0.25)
    assert np.array_equal(tail, wave[10400:14400])
    with_nan = wave.copy()
    with_nan[5] = np.nan
    assert join_chunks(chunks(with_nan, 1600))[0][5] == 0


def test_chunk_errors():
    wave = np.zeros(160, np.float32)
    with pytest.raises(PreprocessError, match='one rate'):
        join_chunks([Sample(0, wave, rate_hz=8000.0), Sample(1, wave, rate_hz=16000.0)])
    with pytest.raises(PreprocessError, match='above 0'):
        join_chunks([Sample(0, wave)])
    with pytest.raises(PreprocessError, match='int16'):
        join_chunks([Sample(0, wave.astype(np.int16), rate_hz=8000.0)])
    with pytest.raises(NoMeasurementError, match='no sample before'):
        join_chunks([Sample(END, wave, rate_hz=8000.0)], end_ns=END)
    with pytest.raises(NoMeasurementError):
        join_chunks([])
