"""From CRF to a quantiser for every macroblock, the way x264 gets there: frame QP, adaptive quantisation, macroblock tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import kernels
from ..constants import Constant, listed
from .lookahead import interior

QCOMP = 0.6


def adaptive_offset(luma: Tensor, chroma: Tensor, strength: float = 1.0) -> Tensor:
    """QP offset of each macroblock by its energy around the mean, luma and chroma together: flat blocks get a finer quantiser.

    Args:
        luma: ``[N, H, W]`` 0..255, multiples of 16.
        chroma: ``[N, 2, H/2, W/2]``.

    Returns:
        ``[N, H/16, W/16]``; 0 at an energy of 22 000.
    """
    energy = _energy(luma, 16) + _energy(chroma.flatten(0, 1), 8).unflatten(0, (-1, 2)).sum(1)
    return 1.0397 * strength * (torch.log2(energy.clamp(min=1)) - 14.427)


def _energy(plane: Tensor, k: int) -> Tensor:
    """Sum of squares around the mean of each block."""
    x = plane[:, None]
    mean = F.avg_pool2d(x, k)
    return ((F.avg_pool2d(x.square(), k) - mean.square()) * (k * k))[:, 0].clamp(min=0)


@dataclass(frozen=True)
class Seen:
    """What the lookahead knows of the frames to be coded.

    Attributes:
        intra: intra cost of each macroblock ``[F, H/16, W/16]``.
        inter: cost as the frame is coded: the intra cost where that is lower, and in I frames.
        frame, reference: which frame each use is of, and what it refers to.
        vectors: of each use, quarter pixels ``[U, H/16, W/16, 2]``. share: of each macroblock that comes from it ``[U, H/16, W/16]``.
    """

    intra: Tensor
    inter: Tensor
    frame: list[int]
    reference: list[int]
    vectors: Tensor
    share: Tensor


def tree_offset(seen: Seen, adaptive: Tensor, order: Sequence[Sequence[int]], types: Sequence[str], display: Sequence[int]) -> Tensor:
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
    own = seen.intra * torch.exp2(-adaptive / 6)
    passed_on = (1 - seen.inter / seen.intra).clamp(0, 1)
    received = torch.zeros_like(own)
    steps: list[list[int]] = []
    for step in reversed(list(order)):
        now = set(step)
        # an anchor is coded before the B frames of its own group are looked at
        counts = [i in now and (types[r] not in "IP" or display[i] >= display[r]) for i, r in zip(seen.frame, seen.reference)]
        steps.append([u for u, yes in enumerate(counts) if yes])
    uses = [u for step in steps for u in step]
    if uses:
        table = [uses, [seen.frame[u] for u in uses], [seen.reference[u] for u in uses], [types[seen.frame[u]] != "b" for u in uses]]
        use, frame, reference, refers = listed(table, own.device)
        places, weights = _covered(reference, seen.vectors[use], own.shape)
        weights = weights * (passed_on[frame] * seen.share[use])[:, None]  # [U, 4, bh, bw]
        at_once, further = weights * own[frame][:, None], weights * refers[:, None, None, None]
        flat, first = received.view(-1), 0
        for n in filter(None, map(len, steps)):
            some = slice(first, first + n)
            amount = torch.addcmul(at_once[some], further[some], received[frame[some], None])
            flat.index_add_(0, places[some].flatten(), amount.flatten())
            first += n
    return -5 * (1 - QCOMP) * torch.log2(1 + received / own.clamp(min=1e-6))


_CORNERS = Constant([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])  # (y, x) of the macroblocks below and to the right


def _covered(frame: Tensor, vectors: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """The four macroblocks of its reference that each macroblock's vector covers, and their shares.

    Args:
        frame: reference of each use ``[U]``. vectors: ``[U, bh, bw, 2]``.
        size: ``[F, bh, bw]``, of what is covered.

    Returns:
        Flat places and shares, ``[U, 4, bh, bw]``.
    """
    _, bh, bw = size
    device = vectors.device
    y = (torch.arange(bh, device=device)[:, None] + vectors[..., 0] / 64)[:, None]
    x = (torch.arange(bw, device=device) + vectors[..., 1] / 64)[:, None]
    corner = _CORNERS.like(x)[..., None, None]
    ys, xs = y.floor() + corner[0], x.floor() + corner[1]  # [U, 4, bh, bw]
    share = (1 - (y - ys).abs()) * (1 - (x - xs).abs()) * ((ys >= 0) & (ys < bh) & (xs >= 0) & (xs < bw))
    place = (frame[:, None, None, None] * bh + ys.clamp(0, bh - 1)) * bw + xs.clamp(0, bw - 1)
    return place.long(), share


def settled(qp: Tensor, frame: Tensor) -> Tensor:
    """A macroblock's QP that differs by exactly 1 from that of the macroblock before it becomes the same: naming it costs more than it brings.

    Args:
        qp: whole numbers ``[F, H/16, W/16]``.
        frame: QP of each frame ``[F]``, before the first macroblock.
    """
    if kernels.here(qp):
        return kernels.ops.settle(qp, frame)  # type: ignore[no-any-return]
    rows = qp.flatten(1).mT.cpu().numpy().copy()  # [M, F]: a walk through the macroblocks, all frames at once
    before = frame.cpu().numpy()
    for row in rows:
        row[abs(row - before) == 1] = before[abs(row - before) == 1]
        before = row
    return torch.from_numpy(rows).mT.to(qp).view(qp.shape)


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
    total = interior(cost).sum((1, 2))
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
