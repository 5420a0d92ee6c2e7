"""Marking real video files (A.1, A.2): any size and length, audio and timing kept, memory bounded by a segment."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffcodec.video import X264_PRESETS, VideoError, replacing

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
    """

    frames: int
    segments: int
    seconds: float


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
) -> Marked:
    """Mark a video file. Every segment of 8 frames carries the message (or the next part of the text); the output appears whole or not at all.

    The residual is computed at the model's size and scaled up (A.1), on the video's own luma and chroma planes: what is not marked is not
    converted. Audio and subtitles are copied, time stamps kept.

    Args:
        net: the model.
        source: any video that ffmpeg reads; 8-bit 4:2:0 inside (others are converted).
        out: .mp4, .mkv, .mov or .m4v, written with libx264.
        message: hex digits, the raw payload of every segment.
        text: up to 200 bytes of UTF-8, framed over consecutive segments and repeated.
        psnr: of the marked frames before encoding, in dB, 25..60.
        crf, preset: of libx264.
        progress: called with the number of frames written.

    Raises:
        MessageError: neither or both of message and text, wrong length, not hex, text too long for the video.
        VideoError: unreadable or too short input, unusable output path, no space.
    """
    import av

    source, out = Path(source), Path(out)
    if (message is None) == (text is None):
        raise MessageError("give either a message (hex digits) or a text")
    if not 25 <= psnr <= 60:
        raise ValueError(f"psnr expected to lie in [25, 60] dB, got {psnr!r}")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf expected to lie in [0, 51], got {crf!r}")
    if preset not in X264_PRESETS:
        raise ValueError(f"preset expected one of {', '.join(X264_PRESETS)}, got {preset!r}")
    if out.suffix.lower() not in _CONTAINERS:
        raise VideoError(f"{out}: expected a file ending in {', '.join(_CONTAINERS)}, got {out.suffix!r}")
    if not source.is_file():
        raise VideoError(f"{source} is a folder; expected a video file" if source.is_dir() else f"{source}: no such file")
    if out.exists() and os.path.samefile(source, out):
        raise VideoError(f"{out}: input and output are the same file; the input is never overwritten")
    model = net.model
    rows = framing.from_hex(message, model.bits)[None] if message is not None else framing.frame_text(text or "", model.bits)
    try:
        with av.open(str(source)) as reader:
            if not reader.streams.video:
                raise VideoError(f"{source} holds no video stream")
            video = reader.streams.video[0]
            rate = video.average_rate or video.guessed_rate or Fraction(25)
            if text is not None:
                total = video.frames or _count(source)
                needed = len(rows) * model.frames
                if total < needed:
                    raise MessageError(
                        f"--text {text!r} needs {framing.seconds_needed(text, model.bits, model.frames, float(rate)):.1f} s of video at"
                        f" {float(rate):g} frames a second ({needed} frames); {source} has {total / float(rate):.1f} s ({total} frames)"
                    )
            with replacing(out) as temporary, av.open(str(temporary), "w") as writer:
                return _Marking(net, reader, writer, rows, psnr, crf, preset, progress, source).run()
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise VideoError(f"{out}: no space left to write it; nothing was kept") from error
        raise VideoError(f"{source} -> {out}: {error.strerror or error}; nothing was kept") from error


def _count(path: Path) -> int:
    from diffcodec.video import video_info

    return video_info(path).frames


class _Marking:
    """One video on its way through: decode, mark by segments, encode, interleave with what is copied."""

    def __init__(
        self,
        net: REVMark,
        reader: Any,
        writer: Any,
        rows: np.ndarray,
        psnr: float,
        crf: float,
        preset: str,
        progress: Progress | None,
        source: Path,
    ) -> None:
        self.net, self.reader, self.writer = net, reader, writer
        self.rows, self.progress, self.source = rows, progress, source
        self.mse, self.crf, self.preset = 10 ** (-psnr / 10), crf, preset
        self.video = reader.streams.video[0]
        self.video.thread_type = "AUTO"
        self.white = framing.masks(net.model.bits)
        self.stream: Any = None
        self.frames = self.segments = 0
        self.first: Fraction | None = None
        self.last = Fraction(0)

    def run(self) -> Marked:
        copied = {}
        for s in self.reader.streams:
            if s.type in ("audio", "subtitle"):
                with contextlib.suppress(ValueError):  # a kind of stream that this container does not take
                    copied[s.index] = self.writer.add_stream_from_template(s)
        self.stream = self._stream()
        held: list[Any] = []
        for packet in self.reader.demux([self.video, *(self.reader.streams[i] for i in copied)]):
            if packet.stream.index in copied:
                if packet.dts is not None:
                    packet.stream = copied[packet.stream.index]
                    self.writer.mux(packet)
                continue
            for frame in packet.decode():
                held.append(frame)
                if len(held) == TOGETHER * self.net.model.frames:
                    self._write(held)
                    held = []
        if held:
            self._write(held)
        if not self.frames:
            raise VideoError(f"{self.source}: no frame could be decoded")
        if self.frames < self.net.model.frames:
            raise VideoError(f"{self.source}: {self.frames} frames; a mark needs at least {self.net.model.frames}")
        self.writer.mux(self.stream.encode(None))
        length = self.last - (self.first or 0)
        return Marked(self.frames, self.segments, float(length))

    def _stream(self) -> Any:
        context = self.video.codec_context
        rate = self.video.average_rate or self.video.guessed_rate or Fraction(25)
        stream = self.writer.add_stream("libx264", rate=rate, options={"crf": str(self.crf), "preset": self.preset})
        h, w = context.height, context.width
        stream.height, stream.width = h, w
        stream.pix_fmt = "yuv420p" if h % 2 == 0 and w % 2 == 0 else "yuv444p"
        stream.codec_context.time_base = self.video.time_base
        own = stream.codec_context
        for name in ("colorspace", "color_range", "color_primaries", "color_trc", "sample_aspect_ratio"):
            with contextlib.suppress(AttributeError, TypeError, ValueError):
                value = getattr(context, name)
                if value is not None:
                    setattr(own, name, value)
        return stream

    @torch.no_grad()
    def _write(self, held: list[Any]) -> None:
        """Mark and encode the frames of up to ``TOGETHER`` segments; what the end cuts short is filled with the last frame for the model."""
        model, t = self.net.model, self.net.model.frames
        clip = torch.stack([small(f, model.height, model.width) for f in held])  # [n, 3, h, w]
        clip = torch.cat([clip, clip[-1:].expand(TOGETHER * t - len(clip), -1, -1, -1)]).unflatten(0, (TOGETHER, t))
        number = self.segments + np.arange(TOGETHER)
        signs = (2 * self.rows[number % len(self.rows)] - 1) * self.white[number % framing.MASKS]
        residuals = self.net.residual(clip, torch.from_numpy((signs > 0).astype(np.float32)), 6.2)  # [TOGETHER, T, 3, h, w]
        marker = _Planes(held[0], self.stream.pix_fmt, residuals.shape[-2:])
        for residual in residuals:
            now, held = held[:t], held[t:]
            if not now:
                break
            planes = marker.scaled(residual[: len(now)], self.mse)
            self.segments += 1
            for i, frame in enumerate(now):
                marked = marker.add(frame, [p[i] for p in planes])
                marked.pts, marked.time_base = frame.pts, frame.time_base
                if frame.pts is not None:
                    time = frame.pts * frame.time_base
                    self.first = time if self.first is None else self.first
                    self.last = max(self.last, time)
                self.writer.mux(self.stream.encode(marked))
                self.frames += 1
            if self.progress is not None:
                self.progress(self.frames)


def small(frame: Any, height: int, width: int) -> Tensor:
    """A decoded frame at the model's size, each pixel the mean of the area that it covers. Shape: ``[3, height, width]`` in [0, 1]."""
    at_most = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
    return torch.from_numpy(at_most.to_ndarray()).permute(2, 0, 1).float() / 255


class _Planes:
    """Adds a small RGB residual to the YCbCr planes of frames of one size."""

    def __init__(self, frame: Any, format_: str, size: Any) -> None:
        self.format, self.h, self.w = format_, frame.height, frame.width
        half = format_ == "yuv420p"
        self.room = torch.empty(self.h * self.w, dtype=torch.int16)
        self.sizes = [(self.h, self.w)] + 2 * [(self.h // 2, self.w // 2) if half else (self.h, self.w)]
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
        import av

        flat = torch.from_numpy(frame.reformat(format=self.format).to_ndarray()).flatten()
        out, at = torch.empty_like(flat), 0
        for (h, w), residual in zip(self.sizes, planes):
            plane = flat[at : at + h * w].view(h, w)
            torch.add(plane, residual, out=self.room[: h * w].view(h, w))
            out[at : at + h * w] = self.room[: h * w].clamp_(0, 255)
            at += h * w
        array = out.numpy().reshape((-1, self.w) if self.format == "yuv420p" else (3, self.h, self.w))
        marked = av.VideoFrame.from_ndarray(array, format=self.format)
        marked.colorspace, marked.color_range = frame.colorspace, frame.color_range
        return marked


def _widen(n: int, m: int) -> Tensor:
    """Bilinear interpolation of m samples to n as a matrix ``[n, m]``, edges repeated."""
    at = ((torch.arange(n) + 0.5) * (m / n) - 0.5).clamp(0, m - 1)
    return (1 - (at[:, None] - torch.arange(m)).abs()).clamp(min=0)


def small_frames(path: str | os.PathLike[str], height: int, width: int) -> Iterator[Tensor]:
    """Frames of a video at the model's size, one by one.

    Raises:
        VideoError: unreadable file.
    """
    import av

    path = Path(path)
    if not path.is_file():
        raise VideoError(f"{path} is a folder; expected a video file" if path.is_dir() else f"{path}: no such file")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path} holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield small(frame, height, width)
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: not a readable video ({error.strerror or error})") from error


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
    """

    message: str | None
    text: str | None
    confidence: float
    p_value: float
    segments: int
    phase: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "message": self.message, "text": self.text, "confidence": round(self.confidence, 4), "p_value": float(f"{self.p_value:.3g}"),
            "segments": self.segments, "phase": self.phase,
        }  # fmt: skip


def extract(net: REVMark, path: str | os.PathLike[str], progress: Progress | None = None) -> Extracted:
    """Read the mark of a video file.

    Every phase of the segments is tried, so frames may have been cut off its beginning. A mark is claimed where segments agree as an unmarked
    video would with a probability below 1e-6; two whole segments (16 frames) are the least that can agree.

    Raises:
        VideoError: unreadable, or shorter than a segment.
    """
    logits = read_logits(net, small_frames(path, net.model.height, net.model.width), progress)
    if not len(logits):
        raise VideoError(f"{path}: too short to be read, a segment has {net.model.frames} frames")
    told = framing.find_text(logits, net.model.frames)  # first: the segments of a text that is repeated agree with each other, too
    if told is not None:
        text, by = told
        return Extracted(None, text, by.confidence, by.p_value, by.segments, by.phase)
    found: Found = framing.search(logits, net.model.frames)
    message = None if found.bits is None else framing.to_hex(found.bits)
    return Extracted(message, None, found.confidence, found.p_value, found.segments, found.phase)


@torch.no_grad()
def detect(
    detector: Detector, size: tuple[int, int], path: str | os.PathLike[str], progress: Progress | None = None, batch: int = 64
) -> list[float]:
    """Probability that each frame of a video is marked (A.2).

    Raises:
        VideoError: unreadable file, no frames.
    """
    out: list[Tensor] = []
    pending: list[Tensor] = []
    for seen, frame in enumerate(small_frames(path, *size), 1):
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
