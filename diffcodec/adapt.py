"""Layers for video in another layout, range or channel order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .buildable import Buildable
from .checks import require
from .coded import Coded
from .layer import Codec, Draw, Generators, Layer, to_device

# Layouts that layers take, found by their set of axes. "TCHW" is one video, passed as a batch of 1; or, if it is said not to be a video, images,
# each passed as a clip of one frame.
_AXES = ("BTCHW", "BCHW", "TCHW")
LISTS = ("list", "video")


class Adapted(Buildable, nn.Module):
    """A layer for video in another layout, range or channel order; made by :func:`adapt`, which documents the arguments."""

    def __init__(
        self,
        layer: Layer,
        layout: str = "BTCHW",
        range: tuple[float, float] = (0.0, 1.0),
        *,
        channels: str = "RGB",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        returns: str = "list",
    ) -> None:
        super().__init__()
        if not isinstance(layer, Layer):
            raise TypeError(f"adapt expected a diffcodec layer, got {type(layer).__name__}")
        ours = next((axes for axes in _AXES if sorted(axes) == sorted(layout)), None)
        if ours is None:
            raise ValueError(f"layout expected an order of 'BTCHW', 'BCHW' or 'TCHW', for example 'BCTHW' or 'BHWC'; got {layout!r}")
        low, high = (float(v) for v in range)
        if not low < high:
            raise ValueError(f"range expected (low, high) with low < high, got {range!r}")
        require("channels", channels, ["RGB", "BGR"])
        require("returns", returns, LISTS)
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and (
                not isinstance(values, Sequence) or len(values) not in (1, 3) or (name == "std" and not all(float(v) > 0 for v in values))
            ):
                raise ValueError(f"{name} expected a number for each of 3 channels{', above 0' * (name == 'std')}, got {values!r}")
        self.layer, self.layout, self.range, self.channels, self.returns = layer, layout, (low, high), channels, returns
        self.mean, self.std = (None if v is None else tuple(float(x) for x in v) for v in (mean, std))
        self._single = ours == "TCHW"
        self._inward = [layout.index(axis) for axis in ours]
        self._outward = [ours.index(axis) for axis in layout]

    def sample(self, shape: Sequence[int], generator: Generators = None, *, is_video: bool = True, **options: Any) -> Draw:
        """As :meth:`diffcodec.Layer.sample`, for a shape in the caller's layout. With layout "TCHW" the frames of one video get one draw, images
        (``is_video=False``) one each."""
        self._check_rank(len(shape), tuple(shape))
        inner = [shape[i] for i in self._inward]
        if self._single:
            inner = [1, *inner] if is_video else [inner[0], 1, *inner[1:]]
        return self.layer.sample(inner, generator, **options)

    def describe(self, draw: Mapping[str, Any], batch: int | None = None) -> list[dict[str, Any]]:
        """As :meth:`diffcodec.Layer.describe`."""
        if batch is None and self._single:
            try:
                return self.layer.describe(draw)  # of images, there is one for each
            except ValueError:  # the draw does not tell their number
                batch = 1
        return self.layer.describe(draw, batch)

    def forward(
        self,
        video: Any,
        draw: Mapping[str, Any] | None = None,
        *,
        mask: Tensor | None = None,
        is_video: bool = True,
        **options: Any,
    ) -> Any:
        """As :meth:`diffcodec.Layer.forward`, in the caller's layout and range.

        Args:
            video: floating point, in the wrapper's layout and range; or uint8, always 0..255 and returned as uint8 without a gradient; or a list
                or tuple that starts with such a video and whose other entries are returned unchanged (HiDDeN's ``[noised, cover]``) or, with
                ``returns="video"``, left out (as MBRS's layers do).
            draw: from :meth:`sample`; None draws now.
            mask: where the watermark is, floating point, same layout with one channel. It follows geometric changes (crop, flip, rotation,
                perspective, dropped or reordered frames) and is returned with the video.
            is_video: with layout "TCHW", whether the frames are those of one video, coded as one clip with one draw; False for unrelated images, each
                of which is a clip of one frame with a draw of its own (VideoSeal's argument). No effect with other layouts.
            **options: arguments of the layer: ``step``, ``generator``, strengths, ``guide``; ``before`` and ``after`` in the caller's layout.

        Returns:
            The input, distorted and contiguous; ``(video, mask)`` if a mask was given.

        Raises:
            TypeError, ValueError: as for :meth:`diffcodec.Layer.forward`; a mask of another dtype or shape; an empty list.
        """
        if isinstance(video, (list, tuple)):
            if not video:
                raise ValueError("expected a list whose first entry is the video, got an empty one")
            first, *rest = video
            out = self.forward(first, draw, mask=mask, is_video=is_video, **options)
            if self.returns == "video":
                return out
            first, moved = out if mask is not None else (out, None)
            whole = [first, *rest] if isinstance(video, list) else (first, *rest)
            return whole if mask is None else (whole, moved)
        if mask is None:
            return self._call(self.layer, video, draw, is_video, options)
        self._check_mask(mask, video)
        if draw is None:
            known = {k: options.pop(k) for k in list(options) if k in ("step", "generator") or k in self.layer.strength_names()}
            draw = self.sample(video.shape, is_video=is_video, device=video.device, **known)
        out = self._call(self.layer, video, draw, is_video, options)  # checks the draw
        inner = self._batched(mask.permute(self._inward), is_video)
        with torch.autocast(device_type=mask.device.type, enabled=False):
            moved = self.layer.follow(inner, to_device(draw, mask.device))
        return out, self._unbatched(moved, is_video).permute(self._outward).contiguous()

    def _batched(self, video: Tensor, is_video: bool) -> Tensor:
        """In the layout of the layer: "TCHW" as a batch of one video, or as clips of one frame."""
        return video if not self._single else video[None] if is_video else video[:, None]

    def _unbatched(self, video: Tensor, is_video: bool) -> Tensor:
        return video if not self._single else video[0] if is_video else video[:, 0]

    def _check_mask(self, mask: Any, video: Any) -> None:
        if not isinstance(mask, Tensor) or not mask.is_floating_point():
            what = f"dtype {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"mask expected a floating point torch.Tensor, got {what}")
        axis = self.layout.index("C")
        wanted = [1 if i == axis else n for i, n in enumerate(getattr(video, "shape", ()))]
        if list(mask.shape) != wanted:
            raise ValueError(f"mask expected the video's shape with one channel, {tuple(wanted)}, got {tuple(mask.shape)}")

    def encode(self, video: Tensor, draw: Mapping[str, Any] | None = None, *, is_video: bool = True, **options: Any) -> Coded:
        """As :meth:`diffcodec.Codec.encode`, in the caller's layout and range; a TypeError for layers that are not codecs."""
        if not isinstance(self.layer, Codec):
            raise TypeError(f"{type(self.layer).__name__} is not a codec: it has no encode")
        return self._call(self.layer.encode, video, draw, is_video, options)  # type: ignore[no-any-return]

    def _call(self, call: Any, video: Tensor, draw: Mapping[str, Any] | None, is_video: bool, options: Mapping[str, Any]) -> Any:
        if not isinstance(video, Tensor):
            raise TypeError(f"expected a torch.Tensor, got {type(video).__name__}")
        inner = self._in(video, is_video)
        options = {k: self._in(v, is_video) if k in ("before", "after") and isinstance(v, Tensor) else v for k, v in options.items()}
        try:
            out = call(inner, draw, **options)
        except (TypeError, ValueError) as error:
            where = f"wrapped by adapt(layout={self.layout!r}, range={self.range}); values are on the layer's own [0, 1] scale"
            raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{error} ({where})") from error
        if isinstance(out, Coded):
            out.video = self._out(out.video, video.dtype, is_video)
            return out
        return self._out(out, video.dtype, is_video)

    def _in(self, video: Tensor, is_video: bool) -> Tensor:
        self._check_rank(video.dim(), tuple(video.shape))
        if not (video.is_floating_point() or video.dtype == torch.uint8):
            raise TypeError(f"expected floating point values in {list(self.range)}, or uint8, got dtype {video.dtype}")
        axis = self.layout.index("C")
        if video.shape[axis] not in self.layer.channels:
            raise ValueError(
                f"expected layout {self.layout}, {self.layer.channels} channels at axis {axis}, got shape {tuple(video.shape)}"
            )
        inner = video.permute(self._inward)
        if video.dtype == torch.uint8:
            inner = inner.float() / 255
        else:
            low, high = self.range
            if self.std is not None:
                inner = inner * self._channel(self.std, inner)
            if self.mean is not None:
                inner = inner + self._channel(self.mean, inner)
            inner = (inner - low) / (high - low)
        inner = inner.flip(-3) if self.channels == "BGR" else inner
        return self._batched(inner, is_video)

    def _out(self, video: Tensor, dtype: torch.dtype, is_video: bool) -> Tensor:
        video = self._unbatched(video, is_video)
        video = video.flip(-3) if self.channels == "BGR" else video
        if dtype == torch.uint8:
            return (video.detach() * 255).round().to(dtype).permute(self._outward).contiguous()
        low, high = self.range
        video = video * (high - low) + low
        if self.mean is not None:
            video = video - self._channel(self.mean, video)
        if self.std is not None:
            video = video / self._channel(self.std, video)
        return video.permute(self._outward).contiguous()

    def _channel(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        """A number for each channel, in the caller's order. Shape: ``[C, 1, 1]``."""
        return like.new_tensor(values)[:, None, None]

    def _check_rank(self, rank: int, shape: tuple[int, ...]) -> None:
        if rank != len(self.layout):
            raise ValueError(f"expected layout {self.layout} ({len(self.layout)} dimensions), got shape {shape}")

    def extra_repr(self) -> str:
        more = {"channels": self.channels if self.channels != "RGB" else None, "mean": self.mean, "std": self.std}
        more["returns"] = self.returns if self.returns != "list" else None
        return ", ".join([f"layout={self.layout!r}, range={self.range}", *(f"{k}={v!r}" for k, v in more.items() if v is not None)])


def adapt(
    layer: Layer,
    layout: str = "BTCHW",
    range: tuple[float, float] = (0.0, 1.0),
    *,
    channels: str = "RGB",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    returns: str = "list",
) -> Adapted:
    """Wrap a layer for video in another layout, range or channel order.

    Args:
        layer: any diffcodec layer.
        layout: the axes of "BTCHW", "BCHW" or "TCHW" in any order: videos (for example "BCTHW", "BTHWC"), images, each with a draw of its own (for
            example "BHWC"), or the frames of ONE video, as in VideoSeal, coded as one clip with one draw. For a batch of unrelated images in that
            layout say "BCHW", or give ``is_video=False`` in the call.
        range: values of black and white, for example (-1, 1) or (0, 255). uint8 input is always 0..255.
        channels: "RGB" or "BGR" (OpenCV).
        mean, std: normalisation of the caller's values, ``(x - mean) / std`` with ``x`` in ``range``: 3 numbers in the caller's channel order, or 1.

        returns: what a call with a list (``[noised, cover]``) returns: "list", the list with its first entry distorted (HiDDeN), or "video", that
            entry alone (MBRS).

    Returns:
        A module that takes and returns such video, :class:`~diffcodec.adapt.Adapted`.

    Raises:
        TypeError: ``layer`` is not a diffcodec layer.
        ValueError: unknown layout, channels or ``returns``, low >= high, another number of means, or a ``std`` that is not above 0.

    Example:
        >>> import torch, diffcodec as dc
        >>> layer = dc.adapt(dc.DiffJPEG(50), layout="BHWC", range=(-1, 1))
        >>> layer(torch.zeros(2, 16, 16, 3)).shape
        torch.Size([2, 16, 16, 3])
        >>> frames = dc.adapt(dc.Rotate((-10, 10)), layout="TCHW", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> frames.sample((8, 3, 16, 16))["degrees"].shape  # one angle for the video
        torch.Size([1])
        >>> video, mask = frames(torch.zeros(8, 3, 16, 16), mask=torch.ones(8, 1, 16, 16))
        >>> noised, cover = dc.adapt(dc.DiffJPEG(50), layout="BCHW")([torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)])
    """
    return Adapted(layer, layout, range, channels=channels, mean=mean, std=std, returns=returns)
