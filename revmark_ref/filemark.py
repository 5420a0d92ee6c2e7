"""The mark of ``base`` in a file: waves over the whole frame. Time is in seconds, not frames, so that changes of frame rate do not affect it.

Distances are in *cells*: the short side of the displayed frame has ``CELLS`` of them, and the origin is its centre. Wave j is
``s_j cos(2 pi (k_j . x / TILE - t / PERIOD) + phase_j)`` with the sign ``s_j``, ``x`` in cells and ``t`` in seconds. The wave vectors ``k_j`` are all
points of a lattice between two frequencies, so that mirroring, quarter turns and reversed playback only permute them. 204 waves carry the coded
payload in their signs (:mod:`revmark_ref.code`); the others are pilots with known signs, from which a reader finds the offset and orientation of the
marked frame.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import code

CELLS = 128  # over the short side of a frame
TILE = 32  # cells
BITS = 96
FROM, TO = 13, 85  # squared frequencies of the waves, in cycles per tile
PERIOD = 0.44  # seconds: 11 frames at 25 fps, which is not a common GOP length
WORD = 3  # periods that a word of a text lasts
LOWEST_RATE = 5.7  # frames per second: two and a half frames per period
FLATTEST = 0.7  # maximum RMS of the mark, in 8-bit levels, where there is no texture at all


VECTORS = np.array([(a, b) for a in range(-16, 17) for b in range(-16, 17) if FROM <= a * a + b * b <= TO])  # [J, 2], rows and columns


@dataclass(frozen=True)
class Mark:
    """The waves of a key.

    Attributes:
        phases: ``[J]``, radians.
        data: indices of the waves that carry the coded bits, in the order of the bits: shuffled, so that adjacent bits differ in frequency.
        pilots: indices of the other waves.
        white: whitening of the coded bits, +1 or -1.
    """

    phases: np.ndarray
    data: np.ndarray
    pilots: np.ndarray
    white: np.ndarray

    @classmethod
    def of(cls, key: str = "") -> Mark:
        """The mark of a key; it cannot be read with another key."""
        count, coded = len(VECTORS), code.length(BITS)
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, person=b"revmark").digest(), "little")
        rng = np.random.Generator(np.random.PCG64(seed))
        phases = 2 * math.pi * rng.random(count)
        by_frequency = np.argsort((VECTORS**2).sum(1), kind="stable")
        pilots = by_frequency[np.linspace(0, count - 1, count - coded).round().astype(int)]  # evenly over the frequencies
        data = rng.permutation(np.setdiff1d(np.arange(count), pilots))
        return cls(phases, data, pilots, rng.choice([-1.0, 1.0], coded))

    def signs(self, bits: np.ndarray) -> np.ndarray:
        """Signs of all waves for a payload. Shape: ``[BITS]``, 0 or 1 -> ``[J]``."""
        out = np.ones(len(self.phases))
        out[self.data] = (2 * code.encode(bits) - 1) * self.white
        return out

    def bits(self, z: np.ndarray) -> np.ndarray:
        """Decode the payload from aligned responses. Shape: ``[J]``, complex or real -> ``[BITS]``."""
        return code.decode(z.real[self.data] * self.white)


class Painter:
    """Draws a mark on a grid.

    Args:
        mark: of the key.
        words: payloads ``[n, BITS]``, 0 or 1, sent in turn; a single one is the whole message.
        height, width: of the grid, which covers the frame.
    """

    def __init__(self, mark: Mark, words: np.ndarray, height: int, width: int) -> None:
        self.turns = np.stack([mark.signs(w) for w in words]) < 0  # [n, J]: shifted by half a cycle
        # a wave that changes sign between words gains or loses half a cycle over one period: its amplitude stays constant, so nothing pulses
        self.way = np.where(np.arange(len(mark.phases)) % 2, 1.0, -1.0)
        cell = min(height, width) / CELLS
        y = (np.arange(height) + 0.5 - height / 2) / cell
        x = (np.arange(width) + 0.5 - width / 2) / cell
        self.rows = np.exp(2j * math.pi / TILE * y[:, None] * VECTORS[:, 0])  # [H, J]
        self.columns = np.exp(2j * math.pi / TILE * VECTORS[:, 1, None] * x)  # [J, W]
        self.phases = mark.phases
        self.wide = torch.from_numpy(np.concatenate([self.columns.real, -self.columns.imag])).float()  # [2 J, W]

    def turned(self, seconds: float) -> np.ndarray:
        """Phase in radians that the words add to each wave at a given time, ``[J]``; it changes from word to word over one period."""
        n = len(self.turns)
        at = seconds / PERIOD
        border = round(at / WORD)  # the nearest one
        before, after = self.turns[(border - 1) % n].astype(float), self.turns[border % n].astype(float)
        share = min(1.0, max(0.0, at - border * WORD + 0.5))
        return math.pi * self.way * (before + (after - before) * share)  # type: ignore[no-any-return]

    def __call__(self, seconds: float) -> Tensor:
        """Sum of the waves at a given time, each of amplitude 1. Shape: ``[H, W]``."""
        c = np.exp(1j * (self.phases - 2 * math.pi * seconds / PERIOD + self.turned(seconds)))
        rows = self.rows * c
        tall = torch.from_numpy(np.concatenate([rows.real, rows.imag], 1)).float()  # [H, 2 J]
        return tall @ self.wide
