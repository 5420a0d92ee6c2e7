"""Residual coding: transform, quantise with a dead zone, drop what is not worth its bits, and back (ITU-T H.264, 8.5).

What an encoder does beyond the standard (dead zones, trellis, decimation) comes in as :class:`QuantSettings`. Coefficients stand in scan order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backend import operation
from ...blocks import flat_blocks, from_macroblock_blocks, macroblock_blocks, sum_macroblocks
from ...checks import first_order, half_up, replace_value
from ...constants import Constant
from ..common.distortion import sa8d, sad, satd
from ..common.tables import CHROMA_QP, CORE, CORE_NORM, DECIMATE, FLAT, HADAMARD2, HADAMARD2_NORM, STEPS, WALSH4, WALSH4_NORM
from .trellis import Trellis, trellis_quant


@dataclass(frozen=True)
class QuantSettings:
    """What an encoder keeps and drops.

    Attributes:
        intra, inter: what is added to a magnitude, in steps, before the floor (x264: (32 - deadzone) / 64).
        trellis: weights of the choice by rate and distortion that replaces it; None for none.
        decimate: whether inter blocks with few levels of +-1 are dropped (8x8 blocks: only without trellis).
        noise_width: standard deviation in levels of the noise whose mean slope the gradient is.
    """

    intra: float = 21 / 64
    inter: float = 11 / 64
    trellis: Trellis | None = None
    decimate: bool = True
    noise_width: float = 6.0

    def numbers(self) -> list[float]:
        """As operations take it: weights of the trellis behind whether there is one."""
        t = self.trellis
        weights = [0.0] * 6 if t is None else [1.0, t.intra, t.inter, t.small, t.block, t.memory]
        return [self.intra, self.inter, self.noise_width, float(self.decimate), *weights]

    @staticmethod
    def of(numbers: Sequence[float]) -> QuantSettings:
        """Inverse of :meth:`numbers`."""
        intra, inter, noise_width, decimate, trellis, *weights = numbers
        return QuantSettings(intra, inter, Trellis(*weights) if trellis else None, bool(decimate), noise_width)


_AC_NORM = Constant(CORE_NORM[4].value[1:].numpy())  # of the fifteen coefficients behind a chroma block's DC

# Decimation (x264's quant.c and macroblock.c): the score below which a block or a region of four, a macroblock's luma and its chroma are dropped
MIN_SCORE_REGION, MIN_SCORE_LUMA, MIN_SCORE_CHROMA = 4, 6, 7
BIG_SCORE = 9  # of a level beyond +-1


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
    """Levels that were chosen; the gradient is the slope of a dead-zone quantiser's mean under Laplacian noise of a given width."""

    @staticmethod
    def forward(ctx, y, levels, threshold, width):  # type: ignore[no-untyped-def]
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(mean_slope(y, threshold, width))  # one tensor instead of three
        return levels * y.sign()

    @staticmethod
    @first_order
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None, None


def mean_slope(y: Tensor, threshold: Tensor, width: Tensor) -> Tensor:
    """d/dy of the mean of a dead-zone quantiser under Laplacian noise: its density summed over the thresholds +-(t + k), k = 0, 1, ...

    Args:
        y: coefficients in steps.
        threshold: t of the first level; further ones stand one step apart.
        width: standard deviation in steps. All broadcast.
    """
    rate = -math.log2(math.e) * math.sqrt(2) / width  # exp(-x / b) is 2^(rate x)
    q = torch.exp2(rate)
    over = y.abs() - threshold
    m = over.floor().clamp_(min=-1)  # thresholds passed, less one
    near = torch.exp2(rate * (over - m)).clamp_(min=1e-30)  # to the one below (m >= 0); in the dead zone the next one is as far as its rest
    below = near * (1 - torch.exp2(rate * (m + 1)))
    other_side = torch.exp2(rate * (over + 2 * threshold))
    return (q / near + below + other_side) * (-rate * (0.5 / math.log2(math.e)) / (1 - q))


def quantise(whole: Tensor, norm: Constant, step: Tensor, intra: Tensor, quant: QuantSettings) -> Tensor:
    """Levels of coefficients.

    Coefficients of whole numbers fall on multiples of quarters of a step: those of the whole transform, divided in one go, do so to the last bit on
    every machine.

    Args:
        whole: ``[N, M, n]``: M blocks of a frame, scan order, of the transform of whole numbers.
        norm: what they are to be divided by to be orthonormal.
        step: broadcastable to them.
        intra: ``[N, M]`` bool.

    Returns:
        Levels ``[N, M, n]``.
    """
    lengths = norm.value.to(whole.device)
    y = replace_value(whole / (norm.like(whole) * step), whole.detach() * (1 / (lengths * step.detach().double())).to(whole))
    magnitude = y.detach().abs()
    if quant.trellis is None:
        threshold = torch.where(intra, 1 - quant.intra, 1 - quant.inter)[..., None].to(y)
        levels = (magnitude + (1 - threshold)).floor_()
    else:
        levels, threshold = trellis_quant(magnitude, intra, quant.trellis)
    return _Quantise.apply(y, levels, threshold, quant.noise_width / step.detach())  # type: ignore[no-any-return]


def decimation_scores(levels: Tensor) -> Tensor:
    """Decimation score of blocks. Shape: ``[..., n] -> [...]``: at least :data:`BIG_SCORE` where any level is beyond +-1."""
    x = levels.detach().abs()
    nonzero = x > 0
    position = torch.arange(x.shape[-1], device=x.device).expand_as(x)
    last = torch.where(nonzero, position, -1).cummax(-1).values  # place of the last nonzero so far
    before = F.pad(last[..., :-1], (1, 0), value=-1)
    run = position - before - 1
    score = (DECIMATE[8 if x.shape[-1] == 64 else 4].like(levels)[run] * nonzero).sum(-1)
    return torch.where((x > 1).any(-1), score + BIG_SCORE, score)


# Added before a residual is rounded: ties, which the standard's whole numbers round up, are a little off in floats. Much less than its 1/64.
TIE = 1e-3


def _decoded(predicted: Tensor, residual: Tensor) -> Tensor:
    x = predicted + half_up(residual + TIE)
    return replace_value(x, x.detach().clamp(0, 255))


@operation
def code_luma(
    source: Tensor,
    predicted: Tensor,
    qp: Tensor,
    intra: Tensor,
    transform_8x8: Tensor,
    intra16x16: Tensor,
    quant: list[float],
    levels: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Code what luma differs from its prediction by.

    Args:
        source, predicted: ``[N, H, W]`` 0..255, multiples of 16.
        qp: ``[N, H/16, W/16]``, whole numbers.
        intra, transform_8x8, intra16x16: macroblocks that are intra, that take the 8x8 transform, and that are intra 16x16, whose sixteen DCs go
            through a second transform (8.5.10); bool, shape of ``qp``.
        quant: what the encoder keeps, :meth:`QuantSettings.numbers`.
        levels: whether levels are asked for: implementations may leave them empty if not.

    Returns:
        Prediction and coded residual ``[N, H, W]``, whole numbers 0..255 if the prediction's are whole (rounding and clipping pass the gradient);
        levels of the 4x4 and of the 8x8 transform ``[N, H/16, W/16, 256]``, 0 where it is not in use; 4x4 blocks that have coefficients
        ``[N, H/4, W/4]`` bool.
    """
    settings = QuantSettings.of(quant)
    residual = source - predicted
    n, bh, bw = qp.shape
    m = bh * bw
    is_intra, is8, is_16x16 = (v.reshape(n, m, 1) for v in (intra, transform_8x8, intra16x16))
    out, all_levels = [], []
    for k in (4, 8):
        if not (is8 if k == 8 else ~is8).any():
            out.append(torch.zeros_like(residual))
            all_levels.append(residual.new_zeros(n, bh, bw, 256))
            continue
        per = 256 // (k * k)
        x = macroblock_blocks(residual, k).view(n, m * per, k * k)
        q = steps(qp.reshape(-1), k).view(n, m, 1, k * k)
        wide = q.expand(n, m, per, k * k).reshape(n, m * per, k * k)
        c = x @ CORE[k].like(x).mT
        of_block = is_intra.expand(n, m, per).reshape(n, m * per)
        level = quantise(c, CORE_NORM[k], wide, of_block, settings)
        level = level.view(n, m, per, k * k)
        if settings.decimate and not (k == 8 and settings.trellis is not None):
            s = decimation_scores(level)  # [N, MB, per]
            if k == 4:  # 8x8 regions of four blocks
                keep = _regions(s) >= MIN_SCORE_REGION
                total = s.sum(-1, keepdim=True)
            else:
                keep = s >= MIN_SCORE_REGION
                total = (s * keep).sum(-1, keepdim=True)
            level = level * ((keep & (total >= MIN_SCORE_LUMA)) | is_intra)[..., None]
        back = level * q
        if k == 4 and intra16x16.any():
            second = WALSH4.like(x)
            sums = c.view(n, m, 16, 16)[..., 0] @ (4 * second).mT  # [N, MB, 16]
            dc = quantise(sums, WALSH4_NORM, q[..., 0], is_intra[..., 0], settings)
            dc_back = (dc * q[..., 0]) @ second
            select = is_16x16[..., None]
            level = torch.where(select, torch.cat([dc[..., None], level[..., 1:]], -1), level)
            back = torch.where(select, torch.cat([dc_back[..., None], back[..., 1:]], -1), back)
        used = (is8 if k == 8 else ~is8)[..., None]
        level = level * used
        out.append(from_macroblock_blocks(((back * used) @ FLAT[k].like(x)).view(n, bh, bw, per, k * k), k))
        all_levels.append(level.reshape(n, bh, bw, 256))
    four, eight = all_levels
    coded4 = (four.view(n, bh, bw, 16, 16) != 0).any(-1) | (eight.view(n, bh, bw, 4, 64) != 0).any(-1)[..., _EIGHT_OF_FOUR]
    coded = coded4.view(n, bh, bw, 4, 4).permute(0, 1, 3, 2, 4).reshape(n, bh * 4, bw * 4)
    if not levels:
        four = eight = residual.new_empty(0)
    return _decoded(predicted, out[0] + out[1]), four, eight, coded


@code_luma.outputs
def _(
    source: Tensor,
    predicted: Tensor,
    qp: Tensor,
    intra: Tensor,
    transform_8x8: Tensor,
    intra16x16: Tensor,
    quant: list[float],
    levels: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, bh, bw = qp.shape
    of_levels = (n, bh, bw, 256) if levels else (0,)
    coded = source.new_empty(n, 4 * bh, 4 * bw, dtype=torch.bool)
    return source.new_empty(source.shape), source.new_empty(of_levels), source.new_empty(of_levels), coded


_EIGHT_OF_FOUR = [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]  # the 8x8 block that each 4x4 block (raster order) lies in


def _regions(s: Tensor) -> Tensor:
    """Sum over the 8x8 region of each of 16 blocks, back at each block. Shape: ``[..., 16] -> [..., 16]``."""
    region = s.unflatten(-1, (2, 2, 2, 2)).sum((-3, -1))  # rows of regions, rows inside, columns of regions, columns inside
    return region.flatten(-2)[..., _EIGHT_OF_FOUR]


@operation
def code_chroma(source: Tensor, predicted: Tensor, qpc: Tensor, intra: Tensor, quant: list[float], levels: bool) -> tuple[Tensor, Tensor]:
    """Code what chroma differs from its prediction by: 4x4 transforms, their four DCs through a 2x2 Hadamard transform.

    Args:
        source, predicted: ``[N, 2, H/2, W/2]``, Cb and Cr.
        qpc: chroma QP ``[N, H/16, W/16]``.
        intra: bool, same shape.
        quant, levels: as for luma.

    Returns:
        Decoded chroma as for luma, levels ``[N, 2, H/16, W/16, 64]`` (the four DCs at places 0, 16, 32, 48).
    """
    settings = QuantSettings.of(quant)
    residual = source - predicted
    n, _, h, w = residual.shape
    bh, bw = h // 8, w // 8
    m = 2 * bh * bw  # macroblocks of Cb, then of Cr
    x = residual.reshape(n, 2, bh, 2, 4, bw, 2, 4).permute(0, 1, 2, 5, 3, 6, 4, 7).reshape(n, m, 4, 16)
    c = x @ CORE[4].like(x).mT
    q = steps(qpc.reshape(-1), 4).view(n, -1, 1, 16).repeat(1, 2, 1, 1)  # [N, MB, 1, 16]
    is_intra = intra.reshape(n, -1).repeat(1, 2)
    hadamard = HADAMARD2.like(x)
    q_dc = q[..., 0]
    dc_levels = quantise(c[..., 0] @ (2 * hadamard).mT, HADAMARD2_NORM, q_dc, is_intra, settings)  # [N, MB, 4]
    q_ac = q[..., 1:].expand(n, m, 4, 15)
    ac_levels = quantise(
        c[..., 1:].reshape(n, m * 4, 15), _AC_NORM, q_ac.reshape(n, m * 4, 15), is_intra[..., None].expand(n, m, 4).reshape(n, -1), settings
    )
    ac_levels = ac_levels.view(n, m, 4, 15)
    if settings.decimate:
        ac_levels = ac_levels * ((decimation_scores(ac_levels).sum(-1) >= MIN_SCORE_CHROMA) | is_intra)[..., None, None]
    back = torch.cat([((dc_levels * q_dc) @ hadamard)[..., None], ac_levels * q_ac], -1)
    y = back @ FLAT[4].like(x)
    out = y.view(n, 2, bh, bw, 2, 2, 4, 4).permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(residual.shape)
    of_levels = torch.cat([dc_levels[..., None], ac_levels], -1).view(n, 2, bh, bw, 64) if levels else residual.new_empty(0)
    return _decoded(predicted, out), of_levels


@code_chroma.outputs
def _(source: Tensor, predicted: Tensor, qpc: Tensor, intra: Tensor, quant: list[float], levels: bool) -> tuple[Tensor, Tensor]:
    n, bh, bw = qpc.shape
    return source.new_empty(source.shape), source.new_empty((n, 2, bh, bw, 64) if levels else (0,))


@operation
@torch.no_grad()
def choose_transform_8x8(source: Tensor, predicted: Tensor, use_satd: bool, allowed: bool) -> tuple[Tensor, Tensor]:
    """What each macroblock's residual costs, and whether the 8x8 transform concentrates it more.

    Args:
        source, predicted: ``[N, H, W]``.
        use_satd: whether costs are SATD rather than SAD.
        allowed: whether there is an 8x8 transform.

    Returns:
        Cost ``[N, H/16, W/16]``; bool, same shape.
    """
    x = flat_blocks(source - predicted, 8)
    satds = sum_macroblocks(satd(x, 8)) if use_satd or allowed else x
    cost = satds if use_satd else sum_macroblocks(sad(x))
    return cost, sum_macroblocks(sa8d(x)) < satds if allowed else torch.zeros_like(cost, dtype=torch.bool)


@choose_transform_8x8.outputs
def _(source: Tensor, predicted: Tensor, use_satd: bool, allowed: bool) -> tuple[Tensor, Tensor]:
    n, h, w = source.shape
    return source.new_empty(n, h // 16, w // 16), source.new_empty(n, h // 16, w // 16, dtype=torch.bool)


@operation
@torch.no_grad()
def merge_qp_delta(qp: Tensor, frame_qp: Tensor) -> Tensor:
    """A macroblock's QP that differs by exactly 1 from that of the macroblock before it becomes the same: naming it costs more than it brings.

    Args:
        qp: whole numbers ``[F, H/16, W/16]``.
        frame_qp: QP of each frame ``[F]``, before the first macroblock.
    """
    rows = qp.flatten(1).mT.cpu().numpy().copy()  # [M, F]: a walk through the macroblocks, all frames at once
    before = frame_qp.cpu().numpy()
    for row in rows:
        row[abs(row - before) == 1] = before[abs(row - before) == 1]
        before = row
    return torch.from_numpy(rows).mT.to(qp).view(qp.shape)


@merge_qp_delta.outputs
def _(qp: Tensor, frame_qp: Tensor) -> Tensor:
    return qp.new_empty(qp.shape)
