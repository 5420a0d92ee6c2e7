"""DiffH264: a differentiable H.264, by model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor

from ..checks import require
from ..layer import Codec, Generators
from ..strength import StrengthLike
from .gop import Gop

if TYPE_CHECKING:
    from ..rounding import Rounding
    from .presets import Constants, Preset
    from .revmark import Motion, REVMarkH264
    from .x264 import X264H264


class DiffH264(Codec):
    """Differentiable H.264.

    Args:
        crf: constant rate factor of libx264, 0..51: a number, a tensor ``[B]``, a (low, high) range drawn per sample or a schedule (default 23).
            Differentiable.
        preset: libx264's, "ultrafast" to "slower" (default "medium"), or a custom :class:`~diffcodec.h264.Preset`.
        fps: frames per second passed to the encoder, 0.1..1000 (default 25); QPs at a CRF depend on it.
        gop: "start" (the clip begins with an I frame), "middle" (a window inside a stream, without an I frame) or "random" (either, drawn per
            clip), all with frame types chosen from the content, as by libx264; or a :class:`~diffcodec.h264.Gop`, for example
            ``Gop(pattern(8, bframes=3))``.
        tune: libx264's: "film", "animation", "grain", "stillimage", "psnr", "fastdecode", "zerolatency", several separated by commas.
        profile: "baseline", "main" or "high".
        bframes: maximum number of consecutive B frames, 0..16; None for the preset's.
        keyint: maximum distance between I frames in frames, >= 1; None for the preset's.
        options: further options by x264's or ffmpeg's names, also inside ``x264-params``, as for :class:`~diffcodec.RealCodec`; only those that
            the model supports (:data:`diffcodec.h264.OPTIONS`).
        bitrate: average bits per second in place of a CRF, 1e3..1e9, in the same forms as ``crf``: each clip gets the CRF whose estimated size
            matches it, to about 2 % on average (4 % inside a stream): it is guessed from the lookahead's costs and corrected by one encode, so that
            a forward pass takes about twice the time of one with ``crf=``. Clips for which the guess is far off (noise, drawings, windows inside a
            stream) take up to five encodes more, and a bitrate that requires a gradient takes one. Differentiable. With ``before=`` it is the
            average over all coded frames.
        model: "x264" (:class:`~diffcodec.h264.X264H264`), or "revmark", the simulator of the REVMark paper
            (:class:`~diffcodec.h264.REVMarkH264`), which has a fixed strength and takes none of the arguments above.
        **options: further arguments of the model. "x264": ``constants=`` (:class:`~diffcodec.h264.Constants`) of your own calibration,
            ``backend=`` (see :mod:`diffcodec.backend`).

    Returns:
        An instance of the model's class.

    A call of the x264 model also takes ``guide=``: the decisions of a real encode of the same clips, ``RealCodec(...).encode(video).guide``.
    Frame types, motion vectors and QPs are taken from it and the rest is simulated; the CRF then receives a gradient but has no other effect.

    It also takes ``before=`` and ``after=``: the frames ``[B, N, 3, H, W]`` around a window of a longer video. They are coded with it, starting
    with an I frame, so that the window has the references that it has in the stream, and are then discarded. They cost time, and memory if they
    require a gradient.

    Shape:
        ``[B, T, 3, H, W]``, any T, H, W >= 1.

    Raises:
        ValueError: unknown model, preset, gop, tune, profile or option, values out of range, both a CRF and a bitrate, a guide
            of another clip, size or length.
        TypeError: an argument that the model does not have.

    Example:
        >>> import torch, diffcodec as dc
        >>> layer = dc.DiffH264(crf=(18, 28), preset="veryfast")
        >>> video = torch.rand(2, 4, 3, 32, 48, requires_grad=True)
        >>> layer(video).shape
        torch.Size([2, 4, 3, 32, 48])
        >>> coded = layer.encode(video, crf=23)
        >>> coded.frame_bits.shape
        torch.Size([2, 4])
        >>> dc.DiffH264(model="revmark")(video).shape
        torch.Size([2, 4, 3, 32, 48])
    """

    model = ""
    models: dict[str, type[DiffH264]] = {}  # noqa: RUF012  # by name; a subclass that sets ``model`` registers itself

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("model"):
            DiffH264.models[cls.model] = cls

    @overload
    def __new__(
        cls,
        crf: StrengthLike | None = ...,
        preset: str | Preset = ...,
        fps: float | Fraction | str = ...,
        gop: str | Gop = ...,
        model: Literal["x264"] = ...,
        *,
        tune: str | None = ...,
        profile: str | None = ...,
        bframes: int | None = ...,
        keyint: int | None = ...,
        options: Mapping[str, object] | None = ...,
        bitrate: StrengthLike | None = ...,
        constants: Constants | None = ...,
        backend: str = ...,
    ) -> X264H264: ...

    @overload
    def __new__(
        cls,
        *,
        model: Literal["revmark"],
        reference: int | None = ...,
        motion: Motion | None = ...,
        flow_from: str = ...,
        flow_gradient: bool = ...,
        rounding: str | Rounding = ...,
        intra_scale: float = ...,
        inter_scale: float = ...,
        chroma_scale: float = ...,
    ) -> REVMarkH264: ...

    @overload
    def __new__(cls, *args: Any, model: str, **options: Any) -> DiffH264: ...  # a name known only at run time

    def __new__(cls, *args: Any, **options: Any) -> DiffH264:
        if cls is not DiffH264:
            return super().__new__(cls)
        model = args[4] if len(args) > 4 else options.get("model", "x264")
        require("model", model, list(DiffH264.models))
        chosen = DiffH264.models[model]
        allowed = list(inspect.signature(chosen.__init__).parameters)[1:]
        for name, value in options.items():
            if name not in allowed:
                raise TypeError(f"DiffH264(model={model!r}) has no option {name}={value!r}; it takes {', '.join(allowed)}")
        return super().__new__(chosen)

    def complete(
        self, video: Tensor, draw: Mapping[str, Any] | None, step: int | None, generator: Generators, strengths: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        for name in ("guide", "before", "after"):
            if strengths.get(name) is not None:
                raise TypeError(f"{self.who}(model={self.model!r}) takes no {name}")
        return super().complete(video, draw, step, generator, strengths)

    @property
    def who(self) -> str:
        return "DiffH264"  # for every model: the name that the user called
