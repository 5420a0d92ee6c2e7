"""Video files: read and write (PyAV)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checks import check_tensor, check_values, frame_rate, require
from .color import to_8bit
from .files import Path_, replacing
from .files import video_files as video_files
from .images import cropped, resized
from .media import (
    DAMAGED,
    NO_SPACE,
    Converter,
    Damage,
    Pictures,
    Stamps,
    VideoError,
    announced,
    coded_vops,
    decode,
    is_packed,
    opened,
    orientation,
    x264_options,
)

_WRITABLE = (".mp4", ".mkv", ".mov", ".m4v", ".avi")  # containers that take H.264
X264_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")


@dataclass(frozen=True)
class VideoInfo:
    """Size, length and frame rate of a video file.

    Attributes:
        frames: number of frames (counted from packets if the container does not give it).
        height, width: in pixels, as displayed.
        fps: frames per second; 25 if the file gives none.
    """

    frames: int
    height: int
    width: int
    fps: Fraction


def video_info(path: Path_) -> VideoInfo:
    """Size, length and rate of a video file; one frame is decoded, to find its orientation.

    Raises:
        VideoError: missing, empty, unreadable, without a video stream, or its first frame cannot be decoded.
    """
    import av

    with opened(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        counted, told, first, packed = 0, announced(container, stream), None, is_packed(container, stream)
        stamps, cut = Stamps(), 0
        for packet in container.demux(stream):
            real = stamps.sent(packet)
            counted += coded_vops(packet) if packed else real
            if first is None:
                with contextlib.suppress(av.error.InvalidDataError):
                    first = next(iter(packet.decode()), None)
                    cut = stamps.leading(first, stream) if first is not None else 0
            elif told and not packed:
                break
        if first is None:
            raise VideoError(f"{path}: damaged, no frame could be decoded")
        size = (first.height, first.width)
        quarters, _ = orientation(first)
        return VideoInfo((counted if packed else told or counted) - cut, *(size[::-1] if quarters % 2 else size), Fraction(rate))


def read_frames(path: Path_, start: int = 0, damaged: str = "error") -> Generator[Tensor, None, None]:
    """Iterate over frames as displayed (rotated as the file specifies), uint8 ``[3, H, W]``, from frame ``start`` on, one frame in memory at a time.

    A distant start is found by the timestamps of all packets and a seek to the key frame before it; in files without timestamps, frames are
    counted from the beginning. Both are frame-accurate.

    Args:
        path: video file.
        start: index of the first frame, >= 0.
        damaged: "error", or "keep": damaged frames are returned as concealed by the decoder, and a warning at the end counts them.

    Raises:
        VideoError: unreadable, or damaged: frames that the decoder marks, packets without a frame, an early end, a change of the frame size. Bit
            errors that the format cannot detect (VP8, VP9 and AV1 have no checksums) go unnoticed.
        ValueError: start < 0, or unknown ``damaged``.
    """
    require("damaged", damaged, DAMAGED)
    if start < 0:
        raise ValueError(f"start expected to be at least 0, got {start}")
    damage, picture, n = Damage(), Pictures(), start
    sizes: set[tuple[int, int]] = set()

    def checked(frame: Any) -> Tensor:
        if (damage.lost or damage.spreads) and damaged == "error":
            raise VideoError(f"{path}: damaged at frame {n} or before ({damage}); damaged='keep' reads on")
        sizes.add((frame.height, frame.width))
        if len(sizes) > 1:
            raise VideoError(f"{path}: frame {n} is of another size than those before it ({' and '.join(f'{h} x {w}' for h, w in sizes)})")
        return torch.from_numpy(picture(frame)).permute(2, 0, 1)

    try:
        if start > 250:  # for a nearer start, decoding from the beginning is as fast
            with opened(path) as (container, stream):
                for frame in _from(container, stream, start, damage):
                    yield checked(frame)
                    n += 1
            if n > start:
                return
            damage = Damage()  # the seek failed: start over from the beginning
        with opened(path) as (container, stream):
            n = 0
            for frame in decode(container, stream, damage):
                if n >= start:
                    yield checked(frame)
                n += 1
        if damage.lost and damaged == "error":
            raise VideoError(
                f"{path}: damaged or truncated, {n} of about {n + damage.lost} frames can be decoded; damaged='keep' reads those"
            )
        if damage.structure and damaged == "error":
            raise VideoError(f"{path}: damaged or truncated: {damage.structure}; damaged='keep' reads the frames that can be decoded")
    finally:
        if damage and damaged == "keep":
            warnings.warn(f"{path}: {damage}, kept as they are", stacklevel=2)


def _from(container: Any, stream: Any, start: int, damage: Damage) -> Iterator[Any]:
    """Frames from a distant one on, found by its timestamp; none if timestamps are missing or the seek fails."""
    target = _time_of(container, stream, start)
    if target is None:
        return
    container.seek(target, stream=stream)
    for i, frame in enumerate(decode(container, stream, damage, whole=False)):
        if frame.pts is None or (i == 0 and frame.pts > target):
            return
        if frame.pts >= target:
            yield frame


def _time_of(container: Any, stream: Any, index: int) -> int | None:
    """Timestamp of a frame in display order, from the packets only; None if it cannot be determined."""
    import av

    stamps, first = Stamps(), None
    for packet in container.demux(stream):
        stamps.sent(packet)
        if first is None:
            with contextlib.suppress(av.error.InvalidDataError):
                first = next(iter(packet.decode()), None)
    if first is None or first.pts is None or not stamps.trusted(stream):
        return None
    shown = sorted(s for s in stamps.all if s is not None and (s >= first.pts or first.pts != stamps.all[0]))
    return shown[index] if index < len(shown) else None


def read_video(
    path: Path_,
    start: int = 0,
    frames: int | None = None,
    crop: tuple[int, int] | tuple[int, int, int, int] | None = None,
    size: tuple[int, int] | None = None,
    damaged: str = "error",
) -> Tensor:
    """Read frames of a video file as displayed.

    Args:
        path: video file in any container and codec that ffmpeg reads.
        start: index of the first frame, >= 0.
        frames: number of frames, >= 1; None for all to the end.
        crop: (height, width) from the centre, or (top, left, height, width).
        size: (height, width) to resize to after the crop, bilinear with antialiasing.
        damaged: "error" or "keep": see :func:`read_frames`.

    Returns:
        ``[T, 3, H, W]`` float32 in [0, 1].

    Raises:
        VideoError: missing, empty, unreadable, damaged or truncated file, no video stream, fewer frames than requested, crop larger than the frame.
        ValueError: start, frames, crop, size or ``damaged`` out of range or of another form.
    """
    if frames is not None and frames < 1:
        raise ValueError(f"frames expected to be at least 1, got {frames}")
    for name, value, lengths in (("crop", crop, (2, 4)), ("size", size, (2,))):
        if value is not None and (
            not isinstance(value, (tuple, list)) or len(value) not in lengths or not all(isinstance(v, int) for v in value)
        ):
            raise ValueError(f"{name} expected {' or '.join(map(str, lengths))} whole numbers such as (height, width), got {value!r}")
    out: list[Tensor] = []
    with contextlib.closing(read_frames(path, start, damaged)) as source:
        for frame in source:
            out.append(resized(cropped(frame, crop, path), size))
            if len(out) == frames:
                break
    if not out or (frames is not None and len(out) < frames):
        wanted = "at least one frame" if frames is None else f"{frames} frames"
        raise VideoError(f"{path}: expected {wanted} from frame {start} on, found {len(out)} (short or truncated file?)")
    return torch.stack(out).float() / 255


def write_video(
    path: Path_,
    video: Tensor | Iterable[Tensor],
    fps: float | Fraction | str = 25,
    crf: float = 10,
    preset: str = "medium",
    lossless: bool = False,
) -> None:
    """Write a video file (H.264), atomically: it is complete or not there.

    Args:
        path: file to write; its suffix selects the container: .mp4, .mkv, .mov, .m4v or .avi.
        video: ``[T, 3, H, W]`` in [0, 1], or an iterable of such chunks of one size, of which only one is in memory at a time.
        fps: frames per second, 0.001..1000.
        crf: CRF of libx264, 0..51; 10 is visually near-lossless.
        preset: preset of libx264, "ultrafast" to "placebo".
        lossless: keep every 8-bit RGB value (libx264rgb at QP 0; many players do not play it).

    Raises:
        VideoError: unknown container, no space left, or missing folder.
        ValueError: chunks of different sizes or another shape, no frames, values, CRF, preset or frame rate out of range.
        TypeError: a chunk that is not a floating point tensor.

    Example:
        >>> import torch, diffcodec as dc
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "clip.mp4"
        >>> dc.write_video(path, torch.rand(6, 3, 32, 48), fps=25)
        >>> info = dc.video_info(path)
        >>> info.height, info.width, float(info.fps)
        (32, 48, 25.0)
        >>> dc.read_video(path, start=2, frames=3).shape
        torch.Size([3, 3, 32, 48])
    """
    import av

    path = Path(path)
    if path.suffix.lower() not in _WRITABLE:
        raise VideoError(f"{path}: expected a file ending in {', '.join(_WRITABLE)}, got {path.suffix!r}")
    rate = frame_rate(fps, low=1e-3)
    if not 0 <= crf <= 51:
        raise ValueError(f"crf expected to lie in [0, 51], got {crf!r}")
    require("preset", preset, X264_PRESETS)
    chunks = [video] if isinstance(video, Tensor) else video
    with replacing(path) as temporary:
        try:
            with av.open(f"file:{temporary}", "w") as container:
                stream: Any = None
                convert = Converter()
                for chunk in chunks:
                    if isinstance(chunk, Tensor) and (chunk.dim() != 4 or chunk.shape[1] != 3):
                        raise ValueError(f"write_video expected frames [T, 3, H, W], got shape {tuple(chunk.shape)}")
                    check_tensor(chunk, "write_video")
                    check_values(chunk, "write_video")
                    frames = to_8bit(chunk).permute(0, 2, 3, 1).contiguous().cpu().numpy()  # [T, H, W, 3]
                    if stream is None:
                        stream = _stream(container, frames.shape[1], frames.shape[2], rate, crf, preset, lossless)
                    if frames.shape[1:3] != (stream.height, stream.width):
                        raise ValueError(
                            f"chunks of one size expected: {stream.height} x {stream.width}, then {frames.shape[1]} x {frames.shape[2]}"
                        )
                    for frame in frames:
                        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                        container.mux(stream.encode(convert.frame(picture, stream.pix_fmt)))
                if stream is None:
                    raise ValueError("write_video expected at least one frame, got none")
                container.mux(stream.encode(None))
        except av.error.FFmpegError as error:
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise
            raise VideoError(f"{path}: cannot be written as video ({error.strerror or error}); nothing was kept") from error


def _stream(container: Any, h: int, w: int, rate: Fraction, crf: float, preset: str, lossless: bool) -> Any:
    # 4:2:0 needs even sizes; odd ones keep full chroma instead of losing a row
    pixels = "rgb24" if lossless else ("yuv420p" if h % 2 == 0 and w % 2 == 0 else "yuv444p")
    options = {"qp": "0"} if lossless else {"crf": str(crf)}
    stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate, options=x264_options(options | {"preset": preset}))
    stream.height, stream.width, stream.pix_fmt = h, w, pixels
    if not lossless:  # what swscale makes of RGB: BT.601 (SMPTE 170M), limited range; untagged, players guess by size
        stream.codec_context.colorspace, stream.codec_context.color_range = 6, 1
    return stream
