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
def half_resolution(luma: Tensor) -> tuple[Tensor, Tensor]:
    half, phases = reference.half_resolution.allocate(luma)
    call("half_resolution", luma, half, phases, *luma.shape)
    return half, phases


@implements(reference.fetch_luma)
def fetch_luma(phases: Tensor, slot: Tensor, vectors: Tensor, k: int) -> Tensor:
    out = reference.fetch_luma.allocate(phases, slot, vectors, k)
    bh, bw = vectors.shape[-3:-1]
    slot = slot.expand(vectors.shape[:-1])
    call("fetch_luma", phases, *phases.shape[1:], slot, vectors, out, slot.numel() // (bh * bw), bh, bw, k)
    return out


@implements(reference.predict_luma, lacks=lambda *args: None if args[-1] == 8 else "native code predicts blocks of 8 x 8")
def predict_luma(planes: Tensor, phases: Tensor, slot: Tensor, ref_idx: Tensor, vectors: Tensor, k: int) -> Tensor:
    return fetch_luma(phases, slot, vectors, k)


@backward_of(reference.predict_luma, of=["planes"])
def predict_luma_backward(grad: Tensor, planes: Tensor, ref_idx: Tensor, vectors: Tensor, k: int) -> Tensor:
    out = planes.new_empty(planes.shape)
    call("predict_luma_backward", grad, planes, ref_idx.expand(vectors.shape[:-1]), vectors, out, *planes.shape, *vectors.shape[:3])
    return out


@implements(reference.predict_chroma, lacks=lambda *args: None if args[-1] <= 8 else "native code predicts chroma blocks of 8 x 8 at most")
def predict_chroma(planes: Tensor, ref_idx: Tensor, vectors: Tensor, k: int) -> Tensor:
    out = reference.predict_chroma.allocate(planes, ref_idx, vectors, k)
    call("predict_chroma", planes, ref_idx.expand(vectors.shape[:-1]), vectors, out, *planes.shape[2:], *vectors.shape[:3], k)
    return out


@backward_of(reference.predict_chroma, of=["planes"])
def predict_chroma_backward(grad: Tensor, ref_idx: Tensor, vectors: Tensor, k: int, planes_shape: list[int]) -> Tensor:
    out = grad.new_empty(planes_shape)
    r, _, h, w = planes_shape
    call("predict_chroma_backward", grad, ref_idx.expand(vectors.shape[:-1]), vectors, out, r, h, w, *vectors.shape[:3], k)
    return out


@implements(reference.bipred)
def bipred(past: Tensor, future: Tensor, direction: Tensor) -> Tensor:
    out = reference.bipred.allocate(past, future, direction)
    call("bipred", past, future, direction, out, direction.numel(), out.numel() // direction.numel())
    return out


@backward_of(reference.bipred, of=["past", "future"])
def bipred_backward(grad: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    past, future = grad.new_empty(grad.shape), grad.new_empty(grad.shape)
    call("bipred_backward", grad, direction, past, future, direction.numel(), grad.numel() // direction.numel())
    return past, future
