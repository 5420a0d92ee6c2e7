"""Marking of a video from input to output file: the mark (a network's residual, or waves), planes, tracks, time stamps."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffcodec.color import MATRICES
from diffcodec.media import Converter, Damage, Pictures, decode, lost_in_8_bits, orientation, turned, x264_options
from diffcodec.video import VideoError

from . import framing
from .filemark import FLATTEST, PERIOD, Mark, Painter
from .model import REVMark
from .tracks import Clock, Tracks
from .waves import BAREST, hidden

if TYPE_CHECKING:
    from .predict import Prediction

Progress = Callable[[int], None]
SEGMENTS = 2  # segments that go through the network at once: for a single one torch has no fast 3-D convolution on a CPU


@dataclass(frozen=True)
class Marked:
    """Result of :func:`revmark_ref.embed`.

    Attributes:
        frames, segments: numbers written (a segment of waves is a period); the last segment may be cut short by the end of the video.
        seconds: length of the video.
        damage: description of the damage to the input; None if none was noticed.
        bytes_before, bytes_after: sizes of input and output file.
        prediction: whether the mark can be read back (:class:`revmark_ref.predict.Prediction`); None for marks of a network.
        verified: with ``verify``, whether the message or text was read from the written file; otherwise None.
    """

    frames: int
    segments: int
    seconds: float
    damage: str | None = None
    bytes_before: int = 0
    bytes_after: int = 0
    prediction: Prediction | None = None
    verified: bool | None = None


class Pen(Protocol):
    """Draws a mark on frames.

    Attributes:
        together: number of frames drawn on at once; fewer at the end.
        least: least number of frames for which the mark can be read back.
    """

    together: int
    least: int

    def start(self, frame: Any, turn: tuple[int, bool], format_: str) -> None:
        """Set up from the first frame, its orientation, and the pixel format of the output."""

    def __call__(self, frames: list[Any], seconds: list[float]) -> Iterator[Any]:
        """The marked frames in display orientation."""

    def segments(self) -> int:
        """How many segments (periods) were written."""


class Watch(Protocol):
    """Follows the encoded packets of the marked video, before they are written."""

    def __call__(self, packet: Any, encoder: Any) -> None: ...


@dataclass(frozen=True)
class Coding:
    """How the marked video is encoded: CRF and preset of libx264, and a maximum bitrate in bit/s (None: no limit)."""

    crf: float
    preset: str
    most: int | None = None


class Marking:
    """Marks one video: decodes, marks, encodes, and interleaves the copied tracks."""

    def __init__(
        self,
        pen: Pen,
        reader: Any,
        video: Any,
        writer: Any,
        coding: Coding,
        progress: Progress | None,
        source: Path,
        damaged: str,
        watch: Watch | None = None,
    ) -> None:
        self.watch = watch
        self.pen, self.reader, self.video, self.writer = pen, reader, video, writer
        self.coding, self.progress, self.source, self.damaged = coding, progress, source, damaged
        self.stream: Any = None
        self.rate = video.average_rate or video.guessed_rate or Fraction(25)
        self.clock = Clock(round(1 / (self.rate * video.time_base)))
        self.frames = 0
        self.first: int | None = None
        self.last = 0

    def run(self) -> Marked:
        damage = Damage()
        held: list[Any] = []
        self.tracks = Tracks(self.reader, self.video, self.writer)
        for frame in decode(self.reader, self.video, damage, others=self.tracks.others, pass_on=self.tracks.copy):
            if self.stream is None:
                self.turn = orientation(frame)
                self.stream = self.tracks.create(self._stream, frame)
            self.tracks.saw(frame)
            self._judge(damage)
            held.append(frame)
            if len(held) == self.pen.together:
                self._write(held)
                held = []
        if held:
            self._write(held)
        if not self.frames:
            raise VideoError(f"{self.source}: no frame could be decoded")
        self._judge(damage)
        if damage:
            warnings.warn(f"{self.source}: {damage}; what could be decoded was marked", stacklevel=3)
        if self.frames < self.pen.least:
            raise VideoError(f"{self.source}: {self.frames} frames; a mark needs at least {self.pen.least} to be read back")
        self._send(None)
        length = (self.last + self.clock.step - (self.first or 0)) * self.video.time_base
        return Marked(self.frames, self.pen.segments(), float(length), str(damage) if damage else None)

    def left_out(self, out: Path) -> str:
        """Warning that names what the file written does not hold of the source; empty if it holds everything."""
        missing = list(dict.fromkeys(self.tracks.missing(out, self.turn[0] % 2 == 1)))
        return f"{self.source}: left out of the marked file: {'; '.join(missing)}" if missing else ""

    def _judge(self, damage: Damage) -> None:
        if damage and self.damaged == "error":
            raise VideoError(
                f"{self.source}: damaged: {damage}; damaged='keep' (--damaged keep) marks what can be decoded; nothing was kept"
            )

    def _stream(self, frame: Any) -> Any:
        context = self.video.codec_context
        if lost := lost_in_8_bits(frame):
            warnings.warn(f"{self.source} has {lost}; it is marked in 8 bits without", stacklevel=5)
        given = {"crf": f"{self.coding.crf:g}", "preset": self.coding.preset}
        if self.coding.most is not None:
            given |= {"maxrate": str(self.coding.most), "bufsize": str(2 * self.coding.most)}
        options = x264_options(given)
        stream = self.writer.add_stream("libx264", rate=self.rate, options=options)
        h, w = (frame.width, frame.height) if self.turn[0] % 2 else (frame.height, frame.width)
        stream.height, stream.width = h, w
        stream.pix_fmt = "yuv420p" if h % 2 == 0 and w % 2 == 0 else "yuv444p"
        stream.codec_context.time_base = self.video.time_base
        own = stream.codec_context
        own.thread_count = min(4, os.cpu_count() or 1)  # of the encoder: drawing continues in parallel
        for name in ("colorspace", "color_range", "color_primaries", "color_trc", "sample_aspect_ratio"):
            with contextlib.suppress(AttributeError, TypeError, ValueError, ZeroDivisionError):
                value = getattr(context, name)
                if value is not None:
                    setattr(own, name, 1 / value if name == "sample_aspect_ratio" and self.turn[0] % 2 else value)
        return stream

    @torch.no_grad()
    def _write(self, held: list[Any]) -> None:
        stamps = [self.clock(frame.pts) for frame in held]
        base = self.video.time_base
        if self.first is None:
            self.first = stamps[0]
            self.pen.start(held[0], self.turn, self.stream.pix_fmt)
        for marked, stamp in zip(self.pen(held, [float((s - self.first) * base) for s in stamps]), stamps):
            marked.pts, marked.time_base = stamp, base
            self.last = stamp
            self._send(marked)
            self.frames += 1
        if self.progress is not None:
            self.progress(self.frames)

    def _send(self, frame: Any) -> None:
        for packet in self.stream.encode(frame):
            if self.watch is not None:
                self.watch(packet, self.stream.codec_context)
            self.writer.mux(packet)


class SegmentPen:
    """Adds a network's residual for segments of frames, computed at the model's size and upscaled (appendix A.1).

    Args:
        net: the model.
        rows: payloads ``[n, L]`` of the segments, used in turn.
        psnr: PSNR of the marked frames, in dB.
    """

    def __init__(self, net: REVMark, rows: np.ndarray, psnr: float) -> None:
        self.net, self.rows, self.mse = net, rows, 10 ** (-psnr / 10)
        self.together, self.least = SEGMENTS * net.model.frames, 2 * net.model.frames
        self.done = 0

    def segments(self) -> int:
        return self.done

    def start(self, frame: Any, turn: tuple[int, bool], format_: str) -> None:
        self.planes = _Planes(frame, turn, format_)
        model = self.net.model
        self.widen = _Widen(self.planes, (model.height, model.width))

    def __call__(self, frames: list[Any], seconds: list[float]) -> Iterator[Any]:
        """Mark up to ``SEGMENTS`` segments; for the model, the last one is padded with the last frame."""
        model, t = self.net.model, self.net.model.frames
        picture = Small(model.height, model.width)
        clip = torch.stack([picture(f) for f in frames])  # [n, 3, h, w]
        clip = torch.cat([clip, clip[-1:].expand(SEGMENTS * t - len(clip), -1, -1, -1)]).unflatten(0, (SEGMENTS, t))
        payloads = torch.from_numpy(framing.payloads(self.rows, SEGMENTS, self.done)).float()
        residuals = self.net.residual(clip, payloads, 6.2)  # [SEGMENTS, T, 3, h, w]
        for i, residual in enumerate(residuals):
            now = frames[i * t : (i + 1) * t]
            if now:
                planes = self.widen(residual[: len(now)], self.mse)
                self.done += 1
                for j, frame in enumerate(now):
                    yield self.planes.add(frame, [p[j] for p in planes])


class WavePen:
    """Adds the waves of a key (:mod:`revmark_ref.filemark`) to luma, scaled by the perceptual mask; chroma is not changed.

    Args:
        mark: the mark of the key.
        words: payloads ``[n, BITS]``.
        psnr: PSNR of the marked frames, in dB; frames with nearly no texture get a weaker mark, so that it stays invisible.
        rate: frames per second.
    """

    together = 1

    def __init__(self, mark: Mark, words: np.ndarray, psnr: float, rate: float) -> None:
        self.mark, self.words, self.level = mark, words, 255 * 10 ** (-psnr / 20)
        self.least = math.ceil(SHORTEST * rate)
        self.last = 0.0
        self.drawn = self.limited = 0  # frames, and those of them whose mark is weaker than asked for, as they have nearly no texture

    def segments(self) -> int:
        return math.ceil(self.last / PERIOD + 1e-9) or 1

    def start(self, frame: Any, turn: tuple[int, bool], format_: str) -> None:
        self.planes = _Planes(frame, turn, format_)
        h, w = self.planes.h, self.planes.w
        scale = min(1.0, GRID / min(h, w))
        self.grid = (round(h * scale), round(w * scale))
        self.painter = Painter(self.mark, self.words, *self.grid)
        self.luma = Luma(*self.grid)

    def __call__(self, frames: list[Any], seconds: list[float]) -> Iterator[Any]:
        for frame, at in zip(frames, seconds):
            self.last = at
            mask = hidden(self.luma(frame)[None, None])[0, 0]
            waves = self.painter(at)
            fine = F.interpolate((mask * waves)[None, None], (self.planes.h, self.planes.w), mode="bilinear")[0, 0]
            gain = self.level / max(1e-6, float(fine.norm()) / math.sqrt(fine.numel()))
            most = FLATTEST / (BAREST * float(waves.norm()) / math.sqrt(waves.numel()))
            self.drawn += 1
            self.limited += gain > most
            gain = min(gain, most)
            yield self.planes.add(frame, [fine.mul_(gain * self.planes.gains[0]).round_().to(torch.int16), None, None])


GRID = 192  # short side in pixels of the grid that a mark is drawn on before it is upscaled to the frame
SHORTEST = 4 * PERIOD  # seconds


class Luma:
    """Luma of decoded frames in display orientation, scaled to a given size by area averaging."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._convert = Converter()

    def __call__(self, frame: Any) -> Tensor:
        """Shape: ``[height, width]``, in 8-bit levels."""
        turn = orientation(frame)
        height, width = (self.width, self.height) if turn[0] % 2 else (self.height, self.width)
        picture = self._convert(frame, "gray", width=width, height=height, interpolation="AREA")
        return torch.from_numpy(np.ascontiguousarray(turned(picture, turn))).float()


class Small:
    """Decoded frames in display orientation, scaled to the model's size by area averaging."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._pictures = Pictures()

    def __call__(self, frame: Any) -> Tensor:
        """Shape: ``[3, height, width]`` in [0, 1]."""
        height, width = (self.width, self.height) if orientation(frame)[0] % 2 else (self.height, self.width)
        return torch.from_numpy(self._pictures(frame, width=width, height=height, interpolation="AREA")).permute(2, 0, 1).float() / 255


class _Planes:
    """Adds residuals to the YCbCr planes of frames of one size, in display orientation."""

    def __init__(self, frame: Any, turn: tuple[int, bool], format_: str) -> None:
        self.format, self.turn, self.convert = format_, turn, Converter()
        half = format_ == "yuv420p"
        h, w = frame.height, frame.width
        self.stored = [(h, w)] + 2 * [(h // 2, w // 2) if half else (h, w)]
        self.sizes = [s[::-1] if turn[0] % 2 else s for s in self.stored]
        self.h, self.w = self.sizes[0]
        self.room = torch.empty(self.h * self.w, dtype=torch.int16, device="cpu")
        full = int(frame.color_range or 0) == 2
        self.gains = (1.0, 1.0) if full else (219 / 255, 224 / 255)
        kr, kb = MATRICES["bt709" if int(frame.colorspace or 2) == 1 else "bt601"]
        self.matrix = torch.tensor(
            [
                [kr, 1 - kr - kb, kb],
                [-kr / (2 - 2 * kb), -(1 - kr - kb) / (2 - 2 * kb), 0.5],
                [0.5, -(1 - kr - kb) / (2 - 2 * kr), -kb / (2 - 2 * kr)],
            ],
            dtype=torch.float32,
            device="cpu",
        )

    def add(self, frame: Any, residuals: Sequence[Tensor | None]) -> Any:
        """The frame with a residual added to each plane; None leaves a plane unchanged."""
        import av

        flat = self.convert(frame, self.format, width=self.stored[0][1], height=self.stored[0][0]).reshape(-1)
        out, read, at = torch.empty(len(flat), dtype=torch.uint8, device="cpu"), 0, 0
        for (h, w), (rows, columns), residual in zip(self.stored, self.sizes, residuals):
            plane = torch.from_numpy(np.ascontiguousarray(turned(flat[read : read + h * w].reshape(h, w), self.turn)))
            if residual is None:
                out[at : at + h * w] = plane.reshape(-1)
            else:
                torch.add(plane, residual, out=self.room[: h * w].view(rows, columns))
                out[at : at + h * w] = self.room[: h * w].clamp_(0, 255)
            read += h * w
            at += h * w
        array = out.numpy().reshape((-1, self.w) if self.format == "yuv420p" else (3, self.h, self.w))
        marked = av.VideoFrame.from_ndarray(array, format=self.format)
        marked.colorspace, marked.color_range = frame.colorspace, frame.color_range
        return marked


class _Widen:
    """Upscales RGB residuals to the planes of a frame.

    Args:
        planes: the planes of the frame.
        size: height and width of the residuals.
    """

    def __init__(self, planes: _Planes, size: tuple[int, int]) -> None:
        self.planes = planes
        self.matrices = [(_widen(n, size[0]), _widen(m, size[1])) for n, m in planes.sizes[:2]]

    def __call__(self, residual: Tensor, mse: float) -> list[Tensor]:
        """Residual of each plane in 8-bit levels, with the mean squared error ``mse`` in RGB. Shape: ``[n, 3, h, w]`` -> three ``[n, H, W]``."""
        rows, columns = self.matrices[0]
        # energy after widening, without widening: ||A x B'||^2 = <A'A x, x B'B>
        energy = ((rows.T @ rows) @ residual * (residual @ (columns.T @ columns))).sum() / (
            residual.shape[0] * 3 * self.planes.h * self.planes.w
        )
        gain = float((mse / energy.clamp(min=1e-20)).sqrt())
        ycc = torch.einsum("ij,njhw->nihw", self.planes.matrix, residual * (255 * gain))
        out = []
        for i in range(3):
            a, b = self.matrices[min(i, 1)]
            out.append((a @ (ycc[:, i] * self.planes.gains[min(i, 1)]) @ b.T).round_().to(torch.int16))
        return out


def _widen(n: int, m: int) -> Tensor:
    """Bilinear interpolation of m samples to n as a matrix ``[n, m]``, edges repeated."""
    at = ((torch.arange(n, device="cpu") + 0.5) * (m / n) - 0.5).clamp(0, m - 1)
    return (1 - (at[:, None] - torch.arange(m, device="cpu")).abs()).clamp(min=0)
