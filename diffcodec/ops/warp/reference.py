"""Motion compensation by bilinear interpolation."""

from __future__ import annotations

import torch
from torch import Tensor

from ...backend import operation


@operation
def warp(image: Tensor, flow: Tensor) -> Tensor:
    """``out[y, x] = image[y + flow_y, x + flow_x]``, bilinear, edges repeated. Shape: ``[N, C, H, W], [N, 2, H, W]`` (x, y) -> as the first."""
    h, w = image.shape[-2:]
    flow = flow.to(torch.float64 if image.dtype == torch.float64 else torch.float32)  # half precision cannot count beyond 2048
    x = torch.arange(w, device=flow.device, dtype=flow.dtype) + flow[:, 0]  # [N, H, W]
    y = torch.arange(h, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    return bilinear(image, x, y)


@warp.outputs
def _(image: Tensor, flow: Tensor) -> Tensor:
    return image.new_empty(image.shape)


def bilinear(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Samples of an image at positions in pixels, edges repeated, exact at whole positions.

    Shape: ``[N, C, h, w], [N, H, W], [N, H, W] -> [N, C, H, W]``.
    """
    n, c, h, w = image.shape
    x, y = x.clamp(0, w - 1), y.clamp(0, h - 1)
    x0, y0 = x.detach().floor(), y.detach().floor()
    fx, fy = (x - x0).to(image)[:, None], (y - y0).to(image)[:, None]  # [N, 1, H, W]
    left, top = x0.long(), y0.long()
    right, bottom = (left + 1).clamp(max=w - 1), (top + 1).clamp(max=h - 1)

    flat = image.flatten(2)  # [N, C, h*w]

    def take(row: Tensor, column: Tensor) -> Tensor:
        at = (row * w + column).flatten(1)[:, None].expand(n, c, -1)
        return flat.gather(2, at).view(n, c, *x.shape[1:])

    a, b, d, e = take(top, left), take(top, right), take(bottom, left), take(bottom, right)
    upper = a + fx * (b - a)
    lower = d + fx * (e - d)
    return upper + fy * (lower - upper)
