"""Other gradients of a codec, for comparison with ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import diffcodec as dc
from diffcodec import fidelity
from diffcodec.blocks import join, split
from diffcodec.checks import replace_value
from diffcodec.strength import Strength, StrengthLike
from diffcodec.transform import dct2, idct2


class FixedWeights(nn.Module):
    """One weight per band of the 8x8 DCT: the best gradient that knows only the average survival in each band."""

    def __init__(self, gains: Sequence[float]) -> None:
        super().__init__()
        u = torch.arange(8)
        index = u[:, None] + u
        self.weights = torch.stack([g * ((index >= a) & (index <= b)) for g, (a, b) in zip(gains, fidelity.BANDS)]).sum(0)

    def forward(self, video: Tensor) -> Tensor:
        return _in_blocks(video, lambda c: c * self.weights)


class ErrorProjection(dc.Layer):
    """libx264 with a gradient from its own error (after SCALED, arXiv 2602.00198, 2606.20671, as far as the abstracts describe it): the first-order
    model R(x) = g x, where g is the projection of the output on the input, for each frame and coefficient of the 8x8 DCT."""

    def __init__(self, crf: StrengthLike = 23, preset: str = "medium", fps: float = 25) -> None:
        super().__init__()
        self.crf = Strength(crf, "crf", 0, 51)
        self.real = dc.RealCodec("libx264", preset=preset, fps=fps, gradient=None)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        with torch.no_grad():
            value = self.real(video, crf=draw["crf"])
            x, y = (dct2(split(v, 8)) for v in (video, value))  # [B, T, 3, bh, bw, 8, 8]
            gains = (x * y).sum((3, 4), keepdim=True) / x.square().sum((3, 4), keepdim=True).clamp(min=1e-12)
        return replace_value(_in_blocks(video, lambda c: c * gains), value)


def _in_blocks(video: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return join(idct2(change(dct2(split(video, 8)))))
