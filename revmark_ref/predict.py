"""Prediction, while a film is being marked, of whether its mark can be read back.

What the visual mask, the limits in flat places, clipping at black and white, rounding, and the encoder leave of the mark depends on the film and its
bitrate. So the encoded frames are decoded as they are written, at the size at which they are read, and demodulated as :mod:`revmark_ref.sync` does.
Since message, geometry and clock are known here, nothing is searched: the reader's own sums over windows (:func:`revmark_ref.sync.combined`) are
compared with the waves that were drawn. Their signal-to-noise ratio decides whether the channel code gives the message, and how far their lattice
stands out of the spectrum, whether it is found. Where the margin is small either way, the reader itself is tried on the same windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from diffcodec.video import VideoError

from . import reading, sync
from .filemark import CELLS, PERIOD, TILE, VECTORS, WORD, Painter
from .marking import WavePen

# dB. Of 91 training clips and synthetic films, most of them coded at CRF 28 to 34, the strongest that was not read has -3.3; of the 75 that were
# read, two have less
NEEDED = -2.8
DOUBT = (-5.5, 2.0)  # dB: between these the reader itself is tried, as pictures such as text can mislead its search
CLEAR = 15.0  # score of the geometry from which the search does not fail before the channel code does
SPAN = 6  # windows of an excerpt: 3.1 s
DARK, BRIGHT = 20, 235  # mean luma, for the reason that is given
SHORT = 3.0  # seconds, for the same


@dataclass(frozen=True)
class Prediction:
    """Whether a mark can be read back, as predicted from the encoded film.

    Attributes:
        margin: signal-to-noise ratio of the mark's waves in dB, in the 28 s of the film in which they are strongest; of a text, of its weakest
            word; lower where the lattice hardly stands out of the spectrum.
        needed: margin from which a film counts as readable.
        share: of the film's time, 0..1, the part in which an excerpt of ``seconds`` can be read (of a text: in which its words can be read).
        seconds: length of such an excerpt.
        tried: whether the reader read the encoded frames; it is tried where the margin is between those of ``DOUBT``, otherwise this is None.
        reason: what weakens the mark, in words, where it is not readable; otherwise empty.
    """

    margin: float
    needed: float
    share: float
    seconds: float
    tried: bool | None = None
    reason: str = ""

    @property
    def readable(self) -> bool:
        return self.margin >= self.needed if self.tried is None else self.tried

    def __str__(self) -> str:
        tried = {None: "", True: ", tried: read", False: ", tried: not read"}[self.tried]
        return (
            f"mark predicted {'readable' if self.readable else 'unreadable'}: margin {self.margin:.1f} dB (needs {self.needed:g}{tried}),"
            f" in {math.floor(100 * self.share)} % of the film"
        )


class UnreadableError(VideoError):
    """A film whose mark is predicted not to be readable.

    Attributes:
        prediction: of its mark.
    """

    def __init__(self, text: str, prediction: Prediction) -> None:
        super().__init__(text)
        self.prediction = prediction


class Watch:
    """Follows the packets of a film that is being marked.

    Args:
        pen: draws the mark.
        key: of the mark.
        rate: frames per second.
    """

    def __init__(self, pen: WavePen, key: str, rate: float) -> None:
        self.pen, self.key, self.words = pen, key, len(pen.words)
        self.tried: bool | None = None
        self.painter = Painter(pen.mark, pen.words, 1, 1)
        self.shrink, self.groups = reading.Shrink(rate), reading.Groups()
        self.decoder: Any = None
        self.first, self.last = math.inf, 0.0
        self.light = 0.0  # sum of the frames' mean luma
        self.frames = 0
        self.found: list[_Group] = []

    def __call__(self, packet: Any, encoder: Any) -> None:
        """Take a packet of the encoder, before it is written."""
        import av

        if self.decoder is None:
            self.decoder = av.CodecContext.create("h264", "r")
            self.decoder.extradata = encoder.extradata
            self.decoder.thread_count = 1
        self._take(self.decoder.decode(packet))

    def end(self) -> Prediction:
        """The prediction; no packet may follow."""
        if self.decoder is not None:
            self._take(self.decoder.decode(None))
        self._judge(self.groups.end())
        told = predicted(self.found, text=self.words > 1)
        if told.margin < DOUBT[1]:
            told = replace(told, tried=self.tried)
        return told if told.readable else replace(told, reason=self._reason())

    def _reason(self) -> str:
        light, seconds = self.light / max(1, self.frames), self.last - min(self.first, self.last)
        if light < DARK:
            return "it is nearly black"
        if light > BRIGHT:
            return "it is nearly white"
        if self.pen.limited > self.pen.drawn / 2:
            return "it has hardly any texture that hides a mark"
        if seconds < SHORT:
            return f"it is only {seconds:.1f} s long"
        return "its coding and its movement leave too little of the mark"

    def _take(self, frames: list[Any]) -> None:
        for frame in frames:
            y, at = self.shrink(frame)
            self.first, self.last = min(self.first, at), at
            self.light += float(y.mean())
            self.frames += 1
            self._judge(self.groups.add(y, at - self.first))

    def _judge(self, groups: Iterator[tuple[list[int], Tensor]]) -> None:
        for numbers, windows in groups:
            group = measured(windows, self._expected(numbers), numbers, self.words)
            self.found.append(group)
            if DOUBT[0] <= group.margin < DOUBT[1] and not self.tried:
                read = reading.read_group(windows, self.pen.mark, self.key, len(windows), far=False)
                if self.words > 1:
                    self.tried = read.text is not None
                else:  # an earlier mark of this key is another message
                    self.tried = read.bits is not None and np.array_equal(read.bits, self.pen.words[0][: len(read.bits)])

    def _expected(self, numbers: list[int]) -> np.ndarray:
        """Response of each window to each wave as it was drawn. Shape: complex ``[C, J]``."""
        at = (np.arange(_STEPS) + 0.5) / _STEPS * 2  # periods
        weight = np.sin(math.pi * at / 2) ** 2 / _STEPS
        turns = np.array([[self.painter.turned((n + a) * PERIOD) for a in at] for n in numbers])  # [C, STEPS, J]
        return np.exp(1j * self.pen.mark.phases) * np.einsum("s,csj->cj", weight, np.exp(1j * turns)) * 2


_STEPS = 16


@dataclass(frozen=True)
class _Group:
    """What is left of the mark in windows that are searched together: ``signal`` of all and ``spans`` of as many as an excerpt has (``[C]``, the best
    that each window belongs to), as correlations; ``score`` of the geometry."""

    signal: float
    score: float
    spans: np.ndarray

    @property
    def margin(self) -> float:
        return decibels(self.signal) + min(0.0, 10 * math.log10(max(self.score, 0.1) / CLEAR))


def correlation(x: np.ndarray) -> float:
    """Of a sum of windows with the waves as drawn, up to a phase that all waves share: 0..1.

    Shape: complex ``[J]``, multiplied by the conjugate of the waves.
    """
    power = sync.rings(np.abs(x) ** 2)
    u = x / np.maximum(power, 1e-20)
    size = math.sqrt(float((np.abs(u) ** 2).mean()))
    return abs(complex(u.mean())) / size if size > 0 else 0.0


def measured(windows: Tensor, expected: np.ndarray, numbers: list[int], words: int) -> _Group:
    """Compare windows ``[C, H, W]`` with the waves ``[C, J]`` that were drawn; ``words`` is how many payloads are sent in turn."""
    place = sync.Place(np.eye(2) * (CELLS / min(windows.shape[1:])), 0.0)
    spectra = (sync.Spectrum(windows, together) for together in reading.SUMMED)
    score = max(float(s.score(place.map[None], VECTORS / TILE)[0]) for s in spectra)
    v = sync.responses(windows, place) * expected.conj()
    r = sync.covariance(windows)
    c = len(v)
    spans = np.zeros(c)
    if words > 1:
        sent: dict[int, list[float]] = {n: [] for n in range(words)}
        for i in range(c - 1):
            if numbers[i] % WORD == 0 and numbers[i + 1] == numbers[i] + 1:
                said = correlation(v[i] + v[i + 1])
                sent[numbers[i] // WORD % words].append(said)
                spans[i : i + WORD] = said
        signal = min(float(np.mean(s)) if s else 0.0 for s in sent.values())
        return _Group(signal, score, spans)
    n = min(SPAN, c)
    for i in range(c - n + 1):
        part = slice(i, i + n)
        said = max(correlation(x) for x in sync.combined(v[part], r[part, part]))
        spans[part] = np.maximum(spans[part], said)
    return _Group(max(correlation(x) for x in sync.combined(v, r)), score, spans)


def decibels(c: float) -> float:
    """Signal-to-noise ratio of a correlation, in dB, within +-30."""
    return float(np.clip(10 * math.log10(max(c * c, 1e-9) / max(1 - c * c, 1e-9)), -30, 30))


def predicted(groups: list[_Group], text: bool) -> Prediction:
    """The prediction for a film, of which each group of windows is searched by itself."""
    margin = -30.0
    good = total = 0
    for g in groups:
        margin = max(margin, g.margin)
        good += sum(decibels(s) >= NEEDED for s in g.spans)
        total += len(g.spans)
    return Prediction(margin, NEEDED, good / max(1, total), (WORD if text else SPAN + 1) * PERIOD)
