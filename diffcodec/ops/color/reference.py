"""Colour as ffmpeg converts it on the way to an encoder and back: swscale's integer arithmetic, with the gradient of its real-valued filters."""

from __future__ import annotations

import torch
from torch import Tensor

from ...backend import operation
from ...checks import replace_value
from ...constants import Constant

# What swscale does between rgb24 and yuv420p (BT.601, limited range) when a frame is handed to an encoder and back: integer arithmetic with floors,
# determined by experiment. Products and sums stay below 2^24, so float32 holds them exactly.
_SWS_LUMA = Constant([8414, 16519, 3208])
_SWS_CHROMA = Constant([[-4865, -9528, 14392], [14392, -12061, -2332]])


@operation
def rgb_to_yuv420(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """RGB to 8-bit limited-range 4:2:0 planes as ffmpeg makes them (bilinear chroma, sited left).

    Values are whole; the gradient is that of the real-valued filters.

    Args:
        rgb: ``[N, 3, H, W]`` in [0, 1], H and W even.

    Returns:
        Luma ``[N, H, W]``, chroma ``[N, 2, H/2, W/2]`` (Cb, Cr), 0..255.
    """
    parts = [_rgb_to_yuv420(x) for x in rgb.split(_at_once(rgb))]
    return parts[0] if len(parts) == 1 else (torch.cat([y for y, _ in parts]), torch.cat([c for _, c in parts]))


@rgb_to_yuv420.outputs
def _(rgb: Tensor) -> tuple[Tensor, Tensor]:
    n, _, h, w = rgb.shape
    return rgb.new_empty(n, h, w), rgb.new_empty(n, 2, h // 2, w // 2)


def _at_once(x: Tensor) -> int:
    """How many frames are converted at a time: intermediates take several times the memory of the input."""
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


@operation
def yuv420_to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """8-bit limited-range 4:2:0 planes to RGB as ffmpeg makes it (chroma repeated, every product floored). Inverse layout of :func:`rgb_to_yuv420`.

    Shape: ``[N, H, W], [N, 2, H/2, W/2] -> [N, 3, H, W]`` on the [0, 1] scale, clamped; the gradient passes floors and clamp.
    """
    k = _at_once(luma)
    parts = [_yuv420_to_rgb(y, c) for y, c in zip(luma.split(k), chroma.split(k))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@yuv420_to_rgb.outputs
def _(luma: Tensor, chroma: Tensor) -> Tensor:
    n, h, w = luma.shape
    return luma.new_empty(n, 3, h, w)


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
