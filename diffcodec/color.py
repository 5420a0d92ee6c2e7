"""RGB to luma and chroma and back, and chroma subsampling. The only owner of value ranges.

RGB is in [0, 1]. Y'CbCr is on the 8-bit scale as codecs have it, real-valued: full range Y' 0..255, Cb and Cr 0..255 around 128 (JFIF);
limited range Y' 16..235, Cb and Cr 16..240 around 128 (ITU-R BT.601 / BT.709).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import kernels
from .blocks import pad_to_multiple
from .checks import replace_value, require
from .constants import Constant

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
    kr, kb = MATRICES[matrix]
    r, g, b = rgb.unbind(-3)
    return kr * r + (1 - kr - kb) * g + kb * b


def downsample(plane: Tensor, subsampling: str = "4:2:0") -> Tensor:
    """Chroma at its coded resolution: the mean over 2x2 (4:2:0) or 1x2 (4:2:2) samples, libjpeg's box filter.

    Odd sizes are padded by repetition. Shape: ``[..., H, W] -> [..., ceil(H/v), ceil(W/h)]``.
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


# What swscale does between rgb24 and yuv420p (BT.601, limited range) when a frame is handed to an encoder and back: integer arithmetic with floors,
# found by trying. Products and sums stay below 2^24, so float32 holds them exactly.
_SWS_LUMA = Constant([8414, 16519, 3208])
_SWS_CHROMA = Constant([[-4865, -9528, 14392], [14392, -12061, -2332]])


def rgb_to_yuv420(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """RGB to 8-bit limited-range 4:2:0 planes as ffmpeg makes them (bilinear chroma, sited left).

    Values are whole; the gradient is that of the real-valued filters.

    Args:
        rgb: ``[N, 3, H, W]`` in [0, 1], H and W even.

    Returns:
        Luma ``[N, H, W]``, chroma ``[N, 2, H/2, W/2]`` (Cb, Cr), 0..255.
    """
    if kernels.here(rgb) and rgb.dtype == torch.float32:
        return kernels.ops.rgb_to_yuv420(rgb)  # type: ignore[no-any-return]
    parts = [_rgb_to_yuv420(x) for x in rgb.split(_at_once(rgb))]
    return parts[0] if len(parts) == 1 else (torch.cat([y for y, _ in parts]), torch.cat([c for _, c in parts]))


def _at_once(x: Tensor) -> int:
    """How many frames are converted at a time: between input and output lies several times as much."""
    return max(1, 2**21 // (x.shape[-2] * x.shape[-1]))


def _rgb_to_yuv420(rgb: Tensor) -> tuple[Tensor, Tensor]:
    x = rgb * 255
    y_real = (_SWS_LUMA.like(rgb) @ x.flatten(-2)).view(-1, *x.shape[-2:]) / 32768 + 16
    pairs = x[..., ::2] + x[..., 1::2]  # [N, 3, H, W/2]
    padded = torch.cat([pairs[:, :, :1], pairs, pairs[:, :, -1:]], 2)

    def vertical(v: Tensor, cut: bool) -> Tensor:
        weighed = [(v[:, :, i : i + pairs.shape[2] : 2], w) for i, w in enumerate((1, 3, 3, 1))]
        if cut:
            return sum(torch.floor(part * w / 128) for part, w in weighed)  # type: ignore[return-value]
        return sum(part * (w / 128) for part, w in weighed)  # type: ignore[return-value]

    mixed = (_SWS_CHROMA.like(rgb) @ padded.flatten(2)).unflatten(2, padded.shape[2:])
    c_real = vertical(mixed / 512 + 2**14, False) / 8
    with torch.no_grad():
        whole = torch.round(x).clamp(0, 255)
        y = (_SWS_LUMA.like(rgb) @ whole.flatten(-2)).view(-1, *x.shape[-2:])
        y = torch.floor((2 * torch.floor((y + (2**19 + 2**8)) / 512) + 64) / 128)
        pairs_whole = whole[..., ::2] + whole[..., 1::2]
        padded_whole = torch.cat([pairs_whole[:, :, :1], pairs_whole, pairs_whole[:, :, -1:]], 2)
        c = (_SWS_CHROMA.like(rgb) @ padded_whole.flatten(2)).unflatten(2, padded.shape[2:])
        c = 2 * torch.floor((c + (2**23 + 2**9)) / 1024)
        c = torch.floor((vertical(c, True) + 5) / 8)
    return replace_value(y_real, y), replace_value(c_real, c)


def yuv420_to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """8-bit limited-range 4:2:0 planes to RGB as ffmpeg makes it (chroma repeated, every product floored). Inverse layout of :func:`rgb_to_yuv420`.

    Shape: ``[N, H, W], [N, 2, H/2, W/2] -> [N, 3, H, W]`` on the [0, 1] scale, clamped; the gradient passes floors and clamp.
    """
    if kernels.here(luma) and luma.dtype == torch.float32:
        return kernels.ops.yuv420_to_rgb(luma, chroma)  # type: ignore[no-any-return]
    k = _at_once(luma)
    parts = [_yuv420_to_rgb(y, c) for y, c in zip(luma.split(k), chroma.split(k))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _yuv420_to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    u, v = (c.repeat_interleave(2, -1).repeat_interleave(2, -2) for c in chroma.unbind(1))
    y, u, v = luma - 16, u - 128, v - 128
    gain = 8 / 65536
    y_real = y * (9539 * gain)
    real = torch.stack([y_real + v * (13075 * gain), y_real - u * (3209 * gain) - v * (6660 * gain), y_real + u * (16525 * gain)], 1)
    with torch.no_grad():

        def product(a: Tensor, k: int) -> Tensor:
            return torch.floor(a.round() * (k * gain))

        base = product(y, 9539)
        hard = torch.stack([base + product(v, 13075), base + product(u, -3209) + product(v, -6660), base + product(u, 16525)], 1).clamp_(
            0, 255
        )
    return replace_value(real, hard) / 255
