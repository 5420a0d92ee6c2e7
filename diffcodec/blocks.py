"""Planes of any size to k x k blocks and back."""

from __future__ import annotations

import torch
from torch import Tensor


def pad_to(x: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column until the plane has this size, as libjpeg and x264 do.

    Shape: ``[..., H, W] -> [..., height, width]``.
    """
    # cat instead of F.pad: takes any rank, and its backward is deterministic on CUDA
    if (down := height - x.shape[-2]) > 0:
        x = torch.cat([x, x[..., -1:, :].expand(*x.shape[:-2], down, x.shape[-1])], dim=-2)
    if (right := width - x.shape[-1]) > 0:
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], right)], dim=-1)
    return x


def pad_to_multiple(x: Tensor, k: int) -> Tensor:
    """Repeat the last row and column up to multiples of k. Shape: ``[..., H, W] -> [..., ceil(H/k) k, ceil(W/k) k]``."""
    h, w = x.shape[-2:]
    return pad_to(x, -(-h // k) * k, -(-w // k) * k)


def split(x: Tensor, k: int) -> Tensor:
    """Cut planes into blocks. Shape: ``[..., H, W] -> [..., H/k, W/k, k, k]``; H and W must be multiples of k."""
    h, w = x.shape[-2:]
    if h % k or w % k:
        raise ValueError(f"split expected height and width to be multiples of {k}, got {h} x {w}; see pad_to_multiple")
    return x.unflatten(-1, (w // k, k)).unflatten(-3, (h // k, k)).transpose(-3, -2)


def join(blocks: Tensor) -> Tensor:
    """Put blocks back together. Shape: ``[..., H/k, W/k, k, k] -> [..., H, W]``."""
    return blocks.transpose(-3, -2).flatten(-4, -3).flatten(-2, -1)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Undo the padding. Shape: ``[..., H, W] -> [..., height, width]``."""
    return x if x.shape[-2:] == (height, width) else x[..., :height, :width]


def spread(x: Tensor, k: int) -> Tensor:
    """Each value k x k times. Shape: ``[N, bh, bw, ...] -> [N, k bh, k bw, ...]``."""
    n, bh, bw, *rest = x.shape
    return x[:, :, None, :, None].expand(n, bh, k, bw, k, *rest).reshape(n, bh * k, bw * k, *rest)
