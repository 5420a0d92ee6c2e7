"""DiffJPEG: baseline JPEG, exact or soft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import opaque
from .. import rounding as roundings
from ..backend import validate_backend
from ..checks import replace_value, require, traced
from ..color import SUBSAMPLINGS
from ..layer import FIRST_ORDER_ONLY, Codec, Draw, Layer, view_of
from ..ops.jpeg.exact import code_exact
from ..ops.jpeg.reference import code_jpeg, code_soft
from ..rate import level_bits
from ..rounding import Rounding
from ..slopes import GRADIENTS, SLOPES, Expected, Slope
from ..strength import Strength, StrengthLike, uniform
from .tables import quality_tables


class DiffJPEG(Codec):
    """Differentiable JPEG: the decoded picture of libjpeg, with a gradient.

    By default the forward value is libjpeg's own (islow transform, default chroma filters; see :mod:`diffcodec.ops.jpeg.exact`) after
    rounding the input to 8 bits, and ``gradient`` selects the quantiser's gradient. With ``rounding`` the forward value is soft instead:
    samples stay real-valued and only the quantiser rounds, by a surrogate that determines both value and gradient.

    Args:
        quality: libjpeg's quality, 1..100: a number, a tensor ``[B]``, a (low, high) range drawn per sample or a schedule. Differentiable.
            None for 75; it must be None with ``tables``.
        subsampling: "4:2:0", "4:2:2" or "4:4:4".
        rounding: None for the exact forward pass; else a name in :data:`diffcodec.rounding.ROUNDINGS` or a function from tensor to tensor.
        gradient: of the exact forward pass: a name in :data:`diffcodec.slopes.GRADIENTS`, an
            :class:`~diffcodec.slopes.Expected` or a slope function ``(y, step) -> slope``; None for the default, "expected".
            With "identity" the gradient bypasses the codec, and quality gets none (``bits`` keep the default gradient).
        tables: quantiser steps in place of those of ``quality``: ``[2, 8, 8]`` (luma, chroma) or ``[B, 2, 8, 8]``, 1..255;
            differentiable, rounded to whole numbers in the exact forward pass.
        backend: "auto", "reference", "native" or "triton" (:mod:`diffcodec.backend`). Triton kernels support every named gradient and every
            rounding except "noise", native code every named gradient of the exact forward pass; :meth:`encode` always runs in torch.

    Shape:
        ``[B, 3, H, W]`` or ``[B, 1, H, W]`` (grey) or ``[B, T, 3, H, W]`` (each frame coded alone, one quality per clip), any H, W >= 1.

    Raises:
        ValueError: quality or tables out of range, both of them, unknown names, both ``rounding`` and ``gradient``.
        TypeError: a gradient that is neither a name nor a function.
        RuntimeError: in a call, the backend that was named cannot run.

    Example:
        >>> import torch, diffcodec as dc
        >>> image = torch.rand(2, 3, 20, 30, requires_grad=True)
        >>> layer = dc.DiffJPEG((30, 90))
        >>> layer(image, quality=50).square().mean().backward()
        >>> image.grad.shape
        torch.Size([2, 3, 20, 30])
        >>> layer.encode(image, quality=[30, 90]).bits.diff() > 0
        tensor([True])
    """

    images = True
    channels = (1, 3)
    raw = True
    operator: Any = opaque.operator("diff_jpeg")
    lacks: tuple[str, ...] = FIRST_ORDER_ONLY

    def __init__(
        self,
        quality: StrengthLike | None = None,
        subsampling: str = "4:2:0",
        rounding: str | Rounding | None = None,
        gradient: str | Slope | None = None,
        tables: Tensor | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.backend = validate_backend(backend)
        if quality is not None and tables is not None:
            raise ValueError(f"tables take the place of a quality: leave out quality={quality!r}")
        self.quality = Strength(75 if quality is None else quality, "quality", 1, 100)
        require("subsampling", subsampling, list(SUBSAMPLINGS))
        if rounding is not None and gradient is not None:
            raise ValueError(
                f"rounding={rounding!r} has a gradient of its own: leave out gradient={gradient!r}, or the rounding for the exact forward"
            )
        self.subsampling = subsampling
        self.rounding = None if rounding is None else roundings.get(rounding)
        if self.rounding is not None:
            self.operator, self.lacks = None, ()  # plain torch operations
        self.gradient = "expected" if gradient is None else gradient
        if isinstance(self.gradient, str):
            require("gradient", self.gradient, GRADIENTS)
        elif not callable(self.gradient):
            raise TypeError(f"gradient expected a name or a function (y, step) -> slope, got {gradient!r}")
        self.tables = None if tables is None else _checked_tables(tables)
        self._names = (_name(rounding), _name(self.gradient))

    @property
    def exact(self) -> bool:
        """Whether the forward value is libjpeg's own."""
        return self.rounding is None

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        draw = super().draw(shape, generator, step, device)
        if self.tables is not None:
            if self.tables.dim() == 4 and self.tables.shape[0] not in (1, shape[0]):
                raise ValueError(f"tables holds {self.tables.shape[0]} pairs of tables, the batch has {shape[0]} samples")
            tables = self.tables.expand(shape[0], 2, 8, 8)
            draw["tables"] = tables if device is None else tables.to(device)
        for name, size in self.draw_shapes(shape).items():
            if name not in draw:
                draw[name] = uniform(size, generator, device)
        return draw

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        shapes = super().draw_shapes(shape)
        if self.tables is not None:
            shapes["tables"] = (shape[0], 2, 8, 8)
        if self.rounding is roundings.noise:
            frames = shape[1] if len(shape) == 5 else 1
            for i in range(shape[-3]):
                v, u = SUBSAMPLINGS[self.subsampling] if i else (1, 1)
                shapes[f"noise{i}"] = (shape[0], frames, -(-shape[-2] // (8 * v)), -(-shape[-1] // (8 * u)), 8, 8)
        return shapes

    def strengths(self) -> dict[str, Strength]:
        return super().strengths() if self.tables is None else {}  # tables replace the quality

    def rows(self, rows: list[int], batch: int) -> Layer:
        view = super().rows(rows, batch)
        if self.tables is not None and self.tables.dim() == 4 and self.tables.shape[0] == batch:
            view = view_of(self) if view is self else view
            view.tables = self.tables[rows]
        return view

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        super().check_draw(draw, shape)
        if "tables" in draw and draw["tables"].device.type == "cpu" and not traced(draw["tables"]):
            _checked_tables(draw["tables"])

    def simulate(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, Tensor | None]:
        bits = None
        if rate:
            out, levels, of_pictures = self._coded(video, draw, True)
            if of_pictures is None:
                of_pictures = torch.stack([level_bits(v) for v in levels]).sum(0)
            bits = of_pictures.view(video.shape[0], -1)
        else:
            out = self._decoded(video, draw)
        return (replace_value(video, out.detach()) if self._passes_by else out), bits

    def _decoded(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        mode, width = self._mode()
        if not mode:
            if self.backend not in ("auto", "reference"):
                raise RuntimeError(f"backend={self.backend!r} cannot run: there is no kernel for DiffJPEG({self.extra_repr()})")
            return self._coded(video, draw, False)[0]
        x, tables = self._flat(video, draw)
        out = code_jpeg.on(self.backend, x, tables, *SUBSAMPLINGS[self.subsampling], self.exact, mode, width)
        return out.view(video.shape).to(video.dtype)

    @property
    def _passes_by(self) -> bool:
        return self.exact and self.gradient == "identity"

    @property
    def _slope(self) -> Slope:
        return SLOPES.get(self.gradient, SLOPES["expected"]) if isinstance(self.gradient, str) else self.gradient

    def levels(self, video: Tensor, draw: Mapping[str, Any]) -> tuple[Tensor, list[Tensor]]:
        """Decoded video, and the quantised levels of Y', Cb and Cr with the frames of all samples first, ``[B*T, ..., 8, 8]`` each.

        Levels of the exact forward pass have no gradient.
        """
        return self._coded(video, draw, True)[:2]

    def _coded(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """:meth:`levels`, and the bits ``[B*T]`` of the exact forward pass."""
        x, tables = self._flat(video, draw)
        bits = None
        if self.rounding is None:
            out, levels, bits = code_exact(x, tables, self.subsampling, self._slope, rate)
        else:
            out, levels = code_soft(x, tables, self.subsampling, self.rounding, draw)
        return out.view(video.shape).to(video.dtype), levels, bits

    def _flat(self, video: Tensor, draw: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Pictures ``[N, C, H, W]``, N = B or B*T, in working precision, and their tables ``[N, 2, 8, 8]``."""
        x = video.flatten(0, -4)
        x = x if x.dtype == torch.float64 else x.float()
        tables, frames = self._tables(draw, x), x.shape[0] // video.shape[0]
        return x, tables if frames == 1 else tables.repeat_interleave(frames, 0)

    def _mode(self) -> tuple[str, float]:
        """The kernel's mode and the width of its slope; an empty mode if there is no kernel."""
        if not self.exact:
            return next((k for k, v in roundings.ROUNDINGS.items() if v is self.rounding and k != "noise"), ""), 1.0
        slope = self._slope
        if isinstance(slope, Expected):
            return slope.noise, slope.width
        return next((k for k, v in SLOPES.items() if v is slope), ""), 1.0

    def _tables(self, draw: Mapping[str, Any], like: Tensor) -> Tensor:
        """Shape: ``[B, 2, 8, 8]``; whole numbers for the exact forward."""
        if "tables" not in draw:
            return quality_tables(draw["quality"], like)
        tables = draw["tables"].to(like)
        return replace_value(tables, tables.detach().round().clamp(1, 255)) if self.exact else tables

    def extra_repr(self) -> str:
        forward = "exact, gradient=" + self._names[1] if self.exact else "rounding=" + self._names[0]
        tables = "" if self.tables is None else f", tables={tuple(self.tables.shape)}"
        if self.backend != "auto":
            tables += f", backend={self.backend!r}"
        quality = f"quality={self.quality!r}, " if self.tables is None else ""
        return f"{quality}subsampling={self.subsampling!r}, {forward}{tables}"


def _name(value: object) -> str:
    return repr(value) if isinstance(value, (str, Expected)) else getattr(value, "__name__", repr(value))


def _checked_tables(tables: object) -> Tensor:
    if isinstance(tables, np.ndarray):
        tables = torch.from_numpy(tables)
    if not isinstance(tables, Tensor) or tables.shape[-3:] != (2, 8, 8) or tables.dim() not in (3, 4):
        raise ValueError(f"tables expected a tensor [2, 8, 8] or [B, 2, 8, 8], got {tuple(getattr(tables, 'shape', ())) or tables!r}")
    tables = tables if tables.is_floating_point() else tables.float()
    low, high = tables.detach().min().item(), tables.detach().max().item()
    if not (low >= 1 and high <= 255):
        raise ValueError(f"tables expected steps in [1, 255], got min {low:g}, max {high:g}")
    return tables
