"""The contract that every codec and attack keeps: draw outside the graph, then apply a pure function.

``layer(video)`` is ``layer(video, layer.sample(video.shape))``. With a draw given, the call is a pure function of video
and draw: it can be compiled with ``fullgraph=True`` and repeated to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import kernels
from .checks import check_image_or_video, check_values, check_video, clamp_through
from .coded import Coded
from .strength import Strength

Draw = dict[str, Any]


class Layer(nn.Module):
    """Base of all codecs and attacks: video in, video of the same layout, dtype and device out, values in [0, 1].

    A subclass writes :meth:`distort` (the pure function) and, where more than its strengths is drawn, :meth:`draw`.
    Computation is in float32 (float64 for float64 input), also under autocast and for half precision input.
    Values slightly outside [0, 1] are clamped on entry and on exit, with the gradient passed through unchanged.
    """

    backend = "auto"
    images = False  # whether [B, C, H, W] is accepted beside [B, T, 3, H, W]
    channels: tuple[int, ...] = (3,)

    @property
    def clamps(self) -> bool:
        """Whether :meth:`distort` itself clamps what goes in and out, with the gradient passed through: saves two passes over the video."""
        return False

    def sample(
        self,
        shape: Sequence[int],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        *,
        step: int | None = None,
        device: torch.device | None = None,
    ) -> Draw:
        """Draw what is random for an input of this shape: a dict of tensors with the batch first.

        Args:
            shape: shape of the input to come.
            generator: source of randomness; None uses torch's default one. A list of one for each sample makes a sample's draw independent of
                the batch it comes in: the same on one process or many.
            step: training step, for strengths that follow a schedule.
            device: where the draw is put.
        """
        if isinstance(generator, Sequence):
            if len(generator) != shape[0]:
                raise ValueError(f"{type(self).__name__} got {len(generator)} generators for a batch of {shape[0]}: one a sample is needed")
            return join([self.draw((1, *shape[1:]), g, step, device) for g in generator])
        return self.draw(tuple(shape), generator, step, device)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        """What :meth:`sample` returns; by default one value for each :class:`~diffcodec.strength.Strength` of the layer."""
        return {name: s.draw(shape[0], generator, device, step) for name, s in self.__dict__.items() if isinstance(s, Strength)}

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        """The pure function: float32 or float64 video in [0, 1] and a draw in, video out."""
        raise NotImplementedError

    def fuse(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        """:meth:`distort` as a fused kernel, clamps included: any floating type in, the same out."""
        raise NotImplementedError

    def no_kernel(self, video: Tensor) -> str | None:
        """Why there is no :meth:`fuse` for a video; None where there is one. Layers that have one take ``backend``."""
        return f"{type(self).__name__} has no kernel"

    def fused(self, video: Tensor) -> bool:
        """Whether a call runs :meth:`fuse`: see :mod:`diffcodec.kernels`."""
        return isinstance(video, Tensor) and kernels.wanted(self.backend, video, self.no_kernel(video))

    def forward(
        self,
        video: Tensor,
        draw: Mapping[str, Any] | None = None,
        *,
        step: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Distort a video.

        Args:
            video: ``[B, T, 3, H, W]``, floating point, RGB in [0, 1] (layers for images take ``[B, C, H, W]`` too).
            draw: what :meth:`sample` drew, to make the call a pure function; None draws here.
            step: training step, for schedules.
            generator: source of randomness where nothing is given as ``draw``.

        Returns:
            Video of the same layout, dtype and device.

        Raises:
            TypeError, ValueError: the input has another layout, dtype or range; the message prints what came.
            RuntimeError: ``backend="triton"`` where no kernel can run.
        """
        if self.fused(video):
            draw = self.complete(video, draw, step, generator)
            with torch.autocast(device_type=video.device.type, enabled=False):
                return self.fuse(video, draw)
        work, draw = self.prepare(video, draw, step, generator)
        with torch.autocast(device_type=video.device.type, enabled=False):
            out = self.distort(work, draw)
        return (out if self.clamps else clamp_through(out)).to(video.dtype)

    def prepare(
        self, video: Tensor, draw: Mapping[str, Any] | None, step: int | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Mapping[str, Any]]:
        """Check the input, bring it into working precision and into [0, 1], and complete the draw."""
        draw = self.complete(video, draw, step, generator)
        work = video if video.dtype == torch.float64 else video.float()
        return (work if self.clamps else clamp_through(work)), draw

    def complete(
        self, video: Tensor, draw: Mapping[str, Any] | None, step: int | None, generator: torch.Generator | None
    ) -> Mapping[str, Any]:
        """Check the input and the draw, or draw."""
        self.check(video)
        if draw is None:
            return self.sample(video.shape, generator, step=step, device=video.device)
        draw = to_device(draw, video.device)
        self.check_draw(draw, video.shape)
        return draw

    def check(self, video: Tensor) -> None:
        who = type(self).__name__
        if self.images:
            check_image_or_video(video, who, self.channels)
        else:
            check_video(video, who)
        check_values(video, who)

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        """Raise where a draw was made for another layer, batch or size."""
        who = type(self).__name__
        for name, value in self.__dict__.items():
            if isinstance(value, Strength) and name not in draw and not set(draw) - set(self.__dict__):
                raise ValueError(f"{who} got a draw without {name!r}: sample(video.shape) makes one; it holds {sorted(draw) or 'nothing'}")
        for key, value in draw.items():
            if not isinstance(value, Tensor):
                continue
            if value.dim() and value.shape[0] != shape[0]:
                raise ValueError(f"{who} got a draw whose {key!r} is for {value.shape[0]} samples; the batch has {shape[0]}")
            if value.dim() == len(shape) and tuple(value.shape) != tuple(shape):
                raise ValueError(f"{who} got a draw whose {key!r} is for shape {tuple(value.shape)}; the input has {tuple(shape)}")

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.__dict__.items() if isinstance(v, Strength))


class Codec(Layer):
    """A simulator of a codec. A subclass writes :meth:`simulate`; calling it gives the video, :meth:`encode` the size as well."""

    def simulate(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, Tensor | None]:
        """The pure function: decoded video, and where ``rate`` is asked for the bits of each frame ``[B, T]`` (images: ``[B, 1]``)."""
        raise NotImplementedError

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return self.simulate(video, draw, False)[0]

    def frame_types(self, shape: tuple[int, ...], draw: Mapping[str, Any]) -> list[str]:
        """A letter a frame, a string a sample."""
        return ["I" * (shape[1] if len(shape) == 5 else 1)] * shape[0]

    def encode(
        self,
        video: Tensor,
        draw: Mapping[str, Any] | None = None,
        *,
        step: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Coded:
        """Distort and estimate the size. Arguments and errors as in :meth:`forward`.

        Returns:
            :class:`~diffcodec.Coded`: the same video, differentiable ``bits`` ``[B]`` and ``frame_bits`` ``[B, T]``, frame types.
        """
        work, draw = self.prepare(video, draw, step, generator)
        with torch.autocast(device_type=video.device.type, enabled=False):
            out, bits = self.simulate(work, draw, True)
        assert bits is not None
        return Coded(clamp_through(out).to(video.dtype), bits.sum(1), self.frame_types(tuple(video.shape), draw), bits)


def join(draws: Sequence[Any]) -> Any:
    """Draws of single samples as the draw of their batch."""
    first = draws[0]
    if isinstance(first, Tensor):
        return torch.cat(list(draws))
    if isinstance(first, Mapping):
        return {name: join([d[name] for d in draws]) for name in first}
    if isinstance(first, list):
        return [x for d in draws for x in d]
    raise TypeError(f"a draw holds {type(first).__name__}: it cannot be joined sample by sample")


def to_device(draw: Any, device: torch.device) -> Any:
    """A draw with all its tensors on one device."""
    if isinstance(draw, Tensor):
        return draw.to(device)
    if isinstance(draw, Mapping):
        return {k: to_device(v, device) for k, v in draw.items()}
    if isinstance(draw, (list, tuple)):
        return type(draw)(to_device(v, device) for v in draw)
    return draw
