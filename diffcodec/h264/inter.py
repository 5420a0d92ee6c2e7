"""Decisions about inter macroblocks: direct or not, skipped, which transform (x264's analyse.c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..blocks import any_of_blocks, repeat_blocks
from ..checks import replace_value
from ..constants import number
from ..ops.intra.reference import samples_of
from ..ops.residual.reference import choose_coding, choose_transform_8x8, code_chroma, code_luma
from .direct import skip_vectors, spatial_direct
from .dpb import DecodedPictureBuffer
from .motion import Motion, motion_bits
from .plan import FrameGroup
from .presets import Constants, Preset, quantiser

# Bits of a macroblock's type beside its vectors (x264's i_mb_b_cost_table): direct; from one list; from both; of P frames
DIRECT_BITS, ONE_LIST_BITS, BOTH_LISTS_BITS, P_BITS = 1.0, 3.0, 5.0, 1.0
SKIP_SLOPE = 0.3  # a skipped macroblock passes this share of a coded one's gradient
NEAR = 1  # quarter pixels by which the vector of a skipped macroblock may differ from the skip vector


class InterPrediction(NamedTuple):
    """Inter prediction of frames, and the decisions about their macroblocks.

    Attributes:
        luma, chroma: predictions ``[N, H, W]``, ``[N, 2, H/2, W/2]``.
        motion: where they come from.
        transform_8x8: macroblocks with the 8x8 transform, bool ``[N, H/16, W/16]``.
        skipped, direct: macroblocks without residual, and without vectors of their own; None if there are none.
    """

    luma: Tensor
    chroma: Tensor
    motion: Motion
    transform_8x8: Tensor
    skipped: Tensor | None
    direct: Tensor | None


def decide_inter(
    group: FrameGroup, dpb: DecodedPictureBuffer, motion: Motion, preset: Preset, constants: Constants, given: bool
) -> InterPrediction:
    """Decide about a group's macroblocks as if all were inter.

    Args:
        group, dpb, preset, constants: the frames, their references, and how they are coded.
        motion: motion of macroblocks that are not direct.
        given: whether the motion is that of a real encode, which includes direct macroblocks.
    """
    by_cost = preset.rate_distortion(group.type)
    direct = None
    if group.type == "B" and preset.direct and motion.direction is not None and (by_cost or not given):
        vectors, direction = spatial_direct(motion.vectors, motion.uses_list, dpb.still(group.frames))
        direct = motion._replace(vectors=vectors, direction=direction, used=None)
    if direct is not None and not given:
        with torch.no_grad():
            predicted = dpb.compensate(motion.lists, motion.vectors, motion.direction)
    else:
        predicted = dpb.compensate(motion.lists, motion.vectors, motion.direction)
    if not by_cost:
        if direct is None:
            eight = choose_transform_8x8(group.luma.detach(), predicted[0].detach(), preset.satd, preset.transform8)[1]
            return InterPrediction(*predicted, motion, eight, None, None)
        return _by_satd(group, dpb, motion, direct, predicted, preset, constants)
    candidates, side_bits, may_skip = [predicted], [_side_bits(motion, group.lam)], None
    if group.type == "P":
        near = (skip_vectors(motion.vectors[0], motion.lists[0].first) - motion.vectors[0][:, ::2, ::2]).abs().sum(-1) <= NEAR
        may_skip = near & _all(motion.lists[0].first) & _all(repeat_blocks(motion.vectors[0][:, ::2, ::2], 2) == motion.vectors[0])
    elif direct is not None and given:  # a macroblock with the vectors of direct prediction is direct
        may_skip = _alike(direct, motion)
        side_bits[0] = torch.where(may_skip, number(DIRECT_BITS, side_bits[0]), side_bits[0])
    elif direct is not None:
        with torch.no_grad():
            candidates.append(dpb.compensate(direct.lists, direct.vectors, direct.direction))
        side_bits.append(torch.full_like(group.lam, DIRECT_BITS))
        may_skip = torch.ones_like(group.lam, dtype=torch.bool)
    luma, chroma = ([c[i].detach() for c in candidates] for i in (0, 1))
    best, skipped, eight = choose_coding(
        group.luma.detach(), group.chroma.detach(), luma, chroma, side_bits, may_skip, group.qp.detach(), group.qpc.detach(), group.lam,
        quantiser(preset, constants, decisions=True).numbers(), preset.psy_rd, preset.transform8,
    )  # fmt: skip
    if len(candidates) == 1:
        return InterPrediction(*predicted, motion, eight, skipped, may_skip if direct is not None else None)
    assert direct is not None
    return InterPrediction(*_merged(dpb, best == 1, direct, candidates[1], motion, predicted), eight, skipped, best == 1)


def _by_satd(
    group: FrameGroup,
    dpb: DecodedPictureBuffer,
    motion: Motion,
    direct: Motion,
    predicted: tuple[Tensor, Tensor],
    preset: Preset,
    constants: Constants,
) -> InterPrediction:
    """Macroblocks are direct where that costs no more, and skipped where quantisation with a dead zone leaves no levels."""
    luma, lam = group.luma.detach(), group.lam
    with torch.no_grad():
        by_neighbours = dpb.compensate(direct.lists, direct.vectors, direct.direction)
    (own, eight), (other, other_eight) = (
        choose_transform_8x8(luma, p.detach(), preset.satd, preset.transform8) for p in (predicted[0], by_neighbours[0])
    )
    is_direct = other + DIRECT_BITS * lam <= own + _side_bits(motion, lam) * lam
    skipped = is_direct & ~_leaves_levels(group, by_neighbours, preset, constants) if preset.trellis else None
    merged = _merged(dpb, is_direct, direct, by_neighbours, motion, predicted)
    return InterPrediction(*merged, torch.where(is_direct, other_eight, eight), skipped, is_direct)


def _leaves_levels(group: FrameGroup, predicted: Sequence[Tensor], preset: Preset, constants: Constants) -> Tensor:
    """Macroblocks in which a dead zone leaves levels of the 4x4 transform or of chroma (x264's macroblock_probe_skip)."""
    no = torch.zeros_like(group.lam, dtype=torch.bool)
    quant = quantiser(preset, constants, decisions=True).numbers()
    flags = code_luma(group.luma.detach(), predicted[0], group.qp.detach(), no, no, no, quant, False)[3]
    levels = code_chroma(group.chroma.detach(), predicted[1], group.qpc.detach(), no, quant, True)[1]
    return any_of_blocks(flags, 4) | (levels != 0).any(-1).any(1)


def _merged(
    dpb: DecodedPictureBuffer, choice: Tensor, a: Motion, of_a: Sequence[Tensor], b: Motion, of_b: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Motion]:
    """Prediction and motion ``a`` where chosen, else ``b``, with gradient."""
    assert a.direction is not None
    assert b.direction is not None
    of_blocks = repeat_blocks(choice, 2)
    vectors = [torch.where(of_blocks[..., None], v, w) for v, w in zip(a.vectors, b.vectors)]
    motion = b._replace(vectors=vectors, direction=torch.where(of_blocks, a.direction, b.direction))
    if torch.is_grad_enabled() and dpb.requires_grad:
        return *dpb.compensate(motion.lists, motion.vectors, motion.direction), motion
    luma, chroma = (torch.where(samples_of(choice, x), x, y) for x, y in zip(of_a, of_b))
    return luma, chroma, motion


def _side_bits(motion: Motion, lam: Tensor) -> Tensor:
    """Bits of types and vectors of macroblocks that are not direct ``[N, H/16, W/16]``."""
    bits, _ = motion_bits(motion.vectors, motion.uses_list, lam)
    if motion.direction is None:
        return bits + P_BITS
    return bits + torch.where(motion.direction[:, ::2, ::2] == 2, number(BOTH_LISTS_BITS, bits), number(ONE_LIST_BITS, bits))


def _alike(a: Motion, b: Motion) -> Tensor:
    """Macroblocks with the same motion in both ``[N, H/16, W/16]``."""
    assert a.direction is not None
    assert b.direction is not None
    same = a.direction == b.direction
    for v, w, used in zip(a.vectors, b.vectors, b.uses_list):
        same = same & ((v == w).all(-1) | ~used)
    return _all(same)


def _all(flags: Tensor) -> Tensor:
    """Whether a flag is set in all blocks of a macroblock. Shape: ``[N, H/8, W/8, ...] -> [N, H/16, W/16]``."""
    flags = flags if flags.dim() == 3 else flags.flatten(3).all(3)
    return ~any_of_blocks(~flags, 2)


def without_residual(group: FrameGroup, luma: Tensor, chroma: Tensor, skipped: Tensor) -> tuple[Tensor, Tensor]:
    """The group's source, replaced by the prediction in skipped macroblocks, so that their residual is 0.

    A share of the gradient still goes to the source, as a stronger signal would cause the macroblock to be coded.
    """
    pairs = ((luma, group.luma, repeat_blocks(skipped, 16)), (chroma, group.chroma, repeat_blocks(skipped, 8)[:, None]))
    y, c = (torch.where(where, replace_value(torch.lerp(p, s, SKIP_SLOPE), p.detach()), s) for p, s, where in pairs)
    return y, c
