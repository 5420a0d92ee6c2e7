"""Quantisation tables of ITU-T T.81 (Annex K) and libjpeg's quality scaling."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..checks import floor_through, traced, transforms
from ..constants import Constant

# T.81 tables K.1 and K.2, row = vertical frequency
LUMA = Constant(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA = Constant(
    [
        [17, 18, 24, 47, 99, 99, 99, 99],
        [18, 21, 26, 66, 99, 99, 99, 99],
        [24, 26, 56, 99, 99, 99, 99, 99],
        [47, 66, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
    ]
)


def scale_table(table: Tensor, quality: Tensor) -> Tensor:
    """libjpeg's ``jpeg_quality_scaling`` and ``jpeg_add_quant_table`` (baseline), per sample.

    ``s = floor(5000 / q)`` below 50, ``200 - 2 q`` from there; entries ``floor((table * s + 50) / 100)`` clamped to 1..255.
    Floors and clamp pass the gradient straight through, so the tables are differentiable in quality.

    Args:
        table: base table ``[8, 8]``.
        quality: ``[B]`` in 1..100; whole numbers give libjpeg's own tables.

    Returns:
        ``[B, 8, 8]``.
    """
    q = quality.to(table)
    s = torch.where(q < 50, floor_through(5000 / q), 200 - 2 * q)[:, None, None]  # [B, 1, 1]
    entries = floor_through((table * s + 50) / 100)
    return entries + (entries.clamp(1, 255) - entries).detach()


@functools.cache
def _whole() -> Constant:
    """Tables of all whole qualities ``[100, 2, 8, 8]``."""
    with torch.inference_mode(False), torch.no_grad():
        quality = torch.arange(1.0, 101.0, dtype=torch.float64, device="cpu")
        return Constant(torch.stack([scale_table(t.value, quality) for t in (LUMA, CHROMA)], 1).numpy())


def quality_tables(quality: Tensor, like: Tensor) -> Tensor:
    """Luma and chroma tables of each sample. Shape: ``[B] -> [B, 2, 8, 8]`` on the device and in the dtype of ``like``."""
    if quality.device.type == like.device.type == "cpu" and not (
        quality.requires_grad or traced(quality) or traced(like) or transforms(quality)
    ):
        values = [float(q) for q in quality.tolist()]
        if all(q.is_integer() and 1 <= q <= 100 for q in values):  # looked up: computing them takes thirty small operations
            return _whole().like(like).index_select(0, torch.tensor([int(q) - 1 for q in values], dtype=torch.int64, device="cpu"))
    return torch.stack([scale_table(t.like(like), quality) for t in (LUMA, CHROMA)], 1)
