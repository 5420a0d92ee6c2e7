"""Inferred motion vectors: direct macroblocks of B frames, skipped macroblocks of P frames (8.4.1.1, 8.4.1.2).

The standard proceeds macroblock by macroblock; here all are processed at once, with the neighbours' vectors from the search.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..blocks import repeat_blocks


def neighbours(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The 8x8 blocks A, B and C around each macroblock (8.4.1.3.2), D in place of a C beyond the right edge; 0 outside the frame.

    Shape: ``[N, H/8, W/8, ...] -> 3 x [N, H/16, W/16, ...]``.
    """
    p = F.pad(x, (*[0, 0] * (x.dim() - 3), 1, 1, 1, 0))
    corner, above = p[:, :-1:2, :-2:2], p[:, :-1:2]
    right = torch.cat([above[:, :, 3:-1:2], corner[:, :, -1:]], 2)
    return p[:, 1::2, :-2:2], above[:, :, 1:-1:2], right


def median(vectors: Sequence[Tensor], uses: Sequence[Tensor]) -> Tensor:
    """Median of three neighbours' vectors, or the only one that has the reference (8.4.1.3). Shape: ``3 x [..., 2], 3 x [...] -> [..., 2]``."""
    a, b, c = (v * u[..., None] for v, u in zip(vectors, uses))
    middle = torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
    alone = torch.stack([u.long() for u in uses]).sum(0) == 1
    return torch.where(alone[..., None], a + b + c, middle)


@torch.no_grad()
def spatial_direct(vectors: Sequence[Tensor], uses_list: Sequence[Tensor], still: Tensor) -> tuple[list[Tensor], Tensor]:
    """Spatial direct prediction of all macroblocks (8.4.1.2.2).

    Args:
        vectors: of both lists ``[N, H/8, W/8, 2]``. uses_list: blocks that use it, bool ``[N, H/8, W/8]``.
        still: blocks whose counterpart in the first future reference does not move (colZeroFlag), same shape.

    Returns:
        Vectors of both lists, shapes as given; direction ``[N, H/8, W/8]``: 0, 1 or 2 for past, future, both.
    """
    found, has = [], []
    for v, used in zip(vectors, uses_list):
        uses = neighbours(used)
        found.append(median(neighbours(v), uses))
        has.append(uses[0] | uses[1] | uses[2])
    neither = ~(has[0] | has[1])
    direction = torch.where(neither | (has[0] & has[1]), 2, torch.where(has[0], 0, 1))
    still = still | repeat_blocks(neither, 2)
    return [repeat_blocks(v, 2) * ~still[..., None] for v in found], repeat_blocks(direction, 2)


@torch.no_grad()
def skip_vectors(vectors: Tensor, first: Tensor) -> Tensor:
    """Vectors of skipped macroblocks of P frames (8.4.1.1).

    Args:
        vectors: ``[N, H/8, W/8, 2]``.
        first: blocks whose reference is the first one, bool ``[N, H/8, W/8]``.

    Returns:
        ``[N, H/16, W/16, 2]``.
    """
    uses, moves = neighbours(first), neighbours(vectors)
    inside = neighbours(torch.ones_like(first))
    zero = ~inside[0] | ~inside[1]
    for v, u in zip(moves[:2], uses):
        zero = zero | (u & (v == 0).all(-1))
    return median(moves, uses) * ~zero[..., None]


def still_blocks(motion: Tensor, first: tuple[int, int]) -> Tensor:
    """Blocks that do not move against the first reference of their frame: colZeroFlag for direct prediction from them (8.4.1.2.2).

    The corner of each macroblock stands for its 8x8 block (direct_8x8_inference_flag), which here is that block.

    Args:
        motion: :func:`~diffcodec.ops.deblock.reference.motion_info` of one frame ``[H/8, W/8, 6]``.
        first: first reference of the frame's lists, -1 for none.
    """
    past = motion[..., 2] >= 0
    vectors = torch.where(past[..., None], motion[..., :2], motion[..., 3:5])
    reference = torch.where(past, motion[..., 2] == first[0], (motion[..., 5] == first[1]) & (motion[..., 5] >= 0))
    return reference & (vectors.abs() <= 1).all(-1)
