"""Real video codecs through PyAV."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn

from ..checks import require
from ..h264 import DiffH264
from ..h264 import guide as guides
from ..h264.guide import Guide
from ..strength import Strength, StrengthLike
from ..video import X264_PRESETS
from .base import Array, Real


@dataclass(frozen=True)
class Encoder:
    """How one encoder is asked for what we want.

    Attributes:
        decoder: PyAV's name of the decoder of its streams.
        crf: smallest and largest CRF.
        presets: allowed presets, slow and fast ends included.
        default_preset: used where the caller names none.
        preset_option: option that takes the preset.
        fixed: options always given: one thread, so that results do not depend on the machine, and no chatter.
        params: the encoder's own option string, into which ``fixed`` and the caller's are joined.
        least: smallest height and width it codes safely; smaller frames are padded and cropped back.
        payload: bytes of a packet that carry the picture, without stream headers.
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


ENCODERS: dict[str, Encoder] = {
    "libx264": Encoder("h264", (0, 51), X264_PRESETS, "medium", "preset", _h264_payload, guide=True),
    # x265 4.2 was seen to corrupt memory at 18 x 34 and to refuse frames below 16 x 16
    "libx265": Encoder(
        "hevc", (0, 51), X264_PRESETS, "medium", "preset", _hevc_payload,
        fixed={"log-level": "none", "pools": "none", "frame-threads": "1"}, params="x265-params", least=64,
    ),
    "libvpx-vp9": Encoder(
        "vp9", (0, 63), tuple(map(str, range(9))), "4", "cpu-used", len, fixed={"b": "0", "row-mt": "0"},
    ),
    "libsvtav1": Encoder(
        "libdav1d", (1, 63), tuple(map(str, range(14))), "8", "preset", _av1_payload,
        fixed={"lp": "1"}, params="svtav1-params", least=64,
    ),
}  # fmt: skip

# Options that would silently undo the arguments, or that rate control by CRF passes over
_OURS = (
    dict.fromkeys(("crf", "preset", "cpu-used", "fps"), "use the argument of RealCodec")
    | dict.fromkeys(
        ("qp", "b", "bitrate", "time_base", "framerate", "vbv-maxrate", "vbv-bufsize", "maxrate", "bufsize"),
        "RealCodec codes at constant CRF and fps",
    )
    | dict.fromkeys(("threads", "pools", "frame-threads", "lp", "row-mt"), "one thread a clip keeps results the same on every machine")
)
_PARAMS = ("x264-params", "x264opts", "x265-params", "svtav1-params")  # options that hold the encoder's own
_REFUSED = re.compile(r"error parsing|unknown option|invalid (?:value|option)|bad value|not found", re.IGNORECASE)
_log_lock = threading.Lock()


class RealCodec(Real):
    """A real video codec: 8-bit RGB in, encoded, decoded, 8-bit RGB out.

    Frames are rounded to 8 bits and converted by swscale's defaults (BT.601, limited range, 4:2:0). One encoder thread a clip, the
    clips of a batch in parallel: the same input gives the same output on any number of cores. Odd and very small sizes are padded by
    repetition and cropped back.

    Args:
        encoder: "libx264", "libx265", "libvpx-vp9" or "libsvtav1".
        crf: constant rate factor: 0..51 (x264, x265), 0..63 (VP9), 1..63 (AV1); number, ``[B]``, range drawn per clip, or schedule.
        preset: name (x264, x265) or number (VP9's cpu-used 0..8, SVT-AV1's 0..13); None for "medium", 4 and 8.
        fps: frames per second, part of the codec: x264's CRF depends on it.
        options: further encoder options by ffmpeg's name, for example ``{"bf": "0", "x264-params": "mbtree=0"}``.
        gradient: "best" (libx264: that of :class:`~diffcodec.DiffH264` guided by this very encode; the others: "identity"), "identity", None or
            a simulator: see :class:`~diffcodec.real.base.Real`.

    Shape:
        ``[B, T, 3, H, W]``, any T, H, W >= 1.

    Raises:
        ValueError: a name, CRF, preset or rate that the encoder does not have, or an option that it did not take (PyAV would
            pass it over in silence). ImportError: PyAV is missing or was built without the encoder.
    """

    def __init__(
        self,
        encoder: str = "libx264",
        crf: StrengthLike = 23,
        preset: str | int | None = None,
        fps: float = 25,
        options: Mapping[str, object] | None = None,
        gradient: str | nn.Module | None = "best",
    ) -> None:
        super().__init__(gradient)
        require("encoder", encoder, list(ENCODERS))
        self.encoder = encoder
        self._spec = spec = ENCODERS[encoder]
        self.crf = Strength(crf, "crf", *spec.crf)
        self.preset = spec.default_preset if preset is None else str(preset)
        require(f"preset of {encoder}", self.preset, spec.presets)
        if isinstance(fps, bool) or not isinstance(fps, (int, float, Fraction)) or not (math.isfinite(fps) and 0.1 <= fps <= 1000):
            raise ValueError(f"fps expected to lie in [0.1, 1000], got {fps!r}")
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"options expected a mapping of names to values, got {options!r}")
        self.fps = Fraction(fps).limit_denominator(1001)
        self.options = {str(k): str(v) for k, v in (options or {}).items()}
        inner = [p.partition("=")[::2] for key in _PARAMS for p in self.options.get(key, "").split(":")]
        for name, value in [*self.options.items(), *inner]:
            if name in _OURS:
                raise ValueError(f"options holds {name}={value!r}, which is not free: {_OURS[name]}")
        self._try()
        self.settle_gradient()

    def simulator(self) -> DiffH264 | None:
        if self.encoder != "libx264":
            return None
        preset = {"placebo": "slower", "veryslow": "slower"}.get(self.preset, self.preset)
        return DiffH264(preset=preset, fps=self.fps)

    def _context(self, height: int, width: int, crf: float) -> Any:
        import av

        spec = self._spec
        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes a banner to stderr for every clip otherwise
        context = av.CodecContext.create(self.encoder, "w")
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.framerate, context.time_base = self.fps, 1 / self.fps
        context.thread_count = 1
        options = {"crf": f"{crf:g}", spec.preset_option: self.preset}
        if spec.params:
            fixed = ":".join(f"{k}={v}" for k, v in spec.fixed.items())
            theirs = self.options.get(spec.params)
            options |= self.options | {spec.params: f"{fixed}:{theirs}" if theirs else fixed}
        else:
            options |= spec.fixed | self.options
        context.options = options
        return context

    def _try(self) -> None:
        """Open the encoder once, to learn now which options it refuses."""
        try:
            import av
            import av.logging
        except ImportError as error:
            raise ImportError("RealCodec needs PyAV: pip install av") from error
        if self.encoder not in av.codecs_available:
            raise ImportError(f"this build of PyAV has no {self.encoder}")
        low, high = self._spec.crf
        context = self._context(64, 64, (low + high) / 2)
        with _log_lock:  # the level is global to the process
            level = av.logging.get_level()
            av.logging.set_level(av.logging.WARNING)
            try:
                with av.logging.Capture() as log:
                    context.open()
                refused = [text.strip() for _, _, text in log if _REFUSED.search(text)]
            except av.error.FFmpegError as error:
                said = "; ".join(text.strip() for _, _, text in log) or str(error)
                raise ValueError(f"{self.encoder} refused preset={self.preset!r}, options={self.options}: {said}") from error
            finally:
                av.logging.set_level(level)
        left = {k: v for k, v in context.options.items() if k in self.options}
        if left:
            raise ValueError(
                f"{self.encoder} has no option {', '.join(f'{k}={v!r}' for k, v in left.items())}"
                " (ffmpeg's names are meant; the encoder's own go through x264-params, x265-params or svtav1-params)"
            )
        if refused:
            raise ValueError(f"{self.encoder} did not take options {self.options}: {'; '.join(refused)}")

    def code(self, clip: Array, draw: Mapping[str, float]) -> tuple[Array, list[int], str, bytes, Guide | None]:
        import av
        import av.video.frame

        t, h, w, _ = clip.shape
        height, width = (max(n + n % 2, self._spec.least) for n in (h, w))
        padded = np.pad(clip, ((0, 0), (0, height - h), (0, width - w), (0, 0)), mode="edge")
        encoder = self._context(height, width, draw["crf"])
        packets = []
        try:
            for i, frame in enumerate(padded):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
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
        if len(frames) != t:
            raise RuntimeError(f"{self.encoder} returned {len(frames)} frames of {t} at {w} x {h}, crf {draw['crf']:g}, {self.options}")
        decoded = np.stack([f.to_ndarray(format="rgb24")[:h, :w] for f in frames])
        types = "".join(av.video.frame.PictureType(f.pict_type).name for f in frames)
        bits = [0] * t
        for packet, d in zip(packets, data):
            bits[min(max(packet.pts or 0, 0), t - 1)] += 8 * self._spec.payload(d)
        guide = None
        if self._spec.guide:
            source = torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2).float() / 255
            guide = guides.read(frames, packets, source)
        return decoded, bits, types, b"".join(data), guide

    def extra_repr(self) -> str:
        return (
            f"{self.encoder!r}, crf={self.crf!r}, preset={self.preset!r}, fps={float(self.fps):g},"
            f" options={self.options}" + self.gradient_repr()
        )


def versions() -> dict[str, str]:
    """Versions of PyAV, of ffmpeg's libraries and, where it tells, of x264, for records of measurements."""
    import av

    out = {"av": av.__version__}
    out |= {name: ".".join(map(str, v)) for name, v in av.library_versions.items() if name in ("libavcodec", "libswscale")}
    stream = RealCodec("libx264", fps=25).encode(torch.zeros(1, 1, 3, 16, 16)).streams[0]
    if m := re.search(rb"x264 - core (\d+)", stream):
        out["libx264"] = f"core {m[1].decode()}"
    return out
