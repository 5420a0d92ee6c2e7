"""Residual coding: transform, quantise with a dead zone, drop what is not worth its bits, and back (ITU-T H.264, 8.5).

What an encoder does beyond the standard (dead zones, trellis, decimation) comes in as :class:`QuantSettings`. Coefficients stand in scan order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backend import operation
from ...blocks import any_of_blocks, flat_blocks, from_macroblock_blocks, macroblock_blocks, sum_macroblocks
from ...checks import first_order, half_up, replace_value
from ...constants import Constant, number
from ..common.distortion import sa8d, sad, satd
from ..common.tables import CHROMA_QP, CORE, CORE_NORM, DECIMATE, FLAT, HADAMARD2, HADAMARD2_NORM, STEPS, WALSH4, WALSH4_NORM
from . import rate
from .cabac import CHROMA_AC, CHROMA_DC, DC, EIGHT, LUMA, Kind, slice_states
from .trellis import Trellis, trellis_quant


@dataclass(frozen=True)
class QuantSettings:
    """Settings of the quantiser: rounding, trellis, decimation, gradient.

    Attributes:
        intra, inter: rounding offset of intra and inter blocks: added to a magnitude, in steps, before the floor (x264: (32 - deadzone) / 64).
        trellis: weights of rate-distortion optimised quantisation, which replaces the rounding offset; None for none.
        decimate: whether inter blocks with few levels of +-1 are dropped (8x8 blocks: only without trellis).
        noise_width: standard deviation in levels of the Laplacian noise over which the quantiser's slope is averaged for the gradient.
    """

    intra: float = 21 / 64
    inter: float = 11 / 64
    trellis: Trellis | None = None
    decimate: bool = True
    noise_width: float = 6.0

    def numbers(self) -> list[float]:
        """The settings as operations take them: intra, inter, noise_width, decimate, whether there is a trellis, its intra, inter and small."""
        t = self.trellis
        weights = [0.0] * 4 if t is None else [1.0, t.intra, t.inter, t.small]
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


def quantise(
    whole: Tensor, norm: Constant, step: Tensor, intra: Tensor, quant: QuantSettings, kind: Kind, used: Tensor, qp: Tensor
) -> Tensor:
    """Levels of coefficients.

    Residuals of whole numbers can give coefficients at exact multiples of a quarter of a step; the integer transform and a single division
    compute these to the last bit on every machine.

    Args:
        whole: ``[N, MB, blocks, n]``, scan order, of the transform of whole numbers.
        norm: divisors that make them orthonormal.
        step: broadcastable to them.
        intra: ``[N, MB]`` bool.
        kind: of the blocks. used: macroblocks that have such ``[N, MB]`` bool. qp: ``[N, MB]``.

    Returns:
        Levels ``[N, MB, blocks, n]``.
    """
    lengths = norm.value.to(whole.device)
    y = replace_value(whole / (norm.like(whole) * step), whole.detach() * (1 / (lengths * step.detach().double())).to(whole))
    magnitude = y.detach().abs()
    if quant.trellis is None:
        threshold = torch.where(intra, number(1 - quant.intra, y), number(1 - quant.inter, y))[..., None, None]
        levels = (magnitude + (1 - threshold)).floor_()
    else:
        first = slice_states(kind.first, qp, intra)
        levels, threshold = trellis_quant(magnitude, intra, quant.trellis, kind, used.to(y), first)
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


CODED_BITS = 1.5  # of a macroblock's QP difference and transform, where anything is coded

# Added before a residual is rounded: ties, which the standard's integer arithmetic rounds up, are slightly off in floats. Much less than its 1/64.
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
    """Code the residual of luma.

    Args:
        source, predicted: ``[N, H, W]`` 0..255, multiples of 16.
        qp: ``[N, H/16, W/16]``, whole numbers.
        intra, transform_8x8, intra16x16: macroblocks that are intra, that take the 8x8 transform, and that are intra 16x16, whose sixteen DCs go
            through a second transform (8.5.10); bool, shape of ``qp``.
        quant: settings of the quantiser, :meth:`QuantSettings.numbers`.
        levels: whether levels are needed; if not, implementations may return them empty.

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
    of_slice = is_intra[..., 0], settings
    flat_qp = qp.reshape(n, m)
    out, all_levels = [], []
    for k in (4, 8):
        if not (is8 if k == 8 else ~is8).any():
            out.append(torch.zeros_like(residual))
            all_levels.append(residual.new_zeros(n, bh, bw, 256))
            continue
        per = 256 // (k * k)
        x = macroblock_blocks(residual, k).view(n, m, per, k * k)
        q = steps(qp.reshape(-1), k).view(n, m, 1, k * k)
        c = x @ CORE[k].like(x).mT
        used = is8 if k == 8 else ~is8
        level = quantise(c, CORE_NORM[k], q, *of_slice, EIGHT if k == 8 else LUMA, used[..., 0], flat_qp)
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
            sums = (c[..., 0] @ (4 * second).mT)[:, :, None]  # [N, MB, 1, 16]
            dc = quantise(sums, WALSH4_NORM, q[..., :1], *of_slice, DC, is_16x16[..., 0], flat_qp)[:, :, 0]
            dc_back = (dc * q[..., 0]) @ second
            select = is_16x16[..., None]
            level = torch.where(select, torch.cat([dc[..., None], level[..., 1:]], -1), level)
            back = torch.where(select, torch.cat([dc_back[..., None], back[..., 1:]], -1), back)
        level = level * used[..., None]
        out.append(from_macroblock_blocks(((back * used[..., None]) @ FLAT[k].like(x)).view(n, bh, bw, per, k * k), k))
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
    """Code the residual of chroma: 4x4 transforms, their four DCs through a 2x2 Hadamard transform.

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
    m = bh * bw
    x = residual.reshape(n, 2, bh, 2, 4, bw, 2, 4).permute(0, 2, 5, 1, 3, 6, 4, 7).reshape(n, m, 8, 16)  # four blocks of Cb, four of Cr
    c = x @ CORE[4].like(x).mT
    q = steps(qpc.reshape(-1), 4).view(n, m, 1, 16)
    of_slice = intra.reshape(n, m), settings
    every, flat_qp = torch.ones_like(of_slice[0]), qpc.reshape(n, m)
    hadamard = HADAMARD2.like(x)
    sums = c[..., 0].view(n, m, 2, 4) @ (2 * hadamard).mT
    dc_levels = quantise(sums, HADAMARD2_NORM, q[..., :1], *of_slice, CHROMA_DC, every, flat_qp)  # [N, MB, 2, 4]
    ac_levels = quantise(c[..., 1:], _AC_NORM, q[..., 1:], *of_slice, CHROMA_AC, every, flat_qp)  # [N, MB, 8, 15]
    if settings.decimate:
        score = decimation_scores(ac_levels).view(n, m, 2, 4).sum(-1, keepdim=True)
        keep = (score >= MIN_SCORE_CHROMA) | of_slice[0][..., None, None]
        ac_levels = ac_levels * keep.expand(n, m, 2, 4).reshape(n, m, 8, 1)
    back = torch.cat([((dc_levels * q[..., :1]) @ hadamard).view(n, m, 8, 1), ac_levels * q[..., 1:]], -1)
    y = back @ FLAT[4].like(x)
    out = y.view(n, bh, bw, 2, 2, 2, 4, 4).permute(0, 3, 1, 4, 6, 2, 5, 7).reshape(residual.shape)
    if not levels:
        return _decoded(predicted, out), residual.new_empty(0)
    of_levels = torch.cat([dc_levels.view(n, m, 8, 1), ac_levels], -1).view(n, bh, bw, 2, 64)
    return _decoded(predicted, out), of_levels.permute(0, 3, 1, 2, 4).contiguous()


@code_chroma.outputs
def _(source: Tensor, predicted: Tensor, qpc: Tensor, intra: Tensor, quant: list[float], levels: bool) -> tuple[Tensor, Tensor]:
    n, bh, bw = qpc.shape
    return source.new_empty(source.shape), source.new_empty((n, 2, bh, bw, 64) if levels else (0,))


@operation
@torch.no_grad()
def choose_transform_8x8(source: Tensor, predicted: Tensor, use_satd: bool, allowed: bool) -> tuple[Tensor, Tensor]:
    """Cost of each macroblock's residual, and whether the 8x8 transform compacts it better.

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
def choose_coding(
    source: Tensor,
    chroma: Tensor,
    predicted: list[Tensor],
    predicted_chroma: list[Tensor],
    side_bits: list[Tensor],
    may_skip: Tensor | None,
    qp: Tensor,
    qpc: Tensor,
    lam: Tensor,
    quant: list[float],
    psy: float,
    transform_8x8: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose inter prediction, transform and skip for each macroblock by rate and distortion (x264's rdo.c).

    As x264 does, predictions compete with the 4x4 transform, and the winner tries the other one and takes it where it is no worse.

    Args:
        source, chroma: ``[N, H, W]``, ``[N, 2, H/2, W/2]``.
        predicted, predicted_chroma: as those, of each candidate.
        side_bits: bits beside levels and flags, of each candidate ``[N, H/16, W/16]``.
        may_skip: where the last candidate needs no bits at all without residual, bool, same shape; None for nowhere.
        qp, qpc, lam: same shape.
        quant: how residuals are coded, :meth:`QuantSettings.numbers`.
        psy: strength of psy-RD: what lost texture counts.
        transform_8x8: whether there is an 8x8 transform.

    Returns:
        Candidate, int64; whether it is left without residual and whether it takes the 8x8 transform, bool: ``[N, H/16, W/16]``.
    """
    return best_coding(
        code_luma.reference, code_chroma.reference, source, chroma, predicted, predicted_chroma, side_bits, may_skip, qp, qpc, lam, quant, psy,
        transform_8x8,
    )  # fmt: skip


def best_coding(
    code_luma: Callable[..., tuple[Tensor, ...]],
    code_chroma: Callable[..., tuple[Tensor, ...]],
    source: Tensor,
    chroma: Tensor,
    predicted: Sequence[Tensor],
    predicted_chroma: Sequence[Tensor],
    side_bits: Sequence[Tensor],
    may_skip: Tensor | None,
    qp: Tensor,
    qpc: Tensor,
    lam: Tensor,
    quant: list[float],
    psy: float,
    transform_8x8: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`choose_coding` by any implementation of :func:`code_luma` and :func:`code_chroma`."""
    no = torch.zeros_like(qp, dtype=torch.bool)
    of_source = rate.texture(source) if psy else None
    # lambda of chroma follows its own quantiser where psy-RD is on (x264's chroma_lambda2_offset)
    chroma_weight = torch.exp2((qp - qpc) / 3) if psy else torch.ones_like(qp)

    def of_chroma(decoded: Tensor) -> Tensor:
        return chroma_weight * flat_blocks((chroma - decoded).square().flatten(0, 1), 8).sum(-1).unflatten(0, (-1, 2)).sum(1)

    ways, costs = [], []
    for luma, c, side in zip(predicted, predicted_chroma, side_bits):
        decoded_c, levels_c = code_chroma(chroma, c, qpc, no, quant, True)[:2]
        chroma_cost = of_chroma(decoded_c)
        has_chroma = (levels_c != 0).any(-1).any(1)
        chroma_bits = rate.chroma_bits(levels_c, qpc, no) + has_chroma
        for eight in (False, True)[: 1 + transform_8x8]:
            decoded, four, eights, flags = code_luma(source, luma, qp, no, no | eight, no, quant, True)[:4]
            levels = (eights if eight else four).abs().unflatten(-1, (-1, 64 if eight else 16)).flatten(1, 2)
            ways.append(rate.Coded(levels, flags, 1 if eight else 2))
            some = any_of_blocks(flags, 4) | has_chroma
            bits = side + chroma_bits + CODED_BITS * some.to(side)
            costs.append(rate.distortion(source, decoded, lam, psy, of_source) + chroma_cost + rate.RATE_WEIGHT * lam.square() * bits)
    states = rate.States(ways, torch.full_like(qp, int(transform_8x8)).long(), qp, no)
    costs = [c + rate.RATE_WEIGHT * lam.square() * states.bits(w) for c, w in zip(costs, ways)]
    by_four, by_eight = (torch.stack(costs[i :: 1 + transform_8x8]) for i in (0, int(transform_8x8)))
    least, best = by_four.min(0)
    skipped = no
    if may_skip is not None:
        without = rate.distortion(source, predicted[-1], lam, psy, of_source) + of_chroma(predicted_chroma[-1])
        skipped = may_skip & (without <= least)
        best = torch.where(skipped, len(predicted) - 1, best)
    no_worse = by_eight.gather(0, best[None])[0] <= by_four.gather(0, best[None])[0]
    return best, skipped, no_worse & ~skipped if transform_8x8 else no


@choose_coding.outputs
def _(
    source: Tensor,
    chroma: Tensor,
    predicted: list[Tensor],
    predicted_chroma: list[Tensor],
    side_bits: list[Tensor],
    may_skip: Tensor | None,
    qp: Tensor,
    qpc: Tensor,
    lam: Tensor,
    quant: list[float],
    psy: float,
    transform_8x8: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    best, skipped, eight = (qp.new_empty(qp.shape, dtype=kind) for kind in (torch.int64, torch.bool, torch.bool))
    return best, skipped, eight


@operation
@torch.no_grad()
def merge_qp_delta(qp: Tensor, frame_qp: Tensor) -> Tensor:
    """Set a macroblock's QP to that of the one before it if they differ by exactly 1: signalling the difference costs more than it gains.

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
