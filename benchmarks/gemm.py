"""The unit of ``benchmarks.speed``: DCT, rounding and inverse DCT of three full planes as 64 x 64 matrix products, in plain torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffcodec.transform import dct_matrix

_BASIS = torch.as_tensor(np.kron(dct_matrix(8), dct_matrix(8)), dtype=torch.float32)


def gemm_pass(x: Tensor, step: float = 16 / 255) -> Tensor:
    """``[N, 3, H, W]`` or ``[B, T, 3, H, W]``, H and W multiples of 8: DCT, cubic rounding, inverse DCT of every plane."""
    h, w = x.shape[-2:]
    blocks = x.reshape(-1, h // 8, 8, w // 8, 8).transpose(2, 3).reshape(-1, 64)
    c = (blocks @ _BASIS.T) / step
    r = torch.round(c).detach()
    c = r + (c - r) ** 3
    out = (c * step) @ _BASIS
    return out.view(-1, h // 8, w // 8, 8, 8).transpose(2, 3).reshape(x.shape)
