"""PSNR, SSIM and bit accuracy."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each sample in dB, peak 1; infinite for equal inputs. Shape: ``[B, ...], [B, ...] -> [B]``.

    Raises:
        ValueError: different shapes, or fewer than 2 dimensions.

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

    Raises:
        ValueError: different shapes.
    """
    _same(a, b)
    size = min(11, *(n - (n + 1) % 2 for n in a.shape[-2:]))
    down, across = (_gaussian(n, size, a) for n in a.shape[-2:])
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for x, y in zip(a.double(), b.double()):  # in double: variances of flat areas are differences of nearly equal numbers
        mx, my, xx, yy, xy = (down @ v @ across.mT for v in (x, y, x * x, y * y, x * y))
        vx, vy, vxy = xx - mx * mx, yy - my * my, xy - mx * my
        values.append(((2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())
    return torch.stack(values).to(a.dtype)


def _gaussian(length: int, size: int, like: Tensor) -> Tensor:
    """The window's weights at each place where it fits. Shape: ``[length - size + 1, length]``."""
    at = torch.arange(length, device=like.device, dtype=torch.float64)
    apart = at - at[: length - size + 1, None] - size // 2
    g = torch.exp(-(apart**2) / (2 * 1.5**2)) * (apart.abs() <= size // 2)
    return g / g.sum(1, keepdim=True)


def bit_accuracy(message: Tensor, decoded: Tensor) -> Tensor:
    """Fraction of bits that are decoded correctly, 0..1. Shape: ``[B, L], [B, L] -> [B]``.

    Args:
        message: bits, 0 or 1 (bool or number).
        decoded: logits, or other soft bits around 0: a value above 0 is read as 1.

    Raises:
        ValueError: different shapes.
    """
    _same(message, decoded)
    return ((decoded > 0) == (message > 0.5)).float().mean(1)


def _same(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.dim() < 2:
        raise ValueError(f"expected two tensors [B, ...] of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
