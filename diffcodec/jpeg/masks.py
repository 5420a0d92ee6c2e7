"""HiDDeN's approximations of JPEG: JPEG-Mask and JPEG-Drop (Zhu et al., ECCV 2018, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..blocks import crop, join, pad_to_multiple, split
from ..color import rgb_to_ycbcr, ycbcr_to_rgb
from ..constants import Constant
from ..layer import Draw, Layer
from ..strength import Strength, StrengthLike, uniform
from ..transform import dct2, idct2
from .tables import quality_tables


def _zigzag_rank() -> list[list[int]]:
    order = sorted(((u, v) for u in range(8) for v in range(8)), key=lambda p: (p[0] + p[1], p[0] if (p[0] + p[1]) % 2 else p[1]))
    return [[order.index((u, v)) for v in range(8)] for u in range(8)]


_RANK = Constant(_zigzag_rank())  # position in T.81's zigzag scan (figure A.6)


class _CoefficientMask(Layer):
    """Multiply the 8x8 DCT coefficients of Y'CbCr (4:4:4, as in HiDDeN) by a mask."""

    images = True

    def mask(self, coefficients: Tensor, draw: Mapping[str, Any]) -> Tensor:
        """Factors broadcastable to ``[B, F, 3, H/8, W/8, 8, 8]``."""
        raise NotImplementedError

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        x = video if video.dim() == 5 else video[:, None]  # [B, F, 3, H, W]
        ycc = pad_to_multiple(rgb_to_ycbcr(x), 8) - 128
        coefficients = dct2(split(ycc, 8))  # [B, F, 3, H/8, W/8, 8, 8]
        ycc = join(idct2(coefficients * self.mask(coefficients, draw))) + 128
        return ycbcr_to_rgb(crop(ycc, *video.shape[-2:])).view(video.shape)


class JPEGMask(_CoefficientMask):
    """JPEG-Mask: keep the first coefficients in zigzag order, zero the others; fixed, as in HiDDeN.

    Args:
        luma, chroma: number of the 64 coefficients that are kept, 1..64; HiDDeN keeps 25 and 9.

    Shape:
        ``[B, 3, H, W]`` or ``[B, T, 3, H, W]``, any H, W >= 1.

    Raises:
        ValueError: ``luma`` or ``chroma`` is not a whole number in 1..64.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.JPEGMask()(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, luma: int = 25, chroma: int = 9) -> None:
        super().__init__()
        for name, value in (("luma", luma), ("chroma", chroma)):
            if not (isinstance(value, int) and 1 <= value <= 64):
                raise ValueError(f"{name} expected a whole number in 1..64, got {value!r}")
        self.luma, self.chroma = luma, chroma

    def mask(self, coefficients: Tensor, draw: Mapping[str, Any]) -> Tensor:
        rank = _RANK.like(coefficients)
        return torch.stack([rank < n for n in (self.luma, self.chroma, self.chroma)])[:, None, None].to(coefficients)

    def extra_repr(self) -> str:
        return f"luma={self.luma}, chroma={self.chroma}"


class JPEGDrop(_CoefficientMask):
    """JPEG-Drop: drop coefficients at random, the more often the coarser they are quantised.

    HiDDeN calls it "progressive dropout" and gives no formula. Here a coefficient with quantiser step q is dropped with the probability that a
    Laplacian value of mean magnitude ``scale`` falls into the dead zone, 1 - exp(-q / (2 scale)); kept ones are not rescaled, DC is never dropped.

    Args:
        quality: libjpeg's quality, 1..100, which sets the tables; number, ``[B]``, range or schedule.
        scale: mean magnitude of coefficients in 8-bit levels, above 0.

    Shape:
        ``[B, 3, H, W]`` or ``[B, T, 3, H, W]``, any H, W >= 1.

    Raises:
        ValueError: ``quality`` or ``scale`` out of range.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.JPEGDrop()(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, quality: StrengthLike = 50, scale: float = 16.0) -> None:
        super().__init__()
        self.quality = Strength(quality, "quality", 1, 100)
        if not scale > 0:
            raise ValueError(f"scale expected to be above 0, got {scale!r}")
        self.scale = scale

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        draw = super().draw(shape, generator, step, device)
        draw["uniform"] = uniform(self.draw_shapes(shape)["uniform"], generator, device)
        return draw

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        frames = shape[1] if len(shape) == 5 else 1
        grid = (-(-shape[-2] // 8), -(-shape[-1] // 8))
        return super().draw_shapes(shape) | {"uniform": (shape[0], frames, 3, *grid, 8, 8)}

    def mask(self, coefficients: Tensor, draw: Mapping[str, Any]) -> Tensor:
        tables = quality_tables(draw["quality"], coefficients)[:, [0, 1, 1]]  # [B, 3, 8, 8]
        keep = torch.exp(-tables / (2 * self.scale))
        keep = torch.where(_RANK.like(coefficients) == 0, torch.ones_like(keep), keep)
        return (draw["uniform"].to(keep) < keep[:, None, :, None, None]).to(coefficients)
