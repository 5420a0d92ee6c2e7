"""Layers of other packages with diffcodec's interface, for comparison: ``--sim benchmarks.peers:KorniaJPEG``. Each needs its package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import diffcodec as dc
from diffcodec.strength import Strength, StrengthLike


class KorniaJPEG(dc.Layer):
    """kornia's differentiable JPEG, frame by frame.

    Args:
        quality: 1..100.
    """

    images = True

    def __init__(self, quality: StrengthLike = 50) -> None:
        super().__init__()
        self.quality = Strength(quality, "quality", 1, 100)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        from kornia.enhance import jpeg_codec_differentiable

        frames = video.flatten(0, -4)  # [N, 3, H, W]
        padded = torch.nn.functional.pad(frames, (0, -frames.shape[-1] % 16, 0, -frames.shape[-2] % 16), mode="replicate")
        quality = draw["quality"].to(frames).repeat_interleave(len(frames) // len(video))
        out = jpeg_codec_differentiable(padded, quality)
        return out[..., : frames.shape[-2], : frames.shape[-1]].view(video.shape)
