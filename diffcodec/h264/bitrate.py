"""The CRF at which clips have a bitrate: a guess from the lookahead's costs, one encode there, and a step along the guess's slope.

The size of a clip is guessed as a sum over macroblocks: bits = 2^f(u), where u = log2(cost) - (QP - 12) / 6 is the lookahead's cost over lambda in
octaves, and f a polynomial of each frame type. Its level may be off by a quarter for a clip, its slope hardly is: what one encode shows the level to
be gives the CRF. Polynomials are fitted, and the outcome measured, by ``benchmarks/bitrate.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..constants import Constant, listed, number
from .encoder import Analysis, Settings, size_of
from .gop import Gop

CRFS = tuple(float(v) for v in range(0, 52, 3))  # at which sizes of frames are guessed; their logarithm is linear in between
STEPS = 16  # CRFs tried between two whole numbers
CENTRE, HALF_RANGE = 4.0, 7.0  # of u, octaves: the polynomials' argument is (u - CENTRE) / CENTRE within CENTRE +- HALF_RANGE
FAR = 0.6  # octaves by which the guess is too far off for one encode: textures unlike those of photographs, windows inside a stream
MOST, NEAR = 5, 0.1  # further encodes of such clips at most, and the error of the last one in octaves at which they end
USUAL_SLOPE, LEAST_SLOPE = -1 / 6, -0.03  # d log2(bits) / d CRF: beyond the CRFs tried, and the flattest accepted
SLOPE_SPAN = 4.0  # half the interval of CRFs over which it is measured for the gradient, or more
# Of I, P and B frames the coefficients of f, lowest order first; log2 of the bits of a frame. By whether costs are SATD or SAD
SIZE: dict[bool, tuple[tuple[tuple[float, ...], ...], float]] = {
    True: (((2.65, 5.01, 0.33, -0.37), (4.54, 3.37, 0.2, 0.0), (3.85, 5.32, 0.0, -0.52)), 7.74),
    False: (((3.13, 6.26, -0.74, -0.11), (5.34, 4.1, 0.1, -0.26), (3.46, 6.99, -0.79, -0.4)), 7.67),
}


def argument(cost: Tensor, qp: Tensor, crf: float) -> Tensor:
    """What the polynomials are of, from log2 of costs, QPs at CRF 0, and a CRF."""
    u = cost - ((qp + crf).clamp(0, 51) - 12) / 6
    return (u - CENTRE).clamp(-HALF_RANGE, HALF_RANGE) / CENTRE


_TRIED = Constant([i / STEPS for i in range(51 * STEPS + 1)])


@torch.no_grad()
def guessed_sizes(analysis: Analysis, settings: Settings, batch: int) -> Tensor:
    """log2 of the bits of each clip at CRFs 0, 1 / STEPS, .. 51: ``[B, 51 * STEPS + 1]``."""
    plan, preset = analysis.plan, settings.preset
    shown = listed(plan.shown, analysis.costs.inter.device)
    frame_qp = analysis.frame_qp[shown] + settings.constants.qp
    cost, qp = analysis.costs.inter[shown].clamp(min=1).log2(), frame_qp[:, None, None] + analysis.offsets.total[shown]
    polynomials, frame = SIZE[preset.satd]
    kinds = ["IPB".index(plan.types[i].upper()) for i in plan.shown]
    a, b, c, d = (listed([polynomials[k][n] for k in kinds], cost.device)[:, None, None] for n in range(4))
    sizes = []
    for crf in CRFS:
        v = argument(cost, qp, crf)
        sizes.append((torch.exp2(a + v * (b + v * (c + v * d))).sum((1, 2)) + 2**frame).log2())
    of_frames, tried = torch.stack(sizes, 1), _TRIED.like(cost).expand(len(shown), -1)
    if not (preset.adaptive or preset.tree):  # all macroblocks of a frame have its QP, a whole number
        tried = ((frame_qp[:, None] + tried + 0.5).floor() - frame_qp[:, None]).clamp(0, 51)
    place = tried / (CRFS[1] - CRFS[0])
    left = place.floor().clamp(max=len(CRFS) - 2).long()
    logs = torch.lerp(of_frames.gather(1, left), of_frames.gather(1, left + 1), place - left)
    return torch.exp2(logs).view(batch, -1, tried.shape[1]).sum(1).double().log2()


def crf_of_bitrate(video: Tensor, gops: Sequence[Gop], analysis: Analysis, bitrate: Tensor, settings: Settings) -> Tensor:
    """CRF ``[B]`` at which each clip is estimated to have a bitrate (bits per second, ``[B]``); differentiable in it.

    One encode, and a search of those clips for which the guess was off by more than :data:`FAR`. A bitrate that requires a gradient takes one more:
    its slope is that over an interval of CRFs, as locally the size is a step function.

    Args:
        video, gops: the clips ``[B, T, 3, H, W]`` and their GOPs, for :func:`~diffcodec.h264.encoder.encode_video`.
        analysis: of these clips.
        bitrate, settings: what is wanted, and how clips are encoded.
    """
    wanted = torch.log2(bitrate.double() * video.shape[1] / settings.fps)
    aim = wanted.detach()
    guess = guessed_sizes(analysis, settings, len(wanted))

    def at(tried: Tensor) -> Tensor:
        return guess.gather(1, tried[:, None])[:, 0]

    def size(crf: Tensor) -> Tensor:
        return torch.log2(size_of(analysis, crf.to(video), settings).double())

    def nearest(target: Tensor) -> Tensor:
        return (guess - target[:, None]).abs().argmin(1)

    first = nearest(aim)
    found = size(first / STEPS)
    second = nearest(at(first) + aim - found)
    begin, crf = first / STEPS, second.to(aim) / STEPS
    reachable = torch.where(found > aim, begin < 51, begin > 0)
    if far := (reachable & ((found - aim).abs() > FAR)).nonzero()[:, 0].tolist():
        rest = Analysis.of(video[far].detach(), [gops[i] for i in far], settings)
        crf[far] = searched(rest, begin[far].to(aim), found[far], crf[far], aim[far], settings)
    if not wanted.requires_grad:
        return crf
    # the other end of the interval: on the other side of the CRF found, or further on this one where CRFs end
    way = torch.where(crf < begin, number(-SLOPE_SPAN, crf), number(SLOPE_SPAN, crf))
    end = torch.where((crf + way < 0) | (crf + way > 51), crf - 2 * way, crf + way)
    slope = ((size(end) - found) / (end - begin)).clamp(max=LEAST_SLOPE)
    return crf + (wanted - aim) / slope


def searched(analysis: Analysis, tried: Tensor, found: Tensor, crf: Tensor, aim: Tensor, settings: Settings) -> Tensor:
    """CRFs for sizes from one that was tried and one to try next, by up to :data:`MOST` encodes; all ``[B]``, sizes as log2 of bits."""
    tries, settled = [(tried, found)], torch.zeros_like(aim, dtype=torch.bool)
    for _ in range(MOST):
        tries.append((crf, torch.log2(size_of(analysis, crf.to(analysis.costs.inter), settings).double())))
        crf = torch.where(settled, crf, _between(tries, aim))
        settled = settled | ((tries[-1][1] - aim).abs() < NEAR) | ((crf - tries[-1][0]).abs() < 1 / STEPS)
        if settled.all():
            break
    return crf


def _between(tries: Sequence[tuple[Tensor, Tensor]], aim: Tensor) -> Tensor:
    """CRF for a size from the trials so far: interpolated between the nearest on both sides, or extrapolated. ``[B]`` each."""
    crf, size = (torch.stack(list(x)) for x in zip(*tries))
    too_large = size >= aim
    low, at = torch.where(too_large, crf, -1).max(0)  # coarsest of those that are too large
    high, by = torch.where(too_large, 52, crf).min(0)  # finest of the others
    size_low, size_high = size.gather(0, at[None])[0], size.gather(0, by[None])[0]
    slope = torch.where((low >= 0) & (high <= 51), (size_high - size_low) / (high - low).clamp(min=1e-3), USUAL_SLOPE)
    start, of_start = torch.where(low >= 0, low, high), torch.where(low >= 0, size_low, size_high)
    return (start + (aim - of_start) / slope.clamp(max=LEAST_SLOPE)).clamp(0, 51)
