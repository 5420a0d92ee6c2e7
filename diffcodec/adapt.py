"""Our layers for code that keeps video in another layout or range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .coded import Coded
from .layer import Codec, Draw, Generators, Layer

_AXES = {5: "BTCHW", 4: "BCHW"}


class Adapted(nn.Module):
    """A layer behind a change of layout and range; made by :func:`adapt`."""

    def __init__(self, layer: Layer, layout: str, range: tuple[float, float]) -> None:
        super().__init__()
        if not isinstance(layer, Layer):
            raise TypeError(f"adapt expected a diffcodec layer, got {type(layer).__name__}")
        ours = _AXES.get(len(layout))
        if ours is None or sorted(layout) != sorted(ours):
            raise ValueError(f"layout expected an order of 'BTCHW' or 'BCHW', for example 'BCTHW' or 'BHWC'; got {layout!r}")
        low, high = (float(v) for v in range)
        if not low < high:
            raise ValueError(f"range expected (low, high) with low < high, got {range!r}")
        self.layer, self.layout, self.range = layer, layout, (low, high)
        self._inward = [layout.index(axis) for axis in ours]
        self._outward = [ours.index(axis) for axis in layout]

    def sample(self, shape: Sequence[int], generator: Generators = None, **options: Any) -> Draw:
        """As :meth:`diffcodec.Layer.sample`, for a shape in the caller's layout."""
        self._check_rank(len(shape), tuple(shape))
        return self.layer.sample([shape[i] for i in self._inward], generator, **options)

    def forward(self, video: Tensor, draw: Mapping[str, Any] | None = None, **options: Any) -> Tensor:
        """As :meth:`diffcodec.Layer.forward`, in the caller's layout and range."""
        return self._call(self.layer, video, draw, options)  # type: ignore[no-any-return]

    def encode(self, video: Tensor, draw: Mapping[str, Any] | None = None, **options: Any) -> Coded:
        """As :meth:`diffcodec.Codec.encode`, in the caller's layout and range; for codecs only."""
        if not isinstance(self.layer, Codec):
            raise TypeError(f"{type(self.layer).__name__} is no codec: it has no encode")
        return self._call(self.layer.encode, video, draw, options)  # type: ignore[no-any-return]

    def _call(self, call: Any, video: Tensor, draw: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
        if not isinstance(video, Tensor):
            raise TypeError(f"expected a torch.Tensor, got {type(video).__name__}")
        self._check_rank(video.dim(), tuple(video.shape))
        if not video.is_floating_point():
            raise TypeError(f"expected floating point values in {list(self.range)}, got dtype {video.dtype}")
        axis = self.layout.index("C")
        if video.shape[axis] not in self.layer.channels:
            raise ValueError(
                f"expected layout {self.layout}, {self.layer.channels} channels in place {axis}, got shape {tuple(video.shape)}"
            )
        low, high = self.range
        inner = (video.permute(self._inward) - low) / (high - low)
        try:
            out = call(inner, draw, **options)
        except (TypeError, ValueError) as error:
            where = f"behind adapt(layout={self.layout!r}, range={self.range}), values on the layer's own [0, 1] scale"
            raise type(error)(f"{str(error).partition(';')[0]} ({where})") from error
        if isinstance(out, Coded):
            out.video = self._back(out.video)
            return out
        return self._back(out)

    def _back(self, video: Tensor) -> Tensor:
        low, high = self.range
        return video.permute(self._outward) * (high - low) + low

    def _check_rank(self, rank: int, shape: tuple[int, ...]) -> None:
        if rank != len(self.layout):
            raise ValueError(f"expected layout {self.layout} ({len(self.layout)} dimensions), got shape {shape}")

    def extra_repr(self) -> str:
        return f"layout={self.layout!r}, range={self.range}"


def adapt(layer: Layer, layout: str = "BTCHW", range: tuple[float, float] = (0.0, 1.0)) -> Adapted:
    """Wrap a layer for video in another layout or range.

    Args:
        layer: any diffcodec layer.
        layout: order of the axes, for example "BCTHW", "BTHWC" (videos) or "BHWC" (images).
        range: values that stand for black and white, for example (-1, 1) or (0, 255).

    Returns:
        A module that takes and returns that layout and range.

    Example:
        >>> import torch, diffcodec as dc
        >>> layer = dc.adapt(dc.DiffJPEG(50), layout="BHWC", range=(-1, 1))
        >>> layer(torch.zeros(2, 16, 16, 3)).shape
        torch.Size([2, 16, 16, 3])
    """
    return Adapted(layer, layout, range)
