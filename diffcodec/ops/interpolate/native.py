"""Inter prediction in native code."""

from __future__ import annotations

from torch import Tensor

from ...implement import backward_of, implements
from ..common.native import call
from . import reference


@implements(reference.interpolate_planes)
def interpolate_planes(phases: Tensor, slots: Tensor, luma: Tensor) -> None:
    call("interpolate_planes", luma, slots, phases, *luma.shape, phases.shape[1])


@implements(reference.half_resolution)
def half_resolution(luma: Tensor, phases: int) -> tuple[Tensor, Tensor]:
    half, planes = reference.half_resolution.allocate(luma, phases)
    call("half_resolution", luma, half, planes, *luma.shape, phases)
    return half, planes


@implements(reference.fetch_luma)
def fetch_luma(phases: Tensor, slot: Tensor, vectors: Tensor, k: int) -> Tensor:
    out = reference.fetch_luma.allocate(phases, slot, vectors, k)
    bh, bw = vectors.shape[-3:-1]
    slot = slot.expand(vectors.shape[:-1])
    call("fetch_luma", phases, *phases.shape[1:], slot, vectors, out, slot.numel() // (bh * bw), bh, bw, k)
    return out


@implements(reference.compensate_motion)
def compensate_motion(
    luma: Tensor,
    chroma: Tensor,
    phases: Tensor,
    slots: list[Tensor],
    ref_idx: list[Tensor],
    vectors: list[Tensor],
    direction: Tensor | None,
) -> tuple[Tensor, Tensor]:
    out, out_chroma = reference.compensate_motion.allocate(luma, chroma, phases, slots, ref_idx, vectors, direction)
    lists = [*slots, *ref_idx, *vectors] if len(slots) == 2 else [slots[0], None, ref_idx[0], None, vectors[0], None]
    call("compensate_motion", chroma, phases, *phases.shape[1:], *lists, direction, out, out_chroma, *vectors[0].shape[:3])
    return out, out_chroma


@backward_of(reference.compensate_motion, of=["luma", "chroma"])
def compensate_motion_backward(
    grad: Tensor,
    grad_chroma: Tensor,
    luma: Tensor,
    ref_idx: list[Tensor],
    vectors: list[Tensor],
    direction: Tensor | None,
    chroma_shape: list[int],
) -> tuple[Tensor, Tensor]:
    out, out_chroma = luma.new_empty(luma.shape), luma.new_empty(chroma_shape)
    lists = [*ref_idx, *vectors] if len(ref_idx) == 2 else [ref_idx[0], None, vectors[0], None]
    call("compensate_motion_backward", grad, grad_chroma, luma, *lists, direction, out, out_chroma, *luma.shape, *vectors[0].shape[:3])
    return out, out_chroma
