"""Real video codecs through PyAV."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from ..video import X264_PRESETS
from .base import Array, Real


@dataclass(frozen=True)
class Encoder:
    """How one encoder is configured.

    Attributes:
        decoder: PyAV's name of the decoder of its streams.
        crf: smallest and largest CRF.
        presets: allowed presets.
        default_preset: preset used by default.
        preset_option: option that takes the preset.
        payload: function from a packet to the number of its bytes that carry the picture, without stream headers.
        guide: whether the decoder exports the coding decisions (:class:`~diffcodec.h264.Guide`).
        fixed: options always given: one thread, so that results do not depend on the machine, and no log output.
        params: the encoder's own option string, into which ``fixed`` and the caller's options are joined.
        least: smallest height and width that is coded safely; smaller frames are padded and cropped back.
        integer: whether CRFs are whole numbers (the encoder truncates others silently).
        profiles: profiles for 8-bit 4:2:0.
    """

    decoder: str
    crf: tuple[float, float]
    presets: tuple[str, ...]
    default_preset: str
    preset_option: str
    payload: Callable[[bytes], int]
    guide: bool = False
    fixed: dict[str, str] = field(default_factory=dict)
    params: str = ""
    least: int = 2
    integer: bool = False
    profiles: tuple[str, ...] = ("main",)


def _nal_units(data: bytes) -> list[bytes]:
    """NAL units of an Annex B byte stream (ITU-T H.264, B.1), without start codes."""
    starts = [m.end() for m in re.finditer(b"\x00\x00\x01", data)]
    ends = [s - 3 for s in starts[1:]] + [len(data)]
    return [data[s:e].rstrip(b"\x00") for s, e in zip(starts, ends)]


def _h264_payload(data: bytes) -> int:
    """Bytes of coded slices: NAL types 1 and 5. Parameter sets and SEI are 9 to 43 % of very short clips."""
    return sum(len(n) for n in _nal_units(data) if n and n[0] & 31 in (1, 5))


def _hevc_payload(data: bytes) -> int:
    """Bytes of coded slices: VCL NAL types 0..31."""
    return sum(len(n) for n in _nal_units(data) if n and (n[0] >> 1) & 63 < 32)


def _av1_payload(data: bytes) -> int:
    """Bytes of OBUs of type frame header (3), tile group (4), frame (6) (AV1 specification, 5.3)."""
    total = at = 0
    while at < len(data):
        header, start = data[at], at
        at += 2 if header & 4 else 1
        size = shift = 0
        if header & 2:  # obu_has_size_field: leb128
            while True:
                byte = data[at]
                at += 1
                size |= (byte & 127) << shift
                shift += 7
                if not byte & 128:
                    break
        else:
            size = len(data) - at
        at += size
        if (header >> 3) & 15 in (3, 4, 6):
            total += at - start
    return total


#: Encoders by PyAV's name: libx264, libx265, libvpx-vp9, libsvtav1.
ENCODERS: dict[str, Encoder] = {
    "libx264": Encoder(
        "h264", (0, 51), X264_PRESETS, "medium", "preset", _h264_payload, guide=True, params="x264-params", profiles=("baseline", "main", "high"),
    ),
    # x265 4.2 was seen to corrupt memory at 18 x 34 and to refuse frames below 16 x 16
    "libx265": Encoder(
        "hevc", (0, 51), X264_PRESETS, "medium", "preset", _hevc_payload,
        fixed={"log-level": "none", "pools": "none", "frame-threads": "1"}, params="x265-params", least=64,
    ),
    "libvpx-vp9": Encoder(
        "vp9", (0, 63), tuple(map(str, range(9))), "4", "cpu-used", len, fixed={"row-mt": "0"}, integer=True, profiles=("0",),
    ),
    "libsvtav1": Encoder(
        "libdav1d", (1, 63), tuple(map(str, range(14))), "8", "preset", _av1_payload,
        fixed={"lp": "1"}, params="svtav1-params", least=64, integer=True, profiles=("main", "0"),
    ),
}  # fmt: skip

# Options that would silently undo the arguments, change what the picture means, or write files
_PICTURE = (
    "it would change the meaning of the decoded picture: frames are coded in 8 bits, 4:2:0, BT.601, limited range; convert the video before"
)
_OURS = (
    dict.fromkeys(("crf", "preset", "cpu-used", "fps"), "use the argument of RealCodec")
    | dict.fromkeys(("b", "maxrate", "bufsize"), "use the arguments bitrate, maxrate and bufsize of RealCodec")
    | dict.fromkeys(("vbv-maxrate", "vbv-bufsize"), "use the arguments maxrate and bufsize of RealCodec")
    | dict.fromkeys(("qp", "bitrate", "time_base", "framerate", "rc", "tbr", "mbr"), "RealCodec codes at constant CRF or bitrate, at constant fps")
    | dict.fromkeys(("threads", "pools", "frame-threads", "lp", "row-mt"), "one thread per clip keeps results the same on every machine")
    | dict.fromkeys(
        ("pix_fmt", "pixel_format", "color_range", "colorspace", "color_primaries", "color_trc", "range", "fullrange", "colormatrix", "colorprim",
         "transfer", "input-csp", "output-csp", "input-depth", "output-depth", "color-range", "matrix-coefficients", "color-primaries",
         "transfer-characteristics", "color-format", "crop-rect", "s", "video_size"),
        _PICTURE,
    )
    | dict.fromkeys(("pass", "stats", "passlogfile", "2pass", "multi-pass-opt-analysis", "csv", "analysis-save", "dump-yuv"), "one pass, no files")
)  # fmt: skip
_PARAMS = ("x264-params", "x264opts", "x265-params", "svtav1-params")  # options that hold the encoder's own
_REFUSED = re.compile(r"error parsing|unknown option|invalid (?:value|option)|bad value|not found", re.IGNORECASE)


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
        preset: name (x264, x265) or number (VP9's cpu-used 0..8, SVT-AV1's 0..13); None for "medium", 4 and 8.
        fps: frames per second passed to the encoder, 0.1..1000; x264's QPs at a CRF depend on it. A number, or text such as "30000/1001".
        options: further encoder options by ffmpeg's name, for example ``{"bf": "0", "x264-params": "mbtree=0"}``.
        gradient: "best" (libx264: that of :class:`~diffcodec.DiffH264` guided by the same encode; the others: "identity"), "identity", None or
            a simulator: see :class:`~diffcodec.real.base.Real`.
        tune, profile, bframes, keyint: the encoder's, as its options ``tune``, ``profile``, ``bf`` and ``g``.
        bitrate: average bits per second in place of a CRF, 1e3..1e9, in the same forms as ``crf``. Encoders converge to it within a second or
            two: very short clips get the encoder's initial rate.
        maxrate, bufsize: limits of the rate, from 1000: bits per second and bits of the decoder's buffer, or text such as "1.5x", a multiple of
            each clip's bitrate. Give both or neither; with a CRF they cap its rate (not supported by VP9; SVT-AV1 supports only that).

    Shape:
        ``[B, T, 3, H, W]``, any T, H, W >= 1.

    Raises:
        ValueError: a name, CRF, preset or rate that the encoder does not have, or an option that it does not accept (PyAV would
            ignore it silently) or that changes the meaning of the picture.
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
        if (maxrate is None) != (bufsize is None):
            raise ValueError(f"maxrate and bufsize belong together, got maxrate={maxrate!r}, bufsize={bufsize!r}")
        self.maxrate, self.bufsize = (_limit(n, v, bitrate is not None) for n, v in (("maxrate", maxrate), ("bufsize", bufsize)))
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
            if self.options.setdefault(option, str(value)) != str(value):
                raise ValueError(f"{name}={value!r} and options hold {option}={self.options[option]!r}: one of them sets it")
        inner = [p.partition("=")[::2] for key in _PARAMS for p in self.options.get(key, "").split(":")]
        for name, value in [*self.options.items(), *inner]:
            if name in _OURS:
                raise ValueError(f"options holds {name}={value!r}, which is not free: {_OURS[name]}")
            if name == "flags" and "pass" in value:
                raise ValueError(f"options holds {name}={value!r}, which is not free: {_OURS['pass']}")
            if name == "profile" and value not in spec.profiles:
                raise ValueError(f"options holds profile={value!r}; {encoder} codes 8-bit 4:2:0 in {', '.join(spec.profiles)}")
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
        refused = [text.strip() for _, _, text in log if _REFUSED.search(text)]
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
