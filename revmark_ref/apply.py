"""Marking real video files (A.1, A.2): any size and length, audio and timing kept, memory bounded by a segment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffcodec.checks import require
from diffcodec.files import replacing
from diffcodec.media import DAMAGED, NO_SPACE, Damage, decode, opened
from diffcodec.video import X264_PRESETS, VideoError, video_info

from . import framing
from .framing import Found, MessageError
from .marking import Marked, Marking, Progress, Small
from .model import Detector, REVMark

_CONTAINERS = (".mp4", ".mkv", ".mov", ".m4v")


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
                return Marking(net, reader, video, writer, rows, psnr, crf, preset, progress, source, damaged).run()
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise VideoError(f"{out}: no space left to write it; nothing was kept") from error
        raise VideoError(f"{source} -> {out}: {error.strerror or error}; nothing was kept") from error


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
