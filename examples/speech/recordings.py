"""Spoken digits: a folder of WAV files read with the standard library, and synthesised ones where there is none.

A file is called ``digit_speaker_index.wav``, as those of the free spoken digit dataset are. What is synthesised is no
speech: tones whose loudest partials move as the formants of the digits' vowels do, with noise; the same ones each time.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE, SECONDS = 8000, 0.64
LENGTH = int(RATE * SECONDS)
DIGITS = 10
SPEAKERS = {"anna": 210.0, "bert": 110.0, "cleo": 185.0, "dirk": 130.0}
"""Those who are synthesised, and the pitch of each in Hz."""

# First and second formant in Hz, at the beginning and the end of each digit.
FORMANTS = (
    ((350, 1900), (450, 800)),  # zero
    ((320, 850), (650, 1250)),  # one
    ((320, 1600), (310, 900)),  # two
    ((420, 1350), (290, 2300)),  # three
    ((560, 880), (480, 1150)),  # four
    ((720, 1150), (380, 2100)),  # five
    ((400, 2000), (390, 2050)),  # six
    ((580, 1800), (500, 1350)),  # seven
    ((520, 1950), (300, 2350)),  # eight
    ((700, 1200), (310, 1700)),  # nine
)

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """One spoken digit.

    Attributes:
        digit: which.
        index: the number of the take.
        samples: [LENGTH] at 8 kHz, of mean 0 and deviation 1, cut or filled with zeros at the end.
    """

    digit: int
    index: int
    samples: Samples


def read_folder(folder: Path) -> list[Recording]:
    """Every recording of a folder; SystemExit says what is wrong with one that can't be used."""
    files = sorted(folder.glob("*.wav"))
    if not files:
        raise SystemExit(f"there are no WAV files in {folder}: name the folder of the recordings with --data")
    return [read(path) for path in files]


def read(path: Path) -> Recording:
    """A WAV file of one channel, 16 bits and 8 kHz."""
    parts = path.stem.split("_")
    if len(parts) != 3 or not parts[0].isdecimal() or not parts[2].isdecimal() or int(parts[0]) >= DIGITS:
        raise SystemExit(f"{path} is not called digit_speaker_index.wav, as in 7_jackson_12.wav")
    try:
        with wave.open(str(path), "rb") as file:
            form = file.getnchannels(), file.getsampwidth(), file.getframerate()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise SystemExit(f"{path} is no WAV file that can be read: {error}") from None
    if form != (1, 2, RATE):
        raise SystemExit(f"{path} has (channels, bytes, Hz) {form}, and (1, 2, {RATE}) is needed")
    samples = np.frombuffer(content, dtype="<i2").astype(np.float32) / 32768
    return Recording(int(parts[0]), int(parts[2]), normalised(samples))


def normalised(samples: Samples) -> Samples:
    """Of mean 0 and deviation 1 as wav2vec 2.0 wants it, and then of one length."""
    samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    return np.pad(samples[:LENGTH], (0, max(0, LENGTH - len(samples)))).astype(np.float32)


def synthesise(folder: Path, takes: int) -> None:
    """Write takes of every digit by every speaker into a folder."""
    for digit in range(DIGITS):
        for number, (speaker, pitch) in enumerate(SPEAKERS.items()):
            for index in range(takes):
                draws = np.random.default_rng([digit, number, index])
                write(folder / f"{digit}_{speaker}_{index}.wav", digit_sound(digit, pitch, draws))


def digit_sound(digit: int, pitch: float, draws: np.random.Generator) -> Samples:
    """One take: partials of a gliding pitch, as loud as two moving formants let them be, and noise."""
    seconds = draws.uniform(0.4, 0.6)
    time = np.arange(int(RATE * seconds)) / RATE
    along = time / seconds
    pitches = pitch * draws.uniform(0.9, 1.1) * (1 + 0.1 * (0.5 - along))
    phase = 2 * np.pi * np.cumsum(pitches) / RATE
    first, last = (np.array(pair) * draws.uniform(0.93, 1.07, 2) for pair in FORMANTS[digit])
    sound = np.zeros_like(time)
    for partial in range(1, int(RATE / 2 / pitch) - 1):
        for begin, end, loudness, width in zip(first, last, (1.0, 0.6), (90.0, 130.0), strict=True):
            formant = begin + (end - begin) * along
            sound += loudness * np.sin(partial * phase) / (1 + ((partial * pitches - formant) / width) ** 2)
    sound *= np.sin(np.pi * along) ** 0.5
    sound += draws.normal(0, 0.25 * sound.std(), len(sound))
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def write(path: Path, samples: Samples) -> None:
    """A WAV file of one channel, 16 bits and 8 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def divided(recordings: list[Recording], held_out: int) -> tuple[list[Recording], list[Recording]]:
    """Those to train on, and the first takes of each digit and speaker, as the dataset's authors divide it."""
    train = [one for one in recordings if one.index >= held_out]
    test = [one for one in recordings if one.index < held_out]
    if not train or not test:
        raise SystemExit(f"there are no recordings with an index below {held_out}, or none with another one")
    return train, test
