"""Mappings of a message to a volume of the clip's shape."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcodec.transform import dct_matrix

from .config import Model

# Initial values, chosen on training clips by what survives libx264 at CRF 22 and 27, drops and crops. For each temporal shape (see Spread):
LOWEST = (20.0, 20.0, 40.0)  # squared frequency, in half cycles per 16 samples, at which its patterns begin
SHARE = (0.80, 0.26, 0.54)  # and their amplitude
LEAST = 12.0  # least squared frequency of any pattern, in the same units: nearly all energy of a picture lies below it
STIFFNESS = 10.0
FLOOR = 0.04  # energy that is added to a band's own: about a fifth of the mark's at 37 dB


class Linear(nn.Module):
    """The paper's mapping (section 3.2): one linear layer to 3 x T/2 x H/8 x W/8, nearest-neighbour upsampling to the clip.

    Each bit can stay confined to a few places of the frame, which makes the paper's system weak against crops.
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
    """Spread spectrum: every bit is the common sign of three trainable patterns that span the clip and are tiled over the frame.

    Patterns are initialised as orthonormal DCT basis functions of the tile, equal in all colour channels (codecs keep luma best), at middle
    frequencies: above most of the energy of pictures, below what quantisers remove. The first changes sign half-way through the clip, so that static
    content is orthogonal to it, which makes small crops sufficient; the second changes sign after one and three quarters of the clip and remains
    usable where all frames of one half are lost; the third is constant in time, so that lost frames do not matter.

    Args:
        model: takes ``bits``, ``frames`` (at least 2) and ``tile``.
    """

    basis: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.tile, self.times = model.tile, model.frames
        self.register_buffer("basis", dct_basis(model.tile), persistent=False)  # [F, p p]
        # Coefficients, scaled so that optimiser steps are small relative to them: noise in a pattern correlates with the whole picture
        start = _patterns(model.bits, model.frames, model.tile).flatten(4) @ self.basis.mT  # [P, L, 3, T, F]
        self.weight = nn.Parameter(start * (STIFFNESS * math.sqrt(start[0, 0].numel())))
        self.share = nn.Parameter(torch.tensor(SHARE))

    def patterns(self) -> Tensor:
        """Patterns of unit norm, ``[P, L, 3 T p p]``, P = 3."""
        return F.normalize((self.weight @ self.basis).flatten(2), dim=2)

    def volume(self, amount: Tensor, height: int, width: int) -> Tensor:
        """Sum of the patterns of all bits, weighted by ``amount``, in every tile. Shape: ``[B, L] -> [B, 3, T, H, W]``."""
        sums = (self.share[:, None, None] * self.patterns()).sum(0)  # [L, 3 T p p]
        tile = (amount @ sums).unflatten(1, (3, self.times, self.tile, self.tile))  # [B, 3, T, p, p]
        return tile.repeat(1, 1, 1, height // self.tile, width // self.tile)

    def forward(self, message: Tensor, heard: Tensor, norm: float, height: int, width: int) -> Tensor:
        """The volume of given norm that maximises the decoder's response for the weakest bit.

        The decoder's response to the unmarked clip is known when embedding. As in improved spread spectrum (Malvar and Florencio 2003), but with
        unequal amounts, each bit gets ``max(0, mu - r)``, where r is that response for the bit's sign and ``mu`` follows from the norm
        (water-filling).

        Args:
            message: ``[B, L]``, 0 or 1.
            heard: :meth:`Matched.read` of the clip, ``[B, L]``; treated as constant.
            norm: L2 norm of the volume, if the patterns are orthonormal.
            height, width: of the clip.

        Returns:
            ``[B, 3, T, H, W]``.
        """
        sign = 2 * message - 1
        tiles = (height // self.tile) * (width // self.tile)
        with torch.no_grad():
            amount = water_fill(sign * heard, norm**2 / (tiles * float(self.share.square().sum())))
        return self.volume(sign * amount, height, width)


class Matched(Spread):
    """Matched filters for the patterns of :class:`Spread`, with weights of their own: the decoder's side."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.log_floor = nn.Parameter(torch.tensor(math.log(FLOOR)))

    def correlate(self, video: Tensor) -> Tensor:
        """Responses of each tile. Shape: ``[B, 3, T, H, W] -> [B, N, P, L]`` with N tiles."""
        p = self.tile
        tiles = video.unflatten(4, (-1, p)).unflatten(3, (-1, p)).permute(0, 3, 5, 1, 2, 4, 6)  # [B, H/p, W/p, 3, T, p, p]
        heard = tiles.flatten(3).flatten(1, 2) @ self.patterns().flatten(0, 1).mT
        return heard.unflatten(2, (len(self.share), -1))

    def read(self, video: Tensor) -> Tensor:
        """Response for each bit: maximal-ratio combining of all tiles and patterns (Brennan 1959), each weighted by its share over the energy of its
        band in the tile, since texture masks the mark.

        Returns:
            ``[B, L]``, the estimated amount with which each bit was embedded, on the scale of ``video``; negative for a 0.
        """
        heard = self.correlate(video)
        share = self.share[:, None]
        weight = share / (self.log_floor.exp() + heard.square().mean(3, keepdim=True))  # [B, N, P, 1]
        return (weight * heard).sum((1, 2)) / (weight * share).sum((1, 2))


def water_fill(level: Tensor, energy: float) -> Tensor:
    """Amounts ``max(0, mu - level)`` whose squares add up to ``energy``. Shape: ``[B, L] -> [B, L]``."""
    low, _ = level.sort(1)
    n = torch.arange(1, level.shape[1] + 1, device=level.device)
    # with the n lowest under water: n mu^2 - 2 mu sum + squares = energy
    total, squares = low.cumsum(1), low.square().cumsum(1)
    mu = (total + (total.square() - n * (squares - energy)).clamp(min=0).sqrt()) / n  # [B, L]
    spent = (mu[:, :, None] - low[:, None, :]).clamp(min=0).square().sum(2)  # energy spent by each candidate
    best = (spent - energy).abs().argmin(1, keepdim=True)
    return (mu.gather(1, best) - level).clamp(min=0)


def dct_basis(tile: int) -> Tensor:
    """DCT basis functions of a tile from the squared frequency ``LEAST`` on, which span the patterns. Shape: ``[F, p p]``."""
    d = torch.from_numpy(dct_matrix(tile)).float()
    a, b = torch.meshgrid(torch.arange(tile, device="cpu"), torch.arange(tile, device="cpu"), indexing="ij")
    chosen = (a * a + b * b >= LEAST * (tile / 16) ** 2) & (a + b > 0)
    return (d[a[chosen]][:, :, None] * d[b[chosen]][:, None, :]).flatten(1)


def _patterns(bits: int, frames: int, tile: int) -> Tensor:
    """Orthonormal patterns ``[3, L, 3, T, p, p]``: with one sign change in time, with two, and constant, each from its lowest frequency on."""
    if frames < 2:
        raise ValueError(f"mapping 'spread' expected clips of at least 2 frames, got {frames}")
    least = LEAST * (tile / 16) ** 2
    order = sorted((a * a + b * b, a, b) for a in range(tile) for b in range(tile) if a + b and a * a + b * b >= least)
    if bits > len(order):
        raise ValueError(f"mapping 'spread' with tiles of {tile} x {tile} holds {len(order)} bits, got {bits}")
    t, still = torch.arange(frames, device="cpu"), torch.ones(frames, dtype=torch.float32, device="cpu")
    turn = torch.where(t < (frames + 1) // 2, still, -still)
    back = torch.where((t < (frames + 2) // 4) | (t >= frames - (frames + 1) // 4), still, -still)
    basis = torch.from_numpy(dct_matrix(tile)).float()
    out: list[Tensor] = []
    used: list[tuple[int, int]] = []
    for time, lowest in zip((turn - turn.mean(), back - back.mean(), still), LOWEST):
        least = lowest * (tile / 16) ** 2
        places = [(a, b) for d, a, b in order if d >= least] + [(a, b) for d, a, b in reversed(order) if d < least]
        places.sort(key=lambda place: place in used)  # frequencies that are not in use yet come first
        used = used + places[:bits]
        time = time / time.norm() / math.sqrt(3)
        out.append(
            torch.stack([time[:, None, None] * (basis[a][:, None] * basis[b]) for a, b in places[:bits]])[:, None].expand(-1, 3, -1, -1, -1)
        )
    return torch.stack(out)
