"""Marking of video files (appendices A.1 and A.2 of the paper): any size and length, audio and time stamps kept, memory of one segment."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
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

from . import framing, predict, reading, sync
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
    verify: bool = False,
) -> Marked:
    """Embed a message (or a text) in a video file, from the first frame to the last; the output file is written completely or not at all.

    Weights with the mapping "waves" (``base``) add waves to luma at the frame's own size (:mod:`revmark_ref.filemark`). Those of a network compute a
    residual for every segment of 8 frames at the model's size and upscale it (appendix A.1). Planes that are not marked are not converted. Audio and
    subtitle tracks are copied, with languages, titles, dispositions and their order, cover pictures, chapters, attachments and tags; time stamps are
    kept wherever they increase. A rotation in the file's metadata is applied to the frames. A warning names what the output does not hold of the
    source (:class:`revmark_ref.tracks.Tracks`).

    Args:
        net: the model.
        source: any video that ffmpeg reads; marked as 8-bit 4:2:0 (other formats are converted, with a warning if bit depth or transparency is lost).
        out: .mp4, .mkv, .mov or .m4v, written with libx264.
        message: hex digits (16 for ``base``: 64 bits); a check is embedded with them (32 bits for ``base``).
        text: up to 200 bytes of UTF-8, split over consecutive payloads and repeated.
        psnr: PSNR of the marked frames before encoding, in dB, 25..60; frames with nearly no texture get a weaker mark.
        crf: CRF of libx264, 0..51. None: 20, with the bitrate capped at 1.15 times that of the source's video (higher if the source's codec is more
            efficient than H.264).
        preset: preset of libx264.
        progress: called with the number of frames written.
        damaged: "error" raises; "keep" marks what can be decoded, and warns.
        key: any string; the mark can only be found with the same key.
        force: mark a video even if it already carries a mark with this key, or if the mark is predicted not to be readable (with a warning).
        verify: read the written file, and compare the message or text; works for every mark.

    Returns:
        Numbers of frames and segments, duration, damage, file sizes, and the prediction whether the mark can be read back (``base`` only); with
        ``verify``, whether it was.

    Raises:
        MessageError: neither or both of message and text given, wrong length, not hex, text too long for the video.
        UnreadableError: a VideoError; the mark is predicted not to be readable. No file is left.
        VideoError: input unreadable, damaged, already marked, too short or too small; output path unusable, disk full.
        ValueError: psnr, crf, preset or damaged out of range.
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
                total = video_info(source).frames / rate
                needed = len(rows) * (WORD * PERIOD if waves else model.frames / rate)
                if total < needed:
                    raise MessageError(
                        f"--text {text!r} needs {needed:.1f} s of video{'' if waves else f' at {rate:g} frames a second'}"
                        f" ({math.ceil(needed * rate)} frames); {source} has {total:.1f} s ({round(total * rate)} frames)"
                    )
            if waves:
                if model.bits != BITS:
                    raise ValueError(f"files are marked with payloads of {BITS} bits, these weights have {model.bits}")
                _fits(source, video.codec_context.height, video.codec_context.width, rate)
                if not force and reading.read(source, key, damage=Damage(), limit=1, far=False).marked:
                    raise VideoError(f"{source} carries a mark of this key already; force=True (--force) adds another")
            pen = WavePen(Mark.of(key), rows, psnr, rate) if waves else SegmentPen(net, rows, psnr)
            watch = predict.Watch(pen, key, rate) if isinstance(pen, WavePen) else None
            coding = Coding(20.0 if crf is None else crf, preset, _most(reader, video) if crf is None else None)
            with replacing(out) as temporary:
                with av.open(f"file:{temporary}", "w") as writer:
                    marking = Marking(pen, reader, video, writer, coding, progress, source, damaged, watch)
                    done = marking.run()
                    if watch is not None:
                        done = dataclasses.replace(done, prediction=_judged(source, watch.end(), force))
                if said := marking.left_out(Path(temporary)):
                    warnings.warn(said, stacklevel=2)
            done = dataclasses.replace(done, bytes_before=source.stat().st_size, bytes_after=out.stat().st_size)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise VideoError(f"{out}: no space left to write it; nothing was kept") from error
        raise VideoError(f"{source} -> {out}: {error.strerror or error}; nothing was kept") from error
    if verify:
        done = dataclasses.replace(done, verified=_read_back(net, out, rows, text, key))
    return done


def _judged(source: Path, prediction: predict.Prediction, force: bool) -> predict.Prediction:
    """The prediction, if the mark is readable or ``force`` is given.

    Raises:
        UnreadableError: otherwise.
    """
    if prediction.readable:
        return prediction
    told = f"{source}: {prediction}: {prediction.reason}"
    if not force:
        raise predict.UnreadableError(
            f"{told}; a crf (--crf 18), which lifts the limit of the bitrate, a lower psnr or a longer film may help; force=True (--force) marks it"
            " all the same; nothing was kept",
            prediction,
        )
    warnings.warn(told, stacklevel=3)
    return prediction


def _read_back(net: REVMark, out: Path, rows: np.ndarray, text: str | None, key: str) -> bool:
    """Whether a written file gives its message or text."""
    try:
        found = extract(net, out, key=key)
    except VideoError:  # too short to be read
        return False
    if text is not None:
        return found.text == text
    return found.message == framing.to_hex(rows[0][: framing.message_bits(net.model.bits)])


SMALLEST = 96  # pixels: the least short side at which the finest waves are still sampled well enough


def _fits(source: Path, height: int, width: int, rate: float) -> None:
    if min(height, width) < SMALLEST:
        raise VideoError(f"{source}: {width} x {height} is too small for a mark to be read back; the shorter side needs {SMALLEST} pixels")
    if rate < LOWEST_RATE:
        raise VideoError(f"{source}: {rate:g} frames a second are too few for a mark to be read back; it needs {LOWEST_RATE}")


# bitrate that libx264 needs relative to another codec, at equal quality
_WORTH = {"hevc": 1.6, "vp9": 1.6, "av1": 2.0, "vvc": 2.5}


def _most(reader: Any, video: Any) -> int | None:
    """Bitrate cap of the marked video in bit/s, derived from the source's bitrate; None if that is unknown."""
    rate = video.bit_rate
    if not rate and reader.bit_rate:
        rate = reader.bit_rate - sum(s.bit_rate or 0 for s in reader.streams if s.type == "audio")
    if not rate or rate < 1000:
        return None
    context = video.codec_context
    samples = context.width * context.height * float(video.average_rate or video.guessed_rate or 25)
    return int(1.15 * rate * _WORTH.get(context.name, 1.0) + min(_MARK * samples, _MARK_MOST))


# Bits per pixel that a mark takes where the source has next to none, as in a still picture, and a limit in bit/s. A cap without them leaves no mark
_MARK, _MARK_MOST = 0.02, 200e3


def small_frames(path: str | os.PathLike[str], height: int, width: int, damage: Damage) -> Iterator[Tensor]:
    """Frames ``[3, height, width]`` of a video in [0, 1] at the model's size, one by one; damaged frames are counted and yielded as well.

    Raises:
        VideoError: unreadable file.
    """
    picture = Small(height, width)
    with opened(path) as (container, stream):
        for frame in decode(container, stream, damage):
            yield picture(frame)


@torch.no_grad()
def read_logits(net: REVMark, frames: Iterator[Tensor], progress: Progress | None = None, batch: int = 16) -> np.ndarray:
    """Logits of the clips of T frames that begin at each frame. Memory is that of one batch.

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
    """What was read from a video.

    Attributes:
        message: hex digits; None if no message passed its check.
        text: None if none was found.
        verdict: "message", "text", "unreadable" (a mark with this key is present, but no message passes its check), or "none".
        confidence: share of the bits read from all segments that agree with the message.
        p_value: probability that an unmarked video gives this verdict, over all hypotheses tried; 1 if no mark is found.
        segments: number of segments read.
        score: for ``base``, spectral power at the mark's lattice points, in standard deviations of chance (unmarked videos reach about 11).
        geometry: for ``base``, how the marked frame lies in the one read: scale (of width and height), turn in degrees, mirrored, backwards.
        damage: description of the damage to the file; None if none was noticed.
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

    A message or a text is reported only if its check holds. Marks of ``base`` are found after changes of geometry and speed
    (:mod:`revmark_ref.sync`). For marks of a network every phase of the segments is tried; for a message the segments must also agree
    with a p-value below 1e-6.

    Args:
        net: the model that the video was marked with.
        path: any video that ffmpeg reads.
        progress: called with the number of frames read.
        key: the key that the video was marked with.

    Raises:
        VideoError: unreadable, or too short to be read.
    """
    damage = Damage()
    if net.model.mapping == "waves":
        found = reading.read(path, key, progress, damage)
        if not found.windows:
            raise VideoError(f"{path}: too short to be read")
        message = None if found.bits is None else framing.to_hex(found.bits)
        verdict = "message" if message else "text" if found.text else "unreadable" if found.marked else "none"
        chance = {"message": reading.CHANCE, "text": reading.CHANCE, "unreadable": reading.CHANCE_MARKED, "none": 1.0}[verdict]
        searched = math.ceil(found.windows / sync.GROUP)  # each group is another chance
        return Extracted(
            message,
            found.text,
            verdict,
            found.confidence,
            min(1.0, searched * chance),
            found.windows,
            found.score,
            found.geometry(),
            str(damage) if damage else None,
        )
    logits = read_logits(net, small_frames(path, net.model.height, net.model.width, damage), progress)
    wrong = str(damage) if damage else None
    if not len(logits):
        raise VideoError(f"{path}: too short to be read; a segment has {net.model.frames} frames")
    told = framing.find_text(logits, net.model.frames, key)  # text first: its repeated segments agree with each other, too
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
    """Probability of being marked for each frame of a video (appendix A.2). Reading continues after damage, which ``damage`` counts.

    Args:
        detector: the frame detector.
        size: height and width in pixels that the frames are scaled to.
        path: any video that ffmpeg reads.
        progress: called with the number of frames read.
        batch: frames per call of the detector.
        damage: collects what is wrong with the file.

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
