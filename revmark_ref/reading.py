"""Reading the mark of ``base`` from a file: a message is returned only if its check holds."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffcodec.media import Damage, decode, opened, orientation

from . import framing, sync
from .filemark import CELLS, TILE, VECTORS, WORD, Mark
from .marking import Luma, Progress
from .sync import Aligned, Place, Windows

TRIALS = 8  # alignments tried per geometry
WORTH, WORTH_FAR = 4.5, 9.0  # score of a geometry below which reading is not tried; of those far off, to save time
LIKELY = 12.0  # score from which a text or a mark is considered, if its alignment is above both of the next two as well
AGREED, STRAIGHT = 0.65, 0.25  # of `Aligned`: marks have .7 and .29 or more, other clips, gratings and lattices up to .58 and .18
MARKED = 20.0  # score of a geometry from which a mark is reported
CHANCE = 192 * 2.0**-32  # probability that one of the payloads tried in 28 s of an unmarked video passes the 32-bit check
CHANCE_MARKED = 1e-5  # upper bound: half of the scores of unmarked files are above 7.0, with an exponential tail of mean .96 from there on
SUMMED = (12, 4)  # windows summed before the power of a spectrum is taken: more are better except with cuts and flicker


@dataclass(frozen=True)
class Read:
    """What was read from a file.

    Attributes:
        bits: message ``[M]``; None if none was read.
        text: None if none was read.
        marked: a mark was found, readable or not.
        confidence: share of the data waves of all windows whose sign agrees with the payload.
        score: score of the best geometry.
        windows: number of windows searched.
        place, aligned: the geometry; None if no mark was found.
        cell: size of a cell in pixels if a frame of this size is uncropped.
    """

    bits: np.ndarray | None
    text: str | None
    marked: bool
    confidence: float
    score: float
    windows: int
    place: Place | None
    aligned: Aligned | None
    cell: float

    def geometry(self) -> dict[str, Any]:
        """How the marked frame lies in the one that was read: scale of its width and height, turn in degrees (clockwise), mirrored (left to right,
        before the turn), backwards; empty if no mark was found."""
        if self.place is None or self.aligned is None:
            return {}
        pose = self.aligned.pose
        # wave vectors transform by the inverse transpose of the map of positions
        forward = np.linalg.inv((self.place.map @ sync.ORIENTATIONS[pose.orientation]).T) / self.cell  # [2, 2], rows and columns
        mirrored = bool(np.linalg.det(forward) < 0)
        straight = forward @ np.diag([1.0, -1.0 if mirrored else 1.0])
        return {
            "scale": [round(float(np.linalg.norm(forward[:, i])), 3) for i in (1, 0)],
            "turn": round(float(np.rad2deg(np.arctan2(straight[0, 1], straight[1, 1]))) % 360, 1) % 360,
            "mirrored": mirrored,
            "backwards": pose.backwards,
        }


class Shrink:
    """Luma of decoded frames with a short side of at most ``sync.ROWS`` pixels, and their times.

    Args:
        rate: frames per second where there are no time stamps.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.luma: Luma | None = None
        self.last, self.shift = -1.0, 0.0

    def __call__(self, frame: Any) -> tuple[Tensor, float]:
        """Luma ``[H, W]`` of the next frame in 8-bit levels, and its time in seconds."""
        shown = (frame.width, frame.height) if orientation(frame)[0] % 2 else (frame.height, frame.width)
        scale = min(1.0, sync.ROWS / min(shown))
        height, width = (max(8, round(n * scale)) for n in shown)
        if self.luma is None or (self.luma.height, self.luma.width) != (height, width):
            self.luma = Luma(height, width)
        follows = self.last + 1 / self.rate
        at = self.shift + float(frame.pts * frame.time_base) if frame.pts is not None and frame.time_base else follows
        if (
            not self.last < at < self.last + 5
        ):  # the time stamps jump, or begin late: continue at the frame rate, and by the clock from there on
            self.shift += follows - at
            at = follows
        self.last = at
        return self.luma(frame), at


def frames(path: str | os.PathLike[str], damage: Damage, progress: Progress | None = None) -> Iterator[tuple[Tensor, float]]:
    """What :class:`Shrink` gives for each frame of a file.

    Raises:
        VideoError: unreadable file.
    """
    with opened(path) as (container, stream):
        shrink = Shrink(float(stream.average_rate or stream.guessed_rate or 25))
        for seen, frame in enumerate(decode(container, stream, damage), 1):
            yield shrink(frame)
            if progress is not None:
                progress(seen)


class Groups:
    """Demodulated windows, ``sync.GROUP`` at a time: their numbers and ``[C, H, W]``. A frame of another size begins a new group."""

    def __init__(self) -> None:
        self.windows, self.size = Windows(), torch.Size()
        self.held: list[tuple[int, Tensor]] = []

    def add(self, y: Tensor, at: float) -> Iterator[tuple[list[int], Tensor]]:
        """Add a frame ``[H, W]`` at a time in seconds; yields a group that is finished by then."""
        if self.size and y.shape != self.size:
            yield from self.end()
        self.size = y.shape
        self.held += self.windows.add(sync.whitened(y), at)
        if len(self.held) >= sync.GROUP:
            yield self._group()

    def end(self) -> Iterator[tuple[list[int], Tensor]]:
        """Yield what is left."""
        self.held += self.windows.end()
        if self.held:
            yield self._group()
        self.windows = Windows()

    def _group(self) -> tuple[list[int], Tensor]:
        numbers, windows = zip(*self.held)
        self.held = []
        return list(numbers), torch.stack(windows)


def groups(source: Iterator[tuple[Tensor, float]]) -> Iterator[Tensor]:
    """Demodulated windows of frames, a group at a time (:class:`Groups`)."""
    found = Groups()
    for y, at in source:
        yield from (windows for _, windows in found.add(y, at))
    yield from (windows for _, windows in found.end())


def read(
    path: str | os.PathLike[str],
    key: str = "",
    progress: Progress | None = None,
    damage: Damage | None = None,
    limit: int | None = None,
    far: bool = True,
) -> Read:
    """Search a file for the mark of a key, 28 s at a time, until a message is read.

    Args:
        path: any video that ffmpeg reads.
        key: of the mark.
        progress: called with the number of frames seen.
        damage: counts what is wrong with the file.
        limit: maximum number of groups of 28 s that are searched, None for all.
        far: also search for strong changes of the geometry (``sync.FAR``), which takes about as long again if there is no mark.

    Raises:
        VideoError: unreadable file.
    """
    mark = Mark.of(key)
    best: Read | None = None
    seen = 0
    for windows in itertools.islice(groups(frames(path, Damage() if damage is None else damage, progress)), limit):
        seen += len(windows)
        found = read_group(windows, mark, key, seen, far)
        if found.bits is not None or found.text is not None:
            return found
        if best is None or (found.marked, found.score) > (best.marked, best.score):
            best = found
    return best or Read(None, None, False, 0.0, 0.0, 0, None, None, 1.0)


def read_group(windows: Tensor, mark: Mark, key: str, seen: int, far: bool = True) -> Read:
    """Search one group of windows ``[C, H, W]``; ``seen`` is the number of windows so far."""
    cell = min(windows.shape[1:]) / CELLS
    score, marked = 0.0, False
    where: tuple[Place, Aligned] | None = None
    covariance = sync.covariance(windows)
    for place, worth in _places(windows, cell, far):
        score = max(score, place.score)
        if place.score < worth:
            continue
        v = sync.responses(windows, place)
        trials = sorted((a for x in sync.combined(v, covariance) for a in sync.align(x, mark)), key=lambda a: -a.likelihood)
        for aligned in trials[:TRIALS]:
            likely = place.score > LIKELY and aligned.pilots > AGREED and aligned.straight > STRAIGHT
            bits = framing.message_of(mark.bits(aligned.z), key)
            text = read_text(v, aligned, mark, key) if bits is None and likely else None
            if bits is not None or text is not None:
                return Read(bits, text, True, confidence(v, aligned, mark), place.score, seen, place, aligned, cell)
            if likely and place.score > MARKED and where is None:
                marked, where = True, (place, aligned)
    place_, aligned_ = where or (None, None)
    return Read(None, None, marked, 0.0, score, seen, place_, aligned_, cell)


def _places(windows: Tensor, cell: float, far: bool) -> Iterator[tuple[Place, float]]:
    """Geometries to try, and the score that each is worth it from. A spectrum is computed when those before it were of no use."""
    spectra = []
    for together in SUMMED:
        spectra.append(sync.Spectrum(windows, together))
        yield from ((place, WORTH) for place in sync.search(spectra[-1], cell))
    if far:
        for spectrum in spectra:
            yield from ((place, WORTH_FAR) for place in sync.search(spectrum, cell, far=True))


def confidence(v: np.ndarray, aligned: Aligned, mark: Mark) -> float:
    """Share of the data waves of all windows whose sign agrees with the payload decoded from them together."""
    v = aligned.pose.of(v)
    x = _model(aligned, mark) * mark.signs(mark.bits(aligned.z))
    lined = v * np.exp(-1j * np.angle(v @ x.conj()))[:, None] * x.conj()
    return float((lined[:, mark.data].real > 0).mean())


def read_text(v: np.ndarray, aligned: Aligned, mark: Mark, key: str) -> str | None:
    """The text carried by windows ``[C, J]``: words of ``WORD`` periods, starting at any window; None if there is none."""
    plain = aligned.pose.of(v) * _model(aligned, mark).conj()
    if aligned.pose.backwards:
        plain = plain[::-1]
    plain = plain * np.exp(-1j * np.angle(plain[:, mark.pilots].sum(1)))[:, None]  # the clock's phase in each window
    for first in range(WORD):
        words = [mark.bits(plain[i : i + 2].sum(0)) for i in range(first, len(plain) - 1, WORD)]
        if words:
            text = framing.text_of(2.0 * np.stack(words) - 1, key)
            if text is not None:
                return text
    return None


def _model(aligned: Aligned, mark: Mark) -> np.ndarray:
    """Expected response of a window to waves of sign +1. Shape: ``[J]``, complex."""
    turn = 2 * np.pi / TILE * (VECTORS @ aligned.offset)
    return np.exp(1j * (mark.phases + turn))  # type: ignore[no-any-return]
