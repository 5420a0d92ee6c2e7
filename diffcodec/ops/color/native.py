"""Colour in native code."""

from __future__ import annotations

from torch import Tensor

from ...implement import backward_of, implements
from ..common.native import call
from . import reference


@implements(reference.rgb_to_yuv420)
def rgb_to_yuv420(rgb: Tensor) -> tuple[Tensor, Tensor]:
    luma, chroma = reference.rgb_to_yuv420.allocate(rgb)
    call("rgb_to_yuv420", rgb, luma, chroma, *luma.shape)
    return luma, chroma


@backward_of(reference.rgb_to_yuv420, of=["rgb"])
def rgb_to_yuv420_backward(grad_luma: Tensor, grad_chroma: Tensor, rgb_shape: list[int]) -> Tensor:
    out = grad_luma.new_empty(rgb_shape)
    call("rgb_to_yuv420_backward", grad_luma, grad_chroma, out, *grad_luma.shape)
    return out


@implements(reference.yuv420_to_rgb)
def yuv420_to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    out = reference.yuv420_to_rgb.allocate(luma, chroma)
    call("yuv420_to_rgb", luma, chroma, out, *luma.shape)
    return out


@backward_of(reference.yuv420_to_rgb, of=["luma", "chroma"])
def yuv420_to_rgb_backward(grad: Tensor, luma_shape: list[int], chroma_shape: list[int]) -> tuple[Tensor, Tensor]:
    luma, chroma = grad.new_empty(luma_shape), grad.new_empty(chroma_shape)
    call("yuv420_to_rgb_backward", grad, luma, chroma, *luma_shape)
    return luma, chroma
