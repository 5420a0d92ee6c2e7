"""The simulator of libx264 as a layer: its strength, its options, its draw. The encoder itself is :mod:`diffcodec.h264.encoder`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from .. import backend as backends
from .. import opaque
from ..checks import frame_rate, require, traced
from ..coded import Coded
from ..layer import FIRST_ORDER_ONLY, Draw, Generators
from ..strength import Strength, StrengthLike, uniform
from . import bitrate as bitrates
from . import bits
from .codec import DiffH264
from .encoder import Analysis, Settings, encode_video
from .frame_types import undecided
from .gop import Gop
from .guide import Guide
from .options import habits
from .presets import Constants, Preset, constants_of

NEIGHBOURS = "before", "after"  # further arguments of a call: the frames around the video
START = -1  # value of the phase: the clip begins with an I frame


class X264H264(DiffH264):
    """The x264 model of :class:`~diffcodec.DiffH264`: frame types, quantisers, decisions and arithmetic of libx264, batched, with a gradient.

    Encoder decisions (frame types, vectors, modes, rounding of QPs, which levels to keep) depend on values only and are constants to the gradient.
    The coding order depends on the data: under ``torch.compile`` and ``torch.func.grad`` the layer is a single operator whose backward pass
    encodes again. Arithmetic is float32, also for float64 input.

    Args:
        crf: constant rate factor of libx264, 0..51: a number, a tensor ``[B]``, a (low, high) range drawn per sample or a schedule. Differentiable.
        preset: libx264's, "ultrafast" to "slower", or a custom :class:`~diffcodec.h264.Preset`.
        fps: frames per second passed to the encoder, 0.1..1000; QPs at a CRF depend on it.
        gop: "start", "middle", "random" or a :class:`~diffcodec.h264.Gop`, see :class:`~diffcodec.DiffH264`.
        model: "x264".
        tune, profile, bframes, keyint, options, bitrate: see :class:`~diffcodec.DiffH264`.
        constants: your own calibration (:class:`~diffcodec.h264.Constants`), for the settings that it was fitted to; None for the stored one of the
            preset's family.
        backend: see :mod:`diffcodec.backend`.

    Attributes:
        settings: the preset after tune, options and profile, a :class:`~diffcodec.h264.Preset`.
    """

    model = "x264"
    raw = True
    operator = opaque.operator("diff_h264")
    lacks = FIRST_ORDER_ONLY

    def __init__(
        self,
        crf: StrengthLike | None = None,
        preset: str | Preset = "medium",
        fps: float | Fraction | str = 25,
        gop: str | Gop = "start",
        model: str = "x264",
        *,
        tune: str | None = None,
        profile: str | None = None,
        bframes: int | None = None,
        keyint: int | None = None,
        options: Mapping[str, object] | None = None,
        bitrate: StrengthLike | None = None,
        constants: Constants | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        require("model", model, [self.model])
        self.backend = backends.validate_backend(backend)
        if bitrate is None:
            self.crf = Strength(23 if crf is None else crf, "crf", 0, 51)
        elif crf is not None:
            raise ValueError(f"DiffH264 got both crf={crf!r} and bitrate={bitrate!r}: one of them sets the rate")
        else:
            self.bitrate = Strength(bitrate, "bitrate", 1e3, 1e9)
        if not isinstance(gop, Gop):
            require("gop", gop, ["start", "middle", "random"])
        self.preset, self.fps, self.gop = preset, float(frame_rate(fps)), gop
        self.settings = habits(preset, tune, profile, bframes, keyint, options)
        asked = {"tune": tune, "profile": profile, "bframes": bframes, "keyint": keyint, "options": options or None}
        self._asked = {k: v for k, v in asked.items() if v is not None}  # for repr()
        self.constants = constants or constants_of(self.settings)
        self._own_constants = constants is not None
        fitted = self.constants.fitted_to
        if fitted is not None and habits(fitted.preset, options=fitted.options, strict=False) != self.settings:
            own = ", ".join(f"{k}={v!r}" for k, v in {"preset": preset, **self._asked}.items())
            raise ValueError(
                f"DiffH264({own}) got constants fitted to {fitted}: give the layer these settings,"
                " or constants fitted to its own (benchmarks.calibrate)"
            )

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        draw = super().draw(shape, generator, step, device)
        phases = self.settings.bframes + 1
        chance, phase = uniform((shape[0], 2), generator, device).unbind(1)  # whether inside a stream, and at which phase
        where = (phase * phases).long().clamp(max=phases - 1)
        if self.gop == "random":
            where = torch.where(chance < 0.5, where, START)
        elif self.gop != "middle":
            where = torch.full_like(where, START)
        return draw | {"phase": where}

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return super().draw_shapes(shape) | {"phase": shape[:1]}

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        who, guide = self.who, draw.get("guide")
        if guide is not None and len(guide) != shape[0]:
            raise ValueError(f"{who} got guides for {len(guide)} samples; the batch has {shape[0]}")
        for name in NEIGHBOURS:
            self._check_neighbours(name, draw.get(name), shape, guide, draw.get("before") is not None)
        super().check_draw({k: v for k, v in draw.items() if k not in ("guide", *NEIGHBOURS)}, shape)
        phase = draw["phase"]
        if phase.device.type == "cpu" and not traced(phase) and not START <= int(phase.min()) <= int(phase.max()) <= self.settings.bframes:
            raise ValueError(f"{who} got a draw with phases {phase.tolist()}; this preset has {START}..{self.settings.bframes}")

    def complete(
        self, video: Tensor, draw: Mapping[str, Any] | None, step: int | None, generator: Generators, strengths: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        strengths = dict(strengths)
        guides = strengths.pop("guide", None)
        given = {name: strengths.pop(name, None) for name in NEIGHBOURS}
        given = {name: x for name, x in given.items() if x is not None and not (isinstance(x, Tensor) and x.dim() == 5 and not x.shape[1])}
        if given:
            self.check(video)
            for name, frames in given.items():
                self._check_neighbours(name, frames, video.shape, guides, "before" in given)
            return {**super().complete(video, draw, step, generator, strengths), **{k: v.to(video.device) for k, v in given.items()}}
        if guides is None:
            return super().complete(video, draw, step, generator, strengths)
        self.check(video)
        if not isinstance(guides, Sequence) or len(guides) != len(video) or not all(isinstance(g, Guide) for g in guides):
            raise ValueError(f"guide expected a list of {len(video)} guides, one per clip, got {guides!r}")
        for guide, clip in zip(guides, video):
            guide.check(clip)
        return {**super().complete(video, draw, step, generator, strengths), "guide": list(guides)}

    def _check_neighbours(self, name: str, frames: object, shape: Sequence[int], guides: object, before: bool) -> None:
        """Check the frames around the video: layout, range, batch and frame size."""
        if frames is None:
            return
        if guides is not None or isinstance(self.gop, Gop):
            raise ValueError(
                f"{self.who} got {name}= and {'a guide' if guides is not None else repr(self.gop)}: which already determines what is coded"
            )
        if name == "after" and self.gop != "start" and not before:
            raise ValueError(
                f"{self.who}(gop={self.gop!r}) got after= without before=: the frames before a window say where it lies in its stream"
            )
        try:
            self.check(frames)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}=: {error}") from None
        own, wanted = tuple(frames.shape), (shape[0], *shape[2:])  # type: ignore[attr-defined]
        if (own[0], *own[2:]) != wanted:
            raise ValueError(f"{self.who} got {name}= of shape {own}: batch and frame size must be those of the video {tuple(shape)}")

    def gops(self, phase: Tensor, frames: int) -> list[Gop]:
        """The GOP of each clip, with types left open if the content decides them; ``phase`` is ``[B]``."""
        if isinstance(self.gop, Gop):
            if len(self.gop) != frames:
                raise ValueError(f"{self.gop} is for {len(self.gop)} frames, the clip has {frames}")
            return [self.gop] * len(phase)
        n, references = self.settings.bframes, self.settings.references
        if self.gop == "start":  # needs nothing from the GPU
            return [undecided(frames, 0, 0, references)] * len(phase)
        return [undecided(frames, 0, 0, references) if p == START else undecided(frames, n + 1 - p, n, references) for p in phase.tolist()]

    def features(self, video: Tensor, draw: Mapping[str, Any], rate: bool = True) -> tuple[Tensor, Tensor | None, list[str]]:
        """Decoded video, rate features of each frame ``[B, T, 6]`` (:mod:`diffcodec.h264.bits`) or None, and frame types."""
        x = video.float()  # integer arithmetic inside: more precision would only break ties differently
        if any(draw.get(name) is not None for name in NEIGHBOURS):
            out, counted, types = self._window(x, draw, rate)
            return out.to(video.dtype), counted, types
        guides = draw.get("guide")
        gops = [] if guides is not None else self.gops(draw["phase"], video.shape[1])
        with backends.using(self.backend):
            settings = Settings(self.fps, self.settings, self.constants, rate)
            analysis = None if guides is not None else Analysis.of(x, gops, settings)
            crf = draw["crf"].to(x) if "crf" in draw else self.crf_of_bitrate(x, draw["bitrate"], gops, guides, analysis)
            out, counted, types = encode_video(x, crf, gops, guides, settings, analysis)
        return out.to(video.dtype), counted, types

    def _window(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, Tensor | None, list[str]]:
        """:meth:`features` with the frames around the video: all are coded, starting with an I frame, and the video's own are returned."""
        parts = [draw.get("before"), video, draw.get("after")]
        whole = torch.cat([x.to(video) if x is not None else video[:, :0] for x in parts], 1)
        first = 0 if parts[0] is None else parts[0].shape[1]
        last = first + video.shape[1]
        plain = {k: v for k, v in draw.items() if k not in NEIGHBOURS} | {"phase": torch.full_like(draw["phase"], START)}
        out, counted, types = self.features(whole, plain, rate)
        return out[:, first:last], None if counted is None else counted[:, first:last], [t[first:last] for t in types]

    def crf_of_bitrate(
        self, video: Tensor, bitrate: Tensor, gops: Sequence[Gop], guides: Sequence[Guide] | None, analysis: Analysis | None = None
    ) -> Tensor:
        """CRF ``[B]`` at which each clip is estimated to have a bitrate (bits per second, ``[B]``); differentiable in it.

        See :mod:`diffcodec.h264.bitrate`.
        """
        if guides is not None:  # QPs are the guide's at any CRF
            return torch.full_like(bitrate, 23.0).to(video)
        settings = Settings(self.fps, self.settings, self.constants, True)
        analysis = analysis or Analysis.of(video.detach(), gops, settings)
        return bitrates.crf_of_bitrate(video, gops, analysis, bitrate, settings).to(video)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return self.features(video, draw, False)[0]

    def coded(self, video: Tensor, draw: Mapping[str, Any]) -> Coded:
        out, counted, types = self.features(video, draw)
        assert counted is not None
        of_frames = bits.count(counted, self.constants.rate)
        return Coded(out, of_frames.sum(1), types, of_frames)

    def extra_repr(self) -> str:
        more = "" if self.backend == "auto" else f", backend={self.backend!r}"
        more = (f", constants={self.constants}" if self._own_constants else "") + more
        more = "".join(f", {k}={v!r}" for k, v in self._asked.items()) + more
        rate = f"crf={self.crf!r}" if "crf" in self.__dict__ else f"bitrate={self.bitrate!r}"
        return f"{rate}, preset={self.preset!r}, fps={self.fps:g}, gop={self.gop!r}{more}"
