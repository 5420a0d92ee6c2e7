"""The gradient of the bit count by samples: how the sums of :mod:`diffcodec.h264.bits` change, on average, when coefficients cross thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..blocks import from_macroblock_blocks, macroblock_blocks
from ..checks import first_order
from ..constants import number
from ..ops.common.tables import CORE, CORE_NORM, HADAMARD2, HADAMARD2_NORM, WALSH4, WALSH4_NORM
from ..ops.residual.reference import steps
from ..rate import crossings, terms

CUT = 0.1  # a coefficient beyond its threshold whose level is 0 all the same lies this far, in steps, below its own threshold (as in the trellis)


@dataclass(frozen=True)
class Slopes:
    """Thresholds and noise, chosen on training clips by the slope of libx264's bits (python -m benchmarks.bits_gradient --parts pixels).

    Attributes:
        intra, inter: threshold of the first level in steps, in intra and inter macroblocks; further ones stand one step apart.
        width: mean absolute deviation of the noise, in steps.
        alone: share of what a coded 4x4 block costs that the only level in it is charged.
    """

    intra: float = 0.9
    inter: float = 0.8
    width: float = 0.18
    alone: float = 1.0


SLOPES = Slopes()


class Residual(NamedTuple):
    """A group's residual and how it was coded.

    Attributes:
        luma, chroma: source less prediction, ``[N, H, W]`` and ``[N, 2, H/2, W/2]``; differentiable.
        qp, qpc: ``[N, H/16, W/16]``.
        intra, transform_8x8, intra16x16: of macroblocks, bool, same shape.
        levels: of the 4x4 and the 8x8 transform ``[N, H/16, W/16, 256]`` and of chroma ``[N, 2, H/16, W/16, 64]``, as the operations return them.
        coded: 4x4 luma blocks that have levels ``[N, H/4, W/4]`` bool.
    """

    luma: Tensor
    chroma: Tensor
    qp: Tensor
    qpc: Tensor
    intra: Tensor
    transform_8x8: Tensor
    intra16x16: Tensor
    levels: tuple[Tensor, Tensor, Tensor]
    coded: Tensor


def sums(residual: Residual, slopes: Slopes | None = None) -> Tensor:
    """Octaves, nonzero levels and coded 4x4 blocks of frames (:mod:`diffcodec.h264.bits`). Shape: ``[N, 3]``, differentiable in luma and chroma."""
    return _Sums.apply(residual.luma, residual.chroma, residual, slopes or SLOPES)  # type: ignore[no-any-return]


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, luma, chroma, residual, slopes):  # type: ignore[no-untyped-def]
        four, eight, of_chroma = residual.levels  # one of the first two is 0 in every macroblock
        octaves, nonzero = (a + b for a, b in zip(terms(four + eight), terms(of_chroma)))
        ctx.save_for_backward(luma, chroma, *residual[2:7], *residual.levels)
        ctx.slopes = slopes
        return torch.stack([octaves, nonzero, residual.coded.flatten(1).sum(1).to(octaves)], 1)

    @staticmethod
    @first_order
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        luma, chroma, qp, qpc, intra, is8, is16, *levels = ctx.saved_tensors
        return (
            _of_luma(luma, qp, intra, is8, is16, levels, grad, ctx.slopes),
            _of_chroma(chroma, qpc, intra, levels[2], grad, ctx.slopes),
            None,
            None,
        )


def _of_luma(x: Tensor, qp: Tensor, intra: Tensor, is8: Tensor, is16: Tensor, levels: Any, grad: Tensor, slopes: Slopes) -> Tensor:
    n, bh, bw = qp.shape
    m = bh * bw
    threshold = _threshold(intra.reshape(n, m), slopes, x)
    out = torch.zeros_like(x)
    for k, of_k in ((4, levels[0]), (8, levels[1])):
        used = (is8 if k == 8 else ~is8).reshape(n, m, 1, 1)
        if not used.any():
            continue
        per, size = 256 // (k * k), k * k
        c = macroblock_blocks(x, k).view(n, m, per, size) @ CORE[k].like(x).mT
        scale = 1 / (CORE_NORM[k].like(x) * steps(qp.reshape(-1), k).view(n, m, 1, size))
        level = of_k.view(n, m, per, size)
        block = 4.0 if k == 8 else 1.0  # flags that the first level of a block sets
        g = _slope(c * scale, level, threshold, grad, block, slopes) * scale
        if k == 4 and is16.any():
            second = 4 * WALSH4.like(x)
            dc_scale = 1 / (WALSH4_NORM.like(x) * steps(qp.reshape(-1), 4).view(n, m, 1, 16)[..., :1])
            dc = (c[..., 0] @ second.mT)[:, :, None] * dc_scale
            own = _slope(dc, level[..., 0][:, :, None], threshold, grad, 0.0, slopes) * dc_scale
            g[..., 0] = torch.where(is16.reshape(n, m, 1), (own @ second)[:, :, 0], g[..., 0])
        out = out + from_macroblock_blocks(((g * used) @ CORE[k].like(x)).view(n, bh, bw, per, size), k)
    return out


def _of_chroma(x: Tensor, qpc: Tensor, intra: Tensor, levels: Tensor, grad: Tensor, slopes: Slopes) -> Tensor:
    n, bh, bw = qpc.shape
    m = bh * bw
    threshold = _threshold(intra.reshape(n, m), slopes, x)
    c = x.reshape(n, 2, bh, 2, 4, bw, 2, 4).permute(0, 2, 5, 1, 3, 6, 4, 7).reshape(n, m, 8, 16) @ CORE[4].like(x).mT
    level = levels.permute(0, 2, 3, 1, 4).reshape(n, m, 8, 16)
    step = steps(qpc.reshape(-1), 4).view(n, m, 1, 16)
    scale = 1 / (CORE_NORM[4].like(x) * step)
    g = _slope(c * scale, level, threshold, grad, 0.0, slopes) * scale
    second = 2 * HADAMARD2.like(x)
    dc_scale = 1 / (HADAMARD2_NORM.like(x) * step[..., :1])
    dc = (c[..., 0].reshape(n, m, 2, 4) @ second.mT) * dc_scale
    own = _slope(dc, level[..., 0].reshape(n, m, 2, 4), threshold, grad, 0.0, slopes) * dc_scale
    g[..., 0] = (own @ second).reshape(n, m, 8)
    return (g @ CORE[4].like(x)).view(n, bh, bw, 2, 2, 2, 4, 4).permute(0, 3, 1, 4, 6, 2, 5, 7).reshape(x.shape)


def _threshold(intra: Tensor, slopes: Slopes, like: Tensor) -> Tensor:
    """Shape: ``[N, MB] bool -> [N, MB, 1, 1]``."""
    inter = torch.full_like(intra, slopes.inter, dtype=like.dtype)
    return inter.masked_fill_(intra, slopes.intra)[..., None, None]


def _slope(y: Tensor, level: Tensor, threshold: Tensor, grad: Tensor, block: float, slopes: Slopes) -> Tensor:
    """Slope of the sums, weighted by their gradient, by coefficients.

    Args:
        y: coefficients in steps ``[N, MB, blocks, n]``. level: theirs, signed, same shape. threshold: ``[N, MB, 1, 1]``.
        grad: of the sums ``[N, 3]``. block: coded 4x4 blocks that the only level of a block stands for.
    """
    octave, nonzero, coded = (v.reshape(-1, 1, 1, 1) for v in grad.unbind(1))
    size, zero = y.abs(), level == 0
    over = torch.minimum(size - threshold, torch.where(zero, number(-CUT, y), number(math.inf, y)))
    of_octaves, of_nonzero, first = crossings(size, over, slopes.width)
    out = octave * of_octaves + nonzero * of_nonzero
    if block:
        count = (~zero).sum(-1, keepdim=True)
        alone = count - (~zero).to(count) == 0  # nothing else in the block has a level
        out += coded * (block * slopes.alone) * alone * first
    return out * y.sign()
