"""Orthonormal block transforms."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .constants import Constant

SIZES = (4, 8, 16)


def dct_matrix(k: int) -> np.ndarray:
    """Orthonormal DCT-II as a matrix ``[k, k]``: ``coefficients = D @ samples`` (ITU-T T.81, A.3.3, with k in place of 8)."""
    n = np.arange(k)
    d = np.sqrt(2 / k) * np.cos(np.pi * (2 * n[None, :] + 1) * n[:, None] / (2 * k))
    d[0] /= np.sqrt(2)
    return d


_MATRIX = {k: Constant(dct_matrix(k)) for k in SIZES}
# For k <= 8 the two-dimensional transform is one k^2 x k^2 product on flat blocks: a large GEMM beats many k x k ones.
_FLAT = {k: Constant(np.kron(dct_matrix(k), dct_matrix(k))) for k in SIZES if k <= 8}


def dct2(blocks: Tensor) -> Tensor:
    """Two-dimensional orthonormal DCT-II. Shape: ``[..., k, k] -> [..., k, k]`` with k in 4, 8, 16 (row, column frequency).

    Raises:
        ValueError: another k, or blocks that are not square.

    Example:
        >>> import torch, diffcodec as dc
        >>> x = torch.rand(1, 8, 8)
        >>> torch.allclose(dc.transform.idct2(dc.transform.dct2(x)), x, atol=1e-6)
        True
    """
    k = _size(blocks)
    if k in _FLAT:
        return (blocks.reshape(-1, k * k) @ _FLAT[k].like(blocks).mT).view(blocks.shape)  # [N, k*k]
    d = _MATRIX[k].like(blocks)
    return d @ blocks @ d.mT


def idct2(coefficients: Tensor) -> Tensor:
    """Inverse of :func:`dct2`. Shape: ``[..., k, k] -> [..., k, k]``."""
    k = _size(coefficients)
    if k in _FLAT:
        return (coefficients.reshape(-1, k * k) @ _FLAT[k].like(coefficients)).view(coefficients.shape)
    d = _MATRIX[k].like(coefficients)
    return d.mT @ coefficients @ d


def _size(blocks: Tensor) -> int:
    k = blocks.shape[-1]
    if blocks.dim() < 2 or blocks.shape[-2] != k or k not in SIZES:
        raise ValueError(f"expected blocks [..., k, k] with k in {SIZES}, got shape {tuple(blocks.shape)}")
    return k
