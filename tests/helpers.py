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


def footage(frames: int, h: int, w: int) -> Tensor:
    """A camera pan over a textured picture whose amplitude spectrum falls with frequency as in photographs. ``[T, 3, h, w]``."""
    g = torch.Generator().manual_seed(5)
    side = max(h, w) + frames
    f = torch.fft.fftfreq(side)
    falls = (f[:, None].square() + f.square() + 1e-5).rsqrt()
    picture = torch.fft.ifft2(torch.fft.fft2(torch.randn(3, side, side, generator=g)) * falls).real
    picture = 0.6 * picture.mean(0) / picture.mean(0).std() + 0.4 * picture / picture.std()
    picture = (0.5 + 0.17 * picture).clamp(0, 1)
    return torch.stack([picture[:, t // 3 : t // 3 + h, t // 2 : t // 2 + w] for t in range(frames)])
