"""Photometric attacks. One draw applies to all frames of a clip. Factors are defined as in torchvision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..color import luma, rgb_to_ycbcr, ycbcr_to_rgb
from ..layer import Draw, Layer
from ..rounding import straight_through
from ..strength import Strength, StrengthLike, per_sample, uniform


class Brightness(Layer):
    """Brightness: ``factor * video``.

    Args:
        factor: 0..10; 0 gives black, 1 changes nothing.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.Brightness(0.5)(torch.ones(1, 3, 8, 8)).unique()
        tensor([0.5000])
    """

    images = True

    def __init__(self, factor: StrengthLike = (0.8, 1.2)) -> None:
        super().__init__()
        self.factor = Strength(factor, "factor", 0, 10)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return video * per_sample(draw["factor"], video)


class Contrast(Layer):
    """Contrast: ``mean + factor * (video - mean)`` with the mean luma of each frame.

    Args:
        factor: 0..10; 0 gives uniform grey, 1 changes nothing.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.Contrast(0.0)(torch.rand(1, 3, 8, 8)).std() < 1e-6  # all grey
        tensor(True)
    """

    images = True

    def __init__(self, factor: StrengthLike = (0.8, 1.2)) -> None:
        super().__init__()
        self.factor = Strength(factor, "factor", 0, 10)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        mean = luma(video).mean((-2, -1))[..., None, None, None]  # [B, (T,) 1, 1, 1]
        return mean + per_sample(draw["factor"], video) * (video - mean)


class Saturation(Layer):
    """Saturation: ``luma + factor * (video - luma)`` with the luma of each pixel.

    Args:
        factor: 0..10; 0 gives greyscale, 1 changes nothing.

    Example:
        >>> import torch, diffcodec as dc
        >>> grey = dc.Saturation(0.0)(torch.rand(1, 3, 8, 8))
        >>> torch.allclose(grey[:, 0], grey[:, 1], atol=1e-6)
        True
    """

    images = True

    def __init__(self, factor: StrengthLike = (0.8, 1.2)) -> None:
        super().__init__()
        self.factor = Strength(factor, "factor", 0, 10)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        grey = luma(video).unsqueeze(-3)
        return grey + per_sample(draw["factor"], video) * (video - grey)


class Hue(Layer):
    """Hue: rotate chroma (Cb, Cr) about grey, luma unchanged. Unlike a rotation in HSV this is linear, so its gradient is continuous.

    Args:
        turn: rotation in full turns, -0.5..0.5; 0 changes nothing.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.Hue((-0.1, 0.1))(torch.rand(2, 4, 3, 8, 8)).shape
        torch.Size([2, 4, 3, 8, 8])
    """

    images = True

    def __init__(self, turn: StrengthLike = (-0.05, 0.05)) -> None:
        super().__init__()
        self.turn = Strength(turn, "turn", -0.5, 0.5)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        y, cb, cr = rgb_to_ycbcr(video).unbind(-3)
        angle = per_sample(draw["turn"], cb) * (2 * math.pi)
        c, s = torch.cos(angle), torch.sin(angle)
        cb, cr = cb - 128, cr - 128
        return ycbcr_to_rgb(torch.stack([y, c * cb - s * cr + 128, s * cb + c * cr + 128], -3))


class ColorDither(Layer):
    """Colour dithering: each channel is quantised to few levels; uniform noise of one step, added before rounding, preserves means.

    The gradient passes straight through the rounding.

    Args:
        levels: number of levels per channel, 2..256; a range draws whole numbers.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.ColorDither()(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    images = True

    def __init__(self, levels: StrengthLike = 16) -> None:
        super().__init__()
        self.levels = Strength(levels, "levels", 2, 256, integer=True)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        draw = super().draw(shape, generator, step, device)
        draw["dither"] = uniform(shape, generator, device)
        return draw

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return super().draw_shapes(shape) | {"dither": shape}

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        top = per_sample(draw["levels"], video) - 1
        return straight_through(video * top + (draw["dither"].to(video) - 0.5)) / top
