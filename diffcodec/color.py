"""Conversion between RGB and Y'CbCr, and chroma subsampling. All value ranges are defined here.

RGB is in [0, 1]. Y'CbCr is on the 8-bit scale as codecs have it, real-valued: full range Y' 0..255, Cb and Cr 0..255 around 128 (JFIF);
limited range Y' 16..235, Cb and Cr 16..240 around 128 (ITU-R BT.601 / BT.709).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import pad_to_multiple
from .checks import require
from .constants import Constant
from .ops.color.reference import rgb_to_yuv420, yuv420_to_rgb

__all__ = ["downsample", "luma", "rgb_to_ycbcr", "rgb_to_yuv420", "to_8bit", "upsample", "ycbcr_to_rgb", "yuv420_to_rgb"]

# K_R, K_B of ITU-R BT.601-7 and BT.709-6
MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
SUBSAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}  # chroma step (vertical, horizontal)


def _forward_matrix(matrix: str, full_range: bool) -> np.ndarray:
    kr, kb = MATRICES[matrix]
    y = np.array([kr, 1 - kr - kb, kb])
    cb = (np.array([0.0, 0.0, 1.0]) - y) / (2 * (1 - kb))
    cr = (np.array([1.0, 0.0, 0.0]) - y) / (2 * (1 - kr))
    scale = np.array([255.0, 255.0, 255.0] if full_range else [219.0, 224.0, 224.0])
    return np.stack([y, cb, cr]) * scale[:, None]


_KEYS = [(m, f) for m in MATRICES for f in (True, False)]
_TO_YCC = {key: Constant(_forward_matrix(*key)) for key in _KEYS}
_TO_RGB = {key: Constant(np.linalg.inv(_forward_matrix(*key))) for key in _KEYS}
_OFFSET = {f: Constant([[[0.0 if f else 16.0]], [[128.0]], [[128.0]]]) for f in (True, False)}  # [3, 1, 1]


def rgb_to_ycbcr(rgb: Tensor, matrix: str = "bt601", full_range: bool = True) -> Tensor:
    """RGB in [0, 1] to Y'CbCr on the 8-bit scale.

    Shape: ``[..., 3, H, W] -> [..., 3, H, W]``.

    Args:
        rgb: values in [0, 1].
        matrix: "bt601" or "bt709".
        full_range: True for JFIF's 0..255, False for video's 16..235 / 16..240.

    Raises:
        ValueError: unknown matrix, or another shape.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.color.rgb_to_ycbcr(torch.ones(3, 1, 1)).flatten()
        tensor([255., 128., 128.])
    """
    require("matrix", matrix, list(MATRICES))
    return _mix(rgb, _TO_YCC[matrix, full_range]) + _OFFSET[full_range].like(rgb)


def ycbcr_to_rgb(ycc: Tensor, matrix: str = "bt601", full_range: bool = True) -> Tensor:
    """Inverse of :func:`rgb_to_ycbcr`; values are not clamped. Shape: ``[..., 3, H, W] -> [..., 3, H, W]``."""
    require("matrix", matrix, list(MATRICES))
    return _mix(ycc - _OFFSET[full_range].like(ycc), _TO_RGB[matrix, full_range])


def _mix(x: Tensor, matrix: Constant) -> Tensor:
    if x.dim() < 3 or x.shape[-3] != 3:
        raise ValueError(f"expected [..., 3, H, W], got shape {tuple(x.shape)}")
    # a matrix product: a 1x1 convolution took 17 times as long on the CPU, and would be TF32 by default on CUDA
    return (matrix.like(x) @ x.flatten(-2)).view(x.shape)


def luma(rgb: Tensor, matrix: str = "bt601") -> Tensor:
    """Full-range luma of RGB, on the scale of the input. Shape: ``[..., 3, H, W] -> [..., H, W]``."""
    require("matrix", matrix, list(MATRICES))
    kr, kb = MATRICES[matrix]
    r, g, b = rgb.unbind(-3)
    return kr * r + (1 - kr - kb) * g + kb * b


def downsample(plane: Tensor, subsampling: str = "4:2:0") -> Tensor:
    """Chroma at its coded resolution: the mean over 2x2 (4:2:0) or 1x2 (4:2:2) samples, libjpeg's box filter.

    Odd sizes are padded by repetition. Shape: ``[..., H, W] -> [..., ceil(H/v), ceil(W/h)]`` with (v, h) = (2, 2) for 4:2:0, (1, 2) for 4:2:2
    and (1, 1) for 4:4:4.

    Raises:
        ValueError: unknown subsampling.
    """
    require("subsampling", subsampling, list(SUBSAMPLINGS))
    v, h = SUBSAMPLINGS[subsampling]
    if (v, h) == (1, 1):
        return plane
    if plane.shape[-1] % 2 or plane.shape[-2] % 2:
        plane = pad_to_multiple(plane, 2)[..., : plane.shape[-2] if v == 1 else None, :]
    return F.avg_pool2d(plane.flatten(0, -3)[:, None], (v, h))[:, 0].unflatten(0, plane.shape[:-2])


def upsample(plane: Tensor, height: int, width: int, subsampling: str = "4:2:0", mode: str = "triangle") -> Tensor:
    """Chroma back to full resolution. Shape: ``[..., h, w] -> [..., height, width]``.

    Args:
        plane: subsampled chroma.
        height, width: size to return (odd sizes drop the padded sample).
        subsampling: as in :func:`downsample`.
        mode: "triangle" weighs the two nearest samples 3:1 each way (libjpeg's "fancy upsampling"), "nearest" repeats samples
            (ffmpeg's default on the way to RGB).
    """
    require("subsampling", subsampling, list(SUBSAMPLINGS))
    require("mode", mode, ["triangle", "nearest"])
    v, h = SUBSAMPLINGS[subsampling]
    if (v, h) == (1, 1):
        return plane
    for dim, factor in ((-1, h), (-2, v)):
        if factor == 2:
            plane = plane.repeat_interleave(2, dim) if mode == "nearest" else _double(plane, dim)
    return plane[..., :height, :width]


def _double(x: Tensor, dim: int) -> Tensor:
    """Twice as many samples along one axis, each 3/4 of the nearest and 1/4 of the next one; the ends are repeated.

    (``F.interpolate`` gives the same; its backward takes four times as long on the CPU and is not deterministic on CUDA.)
    """
    n = x.shape[dim]
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, n - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, n - 1), x.narrow(dim, n - 1, 1)], dim)
    near = 0.75 * x
    axis = x.dim() + dim
    return torch.stack([near + 0.25 * before, near + 0.25 * after], axis + 1).flatten(axis, axis + 1)


def to_8bit(x: Tensor) -> Tensor:
    """Values in [0, 1] to uint8, rounded (not truncated) and clamped. Shape: any -> same."""
    return torch.round(x.detach().float() * 255).clamp(0, 255).to(torch.uint8)
