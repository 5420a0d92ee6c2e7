"""Distortion measures of block matching (x264's pixel.c): SAD, SATD, SA8D."""

from __future__ import annotations

from torch import Tensor

from ...constants import Constant
from .tables import HADAMARD4, HADAMARD4_OF_8, HADAMARD8


def sad(difference: Tensor) -> Tensor:
    """Sum of absolute differences. Shape: ``[..., n] -> [...]``."""
    return difference.abs().sum(-1)


def satd(difference: Tensor, k: int) -> Tensor:
    """Sum of absolute 4x4 Hadamard coefficients, halved. Shape: ``[..., k*k] -> [...]``, k 4, 8 or 16."""
    if k == 16:
        eights = difference.unflatten(-1, (2, 8, 2, 8)).transpose(-3, -2).flatten(-2).flatten(-3, -2)  # [..., 4, 64]
        return satd(eights, 8).sum(-1)
    matrix = HADAMARD4 if k == 4 else HADAMARD4_OF_8
    return (difference @ matrix.like(difference)).abs_().sum(-1)


def sa8d(difference: Tensor) -> Tensor:
    """Sum of absolute 8x8 Hadamard coefficients, divided by four. Shape: ``[..., 64] -> [...]``."""
    return (difference @ HADAMARD8.like(difference)).abs_().sum(-1)


def distortion(difference: Tensor, k: int, use_satd: bool, transform_8x8: bool) -> Tensor:
    """SAD, or SATD, or SA8D of 8x8 blocks where there is a transform of that size. Shape: ``[..., k*k] -> [...]``."""
    transform = transform_of(k, use_satd, transform_8x8)
    if transform is None:
        return sad(difference)
    return sa8d(difference) if transform is HADAMARD8 else satd(difference, k)


def transform_of(k: int, use_satd: bool, transform_8x8: bool) -> Constant | None:
    """The transform that :func:`distortion` applies to differences before it sums absolute values; 16 x 16 samples are four blocks of 8 x 8."""
    if not use_satd:
        return None
    if k == 4:
        return HADAMARD4
    return HADAMARD8 if k == 8 and transform_8x8 else HADAMARD4_OF_8
