"""PSNR, SSIM and bit accuracy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each sample in dB, peak 1; infinite where equal. Shape: ``[B, ...], [B, ...] -> [B]``.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.metrics.psnr(torch.zeros(1, 1, 3, 8, 8), torch.full((1, 1, 3, 8, 8), 0.1))
        tensor([20.])
    """
    _same(a, b)
    return -10 * torch.log10((a - b).square().flatten(1).mean(1))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each sample (Wang et al. 2004: 11 x 11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03), mean over channels, frames
    and the places where the window fits (it shrinks for frames smaller than 11).

    Shape: ``[B, ..., H, W], [B, ..., H, W] -> [B]``, values in [0, 1].
    """
    _same(a, b)
    h, w = a.shape[-2:]
    x, y = (v.reshape(-1, 1, h, w).double() for v in (a, b))  # variances of flat areas are differences of nearly equal numbers
    size = min(11, h - (h + 1) % 2, w - (w + 1) % 2)
    i = torch.arange(size, device=a.device, dtype=x.dtype) - size // 2
    g = torch.exp(-(i**2) / (2 * 1.5**2))
    window = (g[:, None] * g / g.sum() ** 2)[None, None]
    mx, my = F.conv2d(x, window), F.conv2d(y, window)
    vx = F.conv2d(x * x, window) - mx * mx
    vy = F.conv2d(y * y, window) - my * my
    vxy = F.conv2d(x * y, window) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return value.reshape(a.shape[0], -1).mean(1).to(a.dtype)


def bit_accuracy(message: Tensor, decoded: Tensor) -> Tensor:
    """Share of bits decoded right. Shape: ``[B, L], [B, L] -> [B]``.

    Args:
        message: bits, 0 or 1 (bool or number).
        decoded: logits or soft bits around 0: above 0 is read as 1.
    """
    _same(message, decoded)
    return ((decoded > 0) == (message > 0.5)).float().mean(1)


def _same(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.dim() < 2:
        raise ValueError(f"expected two tensors [B, ...] of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
