"""Marking real video files (A.1, A.2): any size and length, audio and timing kept, memory bounded by a segment."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffcodec.checks import require
from diffcodec.media import (
    DAMAGED,
    NO_SPACE,
    Converter,
    Damage,
    Pictures,
    decode,
    lost_in_8_bits,
    opened,
    orientation,
    turned,
    x264_options,
)
from diffcodec.video import X264_PRESETS, VideoError, replacing, video_info

from . import framing
from .framing import Found, MessageError
from .model import Detector, REVMark

Progress = Callable[[int], None]
TOGETHER = 2  # segments that go through the network at once: for a single one torch has no fast 3-D convolution on a CPU
_CONTAINERS = (".mp4", ".mkv", ".mov", ".m4v")
# luma and chroma of RGB, ITU-R BT.601 and BT.709: (Kr, Kb)
_WEIGHTS = {601: (0.299, 0.114), 709: (0.2126, 0.0722)}


@dataclass(frozen=True)
class Marked:
    """What :func:`embed` did.

    Attributes:
        frames, segments: written; the last segment may be cut short by the end of the video.
        seconds: length of the video.
        damage: what is wrong with the input, None where nothing was noticed.
    """

    frames: int
    segments: int
    seconds: float
    damage: str | None = None


def embed(
    net: REVMark,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    message: str | None = None,
    text: str | None = None,
    psnr: float = 40.0,
    crf: float = 18.0,
    preset: str = "ultrafast",
    progress: Progress | None = None,
    damaged: str = "error",
) -> Marked:
    """Mark a video file. Every segment of 8 frames carries the message (or the next part of the text); the output appears whole or not at all.

    The residual is computed at the model's size and scaled up (A.1), on the video's own luma and chroma planes: what is not marked is not
    converted. Audio and subtitles are copied, with languages, titles, dispositions and the order of tracks; time stamps are kept where a player could
    follow them. A video that is to be turned is written turned.

    Args:
        net: the model.
        source: any video that ffmpeg reads; 8-bit 4:2:0 inside (others are converted, with a warning where that loses bits or transparency).
        out: .mp4, .mkv, .mov or .m4v, written with libx264.
        message: hex digits, the raw payload of every segment.
        text: up to 200 bytes of UTF-8, framed over consecutive segments and repeated.
        psnr: of the marked frames before encoding, in dB, 25..60.
        crf, preset: of libx264.
        progress: called with the number of frames written.
        damaged: "error", or "keep": mark what can be decoded, and warn.

    Raises:
        MessageError: neither or both of message and text, wrong length, not hex, text too long for the video.
        VideoError: unreadable, damaged or too short input, unusable output path, no space.
    """
    import av

    if (message is None) == (text is None):
        raise MessageError("give either message (hex digits) or text")
    if not 25 <= psnr <= 60:
        raise ValueError(f"psnr expected to lie in [25, 60] dB, got {psnr!r}")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf expected to lie in [0, 51], got {crf!r}")
    require("preset", preset, X264_PRESETS)
    require("damaged", damaged, DAMAGED)
    source, out = Path(source), Path(out)
    if out.suffix.lower() not in _CONTAINERS:
        raise VideoError(f"{out}: expected a file ending in {', '.join(_CONTAINERS)}, got {out.suffix!r}")
    model = net.model
    rows = framing.from_hex(message, model.bits)[None] if message is not None else framing.frame_text(text or "", model.bits)
    try:
        with opened(source) as (reader, video):
            if out.exists() and os.path.samefile(source, out):
                raise VideoError(f"{out}: input and output are the same file; the input is never overwritten")
            rate = video.average_rate or video.guessed_rate or Fraction(25)
            if text is not None:
                total = video.frames or video_info(source).frames
                needed = len(rows) * model.frames
                if total < needed:
                    raise MessageError(
                        f"--text {text!r} needs {framing.seconds_needed(text, model.bits, model.frames, float(rate)):.1f} s of video at"
                        f" {float(rate):g} frames a second ({needed} frames); {source} has {total / float(rate):.1f} s ({total} frames)"
                    )
            with replacing(out) as temporary, av.open(f"file:{temporary}", "w") as writer:
                return _Marking(net, reader, video, writer, rows, psnr, crf, preset, progress, source, damaged).run()
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise VideoError(f"{out}: no space left to write it; nothing was kept") from error
        raise VideoError(f"{source} -> {out}: {error.strerror or error}; nothing was kept") from error


# Tags that say how the input was written, not what it is
_NOT_COPIED = (
    "encoder", "major_brand", "minor_version", "compatible_brands", "duration", "handler_name", "vendor_id", "rotate", "bps",
    "number_of_frames", "number_of_bytes",
)  # fmt: skip


def _tags(metadata: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in metadata.items() if k.lower().partition("-")[0] not in _NOT_COPIED and not k.lower().startswith("_statistics")}


class _Clock:
    """Time stamps that a player can follow: as they came where they go forwards, evenly spaced where there are none, shifted on where they jump back.

    Args:
        step: of a frame, where nothing else is known, in time stamps.
    """

    def __init__(self, step: int) -> None:
        self.step, self.shift = max(1, step), 0
        self.last: int | None = None

    def __call__(self, stamp: int | None) -> int:
        if stamp is None:
            stamp = 0 if self.last is None else self.last + self.step
        else:
            stamp += self.shift
            if self.last is not None and stamp <= self.last:
                self.shift += self.last + self.step - stamp
                stamp = self.last + self.step
        self.last = stamp
        return stamp


class _Marking:
    """One video on its way through: decode, mark by segments, encode, interleave with what is copied."""

    def __init__(
        self,
        net: REVMark,
        reader: Any,
        video: Any,
        writer: Any,
        rows: np.ndarray,
        psnr: float,
        crf: float,
        preset: str,
        progress: Progress | None,
        source: Path,
        damaged: str,
    ) -> None:
        self.net, self.reader, self.video, self.writer = net, reader, video, writer
        self.rows, self.progress, self.source, self.damaged = rows, progress, source, damaged
        self.mse, self.crf, self.preset = 10 ** (-psnr / 10), crf, preset
        self.white = framing.masks(net.model.bits)
        self.stream: Any = None
        self.rate = video.average_rate or video.guessed_rate or Fraction(25)
        self.clock = _Clock(round(1 / (self.rate * video.time_base)))
        self.frames = self.segments = 0
        self.first: int | None = None
        self.last = 0

    def run(self) -> Marked:
        copied: dict[int, Any] = {}
        waiting: list[Any] = []  # packets of other streams before the first frame, which tells how the video is written
        damage = Damage()
        held: list[Any] = []

        def pass_on(packet: Any) -> None:
            if self.stream is None:
                waiting.append(packet)
            elif packet.stream.index in copied and packet.dts is not None:
                self._copy(packet, copied[packet.stream.index])

        others = [s for s in self.reader.streams if s.type in ("audio", "subtitle")]
        for frame in decode(self.reader, self.video, damage, others=others, pass_on=pass_on):
            if self.stream is None:
                self._streams(frame, others, copied)
                for packet in waiting:
                    pass_on(packet)
            self._judge(damage)
            held.append(frame)
            if len(held) == TOGETHER * self.net.model.frames:
                self._write(held)
                held = []
        if held:
            self._write(held)
        if not self.frames:
            raise VideoError(f"{self.source}: no frame could be decoded")
        self._judge(damage)
        if damage:
            warnings.warn(f"{self.source}: {damage}; what could be decoded was marked", stacklevel=3)
        if self.frames < self.net.model.frames:
            raise VideoError(f"{self.source}: {self.frames} frames; a mark needs at least {self.net.model.frames}")
        self.writer.mux(self.stream.encode(None))
        length = (self.last - (self.first or 0)) * self.video.time_base
        return Marked(self.frames, self.segments, float(length), str(damage) if damage else None)

    def _judge(self, damage: Damage) -> None:
        if damage and self.damaged == "error":
            raise VideoError(
                f"{self.source}: damaged: {damage}; damaged='keep' (--damaged keep) marks what can be decoded; nothing was kept"
            )

    def _streams(self, frame: Any, others: Sequence[Any], copied: dict[int, Any]) -> None:
        """Make the tracks of the output, in the order of the input."""
        self.turn = orientation(frame)
        self.writer.metadata.update(_tags(self.reader.metadata))
        self.clocks: dict[int, _Clock] = {}
        for s in self.reader.streams:
            if s.index == self.video.index:
                new = self.stream = self._stream(frame)
            elif s in others:
                try:
                    new = copied[s.index] = self.writer.add_stream_from_template(s)
                except ValueError:  # a kind of stream that this container does not take
                    warnings.warn(
                        f"{self.source}: the {s.type} track {s.index} does not fit into the output and was left out", stacklevel=4
                    )
                    continue
                self.clocks[s.index] = _Clock(1)
            else:
                continue
            new.metadata.update(_tags(s.metadata))
            with contextlib.suppress(AttributeError, TypeError):
                new.disposition = s.disposition

    def _copy(self, packet: Any, stream: Any) -> None:
        dts = self.clocks[packet.stream.index](packet.dts)
        if packet.pts is not None:
            packet.pts += dts - packet.dts
        packet.dts, packet.stream = dts, stream
        self.writer.mux(packet)

    def _stream(self, frame: Any) -> Any:
        context = self.video.codec_context
        if lost := lost_in_8_bits(frame):
            warnings.warn(f"{self.source} has {lost}; it is marked in 8 bits without", stacklevel=5)
        options = x264_options({"crf": str(self.crf), "preset": self.preset})
        stream = self.writer.add_stream("libx264", rate=self.rate, options=options)
        h, w = (frame.width, frame.height) if self.turn[0] % 2 else (frame.height, frame.width)
        stream.height, stream.width = h, w
        stream.pix_fmt = "yuv420p" if h % 2 == 0 and w % 2 == 0 else "yuv444p"
        stream.codec_context.time_base = self.video.time_base
        own = stream.codec_context
        for name in ("colorspace", "color_range", "color_primaries", "color_trc", "sample_aspect_ratio"):
            with contextlib.suppress(AttributeError, TypeError, ValueError, ZeroDivisionError):
                value = getattr(context, name)
                if value is not None:
                    setattr(own, name, 1 / value if name == "sample_aspect_ratio" and self.turn[0] % 2 else value)
        return stream

    @torch.no_grad()
    def _write(self, held: list[Any]) -> None:
        """Mark and encode the frames of up to ``TOGETHER`` segments; what the end cuts short is filled with the last frame for the model."""
        model, t = self.net.model, self.net.model.frames
        picture = Small(model.height, model.width)
        clip = torch.stack([picture(f) for f in held])  # [n, 3, h, w]
        clip = torch.cat([clip, clip[-1:].expand(TOGETHER * t - len(clip), -1, -1, -1)]).unflatten(0, (TOGETHER, t))
        number = self.segments + np.arange(TOGETHER)
        signs = (2 * self.rows[number % len(self.rows)] - 1) * self.white[number % framing.MASKS]
        residuals = self.net.residual(clip, torch.from_numpy((signs > 0).astype(np.float32)), 6.2)  # [TOGETHER, T, 3, h, w]
        marker = _Planes(held[0], self.turn, self.stream.pix_fmt, residuals.shape[-2:])
        for residual in residuals:
            now, held = held[:t], held[t:]
            if not now:
                break
            planes = marker.scaled(residual[: len(now)], self.mse)
            self.segments += 1
            for i, frame in enumerate(now):
                marked = marker.add(frame, [p[i] for p in planes])
                marked.pts, marked.time_base = self.clock(frame.pts), self.video.time_base
                self.first = marked.pts if self.first is None else self.first
                self.last = marked.pts
                self.writer.mux(self.stream.encode(marked))
                self.frames += 1
            if self.progress is not None:
                self.progress(self.frames)


class Small:
    """Decoded frames as they are shown, at the model's size, each pixel the mean of the area that it covers."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._pictures = Pictures()

    def __call__(self, frame: Any) -> Tensor:
        """Shape: ``[3, height, width]`` in [0, 1]."""
        height, width = (self.width, self.height) if orientation(frame)[0] % 2 else (self.height, self.width)
        return torch.from_numpy(self._pictures(frame, width=width, height=height, interpolation="AREA")).permute(2, 0, 1).float() / 255


class _Planes:
    """Adds a small RGB residual to the YCbCr planes of frames of one size, turned as they are shown."""

    def __init__(self, frame: Any, turn: tuple[int, bool], format_: str, size: Any) -> None:
        self.format, self.turn, self.convert = format_, turn, Converter()
        half = format_ == "yuv420p"
        h, w = frame.height, frame.width
        self.stored = [(h, w)] + 2 * [(h // 2, w // 2) if half else (h, w)]
        self.sizes = [s[::-1] if turn[0] % 2 else s for s in self.stored]
        self.h, self.w = self.sizes[0]
        self.room = torch.empty(self.h * self.w, dtype=torch.int16)
        self.matrices = [(_widen(n, size[0]), _widen(m, size[1])) for n, m in self.sizes[:2]]
        full = int(frame.color_range or 0) == 2
        self.gains = (1.0, 1.0) if full else (219 / 255, 224 / 255)
        kr, kb = _WEIGHTS[709 if int(frame.colorspace or 2) == 1 else 601]
        self.matrix = torch.tensor(
            [
                [kr, 1 - kr - kb, kb],
                [-kr / (2 - 2 * kb), -(1 - kr - kb) / (2 - 2 * kb), 0.5],
                [0.5, -(1 - kr - kb) / (2 - 2 * kr), -kb / (2 - 2 * kr)],
            ]
        )

    def scaled(self, residual: Tensor, mse: float) -> list[Tensor]:
        """Residual of each plane on its 8-bit scale, of that mean squared error in RGB. Shape: ``[n, 3, h, w]`` -> three ``[n, H, W]``."""
        rows, columns = self.matrices[0]
        # energy after widening, without widening: ||A x B'||^2 = <A'A x, x B'B>
        energy = ((rows.T @ rows) @ residual * (residual @ (columns.T @ columns))).sum() / (residual.shape[0] * 3 * self.h * self.w)
        gain = float((mse / energy.clamp(min=1e-20)).sqrt())
        ycc = torch.einsum("ij,njhw->nihw", self.matrix, residual * (255 * gain))
        out = []
        for i in range(3):
            a, b = self.matrices[min(i, 1)]
            out.append((a @ (ycc[:, i] * self.gains[min(i, 1)]) @ b.T).round_().to(torch.int16))
        return out

    def add(self, frame: Any, planes: list[Tensor]) -> Any:
        """The frame with a residual for each plane added."""
        import av

        flat = self.convert(frame, self.format, width=self.stored[0][1], height=self.stored[0][0]).reshape(-1)
        out, read, at = torch.empty(len(flat), dtype=torch.uint8), 0, 0
        for (h, w), (rows, columns), residual in zip(self.stored, self.sizes, planes):
            plane = np.ascontiguousarray(turned(flat[read : read + h * w].reshape(h, w), self.turn))
            torch.add(torch.from_numpy(plane), residual, out=self.room[: h * w].view(rows, columns))
            out[at : at + h * w] = self.room[: h * w].clamp_(0, 255)
            read += h * w
            at += h * w
        array = out.numpy().reshape((-1, self.w) if self.format == "yuv420p" else (3, self.h, self.w))
        marked = av.VideoFrame.from_ndarray(array, format=self.format)
        marked.colorspace, marked.color_range = frame.colorspace, frame.color_range
        return marked


def _widen(n: int, m: int) -> Tensor:
    """Bilinear interpolation of m samples to n as a matrix ``[n, m]``, edges repeated."""
    at = ((torch.arange(n) + 0.5) * (m / n) - 0.5).clamp(0, m - 1)
    return (1 - (at[:, None] - torch.arange(m)).abs()).clamp(min=0)


def small_frames(path: str | os.PathLike[str], height: int, width: int, damage: Damage) -> Iterator[Tensor]:
    """Frames of a video at the model's size, one by one; what is damaged is counted and handed out all the same.

    Raises:
        VideoError: unreadable file.
    """
    picture = Small(height, width)
    with opened(path) as (container, stream):
        for frame in decode(container, stream, damage):
            yield picture(frame)


@torch.no_grad()
def read_logits(net: REVMark, frames: Iterator[Tensor], progress: Progress | None = None, batch: int = 16) -> np.ndarray:
    """Logits of the clips that begin at every frame. Memory stays that of a batch.

    Returns:
        ``[N - T + 1, L]``; empty where there are fewer than T frames.
    """
    t = net.model.frames
    window: list[Tensor] = []
    out: list[Tensor] = []
    pending: list[Tensor] = []
    for seen, frame in enumerate(frames, 1):
        window = [*window[-(t - 1) :], frame]
        if len(window) == t:
            pending.append(torch.stack(window))
        if len(pending) == batch:
            out.append(net.extract(torch.stack(pending)))
            pending = []
        if progress is not None:
            progress(seen)
    if pending:
        out.append(net.extract(torch.stack(pending)))
    return torch.cat(out).double().numpy() if out else np.zeros((0, net.model.bits))


@dataclass(frozen=True)
class Extracted:
    """What a video says.

    Attributes:
        message: hex digits of the payload, None where no mark is claimed or a text was found.
        text: None where none was found.
        confidence: share of single bits of all segments that agree with the message.
        p_value: probability that an unmarked video would say as much, over all phases and masks tried.
        segments: that were read.
        phase: frames before the first whole segment.
        damage: what is wrong with the file, None where nothing was noticed.
    """

    message: str | None
    text: str | None
    confidence: float
    p_value: float
    segments: int
    phase: int
    damage: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "message": self.message, "text": self.text, "confidence": round(self.confidence, 4), "p_value": float(f"{self.p_value:.3g}"),
            "segments": self.segments, "phase": self.phase, "damage": self.damage,
        }  # fmt: skip


def extract(net: REVMark, path: str | os.PathLike[str], progress: Progress | None = None) -> Extracted:
    """Read the mark of a video file.

    Every phase of the segments is tried, so frames may have been cut off its beginning. A mark is claimed where segments agree as an unmarked
    video would with a probability below 1e-6; two whole segments (16 frames) are the least that can agree.

    Raises:
        VideoError: unreadable, or shorter than a segment.
    """
    damage = Damage()
    logits = read_logits(net, small_frames(path, net.model.height, net.model.width, damage), progress)
    wrong = str(damage) if damage else None
    if not len(logits):
        raise VideoError(f"{path}: too short to be read, a segment has {net.model.frames} frames")
    told = framing.find_text(logits, net.model.frames)  # first: the segments of a text that is repeated agree with each other, too
    if told is not None:
        text, by = told
        return Extracted(None, text, by.confidence, by.p_value, by.segments, by.phase, wrong)
    found: Found = framing.search(logits, net.model.frames)
    message = None if found.bits is None else framing.to_hex(found.bits)
    return Extracted(message, None, found.confidence, found.p_value, found.segments, found.phase, wrong)


@torch.no_grad()
def detect(
    detector: Detector,
    size: tuple[int, int],
    path: str | os.PathLike[str],
    progress: Progress | None = None,
    batch: int = 64,
    damage: Damage | None = None,
) -> list[float]:
    """Probability that each frame of a video is marked (A.2). A damaged file is read on; ``damage`` counts what is wrong.

    Raises:
        VideoError: unreadable file, no frames.
    """
    out: list[Tensor] = []
    pending: list[Tensor] = []
    for seen, frame in enumerate(small_frames(path, *size, Damage() if damage is None else damage), 1):
        pending.append(frame)
        if len(pending) == batch:
            out.append(detector(torch.stack(pending)).sigmoid())
            pending = []
        if progress is not None:
            progress(seen)
    if pending:
        out.append(detector(torch.stack(pending)).sigmoid())
    if not out:
        raise VideoError(f"{path}: no frame could be decoded")
    return [float(p) for p in torch.cat(out)]


def spans(flags: list[bool]) -> list[tuple[int, int]]:
    """Runs of True as (first, last) frame numbers."""
    out: list[tuple[int, int]] = []
    for i, flag in enumerate(flags):
        if flag and out and out[-1][1] == i - 1:
            out[-1] = (out[-1][0], i)
        elif flag:
            out.append((i, i))
    return out
