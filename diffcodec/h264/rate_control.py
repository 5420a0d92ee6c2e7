"""From CRF to a quantiser for every macroblock, the way x264 gets there: frame QP, adaptive quantisation, macroblock tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .inter import blocks, fetch_luma, quarter_pel, refine, vector_bits
from .intra import predict_small, satd

QCOMP = 0.6


def adaptive_offset(luma: Tensor, chroma: Tensor, strength: float = 1.0) -> Tensor:
    """QP offset of each macroblock by its energy around the mean, luma and chroma together: flat blocks get a finer quantiser.

    Args:
        luma: ``[N, H, W]`` 0..255, multiples of 16.
        chroma: ``[N, 2, H/2, W/2]``.

    Returns:
        ``[N, H/16, W/16]``; 0 at an energy of 22 000.
    """
    energy = _energy(luma, 16) + sum(_energy(c, 8) for c in chroma.unbind(1))
    return 1.0397 * strength * (torch.log2(energy.clamp(min=1)) - 14.427)


def _energy(plane: Tensor, k: int) -> Tensor:
    """Sum of squares around the mean of each block."""
    x = plane[:, None]
    mean = F.avg_pool2d(x, k)
    return ((F.avg_pool2d(x.square(), k) - mean.square()) * (k * k))[:, 0].clamp(min=0)


@dataclass(frozen=True)
class Lookahead:
    """What x264's lookahead knows of some frames, at half resolution.

    Attributes:
        intra: intra cost of each macroblock ``[F, H/16, W/16]``.
        inter: inter cost, the intra cost where it is lower (I frames: all).
        uses: for every frame, its references as (frame, vectors ``[H/16, W/16, 2]`` in quarter pixels at full resolution, weight).
    """

    intra: Tensor
    inter: Tensor
    uses: list[list[tuple[int, Tensor, float]]]


def look(
    luma: Tensor, pairs: Sequence[tuple[int, int]], vectors: Tensor, references: Sequence[Sequence[int]], quick: bool = False
) -> Lookahead:
    """Costs of coding frames.

    Args:
        luma: source ``[F, H, W]``.
        pairs: (frame, reference) of every search that was made.
        vectors: its result for each, ``[pairs, H/16, W/16, 2]``, quarter pixels at full resolution.
        references: which pairs each frame may use: none (I), one (P) or two (B).
        quick: costs are SAD, intra prediction has DC, horizontal and vertical only (x264's subme 0 and 1).
    """

    def distance(difference: Tensor) -> Tensor:
        return difference.abs().sum(-1) if quick else satd(difference, 8)

    small = F.avg_pool2d(luma[:, None], 2)[:, 0]
    n, h, w = small.shape
    target = blocks(small, 8)  # [F, bh, bw, 64]
    p, usable = predict_small(small, 8)  # [F, B, 9, 64]
    assert usable is not None
    if quick:
        p, usable = p[:, :, :3], usable[:, :3]
    cost = distance(target.flatten(1, 2)[:, :, None] - p).masked_fill(~usable, math.inf)
    intra = cost.min(-1).values.view(n, h // 8, w // 8) + 9
    inter = intra.clone()
    uses: list[list[tuple[int, Tensor, float]]] = [[] for _ in range(n)]
    if pairs:
        phases = quarter_pel(small)
        reference = torch.tensor([r for _, r in pairs], device=luma.device)[:, None, None]
        current = torch.tensor([i for i, _ in pairs], device=luma.device)
        zero = torch.zeros_like(vectors)
        start = [zero, torch.div(vectors, 2, rounding_mode="floor")]
        lam = torch.ones(vectors.shape[:3], device=luma.device)
        half, _ = refine(phases, reference, target[current], start, zero, lam, 8, 2 if quick else 4, not quick)
        fetched = fetch_luma(phases, reference, half, 8)  # [pairs, bh, bw, 64]
        vectors = 2 * half
        for i, mine in enumerate(references):
            if not mine:
                continue
            predictions = [fetched[j] for j in mine]
            moves = [vectors[j] for j in mine]
            options = [distance(target[i] - p) + _motion_bits(v) for p, v in zip(predictions, moves)]
            if len(mine) == 2:
                both = distance(target[i] - (predictions[0] + predictions[1]) / 2) + _motion_bits(moves[0]) + _motion_bits(moves[1])
                options.append(both)
            best = torch.stack(options)
            value, which = best.min(0)
            inter[i] = torch.minimum(value, intra[i]) if len(mine) == 1 else value
            for k, j in enumerate(mine):
                share = (which == k).to(value)
                if len(mine) == 2:
                    share = share + 0.5 * (which == 2).to(value)
                uses[i].append((pairs[j][1], torch.cat([moves[k].to(value), share[..., None]], -1), 1.0))
    return Lookahead(intra, inter, uses)


def _motion_bits(v: Tensor) -> Tensor:
    """Bits of a vector against zero, and what x264 adds to any inter block."""
    moved = (v != 0).any(-1)
    return 4 + torch.where(moved, 5 + 0.5 * vector_bits(v, torch.zeros_like(v)), 0.0)


def tree_offset(seen: Lookahead, adaptive: Tensor, order: Sequence[Sequence[int]], types: Sequence[str], display: Sequence[int]) -> Tensor:
    """QP offset of macroblocks by how much of later frames refers to them (x264's mb-tree).

    Args:
        seen: costs.
        adaptive: offset of adaptive quantisation ``[F, bh, bw]``.
        order: coding order, steps of frames.
        types: letter of each frame.
        display: place of each frame in time; frames of different clips never refer to each other.

    Returns:
        ``[F, bh, bw]``, 0 or below.
    """
    weight = torch.exp2(-adaptive / 6)
    own = seen.intra * weight
    received = torch.zeros_like(own)
    for step in reversed(list(order)):
        for i in step:
            if not seen.uses[i]:
                continue
            arrived = received[i] if types[i] != "b" else torch.zeros_like(received[i])
            amount = (arrived + own[i]) * (1 - seen.inter[i] / seen.intra[i]).clamp(0, 1)
            for reference, use, _ in seen.uses[i]:
                if types[reference] in "IP" and display[i] < display[reference]:
                    continue  # an anchor is coded before the B frames of its own group are looked at
                received[reference] += _splat(amount * use[..., 2], use[..., :2])
    return -5 * (1 - QCOMP) * torch.log2(1 + received / own.clamp(min=1e-6))


def _splat(amount: Tensor, vectors: Tensor) -> Tensor:
    """Spread what each macroblock passes on over the four macroblocks that its vector covers. Shape: ``[bh, bw], [bh, bw, 2]`` -> ``[bh, bw]``."""
    bh, bw = amount.shape
    y = torch.arange(bh, device=amount.device)[:, None] + vectors[..., 0] / 64
    x = torch.arange(bw, device=amount.device) + vectors[..., 1] / 64
    y0, x0 = y.floor(), x.floor()
    out = torch.zeros(bh * bw, dtype=amount.dtype, device=amount.device)
    for dy in (0, 1):
        for dx in (0, 1):
            share = (1 - (y - y0 - dy).abs()) * (1 - (x - x0 - dx).abs())
            ys, xs = y0 + dy, x0 + dx
            inside = (ys >= 0) & (ys < bh) & (xs >= 0) & (xs < bw)
            place = (ys.clamp(0, bh - 1) * bw + xs.clamp(0, bw - 1)).long()
            out.index_add_(0, place.flatten(), (amount * share * inside).flatten())
    return out.view(bh, bw)


def with_tree(crf: Tensor, fps: float) -> Tensor:
    """Frame QP before the tree's offsets, for every frame type."""
    duration = min(max(1 / fps, 0.01), 1.0)
    return crf + 13.5 * (1 - QCOMP) + 6 * (1 - QCOMP) * math.log2(1 / (25 * duration))


def without_tree(crf: Tensor, fps: float, complexity: Tensor, types: str, adaptive: Tensor | None, goes_on: bool = False) -> list[Tensor]:
    """Frame QPs where complexity decides (ultrafast, superfast).

    Args:
        crf: a scalar.
        complexity: lookahead cost of each macroblock ``[T, bh, bw]`` (I frames: intra), display order.
        types: letters in display order.
        adaptive: offset of adaptive quantisation, or None where it is off.
        goes_on: the first frame stands for an anchor in the middle of a stream: it gets the QP of a P frame like the next one.

    Returns:
        A scalar for each frame.
    """
    duration = min(max(1 / fps, 0.01), 1.0)
    bframes = any(c in "Bb" for c in types)
    t, bh, bw = complexity.shape
    cost = complexity if adaptive is None else complexity * torch.exp2(-adaptive / 6)
    inner = cost[:, 1:-1, 1:-1] if bh > 2 and bw > 2 else cost
    total = inner.sum((1, 2))
    scale = (120 if bframes else 80) * bh * bw
    out: list[Tensor] = [crf] * t
    s = w = None
    anchors = [i for i, c in enumerate(types) if c in "IP"]
    if goes_on and len(anchors) > 1:
        total = torch.cat([total[anchors[1], None], total[1:]])
    for i in anchors:
        s = total[i] if s is None else s / 2 + total[i]
        w = 1.0 if w is None else w / 2 + 1
        if types[i] == "I" and not (goes_on and i == 0):
            out[i] = crf - 2.91
        else:
            out[i] = crf + 2.4 * torch.log2((s / w / scale).clamp(min=1e-3)) + 2.4 * math.log2(1 / (25 * duration))
    for kinds, extra in (("B", 1.14), ("b", 2.27)):
        for i in [i for i, c in enumerate(types) if c in kinds]:
            before = max(j for j, c in enumerate(types) if j < i and (c in "IP" or (kinds == "b" and c == "B")))
            after = min(j for j, c in enumerate(types) if j > i and (c in "IP" or (kinds == "b" and c == "B")))
            qs = [out[j] - (1.14 if types[j] == "B" else 0) for j in (before, after)]
            if types[before] == "I" != types[after]:
                q = qs[1]
            elif types[after] == "I" != types[before]:
                q = qs[0]
            else:
                q = (qs[0] * (after - i) + qs[1] * (i - before)) / (after - before)
            out[i] = q + extra
    return out
