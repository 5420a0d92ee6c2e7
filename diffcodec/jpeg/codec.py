"""DiffJPEG: baseline JPEG with a rounding surrogate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import rounding as roundings
from ..blocks import crop, join, pad_to_multiple, split
from ..checks import require
from ..color import SUBSAMPLINGS, downsample, rgb_to_ycbcr, upsample, ycbcr_to_rgb
from ..layer import Codec, Draw
from ..rounding import Rounding
from ..strength import Strength, StrengthLike, uniform
from ..transform import dct2, idct2
from .tables import quality_tables


class DiffJPEG(Codec):
    """Differentiable JPEG (ITU-T T.81 baseline as libjpeg does it: its table scaling, chroma box filter and triangle upsampling).

    Colour and samples stay real-valued between the steps; only the quantiser rounds, by a surrogate with a slope.

    Args:
        quality: libjpeg's quality, 1..100: a number, a tensor ``[B]``, a (low, high) range drawn per sample or a schedule. Differentiable.
        subsampling: "4:2:0", "4:2:2" or "4:4:4".
        rounding: name in :data:`diffcodec.rounding.ROUNDINGS` or a function; it shapes the forward value as well as the gradient.

    Shape:
        ``[B, 3, H, W]`` or ``[B, 1, H, W]`` (grey) or ``[B, T, 3, H, W]`` (each frame coded alone, one quality a clip), any H, W >= 1.
    """

    images = True
    channels = (1, 3)

    def __init__(self, quality: StrengthLike = 75, subsampling: str = "4:2:0", rounding: str | Rounding = "cubic") -> None:
        super().__init__()
        self.quality = Strength(quality, "quality", 1, 100)
        require("subsampling", subsampling, list(SUBSAMPLINGS))
        self.subsampling = subsampling
        self.rounding = roundings.get(rounding)
        self.rounding_name = rounding if isinstance(rounding, str) else getattr(rounding, "__name__", repr(rounding))

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        draw = super().draw(shape, generator, step, device)
        if self.rounding is roundings.noise:
            frames = shape[1] if len(shape) == 5 else 1
            for i in range(shape[-3]):
                v, u = SUBSAMPLINGS[self.subsampling] if i else (1, 1)
                grid = (-(-shape[-2] // (8 * v)), -(-shape[-1] // (8 * u)))
                draw[f"noise{i}"] = uniform((shape[0], frames, *grid, 8, 8), generator, device)
        return draw

    def simulate(self, video: Tensor, draw: Mapping[str, Any]) -> tuple[Tensor, list[Tensor]]:
        b, (h, w) = video.shape[0], video.shape[-2:]
        x = video.flatten(0, -4)  # [N, C, H, W], N = B or B*T
        frames = x.shape[0] // b
        tables = quality_tables(draw["quality"], x).repeat_interleave(frames, 0)  # [N, 2, 8, 8]
        grey = x.shape[1] == 1
        ycc = x * 255 if grey else rgb_to_ycbcr(x)
        planes, levels = [], []
        for i, plane in enumerate(ycc.unbind(1)):  # [N, H, W]
            small = downsample(plane, self.subsampling) if i else plane
            table = tables[:, min(i, 1), None, None]  # [N, 1, 1, 8, 8]
            coded, level = code_plane(pad_to_multiple(small, 8) - 128, table, self.rounding, draw.get(f"noise{i}"))
            levels.append(level.unflatten(0, (b, frames)))
            coded = crop(coded + 128, *small.shape[-2:])
            planes.append(upsample(coded, h, w, self.subsampling) if i else coded)
        out = torch.stack(planes, 1)
        out = out / 255 if grey else ycbcr_to_rgb(out)
        return out.view(video.shape), levels

    def extra_repr(self) -> str:
        return f"quality={self.quality!r}, subsampling={self.subsampling!r}, rounding={self.rounding_name!r}"


def code_plane(plane: Tensor, table: Tensor, rounding: Rounding, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """DCT, quantise, dequantise, inverse DCT of planes around 0 (REVMark eqs. (3)-(5)).

    Args:
        plane: ``[N, H, W]``, H and W multiples of 8.
        table: quantiser steps, broadcastable to ``[N, H/8, W/8, 8, 8]``.
        rounding: surrogate of round().
        noise: uniform numbers for the ``noise`` surrogate.

    Returns:
        Decoded plane ``[N, H, W]`` and levels ``[N, H/8, W/8, 8, 8]``.
    """
    scaled = dct2(split(plane, 8)) / table  # [N, H/8, W/8, 8, 8]
    levels = rounding(scaled) if noise is None else roundings.noise(scaled, noise.reshape(scaled.shape))
    return join(idct2(levels * table)), levels
