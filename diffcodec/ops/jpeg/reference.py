"""JPEG: the whole codec as one operation, in libjpeg's arithmetic or soft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ... import rounding as roundings
from ...backend import operation
from ...blocks import crop, join, pad_to_multiple, split
from ...checks import clamp_through
from ...color import SUBSAMPLINGS, downsample, rgb_to_ycbcr, upsample, ycbcr_to_rgb
from ...rounding import Rounding
from ...slopes import NOISES, SLOPES, Expected
from ...transform import dct2, idct2
from .exact import code_exact

_NAMES = {steps: name for name, steps in SUBSAMPLINGS.items()}


@operation
def code_jpeg(x: Tensor, tables: Tensor, v: int, u: int, exact: bool, mode: str, width: float) -> Tensor:
    """Code and decode pictures.

    Args:
        x: ``[N, 3 or 1, H, W]`` in [0, 1]; clamped, with the gradient passed through.
        tables: quantiser steps ``[N or 1, 2, 8, 8]`` (luma, chroma); differentiable.
        v, u: vertical and horizontal step of chroma.
        exact: libjpeg's arithmetic; else real-valued samples with the quantiser's surrogate.
        mode: the surrogate, a name in :data:`diffcodec.rounding.ROUNDINGS`; with ``exact`` the slope, a name in :data:`diffcodec.slopes.SLOPES` or of
            an :class:`~diffcodec.slopes.Expected`'s noise.
        width: standard deviation in levels of that noise.

    Returns:
        As ``x``, in [0, 1].
    """
    if exact:
        return code_exact(x, tables, _NAMES[v, u], Expected(mode, width) if mode in NOISES else SLOPES[mode])[0]
    return code_soft(x, tables, _NAMES[v, u], roundings.ROUNDINGS[mode], {})[0]


@code_jpeg.outputs
def _(x: Tensor, tables: Tensor, v: int, u: int, exact: bool, mode: str, width: float) -> Tensor:
    return x.new_empty(x.shape)


def code_soft(x: Tensor, tables: Tensor, subsampling: str, rounding: Rounding, noise: Mapping[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """JPEG on real-valued samples.

    Args:
        x, tables: as for :func:`code_jpeg`.
        subsampling: "4:2:0", "4:2:2" or "4:4:4".
        rounding: surrogate of round().
        noise: uniform numbers for the ``noise`` surrogate, "noise0" to "noise2" for Y', Cb and Cr.

    Returns:
        As ``x``, in [0, 1]; levels of Y', Cb and Cr ``[N, blocks high, blocks wide, 8, 8]``.
    """
    h, w = x.shape[-2:]
    grey = x.shape[1] == 1
    x = clamp_through(x)
    ycc = x * 255 if grey else rgb_to_ycbcr(x)
    planes, levels = [], []
    for i, plane in enumerate(ycc.unbind(1)):  # [N, H, W]
        small = downsample(plane, subsampling) if i else plane
        table = tables[:, min(i, 1), None, None]  # [N, 1, 1, 8, 8]
        coded, level = code_plane(pad_to_multiple(small, 8) - 128, table, rounding, noise.get(f"noise{i}"))
        levels.append(level)
        coded = crop(coded + 128, *small.shape[-2:])
        planes.append(upsample(coded, h, w, subsampling) if i else coded)
    out = torch.stack(planes, 1)
    return clamp_through(out / 255 if grey else ycbcr_to_rgb(out)), levels


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
