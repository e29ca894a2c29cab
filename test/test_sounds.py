"""The sounds: deterministic, bounded, each kind told from the others; the live microphone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from onellm_ros.simulation.live_sounds import LiveSound
from onellm_ros.simulation.sounds import RATE_HZ, synthesize
from onellm_ros.simulation.truth import SOUNDS

SAMPLES = 2 * int(RATE_HZ)


def sound(kind: str, seed: int) -> np.ndarray:
    return synthesize(kind, 2.0, np.random.default_rng([SOUNDS.index(kind), seed]))


def features(wave: np.ndarray) -> np.ndarray:
    """Return simple spectral and temporal features of [n] samples."""
    f, _, stft = signal.stft(wave, RATE_HZ, nperseg=512, noverlap=352)
    power = np.abs(stft) ** 2 + 1e-12
    edges = np.geomspace(90, 7800, 15)
    bands = np.log([power[(f >= a) & (f < b)].sum(axis=0) + 1e-12
                    for a, b in zip(edges, edges[1:])])
    energy = np.log(power.sum(axis=0))
    peak = f[power.argmax(axis=0)]
    flat = np.exp(np.log(power).mean(axis=0)) / power.mean(axis=0)
    rhythm = np.abs(np.fft.rfft(energy - energy.mean()))[:30]
    return np.concatenate([
        bands.mean(axis=1) - bands.mean(), bands.std(axis=1), rhythm / (rhythm.sum() + 1e-9) * 6,
        [energy.std(), 0.5 * energy.mean(), np.log(peak.std() + 5), np.log(np.median(peak) + 5),
         4 * np.median(flat), np.log(np.abs(np.diff(peak)).mean() + 1),
         np.abs(np.diff(energy)).mean() * 3, 5 * wave.std() / np.abs(wave).max()]])


@pytest.mark.parametrize('kind', SOUNDS)
def test_a_sound_is_deterministic_bounded_and_varied(kind: str) -> None:
    waves = [sound(kind, seed) for seed in range(8)]
    assert np.array_equal(waves[0], sound(kind, 0))
    for wave in waves:
        assert wave.shape == (SAMPLES,) and wave.dtype == np.float32 and np.isfinite(wave).all()
        peak_db = 20 * np.log10(np.abs(wave).max())
        if kind == 'silence':
            assert -70 < 20 * np.log10(wave.std()) < -40
        else:
            assert -25.1 < peak_db < -5.9
    assert len({wave.tobytes() for wave in waves}) == 8


def test_odd_lengths_and_rates() -> None:
    for kind in SOUNDS:
        wave = synthesize(kind, 0.731, np.random.default_rng(1), 44100.0)
        assert wave.shape == (round(0.731 * 44100),) and np.isfinite(wave).all()
    with pytest.raises(ValueError, match='unknown sound'):
        synthesize('thunder', 1.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match='rate'):
        synthesize('music', 1.0, np.random.default_rng(0), 100.0)


def test_the_kinds_can_be_told_by_simple_features() -> None:
    def table(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        pairs = [(k, s) for k in range(len(SOUNDS)) for s in range(first, last)]
        return (np.array([features(sound(SOUNDS[k], s)) for k, s in pairs]),
                np.array([k for k, _ in pairs]))
    known, labels = table(0, 24)
    asked, truth = table(100, 108)
    scale = known.std(axis=0) + 1e-9
    distance = np.linalg.norm((asked[:, None] - known[None]) / scale, axis=2)
    assert np.mean(labels[distance.argmin(axis=1)] == truth) > 0.85


def test_the_live_microphone_is_the_same_whatever_the_calls() -> None:
    whole = LiveSound(3).between(0.0, 30.0)
    other = LiveSound(3)
    other.between(100.0, 100.1)
    cuts = [0.0, 0.02, 1.333, 7.0, 7.00007, 19.5, 30.0]
    pieces = [other.between(a, b) for a, b in zip(cuts, cuts[1:])]
    assert np.allclose(np.concatenate(pieces), whole, atol=1e-7)
    assert whole.dtype == np.float32 and np.isfinite(whole).all() and np.abs(whole).max() < 0.75
    assert not np.array_equal(LiveSound(4).between(0.0, 30.0), whole)


def test_the_live_truth_says_what_is_on() -> None:
    live = LiveSound(6)
    kinds = [live.kind(t) for t in np.arange(0.0, 240.0, 0.5)]
    changes = sum(a != b for a, b in zip(kinds, kinds[1:]))
    assert 25 <= changes <= 85 and len(set(kinds)) > 8 and set(kinds) <= set(SOUNDS)
    for t in np.arange(0.0, 240.0, 2.0):
        if live.kind(t) == live.kind(t + 2.0) == 'silence':
            assert live.between(t, t + 2.0).std() < 0.01
        if live.kind(t) == live.kind(t + 1.0) == live.kind(t + 2.0):
            assert live.kind_between(t, t + 2.0) == live.kind(t)
    with pytest.raises(ValueError, match='start < end'):
        live.between(1.0, 1.0)
