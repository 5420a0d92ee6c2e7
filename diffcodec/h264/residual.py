"""Residual coding: transform, quantise with a dead zone, drop what is not worth its bits, and back (ITU-T H.264, 8.5).

What an encoder prefers beyond the standard (trellis, psy-RD, decimation) comes in as :class:`Preference`: thresholds, in quantiser steps, below
which a coefficient is dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import Constant
from .tables import CHROMA_QP, DECIMATE, FLAT, HADAMARD2, STEPS, zigzag


@dataclass(frozen=True)
class Zone:
    """Where a coefficient of magnitude y (in steps) becomes a level: the first one at a threshold, the others at ``more`` + 1, 2, ...

    The threshold falls from ``sparse`` to ``dense`` as more of the block is above half a step, ``dense + (sparse - dense) exp(-share / decay)``, and
    rises by ``tilt`` from the lowest to the highest frequency.
    """

    dense: float
    sparse: float
    decay: float = 0.15
    tilt: float = 0.0
    more: float = 0.64


def plain(added: float) -> Zone:
    """A quantiser that adds a fraction of a step before the floor, whatever the block."""
    return Zone(1 - added, 1 - added, 1.0, 0.0, 1 - added)


_INTRA, _INTER = plain(21 / 64), plain(11 / 64)  # x264's without trellis


@dataclass(frozen=True)
class Preference:
    """What an encoder keeps and drops.

    Attributes:
        intra4, intra8, inter4, inter8, chroma_intra, chroma_inter: dead zones by kind of block.
        decimate: whether inter blocks with few levels of +-1 are dropped (8x8 blocks: only without trellis).
        trellis: whether levels are chosen by rate and distortion.
        spread: width in levels of the noise whose mean slope the gradient is.
    """

    intra4: Zone = _INTRA
    intra8: Zone = _INTRA
    inter4: Zone = _INTER
    inter8: Zone = _INTER
    chroma_intra: Zone = _INTRA
    chroma_inter: Zone = _INTER
    decimate: bool = True
    trellis: bool = False
    spread: float = 6.0


def step(qp: Tensor) -> Tensor:
    """Nominal quantiser step in the orthonormal domain, ``2^((qp - 4) / 6)`` levels."""
    return torch.exp2((qp - 4) / 6)


def chroma_qp(qp: Tensor, offset: int = 0) -> Tensor:
    """QP of chroma (Table 8-15); gradient passed through. Whole numbers in, same shape."""
    i = (qp.detach() + offset).clamp(0, 51)
    return qp + (CHROMA_QP.like(qp)[i.long()] - qp).detach()


def steps(qp: Tensor, k: int) -> Tensor:
    """Steps by place of blocks; differentiable in QP. Shape: ``[M]`` whole numbers -> ``[M, k*k]``."""
    whole = qp.detach().clamp(0, 51)
    octave = torch.div(whole, 6, rounding_mode="floor")
    table = STEPS[k].like(qp).flatten(1)[(whole - 6 * octave).long()] * torch.exp2(octave)[:, None]  # [M, k*k]
    return table * torch.exp2((qp - qp.detach()) / 6)[:, None]


class _Quantise(torch.autograd.Function):
    """Hard levels; the gradient is the slope of their mean under Laplacian noise of a given width."""

    @staticmethod
    def forward(ctx, y, threshold, width):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(y, threshold, width)
        return torch.floor(y.abs() + (1 - threshold)).clamp_(min=0).copysign_(y)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        y, threshold, width = ctx.saved_tensors
        return grad * mean_slope(y, threshold, width), None, None


def mean_slope(y: Tensor, threshold: Tensor, width: Tensor) -> Tensor:
    """d/dy of the mean of a dead-zone quantiser under Laplacian noise: its density summed over the thresholds +-(t + k), k = 0, 1, ...

    Args:
        y: coefficients in steps.
        threshold: t of the first level; further ones stand one step apart.
        width: standard deviation in steps. All broadcast.
    """
    b = width / math.sqrt(2)
    a = y.abs()
    over = a - threshold
    m = over.floor().clamp(min=-1)  # thresholds passed, less one
    r = over - m  # to the one below (m >= 0); in the dead zone the next one is 1 - r = -over away
    q = torch.exp(-1 / b)
    above = torch.exp((r - 1) / b)
    below = torch.exp(-r / b) * (1 - q ** (m + 1))
    other_side = torch.exp(-(threshold + a) / b)
    return (above + below + other_side) / (2 * b * (1 - q))


def quantise(c: Tensor, step: Tensor, zone: Zone, spread: float) -> Tensor:
    """Levels of coefficients. Shape: ``[..., n]``, steps broadcastable to it -> ``[..., n]``."""
    y = c / step
    if zone.sparse == zone.dense and not zone.tilt:
        threshold = torch.full_like(step, zone.dense)
    else:
        share = (y.detach().abs() > 0.5).to(y).mean(-1, keepdim=True)
        threshold = zone.dense + (zone.sparse - zone.dense) * torch.exp(-share / zone.decay)
        if zone.tilt:
            threshold = threshold + zone.tilt * _FREQUENCY[c.shape[-1]].like(y)
    if zone.more != zone.dense or zone.sparse != zone.dense or zone.tilt:  # the raised threshold is that of the first level only
        threshold = torch.where(y.detach().abs() < 1 + zone.more, threshold, zone.more)
    return _Quantise.apply(y, threshold, spread / step.detach())  # type: ignore[no-any-return]


# 0 at the lowest, 1 at the highest frequency of a flat block; by number of coefficients (4 chroma DCs and 15 AC ones have none)
_FREQUENCY = {k * k: Constant([(i + j) / (2 * k - 2) for i in range(k) for j in range(k)]) for k in (4, 8)}
_FREQUENCY |= {15: Constant([0.0] * 15)}


_ORDER = {k: Constant(zigzag(k)) for k in (4, 8)}


def scores(levels: Tensor, k: int) -> Tensor:
    """Decimation score of blocks. Shape: ``[M, k*k] -> [M]``: at least 9 where any level is beyond +-1."""
    x = levels.detach().abs()[:, _ORDER[k].like(levels).long()]
    nonzero = x > 0
    place = torch.arange(k * k, device=x.device).expand_as(x)
    last = torch.where(nonzero, place, -1).cummax(1).values  # place of the last nonzero so far
    before = F.pad(last[:, :-1], (1, 0), value=-1)
    run = place - before - 1
    score = (DECIMATE[k].like(levels)[run] * nonzero).sum(1)
    return torch.where((x > 1).any(1), score + 9, score)


def to_blocks(planes: Tensor, k: int) -> Tensor:
    """Blocks in macroblock order. Shape: ``[N, H, W] -> [N, H/16, W/16, (16/k)^2, k*k]``, blocks of a macroblock in raster order."""
    n, h, w = planes.shape
    m = 16 // k
    x = planes.reshape(n, h // 16, m, k, w // 16, m, k).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(n, h // 16, w // 16, m * m, k * k)


def from_blocks(blocks: Tensor, k: int) -> Tensor:
    """Inverse of :func:`to_blocks`."""
    n, bh, bw = blocks.shape[:3]
    m = 16 // k
    return blocks.reshape(n, bh, bw, m, m, k, k).permute(0, 1, 3, 5, 2, 4, 6).reshape(n, bh * 16, bw * 16)


def code_luma(residual: Tensor, qp: Tensor, intra: Tensor, use8: Tensor, prefer: Preference) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Luma residual.

    Args:
        residual: ``[N, H, W]`` in levels, multiples of 16.
        qp: ``[N, H/16, W/16]``, whole numbers.
        intra, use8: macroblocks that are intra, and that take the 8x8 transform; bool, shape of ``qp``.
        prefer: the encoder's preferences.

    Returns:
        Reconstructed residual ``[N, H, W]``, levels of both transforms ``[N, H/16, W/16, 256]`` (those in use, else 0, as two tensors),
        and which 4x4 blocks have coefficients ``[N, H/4, W/4]`` bool.
    """
    n, bh, bw = qp.shape
    flat_qp = qp.reshape(-1)
    out, all_levels = [], []
    for k in (4, 8):
        per = 256 // (k * k)
        x = to_blocks(residual, k).view(-1, per, k * k)  # [MB, per, k*k]
        q = steps(flat_qp, k)[:, None]  # [MB, 1, k*k]
        c = x @ FLAT[k].like(x).mT
        levels_intra = quantise(c, q, prefer.intra4 if k == 4 else prefer.intra8, prefer.spread)
        levels_inter = quantise(c, q, prefer.inter4 if k == 4 else prefer.inter8, prefer.spread)
        if prefer.decimate and not (k == 8 and prefer.trellis):
            s = scores(levels_inter.reshape(-1, k * k), k).view(-1, per)
            if k == 4:  # 8x8 regions of four blocks
                keep = _regions(s) >= 4
                total = s.sum(1)
            else:
                keep = s >= 4
                total = (s * keep).sum(1)
            keep = keep & (total >= 6)[:, None]
            levels_inter = levels_inter * keep[..., None]
        levels = torch.where(intra.reshape(-1, 1, 1), levels_intra, levels_inter)
        levels = levels * (use8 if k == 8 else ~use8).reshape(-1, 1, 1)
        out.append(from_blocks(((levels * q) @ FLAT[k].like(x)).view(n, bh, bw, per, k * k), k))
        all_levels.append(levels.reshape(n, bh, bw, 256))
    coded4 = (all_levels[0].view(n, bh, bw, 16, 16) != 0).any(-1) | (all_levels[1].view(n, bh, bw, 4, 64) != 0).any(-1)[..., _EIGHT_OF_FOUR]
    coded = coded4.view(n, bh, bw, 4, 4).permute(0, 1, 3, 2, 4).reshape(n, bh * 4, bw * 4)
    return out[0] + out[1], all_levels[0], all_levels[1], coded


_EIGHT_OF_FOUR = [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]  # the 8x8 block that each 4x4 block (raster order) lies in


def _regions(s: Tensor) -> Tensor:
    """Sum over the 8x8 region of each of 16 blocks, back at each block. Shape: ``[MB, 16] -> [MB, 16]``."""
    region = s.view(-1, 2, 2, 2, 2).sum((2, 4))  # rows of regions, rows inside, columns of regions, columns inside
    return region.flatten(1)[:, _EIGHT_OF_FOUR]


def code_chroma(residual: Tensor, qpc: Tensor, intra: Tensor, prefer: Preference) -> tuple[Tensor, Tensor]:
    """Chroma residual: 4x4 transforms, their four DCs through a 2x2 Hadamard transform.

    Args:
        residual: ``[N, H/2, W/2]``, Cb or Cr.
        qpc: chroma QP ``[N, H/16, W/16]``.
        intra: bool, same shape.

    Returns:
        Reconstructed residual, levels ``[N, H/16, W/16, 64]`` (the four DCs at places 0, 16, 32, 48).
    """
    n, h, w = residual.shape
    bh, bw = h // 8, w // 8
    x = residual.reshape(n, bh, 2, 4, bw, 2, 4).permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, 4, 16)  # [MB, 4 blocks, 16]
    c = x @ FLAT[4].like(x).mT
    flat_qp = qpc.reshape(-1)
    q = steps(flat_qp, 4)[:, None]  # [MB, 1, 16]
    hadamard = HADAMARD2.like(x)
    dc = c[..., 0] @ hadamard.mT  # [MB, 4]
    q_dc = step(flat_qp)[:, None]
    is_intra = intra.reshape(-1, 1)

    def levels(v: Tensor, s: Tensor) -> Tensor:
        mask = is_intra.view(-1, *[1] * (v.dim() - 1))
        return torch.where(mask, quantise(v, s, prefer.chroma_intra, prefer.spread), quantise(v, s, prefer.chroma_inter, prefer.spread))

    dc_levels = levels(dc, q_dc)
    ac_levels = levels(c[..., 1:], q[..., 1:])
    if prefer.decimate:
        s = scores(F.pad(ac_levels, (0, 1)).reshape(-1, 16), 4).view(-1, 4).sum(1)
        ac_levels = ac_levels * ((s >= 7) | is_intra[:, 0])[:, None, None]
    back = torch.cat([((dc_levels * q_dc) @ hadamard)[..., None], ac_levels * q[..., 1:]], -1)
    y = back @ FLAT[4].like(x)
    out = y.view(n, bh, bw, 2, 2, 4, 4).permute(0, 1, 3, 5, 2, 4, 6).reshape(n, h, w)
    return out, torch.cat([dc_levels[..., None], ac_levels], -1).view(n, bh, bw, 64)
