"""Deblocking in native code."""

from __future__ import annotations

from torch import Tensor

from ...constants import Constant
from ...implement import backward_of, implements
from ..common.native import call
from ..common.tables import ALPHA, BETA, TC0
from . import reference

_TABLES = Constant([ALPHA.value.tolist(), BETA.value.tolist(), *TC0.value.tolist()])


@implements(reference.motion_info)
def motion_info(vectors: list[Tensor], uses_list: list[Tensor], ref_id: list[Tensor]) -> Tensor:
    out = reference.motion_info.allocate(vectors, uses_list, ref_id)
    lists = [x for mv, used, frame in zip(vectors, uses_list, ref_id) for x in (mv, used, frame)]
    call("motion_info", *lists, *[None] * (6 - len(lists)), out, uses_list[0].numel())
    return out


@implements(reference.boundary_strengths)
def boundary_strengths(intra: Tensor, coded: Tensor, motion: Tensor, transform_8x8: Tensor) -> tuple[Tensor, Tensor]:
    left, upper = reference.boundary_strengths.allocate(intra, coded, motion, transform_8x8)
    call("boundary_strengths", intra, coded, motion, transform_8x8, left, upper, *intra.shape)
    return left, upper


@implements(reference.deblock)
def deblock(luma: Tensor, chroma: Tensor, left: Tensor, upper: Tensor, qp: Tensor, qpc: Tensor) -> tuple[Tensor, Tensor]:
    out, out_chroma = reference.deblock.allocate(luma, chroma, left, upper, qp, qpc)
    call("deblock", luma, chroma, left, upper, qp, qpc, out, out_chroma, *luma.shape, _TABLES.like(luma))
    return out, out_chroma


@backward_of(reference.deblock, of=["luma", "chroma"])
def deblock_backward(
    grad: Tensor, grad_chroma: Tensor, luma: Tensor, chroma: Tensor, left: Tensor, upper: Tensor, qp: Tensor, qpc: Tensor
) -> tuple[Tensor, Tensor]:
    out, out_chroma = luma.new_empty(luma.shape), chroma.new_empty(chroma.shape)
    call("deblock_backward", grad, grad_chroma, luma, chroma, left, upper, qp, qpc, out, out_chroma, *luma.shape, _TABLES.like(luma))
    return out, out_chroma
