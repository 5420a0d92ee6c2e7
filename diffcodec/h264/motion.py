"""Motion of P and B frames, searched for or given by a guide, and the blocks that it predicts (x264's me.c and mvpred.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..blocks import flat_blocks, sum_macroblocks
from ..constants import listed
from ..ops.common.distortion import satd
from ..ops.interpolate.reference import bipred, fetch_luma
from ..ops.motion_search.reference import choose_bipred, median_predictor, mvd_bits, search_partitions
from .dpb import DecodedPictureBuffer
from .lookahead import LookaheadCosts
from .plan import CodingPlan, FrameGroup
from .presets import Preset

SPLIT_BITS = 4  # of an 8x8 block whose vector is not its macroblock's


class InterPrediction(NamedTuple):
    """What references predict.

    Attributes:
        luma, chroma: of 8x8 blocks ``[N, H/8, W/8, 64]``, ``[N, H/8, W/8, 2, 16]``.
        vectors, uses_list, ref_id: of each list in use: vectors ``[N, H/8, W/8, 2]``, which blocks use it, and the reference ``[N, H/8, W/8]``.
        intra: macroblocks that nothing predicts ``[N, H/16, W/16]``.
    """

    luma: Tensor
    chroma: Tensor
    vectors: list[Tensor]
    uses_list: list[Tensor]
    ref_id: list[Tensor]
    intra: Tensor


@dataclass(frozen=True)
class SearchedMotion:
    """Motion that is searched for, from where the lookahead found it.

    Attributes:
        plan, costs: the frames, and what the lookahead knows of them. preset: how the search goes.
    """

    plan: CodingPlan
    costs: LookaheadCosts
    preset: Preset

    def predict(self, group: FrameGroup, dpb: DecodedPictureBuffer) -> InterPrediction:
        """Search, and predict."""
        n, luma, lam = len(group.frames), group.luma.detach(), group.lam
        planes, chromas, vectors, ref_id = [], [], [], []
        for future in (False, True)[: 1 + (group.type == "B")]:
            candidates, most = _candidates(self.plan, group.frames, future)
            best, coarse = self.costs.cheapest(group.frames, candidates)
            slot, refs = dpb.references(candidates, most * torch.arange(n, device=luma.device)[:, None, None] + best)
            mv = search_partitions(luma, dpb.phases, slot, coarse, lam, self.preset.subpel, self.preset.satd, self.preset.partitions)
            y, c = dpb.fetch(refs, mv)
            planes.append(y)
            chromas.append(c)
            vectors.append(mv)
            ref_id.append(refs.ref_id)
        nothing = torch.zeros_like(lam, dtype=torch.bool)
        if group.type == "P":
            return InterPrediction(planes[0], chromas[0], vectors, [torch.ones_like(ref_id[0], dtype=torch.bool)], ref_id, nothing)
        direction = choose_bipred(luma, planes[0].detach(), planes[1].detach(), vectors[0], vectors[1], lam, self.preset.satd)
        y, c = bipred(planes[0], planes[1], direction), bipred(chromas[0], chromas[1], direction)
        return InterPrediction(y, c, vectors, [direction != 1, direction != 0], ref_id, nothing)


@dataclass(frozen=True)
class GuideMotion:
    """Motion that a guide gives (see :class:`~diffcodec.h264.Guide`).

    Attributes:
        plan: the frames.
        vectors, used: of the plan's frames ``[F, 2, H/8, W/8, 2]``, ``[F, 2, H/8, W/8]``.
    """

    plan: CodingPlan
    vectors: Tensor
    used: Tensor

    def predict(self, group: FrameGroup, dpb: DecodedPictureBuffer) -> InterPrediction:
        """Predict. Streams do not export which reference is meant: the best one is taken."""
        n, device = len(group.frames), group.luma.device
        index = listed(group.frames, device)
        given, used = self.vectors[index], self.used[index]
        target = flat_blocks(group.luma, 8).detach()
        planes, chromas, ref_id = [], [], []
        for j in range(2):
            candidates, most = _candidates(self.plan, group.frames, bool(j))
            if not most:
                continue
            mv = given[:, j]
            first = most * torch.arange(n, device=device)[:, None, None]
            _, every = dpb.references(candidates, torch.cat([(first + k).expand_as(group.qp) for k in range(most)]))
            with torch.no_grad():
                blocks = fetch_luma(dpb.phases, every.slot.unflatten(0, (most, n)), mv.expand(most, *mv.shape), 8)
                choice = first + sum_macroblocks(satd(target - blocks, 8)).argmin(0)
            _, refs = dpb.references(candidates, choice)
            y, c = dpb.fetch(refs, mv)
            planes.append(y)
            chromas.append(c)
            ref_id.append(refs.ref_id)
        lists = len(planes)
        uses_list = [used[:, j] for j in range(lists)]
        y, c = planes[0], chromas[0]
        if lists == 2:
            direction = uses_list[1].long() * (1 + uses_list[0].long())
            y, c = bipred(planes[0], planes[1], direction), bipred(chromas[0], chromas[1], direction)
        intra = ~used.any(1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).any(4).any(2)
        return InterPrediction(y, c, [given[:, j] for j in range(lists)], uses_list, ref_id, intra)


def _candidates(plan: CodingPlan, frames: Sequence[int], future: bool) -> tuple[list[int], int]:
    """References of a list, frame by frame and as many for each, the last one repeated; and how many that is."""
    options = [plan.future[i] if future else plan.past[i] for i in frames]
    most = max(map(len, options))
    return [o[min(k, len(o) - 1)] for o in options for k in range(most)], most


@torch.no_grad()
def motion_bits(vectors: Sequence[Tensor], uses_list: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Bits of each macroblock's vectors, and whether it moves otherwise than a skipped one would.

    Args:
        vectors: of each list ``[N, H/8, W/8, 2]``. uses_list: blocks that use it, bool ``[N, H/8, W/8]``.
        like: anything of shape ``[N, H/16, W/16]``.
    """
    total, moved = torch.zeros_like(like), torch.zeros_like(like, dtype=torch.bool)
    for v, used in zip(vectors, uses_list):
        own = v[:, ::2, ::2]
        predictor = median_predictor(own)
        four = v.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3)  # [N, bh, bw, 2, 2, 2]
        split = (four != own[:, :, :, None, None]).any(-1).flatten(3)  # [N, bh, bw, 4]
        active = used[:, ::2, ::2]
        total = total + (mvd_bits(own, predictor) + SPLIT_BITS * split.sum(-1)) * active
        moved = moved | (((own != predictor).any(-1) | split.any(-1)) & active)
    return total, moved
