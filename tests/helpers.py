"""Inputs that many tests share."""

from __future__ import annotations

import torch
from torch import Tensor


def natural(b: int = 1, t: int = 4, h: int = 48, w: int = 64, seed: int = 0) -> Tensor:
    """A moving, smooth, textured video ``[b, t, 3, h, w]`` on 8-bit values: close enough to footage for a codec."""
    g = torch.Generator().manual_seed(seed)
    big = torch.zeros(b, 3, h + 2 * t, w + 2 * t)
    for k in (3, 8, 24):
        noise = torch.rand(b, 3, k, k, generator=g)
        big += torch.nn.functional.interpolate(noise, size=big.shape[-2:], mode="bicubic", align_corners=False) / 3
    video = torch.stack([big[..., i : i + h, 2 * i : 2 * i + w] for i in range(t)], 1)
    return (video.clamp(0, 1) * 255).round() / 255
