"""What the robot's microphone hears: twelve kinds of sound made from scratch.

Owns one generator per name in ``truth.SOUNDS``, and the room they sound in (echoes, background
noise, the hum of the robot). Mono float32 in -1..1. NumPy and SciPy only,
deterministic by the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import fft, signal

from onellm_ros.simulation.truth import SOUNDS

RATE_HZ = 16000.0
LOUDEST_DB, QUIETEST_DB = -6.0, -25.0       # peak of a sound, dB of full scale

Rng = np.random.Generator
TABLE = 4096
ONE = np.ones(1)
SINE = np.sin(2 * np.pi * np.arange(TABLE) / TABLE).astype(np.float32)


def synthesize(kind: str, seconds: float, rng: np.random.Generator, rate_hz: float = RATE_HZ
               ) -> np.ndarray:
    """Return a random sound of the named kind, as a microphone on the robot hears it.

    :param kind: one of ``truth.SOUNDS``; silence is background noise only.
    :returns: float32 [seconds * rate_hz]; the sound peaks between QUIETEST_DB and LOUDEST_DB,
        noise and motor hum lie 10 to 30 dB below its mean power.
    :raises ValueError: for an unknown kind or a rate below 8000 Hz.
    """
    if rate_hz < 8000.0:
        raise ValueError(f'rate is {rate_hz} Hz: expected at least 8000 Hz')
    count = round(seconds * rate_hz)
    if count <= 0:
        raise ValueError(f'length is {seconds} s: expected a positive length')
    clean = event(kind, count, rng, rate_hz)
    noise = background(count, rng, rate_hz)
    if kind == 'silence':
        return (noise * 10.0 ** (rng.uniform(-62.0, -44.0) / 20.0)).astype(np.float32)
    power = float(np.sqrt(np.mean(clean ** 2)))
    noisy = clean + noise * power * 10.0 ** (-rng.uniform(10.0, 30.0) / 20.0)
    level = 10.0 ** (rng.uniform(QUIETEST_DB, LOUDEST_DB) / 20.0)
    return (noisy * (level / np.abs(noisy).max())).astype(np.float32)


def event(kind: str, count: int, rng: np.random.Generator, rate_hz: float = RATE_HZ) -> np.ndarray:
    """Return the sound alone with its echoes, peak 1 (zeros for silence), float32 [count]."""
    if kind not in SOUNDS:
        raise ValueError(f'unknown sound {kind!r}: expected one of {", ".join(SOUNDS)}')
    if kind == 'silence':
        return np.zeros(count, np.float32)
    dry = _MAKERS[kind](count, rng, rate_hz)
    wet = _echoes(dry, rng, rate_hz)
    return (wet / max(float(np.abs(wet).max()), 1e-9)).astype(np.float32)


def background(count: int, rng: np.random.Generator, rate_hz: float = RATE_HZ) -> np.ndarray:
    """Return room noise and the faint hum of the robot, rms 1, periodic in ``count`` samples."""
    dark = np.float32(rng.uniform(0.0, 1.0))
    noise = _coloured(count, rng, rate_hz, lambda f: dark * 8.0 / (f + 60.0)
                      + (1.0 - dark) / np.sqrt(f + 60.0))
    turns = np.arange(count) / count
    cycles = max(1.0, np.round(rng.uniform(45.0, 110.0) * count / rate_hz))
    hum = SINE[(turns * (cycles * TABLE)).astype(np.int64) & (TABLE - 1)]
    square = hum * hum
    hum = hum * (1.0 + rng.uniform(-0.8, 0.8) * hum + rng.uniform(-0.8, 0.8) * square)
    hum -= hum.mean()
    mixed = _unit(noise) + rng.uniform(0.0, 0.6) * _unit(hum)
    return _unit(mixed).astype(np.float32)


# ---- building blocks ----------------------------------------------------------------------------

def _unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.sqrt(np.mean(np.square(x)))), 1e-12)


def _coloured(count: int, rng: Rng, rate: float, gain: Callable[[np.ndarray], np.ndarray]
              ) -> np.ndarray:
    """Return noise whose amplitude spectrum is ``gain(frequency)``."""
    spectrum = fft.rfft(rng.standard_normal(count, dtype=np.float32))
    spectrum *= gain(_frequencies(count, rate)).astype(np.float32)
    return fft.irfft(spectrum, count)


@lru_cache(maxsize=32)
def _frequencies(count: int, rate: float) -> np.ndarray:
    return fft.rfftfreq(count, 1.0 / rate).astype(np.float32)


def _echoes(dry: np.ndarray, rng: Rng, rate: float) -> np.ndarray:
    """Return the sound with a few dozen decaying echoes of a small room."""
    tail = rng.uniform(0.03, 0.14)
    delays = np.minimum(rng.exponential(tail, 20) + 0.003, 0.6)
    gains = rng.uniform(0.05, 0.32) * np.exp(-delays / tail) * rng.choice((-1.0, 1.0), 20)
    wet = dry.astype(np.float32)
    source = wet.copy()
    for shift, g in zip((delays * rate).astype(int), gains.astype(np.float32)):
        if shift < len(wet):
            wet[shift:] += g * source[:len(wet) - shift]
    return wet


def _tone(frequency: np.ndarray | float, count: int, rate: float, harmonics: np.ndarray
          ) -> np.ndarray:
    """Return a sum of harmonics of a constant or [count] frequency."""
    turns = np.cumsum(frequency) if np.ndim(frequency) else frequency * np.arange(1, count + 1)
    top = float(np.max(frequency))
    steps, wave = np.arange(TABLE), np.zeros(TABLE, np.float32)
    for k, a in enumerate(harmonics, 1):
        if k * top < 0.46 * rate:
            wave += np.float32(a) * SINE[k * steps % TABLE]
    return wave[(turns * (TABLE / rate)).astype(np.int64) & (TABLE - 1)]


def edges(count: int, rate: float, rise: float, fall: float) -> np.ndarray:
    """Return an envelope of ones with ramps of ``rise`` and ``fall`` seconds at its ends."""
    ramp = np.arange(count) / rate
    return np.minimum(1.0, np.minimum(ramp / rise, ramp[::-1] / fall))


def place(out: np.ndarray, piece: np.ndarray, at: int) -> None:
    """Add a piece into ``out`` from sample ``at`` on (may be negative), cut at the ends."""
    first, last = max(at, 0), min(at + len(piece), len(out))
    if first < last:
        out[first:last] += piece[first - at:last - at]


def _resonance(count: int, rng: Rng, rate: float, low: float, high: float, decay: float,
               parts: int = 4) -> np.ndarray:
    """Return a struck body: decaying partials between ``low`` and ``high`` Hz."""
    t = (np.arange(count) / rate).astype(np.float32)
    f, a = rng.uniform(low, high, parts), rng.uniform(0.3, 1.0, parts)
    d = decay * rng.uniform(0.6, 1.4, parts)
    return sum(np.float32(ai) * np.exp(t * np.float32(-1.0 / di)) * _tone(fi, count, rate, ONE)
               for fi, ai, di in zip(f, a, d)) * np.minimum(1.0, t * np.float32(1000.0))


def _burst(count: int, rng: Rng, rate: float, low: float, high: float, decay: float) -> np.ndarray:
    """Return a burst of band noise that decays with ``decay`` seconds."""
    def band(f: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + (low / (f + 1.0)) ** 4 + (f / high) ** 4)
    t = np.arange(count) / rate
    return _unit(_coloured(count, rng, rate, band)) * np.exp(-t / decay) * np.minimum(1, t / 5e-4)


# ---- the kinds ----------------------------------------------------------------------------------

def _beeping(count: int, rng: Rng, rate: float) -> np.ndarray:
    out = np.zeros(count)
    on, off = rng.uniform(0.06, 0.22), rng.uniform(0.08, 0.4)
    n = int(on * rate)
    shape = np.array([1.0, 0.0, 0.3, 0.0, 0.12]) if rng.random() < 0.5 else np.array([1.0, 0.1])
    beep = _tone(rng.uniform(700.0, 2600.0), n, rate, shape) * edges(n, rate, 0.004, 0.006)
    group, pause = int(rng.choice((1, 1, 2, 3))), rng.uniform(0.25, 0.5)
    at, number = -rng.uniform(0.0, on + off), 0
    while at * rate < count:
        place(out, beep, int(at * rate))
        number += 1
        at += on + off + (pause if group > 1 and number % group == 0 else 0.0)
    return out


def _alarm(count: int, rng: Rng, rate: float) -> np.ndarray:
    t = np.arange(count) / rate + rng.uniform(0.0, 2.0)
    low = rng.uniform(450.0, 900.0)
    high = low * rng.uniform(1.3, 2.0)
    style = rng.choice(3)
    if style == 0:                                      # two tones in turn, hee-haw
        wave = (np.sin(2 * np.pi * rng.uniform(0.8, 2.5) * t) > 0).astype(float)
        wave = signal.lfilter([0.01], [1.0, -0.99], wave)
    elif style == 1:                                    # wail or yelp, up and down
        wave = 0.5 - 0.5 * np.cos(2 * np.pi * rng.choice((rng.uniform(0.5, 1.2), rng.uniform(
            2.0, 5.0))) * t)
    else:                                               # sweep up again and again
        wave = (rng.uniform(1.0, 4.0) * t) % 1.0
    shape = rng.uniform(0.2, 0.6) ** np.arange(6)
    return np.tanh(1.5 * _tone(low * (high / low) ** wave, count, rate, shape))


def _bell(count: int, rng: Rng, rate: float) -> np.ndarray:
    out = np.zeros(count)
    n = min(int(2.2 * rate), count + int(0.2 * rate))
    t = (np.arange(n) / rate).astype(np.float32)
    base, ring = rng.uniform(280.0, 900.0), rng.uniform(0.5, 1.3)
    ratio = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.51, 2.66, 3.01, 4.1])
    ratio *= rng.uniform(0.995, 1.005, 9)
    keep = base * ratio < 0.46 * rate
    strength = np.array([0.4, 1.0, 0.8, 0.5, 1.0, 0.4, 0.4, 0.3, 0.3]) * rng.uniform(0.4, 1.0, 9)
    strike = sum(np.float32(a) * np.exp(t * np.float32(-r ** 0.8 / ring))
                 * _tone(base * r, n, rate, ONE) for r, a in zip(ratio[keep], strength[keep]))
    at, gap = rng.uniform(0.0, 0.3), rng.uniform(0.6, 1.4)
    while at * rate < count:
        place(out, strike * rng.uniform(0.7, 1.0), int(at * rate))
        at += gap * rng.uniform(0.97, 1.03)
    return out


def _knocking(count: int, rng: Rng, rate: float) -> np.ndarray:
    out = np.zeros(count)
    n = int(0.18 * rate)
    low, decay = rng.uniform(120.0, 320.0), rng.uniform(0.012, 0.03)
    knock = _resonance(n, rng, rate, low, 3.0 * low, decay, 5)
    knock += rng.uniform(0.05, 0.2) * _burst(n, rng, rate, 800.0, 3000.0, 0.002)
    at, gap = rng.uniform(0.0, 0.2), rng.uniform(0.13, 0.24)
    while at * rate < count:
        for _ in range(int(rng.integers(3, 6))):
            place(out, knock * rng.uniform(0.6, 1.0), int(at * rate))
            at += gap * rng.uniform(0.93, 1.07)
        at += rng.uniform(0.35, 0.7)
    return out


def _music(count: int, rng: Rng, rate: float) -> np.ndarray:
    out = np.zeros(count)
    scale = np.array([0, 2, 4, 5, 7, 9, 11] if rng.random() < 0.6 else [0, 2, 3, 5, 7, 8, 10])
    beat = 60.0 / rng.uniform(80.0, 150.0)
    root = rng.uniform(48.0, 58.0)
    shape = rng.uniform(0.25, 0.6) ** np.arange(5)
    plucked = rng.random() < 0.6

    def note(degree: int, seconds: float, octave: int, loud: float, at: float) -> None:
        pitch = root + 12 * octave + scale[degree % 7] + 12 * (degree // 7)
        n = int(seconds * rate)
        sound = _tone(440.0 * 2 ** ((pitch - 69) / 12), n, rate, shape)
        if plucked:
            sound *= np.exp(np.linspace(0.0, -3.0, n, dtype=np.float32))
        place(out, loud * sound * edges(n, rate, 0.008, 0.04), int(at * rate))

    at, degree, bar = -rng.uniform(0.0, beat), int(rng.integers(7)), 0
    while at * rate < count:
        if bar % 4 == 0:
            chord = int(rng.choice((0, 3, 4, 5)))
            for step, octave in ((0, -1), (2, 0), (4, 0)):
                note(chord + step, 3.8 * beat, octave, 0.35, at)
        for part in ((1.0,), (0.5, 0.5), (0.5, 0.5))[int(rng.integers(3))]:
            degree = int(np.clip(degree + rng.integers(-3, 4), 0, 11))
            note(degree, part * beat * 1.15, 1, 0.8, at)
            at += part * beat
        bar += 1
    return out


def _motor(count: int, rng: Rng, rate: float) -> np.ndarray:
    t = np.arange(count) / rate
    drift = 1.0 + rng.uniform(0.01, 0.08) * np.sin(
        2 * np.pi * rng.uniform(0.15, 0.7) * t + rng.uniform(0, 6.3))
    base = rng.uniform(45.0, 150.0)
    phase = np.cumsum(base * drift) / rate % 1.0
    table = rng.standard_normal(512)
    soft = np.exp(-np.arange(257) / rng.uniform(8.0, 25.0))
    table = fft.irfft(fft.rfft(table) * soft * (np.arange(257) > 0), 512)
    buzz = np.interp(phase * 512.0, np.arange(513), np.append(table, table[0]))
    rattle = _coloured(count, rng, rate, lambda f: 1.0 / (1.0 + (f / 1500.0) ** 2))
    throb = 1.0 + rng.uniform(0.1, 0.5) * np.sin(np.pi * phase * 2)
    return _unit(buzz) + rng.uniform(0.1, 0.35) * _unit(rattle) * throb


def _water(count: int, rng: Rng, rate: float) -> np.ndarray:
    low, high = rng.uniform(300.0, 800.0), rng.uniform(3000.0, 6500.0)
    rush = _coloured(count, rng, rate, lambda f: (f / (f + low)) ** 2 / (1 + (f / high) ** 3))
    slow = np.interp(np.arange(count), np.linspace(0, count, max(4, int(count / rate * 6))),
                     rng.uniform(0.75, 1.0, max(4, int(count / rate * 6))))
    out = _unit(rush) * slow
    for _ in range(rng.poisson(rng.uniform(8.0, 25.0) * count / rate)):      # bubbles
        n = int(rng.uniform(0.01, 0.04) * rate)
        t = np.arange(n) / rate
        f = rng.uniform(500.0, 2400.0) * (1.0 + rng.uniform(4.0, 12.0) * t)
        drop = np.sin(2 * np.pi * f * t) * np.exp(-t / (0.25 * n / rate))
        place(out, rng.uniform(0.6, 2.0) * drop, int(rng.integers(0, count)))
    return out


def _footsteps(count: int, rng: Rng, rate: float) -> np.ndarray:
    out = np.zeros(count)
    n = int(0.22 * rate)
    hard, pace = rng.uniform(0.1, 0.5), 1.0 / rng.uniform(1.6, 2.5)
    at = rng.uniform(0.0, 0.6) * pace
    while at * rate < count:
        heel = _resonance(n, rng, rate, 60.0, 160.0, 0.03, 3)
        heel += hard * _burst(n, rng, rate, 300.0, 1400.0, 0.006)
        sole = _burst(n, rng, rate, 250.0, 2200.0, rng.uniform(0.02, 0.04))
        step = heel.copy()
        place(step, rng.uniform(0.12, 0.3) * sole, int(rng.uniform(0.05, 0.09) * rate))
        place(out, step * rng.uniform(0.7, 1.0), int(at * rate))
        at += pace * rng.uniform(0.94, 1.06)
    return out


def _barking(count: int, rng: Rng, rate: float) -> np.ndarray:
    out = np.zeros(count)
    base, length = rng.uniform(260.0, 700.0), rng.uniform(0.13, 0.24)
    formant = rng.uniform(1.8, 2.6) * base + 300.0
    hiss = _burst(int(0.3 * rate), rng, rate, 500.0, 3000.0, 1.0)
    at = rng.uniform(0.0, 0.3)
    while at * rate < count:
        for _ in range(int(rng.integers(1, 4))):
            n = int(length * rng.uniform(0.85, 1.15) * rate)
            u = np.arange(n) / n
            pitch = base * (0.75 + 0.45 * np.sin(np.pi * u ** 0.6)) * rng.uniform(0.93, 1.07)
            k = np.arange(1, 13)
            shape = 1.0 / (1.0 + ((k * base - formant) / (0.6 * formant)) ** 2)
            rough = 1.0 + 0.6 * np.sin(2 * np.pi * rng.uniform(45, 80) * u * n / rate)
            voice = _tone(pitch, n, rate, shape) * rough
            voice += 0.4 * hiss[:n]
            envelope = np.minimum(1.0, u / 0.08) * (1.0 - u) ** 0.8
            place(out, np.tanh(voice) * envelope, int(at * rate))
            at += n / rate + rng.uniform(0.06, 0.16)
        at += rng.uniform(0.2, 0.5)
    return out


def _whistling(count: int, rng: Rng, rate: float) -> np.ndarray:
    steps = np.array([0, 2, 4, 7, 9, 12, 14])
    base = rng.uniform(850.0, 1350.0)
    pitch, loud = np.empty(count), np.empty(count)
    at = 0
    while at < count:
        n = min(int(rng.uniform(0.18, 0.5) * rate), count - at)
        pitch[at:at + n] = base * 2 ** (steps[rng.integers(7)] / 12)
        gap = edges(n, rate, 0.03, 0.05) if rng.random() < 0.35 else 1.0
        loud[at:at + n] = rng.uniform(0.7, 1.0) * gap
        at += n
    glide = np.exp(-1.0 / (rng.uniform(0.012, 0.03) * rate))
    pitch = signal.lfilter([1 - glide], [1.0, -glide], pitch, zi=[glide * pitch[0]])[0]
    t = np.arange(count) / rate
    pitch *= 1.0 + rng.uniform(0.004, 0.015) * np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * t)
    loud = signal.lfilter([0.01], [1.0, -0.99], loud)
    breath = _coloured(count, rng, rate, lambda f: f / (f + 1500.0) / (1 + (f / 5000.0) ** 2))
    return loud * (_tone(pitch, count, rate, np.array([1.0, 0.04]))
                   + rng.uniform(0.02, 0.07) * _unit(breath))


def _clapping(count: int, rng: Rng, rate: float) -> np.ndarray:
    out = np.zeros(count)
    people = int(rng.choice((1, 1, 2, 5, 9)))
    n = int(0.08 * rate)
    for _ in range(people):
        low = rng.uniform(700.0, 1300.0)
        gap, at = 1.0 / rng.uniform(2.4, 4.5), rng.uniform(0.0, 0.25)
        claps = [_burst(n, rng, rate, low, 2.6 * low, rng.uniform(0.005, 0.012)) for _ in range(3)]
        while at * rate < count:
            place(out, rng.uniform(0.6, 1.0) * claps[rng.integers(3)], int(at * rate))
            at += gap * rng.uniform(0.92, 1.08)
    return out


_MAKERS: dict[str, Callable[[int, Rng, float], np.ndarray]] = {
    'beeping': _beeping, 'an alarm': _alarm, 'a bell': _bell, 'knocking': _knocking,
    'music': _music, 'a motor': _motor, 'running water': _water, 'footsteps': _footsteps,
    'barking': _barking, 'whistling': _whistling, 'clapping': _clapping}
