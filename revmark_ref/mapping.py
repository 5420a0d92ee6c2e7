"""How a message becomes a volume of the clip's shape."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcodec.transform import dct_matrix

from .config import Model

LOWEST = 60.0  # squared frequency, in half cycles per 16 samples, at which patterns begin; chosen among 8, 20, 40, 60, 90 on training clips


class Linear(nn.Module):
    """The paper's mapping (section 3.2): one linear layer to 3 x T/2 x H/8 x W/8, nearest up-sampling to the clip.

    A bit stays near the places where its numbers lie, which is what makes the paper's system weak against crops.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.full = (model.frames, model.height, model.width)
        self.shape = (3, max(1, model.frames // 2), model.height // 8, model.width // 8)
        self.linear = nn.Linear(model.bits, math.prod(self.shape))

    def forward(self, message: Tensor) -> Tensor:
        """Shape: ``[B, L]``, 0 or 1 -> ``[B, 3, T, H, W]``."""
        x = self.linear(2 * message - 1).unflatten(1, self.shape)
        return F.interpolate(x, size=self.full, mode="nearest")


class Spread(nn.Module):
    """Every bit over all of space and time: each is the sign of one trainable pattern, tiled over the frame (spread spectrum).

    Patterns start as orthonormal DCT basis functions of the tile, alike in all frames (drops and swaps do not touch them) and in all colours
    (luma is what codecs keep best), of middle frequencies: above what pictures are full of, below what quantisers take away.

    Args:
        model: takes ``bits``, ``frames`` and ``tile``.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        # of unit variance, not of unit norm: steps of an optimiser are of one size for all weights
        start = _patterns(model.bits, model.frames, model.tile)
        self.weight = nn.Parameter(start * math.sqrt(start[0].numel()))  # [L, 3, T, p, p]

    @property
    def tile(self) -> int:
        return self.weight.shape[-1]

    def patterns(self) -> Tensor:
        """Patterns of unit norm, ``[L, 3 T p p]``."""
        return F.normalize(self.weight.flatten(1), dim=1)

    def correlate(self, video: Tensor) -> Tensor:
        """Matched filter of each tile. Shape: ``[B, 3, T, H, W] -> [B, N, L]`` with N tiles."""
        p = self.tile
        tiles = video.unflatten(4, (-1, p)).unflatten(3, (-1, p)).permute(0, 3, 5, 1, 2, 4, 6)  # [B, H/p, W/p, 3, T, p, p]
        return tiles.flatten(3).flatten(1, 2) @ self.patterns().mT

    def volume(self, coefficients: Tensor) -> Tensor:
        """Patterns times their coefficients, tile by tile. Shape: ``[B, H/p, W/p, L] -> [B, 3, T, H, W]``."""
        tiles = (coefficients @ self.patterns()).unflatten(3, self.weight.shape[1:])  # [B, H/p, W/p, 3, T, p, p]
        return tiles.permute(0, 3, 4, 1, 5, 2, 6).flatten(5, 6).flatten(3, 4)

    def informed(self, message: Tensor, video: Tensor, norm: float) -> Tensor:
        """The volume of that norm which gives the least sure bit the most support, seen by a matched filter over the whole clip.

        What the clip already says of each bit is known here, so (improved spread spectrum, Malvar and Florencio 2003; with unequal parts)
        each bit gets ``max(0, mu - its support)``, and ``mu`` is what spends the norm: water-filling.

        Args:
            message: ``[B, L]``, 0 or 1.
            video: ``[B, 3, T, H, W]`` on the paper's scale, [-1, 1].
            norm: L2 norm of the volume, where the patterns are orthonormal.

        Returns:
            ``[B, 3, T, H, W]``.
        """
        sign = 2 * message - 1
        heard = self.correlate(video)  # [B, N, L]
        support = sign * heard.mean(1)  # [B, L]
        amount = water_fill(support.detach(), norm**2 / heard.shape[1])
        places = (video.shape[3] // self.tile, video.shape[4] // self.tile)
        return self.volume((sign * amount)[:, None, None].expand(-1, *places, -1))


def water_fill(level: Tensor, energy: float) -> Tensor:
    """Amounts ``max(0, mu - level)`` whose squares add up to ``energy``. Shape: ``[B, L] -> [B, L]``."""
    low, _ = level.sort(1)
    n = torch.arange(1, level.shape[1] + 1, device=level.device)
    # with the n lowest under water: n mu^2 - 2 mu sum + squares = energy
    total, squares = low.cumsum(1), low.square().cumsum(1)
    mu = (total + (total.square() - n * (squares - energy)).clamp(min=0).sqrt()) / n  # [B, L]
    spent = (mu[:, :, None] - low[:, None, :]).clamp(min=0).square().sum(2)  # by each of the candidates
    best = (spent - energy).abs().argmin(1, keepdim=True)
    return (mu.gather(1, best) - level).clamp(min=0)


def _patterns(bits: int, frames: int, tile: int) -> Tensor:
    """Orthonormal patterns ``[L, 3, T, p, p]``: the lowest frequencies from ``LOWEST`` on, the ones below it when those are used up."""
    order = sorted((a * a + b * b, a, b) for a in range(tile) for b in range(tile) if a + b)
    least = LOWEST * (tile / 16) ** 2
    places = [(a, b) for d, a, b in order if d >= least] + [(a, b) for d, a, b in reversed(order) if d < least]
    if bits > len(places):
        raise ValueError(f"mapping 'spread' with tiles of {tile} x {tile} holds {len(places)} bits, got {bits}")
    basis = torch.from_numpy(dct_matrix(tile)).float()
    out = [(basis[a][:, None] * basis[b]).expand(3, frames, -1, -1) / math.sqrt(3 * frames) for a, b in places[:bits]]
    return torch.stack(out)
