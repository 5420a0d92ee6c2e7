"""Motion of P and B frames, searched for or given by a guide (x264's me.c and mvpred.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..blocks import any_of_blocks
from ..constants import listed
from ..ops.motion_search.reference import choose_bipred, choose_reference, median_predictor, mvd_bits, search_partitions
from .dpb import BlockReferences, DecodedPictureBuffer
from .lookahead import LookaheadCosts
from .plan import CodingPlan, FrameGroup
from .presets import Preset

SPLIT_BITS = 4  # of an 8x8 block whose vector is not its macroblock's


class Motion(NamedTuple):
    """Motion of a group of frames.

    Attributes:
        lists: references of list 0 and, in B frames, list 1.
        vectors: vectors of each list ``[N, H/8, W/8, 2]``.
        direction: list of each 8x8 block, 0, 1 or 2 for both, ``[N, H/8, W/8]``; None if there is one list.
        intra: macroblocks without inter prediction ``[N, H/16, W/16]``.
        used: of each list the blocks that use it; None if ``direction`` determines them. Blocks of intra macroblocks use none.
    """

    lists: list[BlockReferences]
    vectors: list[Tensor]
    direction: Tensor | None
    intra: Tensor
    used: list[Tensor] | None = None

    @property
    def uses_list(self) -> list[Tensor]:
        """Of each list, the blocks that use it, bool ``[N, H/8, W/8]``."""
        if self.used is not None:
            return self.used
        if self.direction is None:
            return [torch.ones_like(self.lists[0].ref_id, dtype=torch.bool)]
        return [self.direction != 1, self.direction != 0]


@dataclass(frozen=True)
class SearchedMotion:
    """Motion from a search that starts at the lookahead's vectors.

    Attributes:
        plan: the frames.
        costs: the lookahead's costs and vectors.
        preset: settings of the search.
    """

    plan: CodingPlan
    costs: LookaheadCosts
    preset: Preset

    def find(self, group: FrameGroup, dpb: DecodedPictureBuffer) -> Motion:
        """Search."""
        n, luma, lam = len(group.frames), group.luma.detach(), group.lam
        lists, vectors = [], []
        for future in (False, True)[: 1 + (group.type == "B")]:
            candidates, most = _candidates(self.plan, group.frames, future)
            best, coarse = self.costs.cheapest(group.frames, candidates)
            slot, refs = dpb.references(candidates, most, most * torch.arange(n, device=luma.device)[:, None, None] + best)
            lists.append(refs)
            vectors.append(
                search_partitions(luma, dpb.phases, slot, coarse, lam, self.preset.subpel, self.preset.satd, self.preset.partitions)
            )
        direction = None
        if group.type == "B":
            direction = choose_bipred(luma, dpb.phases, [r.slot for r in lists], vectors, lam, self.preset.satd)
        return Motion(lists, vectors, direction, torch.zeros_like(lam, dtype=torch.bool))


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

    def find(self, group: FrameGroup, dpb: DecodedPictureBuffer) -> Motion:
        """Reference indices are not exported from streams: the best reference is taken."""
        n, device = len(group.frames), group.luma.device
        index = listed(group.frames, device)
        given, used = self.vectors[index], self.used[index]
        lists, vectors = [], []
        for j in range(2):
            candidates, most = _candidates(self.plan, group.frames, bool(j))
            if not most:
                continue
            first = most * torch.arange(n, device=device)[:, None, None]
            choice = first.expand_as(group.qp)
            if most > 1:
                slots, _ = dpb.references(candidates, most, torch.cat([choice + k for k in range(most)]))
                choice = first + choose_reference(group.luma.detach(), dpb.phases, slots.unflatten(0, (most, n)), given[:, j].contiguous())
            lists.append(dpb.references(candidates, most, choice)[1])
            vectors.append(given[:, j].contiguous())
        direction = used[:, 1].long() * (1 + used[:, 0].long()) if len(lists) == 2 else None
        intra = ~any_of_blocks(used.any(1), 2)
        return Motion(lists, vectors, direction, intra, [used[:, j] for j in range(len(lists))])


def _candidates(plan: CodingPlan, frames: Sequence[int], future: bool) -> tuple[list[int], int]:
    """References of a list, frame by frame and as many for each, the last one repeated; and how many that is."""
    options = [plan.future[i] if future else plan.past[i] for i in frames]
    most = max(map(len, options))
    return [o[min(k, len(o) - 1)] for o in options for k in range(most)], most


@torch.no_grad()
def motion_bits(vectors: Sequence[Tensor], uses_list: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Bits of each macroblock's vectors, and whether its motion differs from that of a skipped one.

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
