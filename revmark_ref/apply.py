"""Marking real video files (A.1, A.2): any size and length, audio and timing kept, memory bounded by a segment."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffcodec.checks import require
from diffcodec.files import replacing
from diffcodec.media import DAMAGED, NO_SPACE, Damage, decode, opened
from diffcodec.video import X264_PRESETS, VideoError, video_info

from . import framing, reading
from .filemark import BITS, LOWEST_RATE, PERIOD, WORD, Mark
from .framing import Found, MessageError
from .marking import Coding, Marked, Marking, Progress, SegmentPen, Small, WavePen
from .model import Detector, REVMark

_CONTAINERS = (".mp4", ".mkv", ".mov", ".m4v")


def embed(
    net: REVMark,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    message: str | None = None,
    text: str | None = None,
    psnr: float = 40.0,
    crf: float | None = None,
    preset: str = "veryfast",
    progress: Progress | None = None,
    damaged: str = "error",
    key: str = "",
    force: bool = False,
) -> Marked:
    """Mark a video file with a message (or a text), from its first frame to its last; the output appears whole or not at all.

    Weights of the mapping "waves" (``base``) draw waves on luma, at the frame's own size (:mod:`revmark_ref.filemark`). Those of a network compute a
    residual for every 8 frames at the model's size, which is scaled up (A.1). What is not marked is not converted. Audio and subtitles are
    copied, with languages, titles, dispositions and the order of tracks; time stamps are kept where a player could follow them. A video that is to
    be turned is written turned.

    Args:
        net: the model.
        source: any video that ffmpeg reads; 8-bit 4:2:0 inside (others are converted, with a warning where that loses bits or transparency).
        out: .mp4, .mkv, .mov or .m4v, written with libx264.
        message: hex digits (16 for ``base``: 64 bits); a check of 32 bits is written with them.
        text: up to 200 bytes of UTF-8, laid over consecutive words and repeated.
        psnr: of the marked frames before encoding, in dB, 25..60; frames with nearly no texture get a weaker mark.
        crf: of libx264. None for 20, and not many more bits a second than the source's video has (1.15 times as many; more where the source's codec
            is a better one).
        preset: of libx264.
        progress: called with the number of frames written.
        damaged: "error", or "keep": mark what can be decoded, and warn.
        key: any string; only with the same one the mark is found again.
        force: also mark a video that carries a mark of this key already.

    Raises:
        MessageError: neither or both of message and text, wrong length, not hex, text too long for the video.
        VideoError: unreadable, damaged, marked, too short or too small input, unusable output path, no space.
    """
    import av

    if (message is None) == (text is None):
        raise MessageError("give either message (hex digits) or text")
    if not 25 <= psnr <= 60:
        raise ValueError(f"psnr expected to lie in [25, 60] dB, got {psnr!r}")
    if crf is not None and not 0 <= crf <= 51:
        raise ValueError(f"crf expected to lie in [0, 51], got {crf!r}")
    require("preset", preset, X264_PRESETS)
    require("damaged", damaged, DAMAGED)
    source, out = Path(source), Path(out)
    if out.suffix.lower() not in _CONTAINERS:
        raise VideoError(f"{out}: expected a file ending in {', '.join(_CONTAINERS)}, got {out.suffix!r}")
    model = net.model
    if message is not None:
        rows = framing.protected(framing.from_hex(message, framing.message_bits(model.bits)), model.bits, key)[None]
    else:
        rows = framing.frame_text(text or "", model.bits, key)
    waves = model.mapping == "waves"
    try:
        with opened(source) as (reader, video):
            if out.exists() and os.path.samefile(source, out):
                raise VideoError(f"{out}: input and output are the same file; the input is never overwritten")
            rate = float(video.average_rate or video.guessed_rate or 25)
            if text is not None:
                total = (video.frames or video_info(source).frames) / rate
                needed = len(rows) * (WORD * PERIOD if waves else model.frames / rate)
                if total < needed:
                    raise MessageError(
                        f"--text {text!r} needs {needed:.1f} s of video{'' if waves else f' at {rate:g} frames a second'}"
                        f" ({math.ceil(needed * rate)} frames); {source} has {total:.1f} s ({round(total * rate)} frames)"
                    )
            if waves:
                if model.bits != BITS:
                    raise ValueError(f"files are marked with {BITS} waves, these weights have {model.bits}")
                _fits(source, video.codec_context.height, video.codec_context.width, rate)
                if not force and reading.read(source, key, damage=Damage(), groups_=1).marked:
                    raise VideoError(f"{source} carries a mark of this key already; force=True (--force) writes another over it")
            pen = WavePen(Mark.of(key), rows, psnr, rate) if waves else SegmentPen(net, rows, psnr)
            coding = Coding(20.0 if crf is None else crf, preset, _most(reader, video) if crf is None else None)
            with replacing(out) as temporary, av.open(f"file:{temporary}", "w") as writer:
                done = Marking(pen, reader, video, writer, coding, progress, source, damaged).run()
            return dataclasses.replace(done, bytes_before=source.stat().st_size, bytes_after=out.stat().st_size)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise VideoError(f"{out}: no space left to write it; nothing was kept") from error
        raise VideoError(f"{source} -> {out}: {error.strerror or error}; nothing was kept") from error


SMALLEST = 96  # pixels of the short side: three to the longest wave that is finest


def _fits(source: Path, height: int, width: int, rate: float) -> None:
    if min(height, width) < SMALLEST:
        raise VideoError(f"{source}: {width} x {height} is too small for a mark to be read back; the shorter side needs {SMALLEST} pixels")
    if rate < LOWEST_RATE:
        raise VideoError(f"{source}: {rate:g} frames a second are too few for a mark to be read back; it needs {LOWEST_RATE}")


# bits that libx264 needs for what another codec says in one
_WORTH = {"hevc": 1.6, "vp9": 1.6, "av1": 2.0, "vvc": 2.5}


def _most(reader: Any, video: Any) -> int | None:
    """Bits a second that the marked video may have: about those of the source. None where the source does not say."""
    rate = video.bit_rate
    if not rate and reader.bit_rate:
        rate = reader.bit_rate - sum(s.bit_rate or 0 for s in reader.streams if s.type == "audio")
    if not rate or rate < 1000:
        return None
    return int(1.15 * rate * _WORTH.get(video.codec_context.name, 1.0))


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
        message: hex digits, None where none was read whose check holds.
        text: None where none was found.
        verdict: "message", "text", "unreadable" (there is a mark of this key, but no message whose check holds), "none".
        confidence: share of single bits of all segments that agree with the message.
        p_value: probability that an unmarked video would say as much, over all that was tried; 1 where there is no mark.
        segments: that were read.
        score: for ``base``, power of the spectrum under the mark's lattice, in standard deviations of chance (unmarked videos reach about 11).
        geometry: how the marked frame lies in this one, for ``base``: scale (of width and height), turn in degrees, mirrored, backwards.
        damage: what is wrong with the file, None where nothing was noticed.
    """

    message: str | None
    text: str | None
    verdict: str
    confidence: float
    p_value: float
    segments: int
    score: float = 0.0
    geometry: dict[str, Any] = dataclasses.field(default_factory=dict)
    damage: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {
            "confidence": round(self.confidence, 4),
            "p_value": float(f"{self.p_value:.3g}"),
            "score": round(self.score, 1),
        }


def extract(net: REVMark, path: str | os.PathLike[str], progress: Progress | None = None, key: str = "") -> Extracted:
    """Read the mark of a video file.

    A message or a text is claimed only where its check holds. Marks of ``base`` are found in whatever geometry, and at whatever clock the video has
    now (:mod:`revmark_ref.sync`); of those of a network every phase of the segments is tried, and their segments must agree as those of an
    unmarked video would with a probability below 1e-6 as well.

    Raises:
        VideoError: unreadable, or too short to say anything.
    """
    damage = Damage()
    if net.model.mapping == "waves":
        found = reading.read(path, key, progress, damage)
        if not found.windows:
            raise VideoError(f"{path}: too short to be read")
        message = None if found.bits is None else framing.to_hex(found.bits)
        verdict = "message" if message else "text" if found.text else "unreadable" if found.marked else "none"
        chance = {"message": reading.CHANCE, "text": reading.CHANCE, "unreadable": reading.CHANCE_MARKED, "none": 1.0}[verdict]
        return Extracted(
            message,
            found.text,
            verdict,
            found.confidence,
            chance,
            found.windows,
            found.score,
            found.geometry(),
            str(damage) if damage else None,
        )
    logits = read_logits(net, small_frames(path, net.model.height, net.model.width, damage), progress)
    wrong = str(damage) if damage else None
    if not len(logits):
        raise VideoError(f"{path}: too short to be read, a segment has {net.model.frames} frames")
    told = framing.find_text(logits, net.model.frames, key)  # first: the segments of a text that is repeated agree with each other, too
    if told is not None:
        return Extracted(None, told[0], "text", told[1].confidence, told[1].p_value, told[1].segments, 0.0, {}, wrong)
    agreed: Found = framing.search(logits, net.model.frames)
    bits = None if agreed.bits is None else framing.message_of(agreed.bits, key)
    verdict = "none" if agreed.bits is None else "unreadable" if bits is None else "message"
    message = None if bits is None else framing.to_hex(bits)
    return Extracted(message, None, verdict, agreed.confidence, agreed.p_value, agreed.segments, 0.0, {}, wrong)


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
