"""From CRF to the QP of every macroblock, as in x264 (ratecontrol.c): frame QP, adaptive quantisation, macroblock tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import replace_value
from ..constants import Constant, listed
from ..ops.residual.reference import merge_qp_delta
from .frame_types import interior
from .lookahead import LookaheadCosts
from .plan import CodingPlan, SourceFrames
from .presets import Preset

AQ_STRENGTH, AQ_NEUTRAL = 1.0397, 14.427  # adaptive quantisation: QP per octave of energy, log2 of the energy of offset 0
MBTREE_STRENGTH = 5.0  # times (1 - qcomp)
CPLX_BASE = 80, 120  # complexity per macroblock at which the QP equals the CRF: without B frames, with them (ratecontrol.c)


def aq_offset(luma: Tensor, chroma: Tensor) -> Tensor:
    """QP offset of each macroblock by its energy around the mean, luma and chroma together: flat blocks get a finer quantiser.

    Args:
        luma: ``[N, H, W]`` 0..255, multiples of 16.
        chroma: ``[N, 2, H/2, W/2]``.

    Returns:
        ``[N, H/16, W/16]``; 0 at an energy of 22 000.
    """
    energy = _energy(luma, 16) + _energy(chroma.flatten(0, 1), 8).unflatten(0, (-1, 2)).sum(1)
    return AQ_STRENGTH * (torch.log2(energy.clamp(min=1)) - AQ_NEUTRAL)


def _energy(plane: Tensor, k: int) -> Tensor:
    """Sum of squares around the mean of each block."""
    x = plane[:, None]
    mean = F.avg_pool2d(x, k)
    return ((F.avg_pool2d(x.square(), k) - mean.square()) * (k * k))[:, 0].clamp(min=0)


def mbtree_offset(costs: LookaheadCosts, aq_offset: Tensor, plan: CodingPlan, qcomp: float = 0.6) -> Tensor:
    """QP offset of macroblocks by how much later frames depend on them (x264's macroblock_tree).

    Args:
        costs: of the plan's frames.
        aq_offset: of adaptive quantisation ``[F, bh, bw]``.
        plan: frames of different clips never refer to each other.
        qcomp: x264's --qcomp.

    Returns:
        ``[F, bh, bw]``, 0 or below.
    """
    types, display = plan.types, plan.display
    own = costs.intra * torch.exp2(-aq_offset / 6)
    passed_on = (1 - costs.inter / costs.intra).clamp(0, 1)
    received = torch.zeros_like(own)
    steps: list[list[int]] = []
    for step in reversed(plan.steps):
        now = set(step)
        # an anchor is coded before the B frames of its own mini-GOP are analysed
        counts = [i in now and (types[r] not in "IP" or display[i] >= display[r]) for i, r in zip(costs.frame, costs.reference)]
        steps.append([u for u, yes in enumerate(counts) if yes])
    uses = [u for step in steps for u in step]
    if uses:
        table = [uses, [costs.frame[u] for u in uses], [costs.reference[u] for u in uses], [types[costs.frame[u]] != "b" for u in uses]]
        use, frame, reference, refers = listed(table, own.device)
        positions, weights = _covered(reference, costs.vectors[use], own.shape)
        weights = weights * (passed_on[frame] * costs.share[use])[:, None]  # [U, 4, bh, bw]
        at_once, further = weights * own[frame][:, None], weights * refers[:, None, None, None]
        flat, first = received.view(-1), 0
        for n in filter(None, map(len, steps)):
            some = slice(first, first + n)
            amount = torch.addcmul(at_once[some], further[some], received[frame[some], None])
            flat.index_add_(0, positions[some].flatten(), amount.flatten())
            first += n
    return -MBTREE_STRENGTH * (1 - qcomp) * torch.log2(1 + received / own.clamp(min=1e-6))


_CORNERS = Constant([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])  # (y, x) of the macroblocks below and to the right


def _covered(frame: Tensor, vectors: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """The four macroblocks of its reference that each macroblock's vector covers, and their shares.

    Args:
        frame: reference of each use ``[U]``. vectors: ``[U, bh, bw, 2]``.
        size: ``[F, bh, bw]``, of what is covered.

    Returns:
        Flat indices and shares, ``[U, 4, bh, bw]``.
    """
    _, bh, bw = size
    device = vectors.device
    y = (torch.arange(bh, dtype=torch.float32, device=device)[:, None] + vectors[..., 0].float() / 64)[:, None]
    x = (torch.arange(bw, dtype=torch.float32, device=device) + vectors[..., 1].float() / 64)[:, None]
    corner = _CORNERS.like(x)[..., None, None]
    ys, xs = y.floor() + corner[0], x.floor() + corner[1]  # [U, 4, bh, bw]
    share = (1 - (y - ys).abs()) * (1 - (x - xs).abs()) * ((ys >= 0) & (ys < bh) & (xs >= 0) & (xs < bw))
    position = (frame[:, None, None, None] * bh + ys.clamp(0, bh - 1)) * bw + xs.clamp(0, bw - 1)
    return position.long(), share


def _duration_offset(fps: float, qcomp: float) -> float:
    """What a frame rate adds to QPs: CRF is defined at 25 frames a second."""
    duration = min(max(1 / fps, 0.01), 1.0)
    return 6 * (1 - qcomp) * math.log2(1 / (25 * duration))


def frame_qp_mbtree(crf: Tensor, fps: float, qcomp: float = 0.6) -> Tensor:
    """Frame QP before the tree's offsets, for every frame type."""
    return crf + 13.5 * (1 - qcomp) + _duration_offset(fps, qcomp)


def later_intra_qp(before: Sequence[Tensor], offset: float) -> Tensor:
    """Frame QP of an I frame that is not the first: an average over the anchors before it, with decaying weights (x264's accum_p_qp).

    Args:
        before: frame QPs of the anchors before it in coding order, of I frames as if they were P frames.
        offset: by which QPs of I frames are lower.
    """
    total, norm = before[0] * 0, 0.0
    for qp in before:
        total, norm = total * 0.95 + qp, norm * 0.95 + 1
    return total / norm - offset


def frame_qp_complexity(
    crf: Tensor, fps: float, complexity: Tensor, types: str, aq_offset: Tensor | None, goes_on: bool = False, preset: Preset | None = None
) -> list[Tensor]:
    """Frame QPs without a macroblock tree, from complexity (ultrafast, superfast).

    Args:
        crf: a scalar.
        complexity: lookahead cost of each macroblock ``[T, bh, bw]`` (I frames: intra), display order.
        types: letters in display order.
        aq_offset: of adaptive quantisation, or None where it is off.
        goes_on: whether the first frame replaces an anchor inside a stream; it then gets the QP of a P frame like the next one.
        preset: for its ratios; None for x264's defaults.

    Returns:
        A scalar for each frame.
    """
    preset = preset or Preset()
    i_offset, b_offset = (6 * math.log2(ratio) for ratio in (preset.ip_ratio, preset.pb_ratio))  # in QP
    b_ref_offset = b_offset / 2
    bframes = any(c in "Bb" for c in types)
    t, bh, bw = complexity.shape
    cost = complexity if aq_offset is None else complexity * torch.exp2(-aq_offset / 6)
    total = interior(cost).sum((1, 2))
    scale = CPLX_BASE[bframes] * bh * bw
    out: list[Tensor] = [crf] * t
    blurred = weight = None
    anchors = [i for i, c in enumerate(types) if c in "IP"]
    if goes_on and len(anchors) > 1:
        total = torch.cat([total[anchors[1], None], total[1:]])
    for i in anchors:
        blurred = total[i] if blurred is None else blurred / 2 + total[i]
        weight = 1.0 if weight is None else weight / 2 + 1
        if types[i] == "I" and i:
            own = [out[j] + (i_offset if types[j] == "I" and not (goes_on and j == 0) else 0) for j in anchors if j < i]
            out[i] = later_intra_qp(own, i_offset)
        elif types[i] == "I" and not goes_on:
            out[i] = crf - i_offset
        else:
            out[i] = (
                crf + 6 * (1 - preset.qcomp) * torch.log2((blurred / weight / scale).clamp(min=1e-3)) + _duration_offset(fps, preset.qcomp)
            )
    for kinds, extra in (("B", b_ref_offset), ("b", b_offset)):
        for i in [i for i, c in enumerate(types) if c in kinds]:
            before = max(j for j, c in enumerate(types) if j < i and (c in "IP" or (kinds == "b" and c == "B")))
            after = min(j for j, c in enumerate(types) if j > i and (c in "IP" or (kinds == "b" and c == "B")))
            qs = [out[j] - (b_ref_offset if types[j] == "B" else 0) for j in (before, after)]
            if types[before] == "I" != types[after]:
                q = qs[1]
            elif types[after] == "I" != types[before]:
                q = qs[0]
            else:
                q = (qs[0] * (after - i) + qs[1] * (i - before)) / (after - before)
            out[i] = q + extra
    return out


def _with_later_intra(frame_qp: list[Tensor], plan: CodingPlan, offset: float) -> Tensor:
    """Frame QPs with the macroblock tree, those of later I frames by :func:`later_intra_qp`."""
    for first, last in plan.spans:
        before: list[Tensor] = []
        for i in range(first, last):
            if plan.types[i] not in "IP":
                continue
            if plan.types[i] == "I" and before:
                frame_qp[i] = later_intra_qp(before, offset)
            stands_in = i == first and plan.display[i] < 0  # for an anchor in the middle of a stream
            before.append(frame_qp[i] + (offset if plan.types[i] == "I" and not stands_in else 0))
    return torch.stack(frame_qp)


class QPOffsets(NamedTuple):
    """QP offsets of the macroblocks of a plan ``[F, H/16, W/16]``: of adaptive quantisation (None where it is off), and with the macroblock tree."""

    adaptive: Tensor | None
    total: Tensor

    @staticmethod
    @torch.no_grad()
    def of(source: SourceFrames, plan: CodingPlan, costs: LookaheadCosts, preset: Preset) -> QPOffsets:
        """From the frames and what the lookahead knows of them."""
        if not (preset.adaptive or preset.tree):  # the tree needs adaptive quantisation, if only at strength 0
            return QPOffsets(None, torch.zeros_like(costs.intra))
        strength = preset.aq_strength if preset.adaptive else 0.0
        adaptive = strength * aq_offset(source.luma, source.chroma)[listed(plan.source, costs.intra.device)]
        return QPOffsets(adaptive, adaptive + mbtree_offset(costs, adaptive, plan, preset.qcomp) if preset.tree else adaptive)


def frame_qps(crf: Tensor, fps: float, plan: CodingPlan, costs: LookaheadCosts, offsets: QPOffsets, preset: Preset) -> Tensor:
    """QP of each frame of the plan ``[F]``, real-valued, from the CRF of each clip ``[B]``, on which it depends linearly."""
    if preset.tree:
        of_clips = frame_qp_mbtree(crf, fps, preset.qcomp)
        frame_qp = of_clips[listed(plan.clip, crf.device)]
        if any("I" in plan.types[first + 1 : last] for first, last in plan.spans):
            frame_qp = _with_later_intra(list(frame_qp.unbind()), plan, 6 * math.log2(preset.ip_ratio))
        return frame_qp
    parts = []
    for i, (first, last) in enumerate(plan.spans):
        types = "".join(plan.types[first:last])
        aq = None if offsets.adaptive is None else offsets.adaptive[first:last]
        parts += frame_qp_complexity(crf[i], fps, costs.inter[first:last], types, aq, plan.display[first] < 0, preset)
    return torch.stack(parts)


def macroblock_qp(frame_qp: Tensor, offsets: QPOffsets, offset: float) -> Tensor:
    """QPs of all macroblocks: whole numbers, with the gradient of the real-valued QPs.

    Args:
        frame_qp: of the plan's frames ``[F]``.
        offsets: of their macroblocks.
        offset: added to every QP.

    Returns:
        ``[F, H/16, W/16]``.
    """
    real = frame_qp[:, None, None] + offsets.total + offset
    whole = (real.detach() + 0.5).floor().clamp(0, 51)
    return replace_value(real, merge_qp_delta(whole, (frame_qp.detach() + 0.5).floor().clamp(0, 51)))
