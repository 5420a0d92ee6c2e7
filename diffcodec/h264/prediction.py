"""Prediction of a group of frames: intra frames from a reconstruction of themselves, others from the decoded picture buffer (x264's analyse.c)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import backend
from ..checks import replace_value
from ..ops.deblock.reference import motion_info
from ..ops.intra.reference import BITS_16X16, cheapest_mode, choose_mb_type, choose_modes, merge_intra, predict_intra, refine_modes
from ..ops.residual.reference import choose_transform_8x8, code_chroma, code_luma
from .dpb import DecodedPictureBuffer
from .inter import DIRECT_BITS, decide_inter
from .motion import GuideMotion, SearchedMotion, motion_bits
from .plan import FrameGroup
from .presets import Constants, Preset, quantiser

PASSES = 3  # over an intra frame: each predicts from the reconstruction of the pass before


@dataclass(frozen=True)
class Prediction:
    """Prediction and decisions of frames before their residual is coded.

    Attributes:
        luma, chroma: predictions ``[N, H, W]``, ``[N, 2, H/2, W/2]``.
        intra, transform_8x8, intra16x16: macroblocks that are intra, take the 8x8 transform, are intra 16x16; bool ``[N, H/16, W/16]``.
        motion: vectors and references of 8x8 blocks in both lists ``[N, H/8, W/8, 6]``.
        side_bits: bits of modes and vectors ``[N, H/16, W/16]``.
        not_skipped: macroblocks that are not skipped even without residual, bool.
        skipped: macroblocks that are skipped, bool; None for none.
    """

    luma: Tensor
    chroma: Tensor
    intra: Tensor
    transform_8x8: Tensor
    intra16x16: Tensor
    motion: Tensor
    side_bits: Tensor
    not_skipped: Tensor
    skipped: Tensor | None


@dataclass(frozen=True)
class IntraModes:
    """Intra modes of luma of all macroblocks.

    Attributes:
        mb_type: 0: 16x16, 1: 8x8, 2: 4x4, ``[N, H/16, W/16]``.
        cost: SATD + lambda bits of that type, same shape.
        bits: of its modes, same shape.
        modes: of 16x16, 8x8 and 4x4 blocks as if all macroblocks were of that type, ``[N, H/k * W/k]``; small ones may be missing.
    """

    mb_type: Tensor
    cost: Tensor
    bits: Tensor
    modes: list[Tensor]

    def predict(self, constructed: Tensor) -> Tensor:
        """Prediction of luma from its samples ``[N, H, W]``, differentiable in them."""
        return predict_intra(constructed, self.modes, self.mb_type)


@torch.no_grad()
def choose_intra(
    source: Tensor,
    constructed: Tensor,
    lam: Tensor,
    preset: Preset,
    before: IntraModes | None = None,
    constants: Constants | None = None,
    qp: Tensor | None = None,
) -> IntraModes:
    """Modes by distortion + lambda bits, and the type of each macroblock by the same, or by rate and distortion where ``qp`` is given.

    Args:
        source: ``[N, H, W]``. constructed: plane whose samples blocks are predicted from.
        lam: ``[N, H/16, W/16]``.
        preset: what is compared, and which types there are.
        before: result of the previous pass, from which neighbours' modes are predicted.
        constants, qp: how residuals are coded.
    """
    small = preset.small_intra
    known = [] if before is None or not small else [before.mb_type, *before.modes[1:]]
    mb_type, cost, bits, type_bits, *modes = choose_modes(source, constructed, lam, known, preset.satd, preset.transform8, small)
    chosen = IntraModes(mb_type, cost, bits, modes if small else modes[:1])
    by_cost = preset.rate_distortion("I")
    if qp is None or not (by_cost and small):
        return chosen
    assert constants is not None
    quant = quantiser(preset, constants, decisions=True).numbers()
    mb_type, bits = choose_mb_type(source, constructed, modes, qp, lam, type_bits, quant, preset.psy_rd)
    if by_cost > 1:
        modes[1:] = refine_modes(source, constructed, modes, mb_type, known, qp, lam, quant, preset.psy_rd)
    return IntraModes(mb_type, cost, bits, modes)


@torch.no_grad()
def choose_chroma(chroma: Tensor, constructed: Tensor, lam: Tensor, preset: Preset) -> Tensor:
    """Intra modes of chroma, Cb and Cr together. Shape: ``[N, 2, h, w] -> [N, H/16 * W/16]``."""
    return cheapest_mode(chroma, constructed, lam.flatten(1), BITS_16X16.like(lam), None, 8, preset.satd, preset.transform8)[1]


def predict_intra_frames(group: FrameGroup, preset: Preset, constants: Constants) -> Prediction:
    """Intra frames: the standard predicts each block from blocks just decoded; here all blocks are predicted from the previous pass."""
    _, _, luma, chroma, qp, qpc, lam = group
    every = torch.ones_like(qp, dtype=torch.bool)
    quant = quantiser(preset, constants).numbers()
    with torch.no_grad():
        constructed, constructed_chroma = luma, chroma
        modes = None
        for _ in range(PASSES):
            modes = choose_intra(luma, constructed, lam, preset, modes)
            predicted = modes.predict(constructed)
            chroma_mode = choose_chroma(chroma, constructed_chroma, lam, preset)
            predicted_chroma = predict_intra(constructed_chroma, [chroma_mode], None)
            constructed = code_luma(luma, predicted, qp, every, modes.mb_type == 1, modes.mb_type == 0, quant, False)[0]
            constructed_chroma = code_chroma(chroma, predicted_chroma, qpc, every, quant, False)[0]
        modes = choose_intra(luma, constructed, lam, preset, modes, constants, qp)
        chroma_mode = choose_chroma(chroma, constructed_chroma, lam, preset)
    return Prediction(
        modes.predict(replace_value(luma, constructed)),
        predict_intra(replace_value(chroma, constructed_chroma), [chroma_mode], None),
        every, modes.mb_type == 1, modes.mb_type == 0,
        torch.zeros(*luma.shape[:1], luma.shape[1] // 8, luma.shape[2] // 8, 6, device=luma.device, dtype=torch.float32),
        modes.bits, every, None,
    )  # fmt: skip


def predict_inter_frames(
    group: FrameGroup, dpb: DecodedPictureBuffer, motion: SearchedMotion | GuideMotion, preset: Preset, constants: Constants, rate: bool
) -> Prediction:
    """P and B frames: inter prediction; in P frames, and in macroblocks that a guide marks, intra prediction from the source where cheaper."""
    _, _, luma, chroma, _, _, lam = group
    guided = isinstance(motion, GuideMotion)
    predicted, predicted_chroma, found, transform_8x8, skipped, direct = decide_inter(
        group, dpb, motion.find(group, dpb), preset, constants, guided
    )
    side_bits, not_skipped = motion_bits(found.vectors, found.uses_list, lam) if rate else (torch.zeros_like(lam), found.intra)
    if rate:
        for where, bits in ((direct, DIRECT_BITS), (skipped, 0.0)):
            if where is not None:
                side_bits, not_skipped = torch.where(where, bits, side_bits), not_skipped & ~where
    is_intra, intra16x16 = found.intra, torch.zeros_like(found.intra)
    if group.type == "P" or (guided and _worth_looking(is_intra)):
        modes = choose_intra(luma.detach(), luma.detach(), lam, preset)
        if not guided:
            cost, _ = choose_transform_8x8(luma.detach(), predicted.detach(), preset.satd, False)
            is_intra = modes.cost * constants.intra_bias < cost
        if _worth_looking(is_intra):
            chroma_mode = choose_chroma(chroma.detach(), chroma.detach(), lam, preset)
            predicted = merge_intra(predicted, luma, modes.modes, modes.mb_type, is_intra)
            predicted_chroma = merge_intra(predicted_chroma, chroma, [chroma_mode], None, is_intra)
            transform_8x8 = torch.where(is_intra, modes.mb_type == 1, transform_8x8)
            intra16x16 = is_intra & (modes.mb_type == 0)
            side_bits, not_skipped = torch.where(is_intra, modes.bits, side_bits), not_skipped | is_intra
    info = motion_info(found.vectors, found.uses_list, [r.ref_id for r in found.lists])
    return Prediction(
        predicted,
        predicted_chroma,
        is_intra,
        transform_8x8,
        intra16x16,
        info,
        side_bits,
        not_skipped,
        None if skipped is None else skipped & ~is_intra,
    )


def _worth_looking(some: Tensor) -> bool:
    """Whether any flag is set, on a CPU; always True on a GPU, where reading it would synchronise."""
    return backend.active(some) == "triton" or some.device.type == "cuda" or bool(some.any())
