"""Planes of any size to k x k blocks and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def stacked(planes: Sequence[Tensor]) -> Tensor:
    """``torch.stack``; a single tensor is not copied."""
    return planes[0][None] if len(planes) == 1 else torch.stack(list(planes))


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
    """Cut planes into blocks. Shape: ``[..., H, W] -> [..., H/k, W/k, k, k]``; H and W must be multiples of k.

    Raises:
        ValueError: H or W is not a multiple of k.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.blocks.split(torch.rand(1, 16, 24), 8).shape
        torch.Size([1, 2, 3, 8, 8])
    """
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


def flat_blocks(planes: Tensor, k: int) -> Tensor:
    """Blocks with flattened samples. Shape: ``[N, H, W] -> [N, H/k, W/k, k*k]``."""
    n, h, w = planes.shape
    return planes.reshape(n, h // k, k, w // k, k).transpose(2, 3).reshape(n, h // k, w // k, k * k)


def from_flat_blocks(blocks: Tensor, k: int) -> Tensor:
    """Inverse of :func:`flat_blocks`."""
    n, bh, bw = blocks.shape[:3]
    return blocks.view(n, bh, bw, k, k).transpose(2, 3).reshape(n, bh * k, bw * k)


def macroblock_blocks(planes: Tensor, k: int) -> Tensor:
    """Blocks grouped by macroblock, in raster order within each. Shape: ``[N, H, W] -> [N, H/16, W/16, (16/k)^2, k*k]``."""
    n, h, w = planes.shape
    m = 16 // k
    x = planes.reshape(n, h // 16, m, k, w // 16, m, k).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(n, h // 16, w // 16, m * m, k * k)


def from_macroblock_blocks(blocks: Tensor, k: int) -> Tensor:
    """Inverse of :func:`macroblock_blocks`."""
    n, bh, bw = blocks.shape[:3]
    m = 16 // k
    return blocks.reshape(n, bh, bw, m, m, k, k).permute(0, 1, 3, 5, 2, 4, 6).reshape(n, bh * 16, bw * 16)


def repeat_blocks(x: Tensor, k: int) -> Tensor:
    """Each value k x k times. Shape: ``[N, bh, bw, ...] -> [N, k bh, k bw, ...]``."""
    n, bh, bw, *rest = x.shape
    return x[:, :, None, :, None].expand(n, bh, k, bw, k, *rest).reshape(n, bh * k, bw * k, *rest)


def sum_macroblocks(x: Tensor) -> Tensor:
    """Sum over the four 8x8 blocks of each macroblock. Shape: ``[..., H/8, W/8] -> [..., H/16, W/16]``."""
    return x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).sum((-3, -1))


def any_of_blocks(flags: Tensor, k: int) -> Tensor:
    """Whether any of k x k flags is set. Shape: ``[N, h, w] bool -> [N, h/k, w/k]``."""
    return flags.unflatten(2, (-1, k)).unflatten(1, (-1, k)).any(4).any(2)


def repeat_edges(planes: Tensor, margin: int) -> Tensor:
    """Repeat the outermost samples all around. Shape: ``[N, H, W] -> [N, H + 2 margin, W + 2 margin]``."""
    return F.pad(planes[:, None], [margin] * 4, mode="replicate")[:, 0]
