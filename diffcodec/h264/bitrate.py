"""The CRF at which clips have a bitrate: a guess from the lookahead's costs, one encode there, and a step along the guess's slope.

The size of a clip is guessed as a sum over macroblocks: bits = 2^f(u), where u = log2(cost) - (QP - 12) / 6 is the lookahead's cost over lambda in
octaves, and f a polynomial of each frame type. Its level may be off by a quarter for a clip, its slope hardly is: what one encode shows the level to
be gives the CRF. Polynomials are fitted, and the outcome measured, by ``benchmarks/bitrate.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..constants import Constant, listed, number
from .encoder import Analysis, Settings, size_of

CRFS = tuple(float(v) for v in range(0, 52, 3))  # at which sizes of frames are guessed; their logarithm is linear in between
STEPS = 16  # CRFs tried between two whole numbers
CENTRE, HALF_RANGE = 4.0, 7.0  # of u, octaves: the polynomials' argument is (u - CENTRE) / CENTRE within CENTRE +- HALF_RANGE
LEAST_SLOPE = -0.03  # d log2(bits) / d CRF: the flattest accepted
SLOPE_SPAN = 4.0  # half the interval of CRFs over which it is measured for the gradient, or more
# Of I, P and B frames the coefficients of f, lowest order first; log2 of the bits of a frame. By whether costs are SATD or SAD
SIZE: dict[bool, tuple[tuple[tuple[float, ...], ...], float]] = {
    True: (((3.84, 2.55, 2.08, -0.78), (4.58, 3.25, 0.22, 0.04), (3.85, 5.24, 0.37, -0.78)), 6.94),
    False: (((4.1, 3.86, 1.86, -1.0), (5.24, 4.12, 0.25, -0.33), (4.5, 4.0, 0.5, 0.0)), 7.05),
}
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
        u = cost - ((qp + crf).clamp(0, 51) - 12) / 6
        v = (u - CENTRE).clamp(-HALF_RANGE, HALF_RANGE) / CENTRE
        sizes.append((torch.exp2(a + v * (b + v * (c + v * d))).sum((1, 2)) + 2**frame).log2())
    of_frames, tried = torch.stack(sizes, 1), _TRIED.like(cost).expand(len(shown), -1)
    if not (preset.adaptive or preset.tree):  # all macroblocks of a frame have its QP, a whole number
        tried = ((frame_qp[:, None] + tried + 0.5).floor() - frame_qp[:, None]).clamp(0, 51)
    place = tried / (CRFS[1] - CRFS[0])
    left = place.floor().clamp(max=len(CRFS) - 2).long()
    logs = torch.lerp(of_frames.gather(1, left), of_frames.gather(1, left + 1), place - left)
    return torch.exp2(logs).view(batch, -1, tried.shape[1]).sum(1).double().log2()


def crf_of_bitrate(analysis: Analysis, bitrate: Tensor, frames: int, settings: Settings) -> Tensor:
    """CRF ``[B]`` at which each clip is estimated to have a bitrate (bits per second, ``[B]``); differentiable in it.

    One encode, two if the bitrate requires a gradient: its slope is that over an interval of CRFs, as locally the size is a step function.
    """
    wanted = torch.log2(bitrate.double() * frames / settings.fps)
    aim = wanted.detach()
    guess = guessed_sizes(analysis, settings, len(wanted))

    def size(crf: Tensor) -> Tensor:
        return torch.log2(size_of(analysis, crf.to(analysis.costs.inter), settings).double())

    def nearest(sizes: Tensor) -> Tensor:
        return (sizes - aim[:, None]).abs().argmin(1)

    first = nearest(guess)
    begin = first / STEPS
    found = size(begin)
    crf = nearest(guess + (found - guess.gather(1, first[:, None])[:, 0])[:, None]).to(aim) / STEPS
    if not wanted.requires_grad:
        return crf
    # the other end of the interval: on the other side of the CRF found, or further on this one where CRFs end
    way = torch.where(crf < begin, number(-SLOPE_SPAN, crf), number(SLOPE_SPAN, crf))
    end = torch.where((crf + way < 0) | (crf + way > 51), crf - 2 * way, crf + way)
    slope = ((size(end) - found) / (end - begin)).clamp(max=LEAST_SLOPE)
    return crf + (wanted - aim) / slope
