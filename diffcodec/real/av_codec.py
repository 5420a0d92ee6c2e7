"""Real video codecs through PyAV."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from fractions import Fraction
from numbers import Real as Real_
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import opaque
from ..checks import frame_rate, require
from ..h264 import DiffH264
from ..h264 import guide as guides
from ..h264.guide import Guide
from ..h264.options import habits
from ..h264.x264 import X264H264
from ..media import Converter, captured_log, x264_options
from ..strength import Strength, StrengthLike
from .base import Array, Real
from .encoders import ENCODERS, REFUSED, check_options, limits_of_rate


class RealCodec(Real):
    """A real video codec: 8-bit RGB in, encoded, decoded, 8-bit RGB out.

    Frames are rounded to 8 bits and converted by swscale's defaults (BT.601, limited range, 4:2:0). The clips of a batch are coded in parallel
    with one encoder thread each, so the same input gives the same output on any number of cores. Odd and very small sizes are padded by
    repetition and cropped back.

    The output of libx264 is that of its C code: on CPUs with AVX-512 its assembly is limited to AVX2 (:func:`diffcodec.media.x264_asm`).
    libx265 codes frames up to 64 pixels wide with ``ctu=32``: with a single CTU of 64 per row it predicts from uninitialised memory.

    Args:
        encoder: "libx264", "libx265", "libvpx-vp9" or "libsvtav1".
        crf: constant rate factor: 0..51 (x264, x265), whole numbers 0..63 (VP9), 1..63 (AV1); number, ``[B]``, range drawn per clip,
            :class:`~diffcodec.Choice` or schedule. None for 23; it must be None with ``bitrate``.
        preset: name (x264, x265) or number (VP9's cpu-used 0..5, with ``deadline=realtime`` 0..8;
            SVT-AV1's 0..11); None for "medium", 4 and 8.
        fps: frames per second passed to the encoder, 0.1..1000; x264's QPs at a CRF depend on it. A number, or text such as "30000/1001".
        options: further encoder options by ffmpeg's name, for example ``{"bf": "0", "x264-params": "mbtree=0"}``.
        gradient: "best" (libx264: that of :class:`~diffcodec.DiffH264` guided by the same encode; the others: "identity"), "identity", None or
            a simulator: see :class:`~diffcodec.real.base.Real`.
        tune, profile, bframes, keyint: the encoder's, as its options ``tune``, ``profile``, ``bf`` and ``g``. VP9 and SVT-AV1 have no ``bframes``;
            their tunes are "psnr" and "ssim" (VP9) and 0..3 (SVT-AV1).
        bitrate: average bits per second in place of a CRF, 1e3..1e9, in the same forms as ``crf``. Encoders converge to it within a second or
            two: very short clips get the encoder's initial rate.
        maxrate, bufsize: limits of the rate, from 1000: bits per second and bits of the decoder's buffer, or text such as "1.5x", a multiple of
            each clip's bitrate. x264 and x265 take both, also as a cap on a CRF. VP9 takes ``maxrate="1x"`` with a ``bufsize``: a constant
            bitrate. SVT-AV1 takes ``maxrate`` alone, with a CRF.

    Shape:
        ``[B, T, 3, H, W]``, any T, H, W >= 1.

    Raises:
        ValueError: a name, CRF, preset or rate that the encoder does not have, or an option that it does not accept or would pass over (ffmpeg and
            PyAV ignore both silently) or that changes the meaning of the picture.
        ImportError: PyAV is missing or was built without the encoder.

    Example:
        >>> import torch, diffcodec as dc
        >>> codec = dc.RealCodec("libx264", crf=23, preset="ultrafast", gradient="identity")
        >>> video = torch.rand(1, 3, 3, 32, 32, requires_grad=True)
        >>> coded = codec.encode(video)
        >>> coded.bits > 0, len(coded.streams[0]) > 0
        (tensor([True]), True)
        >>> coded.video.sum().backward()
    """

    operator = opaque.operator("real_codec")

    def __init__(
        self,
        encoder: str = "libx264",
        crf: StrengthLike | None = None,
        preset: str | int | None = None,
        fps: float | Fraction | str = 25,
        options: Mapping[str, object] | None = None,
        gradient: str | nn.Module | None = "best",
        bitrate: StrengthLike | None = None,
        maxrate: float | str | None = None,
        bufsize: float | str | None = None,
        *,
        tune: str | None = None,
        profile: str | None = None,
        bframes: int | None = None,
        keyint: int | None = None,
    ) -> None:
        super().__init__(gradient)
        require("encoder", encoder, list(ENCODERS))
        self.encoder = encoder
        self._spec = spec = ENCODERS[encoder]
        if bitrate is None:
            self.crf = Strength(23 if crf is None else crf, "crf", *spec.crf, integer=spec.integer)
        elif crf is not None:
            raise ValueError(f"RealCodec got both crf={crf!r} and bitrate={bitrate!r}: one of them sets the rate")
        else:
            self.bitrate = Strength(bitrate, "bitrate", 1e3, 1e9)
        self.maxrate, self.bufsize = (_limit(n, v, bitrate is not None) for n, v in (("maxrate", maxrate), ("bufsize", bufsize)))
        limits_of_rate(encoder, bitrate is not None, self.maxrate, self.bufsize)
        self.preset = spec.default_preset if preset is None else str(preset)
        require(f"preset of {encoder}", self.preset, spec.presets)
        self.fps = frame_rate(fps)
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"options expected a mapping of names to values, got {options!r}")
        self.options = {str(k): str(v) for k, v in (options or {}).items()}
        for name, option, value in (
            ("tune", "tune", tune),
            ("profile", "profile", profile),
            ("bframes", "bf", bframes),
            ("keyint", "g", keyint),
        ):
            if value is None:
                continue
            if name in spec.lacks:
                raise ValueError(f"{encoder} has no {name}, got {name}={value!r}: {spec.lacks[name]}")
            if self.options.setdefault(option, str(value)) != str(value):
                raise ValueError(f"{name}={value!r} and options hold {option}={self.options[option]!r}: one of them sets it")
        check_options(encoder, self.options)
        if self.preset in spec.realtime and self.options.get("deadline", self.options.get("quality")) != "realtime":
            raise ValueError(
                f"preset={self.preset!r} of {encoder} is its {int(spec.realtime[0]) - 1}: give that, or options={{'deadline': 'realtime'}}"
            )
        if encoder == "libsvtav1" and "tune" in self.options:  # ffmpeg has no name for it
            inner = self.options.get(spec.params)
            if inner and any(p.partition("=")[0] == "tune" for p in inner.split(":")):
                raise ValueError(f"tune={tune!r} and {spec.params}={inner!r}: one of them sets it")
            self.options[spec.params] = ":".join(filter(None, (f"tune={self.options.pop('tune')}", inner)))
        self._try()
        self.settle_gradient()

    def simulator(self) -> DiffH264 | None:
        if self.encoder != "libx264":
            return None
        preset = {"placebo": "slower", "veryslow": "slower"}.get(self.preset, self.preset)
        return X264H264(preset=habits(preset, options=self.options, strict=False), fps=self.fps)

    def _context(self, height: int, width: int, strengths: Mapping[str, float]) -> Any:
        import av

        spec = self._spec
        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes a banner to stderr for every clip otherwise
        context = av.CodecContext.create(self.encoder, "w")
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.framerate, context.time_base = self.fps, 1 / self.fps
        context.thread_count = 1
        options = {spec.preset_option: self.preset} | self._rate(strengths)
        if spec.params:
            # fixed options first, so that the caller's override them; the CTU size last, without which results are not reproducible
            joined = [*(f"{k}={v}" for k, v in spec.fixed.items()), self.options.get(spec.params, "")]
            if self.encoder == "libx265" and width <= 64:
                joined.append("ctu=32")
            options |= self.options
            if inner := ":".join(filter(None, joined)):
                options[spec.params] = inner
        else:
            options |= spec.fixed | self.options
        context.options = x264_options(options) if self.encoder == "libx264" else options
        return context

    def _rate(self, strengths: Mapping[str, float]) -> dict[str, str]:
        """Options that set the rate of one clip."""
        out: dict[str, str] = {}
        bitrate = strengths.get("bitrate")
        if bitrate is not None:
            out["b"] = f"{bitrate:.0f}"
        else:
            out["crf"] = f"{strengths['crf']:g}"
            if self.encoder == "libvpx-vp9":
                out["b"] = "0"  # else CRF is a limit, not the rate
        for name, limit in (("maxrate", self.maxrate), ("bufsize", self.bufsize)):
            if limit is not None:
                out[name] = f"{limit if isinstance(limit, float) else float(limit[:-1]) * (bitrate or 0):.0f}"
        if self.encoder == "libvpx-vp9" and self.maxrate is not None:
            out["minrate"] = out["b"]  # by which it knows a constant bitrate
        return out

    def _try(self) -> None:
        """Open the encoder once, to find out now which options it rejects."""
        try:
            import av
            import av.logging
        except ImportError as error:
            raise ImportError("RealCodec needs PyAV: pip install av") from error
        if self.encoder not in av.codecs_available:
            raise ImportError(f"this build of PyAV has no {self.encoder}")
        middle = {name: float(round((s.low + s.high) / 2)) if name == "crf" else 1e6 for name, s in self.strengths().items()}
        context = self._context(64, 64, middle)
        if not (self.options or self.maxrate):
            return  # nothing that could be refused
        with captured_log(av.logging.WARNING) as log:
            try:
                context.open()
            except av.error.FFmpegError as error:
                said = "; ".join(text.strip() for _, _, text in log) or str(error)
                limits = f", maxrate={self.maxrate}, bufsize={self.bufsize}" if self.maxrate is not None else ""
                raise ValueError(f"{self.encoder} refused preset={self.preset!r}, options={self.options}{limits}: {said}") from error
        refused = [text.strip() for _, _, text in log if REFUSED.search(text)]
        left = {k: v for k, v in context.options.items() if k in self.options}
        if left:
            raise ValueError(
                f"{self.encoder} has no option {', '.join(f'{k}={v!r}' for k, v in left.items())}"
                " (options take ffmpeg's names; the encoder's own go into x264-params, x265-params or svtav1-params)"
            )
        if refused:
            raise ValueError(f"{self.encoder} did not take options {self.options}: {'; '.join(refused)}")

    def code(self, clip: Array, draw: Mapping[str, float]) -> tuple[Array, list[int], str, bytes, Guide | None]:
        import av
        import av.video.frame

        t, h, w, _ = clip.shape
        height, width = (max(n + n % 2, self._spec.least) for n in (h, w))
        padded = np.pad(clip, ((0, 0), (0, height - h), (0, width - w), (0, 0)), mode="edge")
        encoder, convert = self._context(height, width, draw), Converter()
        packets = []
        try:
            for i, frame in enumerate(padded):
                picture = convert.frame(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"), "yuv420p")
                picture.pts = i
                packets += encoder.encode(picture)
            packets += encoder.encode(None)
        except av.error.FFmpegError as error:
            raise ValueError(f"{self.encoder} cannot code {t} frames of {h} x {w} (height x width): {error.strerror or error}") from error
        data = [bytes(p) for p in packets]

        decoder = av.CodecContext.create(self._spec.decoder, "r")
        decoder.thread_count = 1
        if self._spec.guide:
            decoder.options = {"flags2": "+export_mvs", "export_side_data": "venc_params"}
        frames = [f for p in packets for f in decoder.decode(p)] + list(decoder.decode(None))
        rate = ", ".join(f"{k} {v:g}" for k, v in draw.items())
        if len(frames) != t or any((f.height, f.width) != (height, width) for f in frames):
            sizes = sorted({(f.height, f.width) for f in frames})
            raise RuntimeError(
                f"{self.encoder} returned {len(frames)} frames of {sizes} for {t} of {height} x {width}, {rate}, {self.options}"
            )
        decoded = np.stack([convert(f)[:h, :w] for f in frames])
        types = "".join(av.video.frame.PictureType(f.pict_type).name for f in frames)
        bits = [0] * t
        for packet, d in zip(packets, data):
            bits[min(max(packet.pts or 0, 0), t - 1)] += 8 * self._spec.payload(d)
        if not sum(bits):
            raise RuntimeError(
                f"no coded picture was found in {self.encoder}'s stream of {sum(map(len, data))} bytes, {rate}, {self.options}"
            )
        guide = None
        if self._spec.guide:
            source = torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2).float() / 255
            guide = guides.read(frames, packets, source)
        return decoded, bits, types, b"".join(data), guide

    def extra_repr(self) -> str:
        return (
            f"{self.encoder!r}, {super().extra_repr()}, preset={self.preset!r}, fps={float(self.fps):g},"
            f" options={self.options}" + self.gradient_repr()
        )


def _limit(name: str, value: object, relative: bool) -> float | str | None:
    """A limit of the rate: a number, or "1.5x" where there is a bitrate to multiply."""
    if value is None:
        return None
    try:
        if isinstance(value, str) and value.endswith("x"):
            if not relative:
                raise ValueError(f"{name}={value!r} is a multiple of a bitrate: with crf give a number")
            if 0 < float(value[:-1]) < math.inf:
                return value
        elif not isinstance(value, bool) and isinstance(value, (Real_, str)) and 1e3 <= float(value) < math.inf:
            return float(value)
    except ValueError as error:
        if name in str(error):
            raise
    raise ValueError(f"{name} expected at least 1000 bits, or text such as '1.5x', got {value!r}")


def versions() -> dict[str, str]:
    """Versions of PyAV, of ffmpeg's libraries and, if its stream gives it, of x264, for records of measurements."""
    import av

    out = {"av": av.__version__}
    out |= {name: ".".join(map(str, v)) for name, v in av.library_versions.items() if name in ("libavcodec", "libswscale")}
    stream = RealCodec("libx264", fps=25).encode(torch.zeros(1, 1, 3, 16, 16, dtype=torch.float32, device="cpu")).streams[0]
    if m := re.search(rb"x264 - core (\d+)", stream):
        out["libx264"] = f"core {m[1].decode()}"
    return out
