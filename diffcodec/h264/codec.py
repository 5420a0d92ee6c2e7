"""DiffH264: a differentiable H.264, by model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..checks import require
from ..coded import Coded
from ..layer import Codec, Draw, Generators, Layer, view_of
from ..strength import Strength, StrengthLike
from .gop import Gop
from .guide import Guide
from .habits import Preset
from .revmark import REVMarkH264
from .x264 import X264H264

MODELS: dict[str, type[Codec]] = {"x264": X264H264, "revmark": REVMarkH264}


class DiffH264(Codec):
    """Differentiable H.264.

    Args:
        crf: constant rate factor of libx264, 0..51: a number, a tensor ``[B]``, a (low, high) range drawn per sample or a schedule (default 23).
            Differentiable.
        preset: libx264's (default "medium"), or a :class:`~diffcodec.h264.Preset` of habits of your own.
        fps: frame rate that the encoder is told (default 25); CRF depends on it.
        gop: "start" (the clip begins with an I frame), "middle" (a window from inside a stream: no I frame) or "random" (either, drawn per
            clip), frame types following the clip's content as libx264's do; or a :class:`~diffcodec.h264.Gop`, for example
            ``Gop(pattern(8, bframes=3))``.
        model: "x264" (:class:`~diffcodec.h264.X264H264`), or "revmark", the simulator of the REVMark paper
            (:class:`~diffcodec.h264.REVMarkH264`), which has one fixed strength: crf, preset, fps and gop are errors.
        **options: what else the model takes. "x264": ``constants=`` (:class:`~diffcodec.h264.Constants`) of a calibration of your own,
            ``backend=`` (see :mod:`diffcodec.kernels`).

    Shape:
        ``[B, T, 3, H, W]``, any T, H, W >= 1.

    Raises:
        ValueError: unknown model, preset or gop, values out of range. TypeError: an option that the model does not have.
    """

    def __init__(
        self,
        crf: StrengthLike | None = None,
        preset: str | Preset | None = None,
        fps: float | Fraction | str | None = None,
        gop: str | Gop | None = None,
        model: str = "x264",
        **options: Any,
    ) -> None:
        super().__init__()
        require("model", model, list(MODELS))
        given = {k: v for k, v in {"crf": crf, "preset": preset, "fps": fps, "gop": gop}.items() if v is not None} | options
        allowed = list(inspect.signature(MODELS[model]).parameters)
        for name, value in given.items():
            if name in allowed:
                continue
            if name == "crf":
                raise TypeError(
                    f"DiffH264(model={model!r}) got crf={value!r}, but the paper's simulator knows no CRF: its strength is"
                    " fixed by intra_scale and inter_scale"
                )
            raise TypeError(f"DiffH264(model={model!r}) has no option {name}={value!r}; it takes {', '.join(allowed)}")
        self.model = model
        self.engine = MODELS[model](**given)

    def fused(self, video: Tensor) -> bool:
        return self.engine.fused(video)

    def strengths(self) -> dict[str, Strength]:
        return self.engine.strengths()

    def with_strengths(self, strengths: Mapping[str, Strength]) -> Layer:
        if not strengths:
            return self
        view = view_of(self)
        view._modules["engine"] = self.engine.with_strengths(strengths)
        return view

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        return self.engine.draw(shape, generator, step, device)

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return self.engine.draw_shapes(shape)

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        self.engine.check_draw(draw, shape)

    def run(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return self.engine.run(video, draw)

    def simulate(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, Tensor | None]:
        return self.engine.simulate(video, draw, rate)

    def coded(self, video: Tensor, draw: Mapping[str, Any]) -> Coded:
        return self.engine.coded(video, draw)

    def forward(
        self,
        video: Tensor,
        draw: Mapping[str, Any] | None = None,
        *,
        step: int | None = None,
        generator: Generators = None,
        guide: Sequence[Guide] | None = None,
        **strengths: Any,
    ) -> Tensor:
        """Distort a video; arguments and errors as in :meth:`diffcodec.Layer.forward`, and

        Args:
            guide: decisions of a real encode of these very clips, ``RealCodec(...).encode(video).guide``: frame types, vectors and quantisers are
                taken from it and the rest is simulated. The CRF then has a gradient and no other effect.

        Raises:
            ValueError: a guide of another clip, size or length.
        """
        draw, strengths = self._with_guide(video, draw, step, generator, guide, strengths)
        return super().forward(video, draw, step=step, generator=generator, **strengths)

    def encode(
        self,
        video: Tensor,
        draw: Mapping[str, Any] | None = None,
        *,
        step: int | None = None,
        generator: Generators = None,
        guide: Sequence[Guide] | None = None,
        **strengths: Any,
    ) -> Coded:
        """Distort and estimate the size; arguments as in :meth:`forward`."""
        draw, strengths = self._with_guide(video, draw, step, generator, guide, strengths)
        return super().encode(video, draw, step=step, generator=generator, **strengths)

    def _with_guide(
        self,
        video: Tensor,
        draw: Mapping[str, Any] | None,
        step: int | None,
        generator: Generators,
        guide: Sequence[Guide] | None,
        strengths: dict[str, Any],
    ) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
        """The draw with the guide in it, and the strengths that are still to be applied."""
        if guide is None:
            return draw, strengths
        if self.model != "x264":
            raise TypeError(f"DiffH264(model={self.model!r}) takes no guide")
        self.check(video)
        if not isinstance(guide, Sequence) or len(guide) != len(video) or not all(isinstance(g, Guide) for g in guide):
            raise ValueError(f"guide expected a list of {len(video)} guides, one a clip, got {guide!r}")
        for g, clip in zip(guide, video):
            g.check(clip)
        if draw is None:
            draw, strengths = self.sample(video.shape, generator, step=step, device=video.device, **strengths), {}
        return {**draw, "guide": list(guide)}, strengths
