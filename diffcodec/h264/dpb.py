"""The decoded picture buffer (C.4; x264's frame.c): decoded frames, and quarter-pel planes of the reference frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import backend
from ..blocks import repeat_blocks, stacked
from ..constants import listed
from ..ops.interpolate.reference import allocate_phases, compensate_motion, interpolate_planes
from .direct import still_blocks
from .plan import CodingPlan


class BlockReferences(NamedTuple):
    """The reference of each 8x8 block.

    Attributes:
        frames: the references, as indices into the plan.
        slot: index of the quarter-pel planes of each block's reference, ``[N, H/8, W/8]``.
        ref_idx: its index in ``frames``, same shape.
        ref_id: its index in the plan, same shape.
        first: whether it is the first of its list, bool, same shape.
    """

    frames: list[int]
    slot: Tensor
    ref_idx: Tensor
    ref_id: Tensor
    first: Tensor


class DecodedPictureBuffer:
    """Decoded frames of a batch.

    Args:
        plan: what is coded.
        like: source luma ``[S, H, W]``.
        whole: whether all vectors are whole-pel.

    Attributes:
        luma, chroma: decoded frames ``[H, W]``, ``[2, H/2, W/2]`` by number in the plan, None before they are coded.
        phases: quarter-pel planes of the references ``[R, 16, Hp, Wp]``, made on first use; a single phase if vectors
            are whole-pel.
    """

    def __init__(self, plan: CodingPlan, like: Tensor, whole: bool = False) -> None:
        self.luma: list[Any] = [None] * len(plan.types)
        self.chroma: list[Any] = [None] * len(plan.types)
        self._plan, self._shown = plan, plan.shown
        self._still: list[Any] = [None] * len(plan.types)
        self._slots = {r: k for k, r in enumerate(plan.references())}
        whole = whole and backend.active(like) != "triton"  # kernels read sixteen
        self.phases = allocate_phases(like[:1].expand(len(self._slots), -1, -1), 1 if whole else 16)
        self._interpolated: set[int] = set()

    @property
    def requires_grad(self) -> bool:
        """Whether anything that has been coded carries a gradient."""
        return any(x is not None and x.requires_grad for planes in (self.luma, self.chroma) for x in planes)

    def store(self, frames: Sequence[int], luma: Tensor, chroma: Tensor) -> None:
        """Keep decoded frames ``[N, H, W]``, ``[N, 2, H/2, W/2]``."""
        for i, y, c in zip(frames, luma.unbind(), chroma.unbind()):
            self.luma[i], self.chroma[i] = y, c

    def store_motion(self, frames: Sequence[int], motion: Tensor, intra: Tensor) -> None:
        """Keep which blocks do not move, for direct macroblocks of B frames.

        Args:
            frames: their numbers.
            motion: :func:`~diffcodec.ops.deblock.reference.motion_info` ``[N, H/8, W/8, 6]``. intra: macroblocks ``[N, H/16, W/16]``.
        """
        inter = ~repeat_blocks(intra, 2)
        for k, i in enumerate(frames):
            first = [refs[i][0] if refs[i] else -1 for refs in (self._plan.past, self._plan.future)]
            self._still[i] = still_blocks(motion[k], (first[0], first[1])) & inter[k]

    def still(self, frames: Sequence[int]) -> Tensor:
        """Blocks of B frames whose counterpart in their first future reference does not move, bool ``[N, H/8, W/8]``."""
        return torch.stack([self._still[self._plan.future[i][0]] for i in frames])

    def references(self, candidates: Sequence[int], most: int, choice: Tensor) -> tuple[Tensor, BlockReferences]:
        """Look up references, and make their quarter-pel planes if needed.

        Args:
            candidates: reference frames, ``most`` for each frame that is coded.
            most: number of candidates per frame.
            choice: index into ``candidates`` of each macroblock's reference ``[N, H/16, W/16]``.

        Returns:
            Slot of each macroblock's reference ``[N, H/16, W/16]``, and the references of 8x8 blocks.
        """
        own = list(dict.fromkeys(candidates))
        new = [i for i in own if i not in self._interpolated]
        if new:
            with torch.no_grad():
                interpolate_planes(self.phases, listed([self._slots[i] for i in new], choice.device), stacked([self.luma[i] for i in new]))
            self._interpolated.update(new)
        firsts = [k % most == 0 for k in range(len(candidates))]
        table = listed([[self._slots[i] for i in candidates], [own.index(i) for i in candidates], list(candidates), firsts], choice.device)
        of_macroblocks = table[:, choice]  # [4, N, H/16, W/16]
        of_blocks = repeat_blocks(of_macroblocks.flatten(0, 1), 2).unflatten(0, of_macroblocks.shape[:2])
        slot, ref_idx, ref_id, first = of_blocks
        return of_macroblocks[0], BlockReferences(own, slot, ref_idx, ref_id, first > 0)

    def compensate(self, lists: Sequence[BlockReferences], vectors: list[Tensor], direction: Tensor | None) -> tuple[Tensor, Tensor]:
        """Prediction by motion from one list of references or from both, luma ``[N, H, W]`` and chroma ``[N, 2, H/2, W/2]``.

        Args:
            lists: the references. vectors: from each ``[N, H/8, W/8, 2]``.
            direction: which of two lists each block takes, as for :func:`~diffcodec.ops.interpolate.reference.bipred`.
        """
        frames = [i for refs in lists for i in refs.frames]
        first = [0, len(lists[0].frames)]
        luma, chroma = (stacked([planes[i] for i in frames]) for planes in (self.luma, self.chroma))
        ref_idx = [refs.ref_idx + k if k else refs.ref_idx for refs, k in zip(lists, first)]
        return compensate_motion(luma, chroma, self.phases, [refs.slot for refs in lists], ref_idx, vectors, direction)

    def output(self) -> tuple[Tensor, Tensor]:
        """The clips' frames in display order, luma ``[S, H, W]`` and chroma ``[S, 2, H/2, W/2]``."""
        return torch.stack([self.luma[i] for i in self._shown]), torch.stack([self.chroma[i] for i in self._shown])
