"""Video files: read, write, and a dataset of random clips over a folder (PyAV)."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .checks import check_tensor, check_values, require
from .color import to_8bit

SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".y4m", ".ts")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_WRITABLE = (".mp4", ".mkv", ".mov", ".m4v", ".avi")  # containers that take H.264
X264_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
Path_ = str | os.PathLike[str]


class VideoError(ValueError):
    """A video file that cannot be read or written; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself.

    Attributes:
        frames: number of frames (counted from packets where the container does not say).
        height, width: in pixels.
        fps: frames per second; 25 where the file gives none.
    """

    frames: int
    height: int
    width: int
    fps: Fraction


@contextlib.contextmanager
def _opened(path: Path_) -> Iterator[Any]:
    """An open container and its video stream; every failure becomes a :class:`VideoError` that names the file."""
    import av

    path = Path(path)
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if path.is_dir():
        raise VideoError(f"{path} is a folder; expected a video file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes)")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
                raise VideoError(f"{path} holds no video stream (streams: {kinds})")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: not a readable video ({error.strerror or error})") from error


def video_info(path: Path_) -> VideoInfo:
    """Size, length and rate of a video file, without decoding it.

    Raises:
        VideoError: missing, empty, unreadable, or without a video stream.
    """
    with _opened(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        return VideoInfo(frames, stream.codec_context.height, stream.codec_context.width, Fraction(rate))


def read_frames(path: Path_, start: int = 0) -> Generator[Tensor, None, None]:
    """Frames one by one, uint8 ``[3, H, W]``, from frame ``start`` on: memory stays that of one frame.

    Far starts are found through the time stamps of all packets and a seek to the key frame before; where a file has none, frames are counted
    from its beginning. Either way the frame is the exact one.
    """
    import av

    if start < 0:
        raise ValueError(f"start expected to be at least 0, got {start}")
    with _opened(path) as (container, stream):
        target = _time_of(container, stream, start) if start > 250 else None  # nearer starts: decoding on is as quick
        if target is not None:
            found = False
            container.seek(target, stream=stream)
            for i, frame in enumerate(container.decode(stream)):
                if frame.pts is None or (i == 0 and frame.pts > target):
                    break  # the seek went astray: count
                if frame.pts >= target:
                    found = True
                    yield _rgb(frame)
            if found:
                return
    with _opened(path) as (container, stream):
        packets = frames = 0
        for packet in container.demux(stream):
            packets += packet.size > 0
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                continue  # counted below
            for frame in decoded:
                frames += 1
                if frames > start:
                    yield _rgb(frame)
        announced = max(packets, stream.frames)
        if len(container.streams) == 1 and container.duration and stream.average_rate:
            # Matroska does not count frames but says how long it is; a second either way is the container's rounding
            announced = max(announced, int((container.duration / 1e6 - 1) * stream.average_rate))
        if frames < announced:
            raise VideoError(f"{path}: damaged or truncated, {frames} of about {announced} frames can be decoded")


def _time_of(container: Any, stream: Any, index: int) -> int | None:
    """Time stamp of a frame in display order, from the packets alone; None where they do not tell."""
    stamps = [packet.pts for packet in container.demux(stream) if packet.size]
    if None in stamps or len(set(stamps)) < len(stamps) or index >= len(stamps):
        return None
    return sorted(stamps)[index]  # type: ignore[no-any-return]


def _rgb(frame: Any) -> Tensor:
    """Shape: ``[3, H, W]``, uint8."""
    return torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)


def read_video(
    path: Path_,
    start: int = 0,
    frames: int | None = None,
    crop: tuple[int, int] | tuple[int, int, int, int] | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Read frames of a video file.

    Args:
        path: video file in any format that ffmpeg reads.
        start: first frame.
        frames: how many; None for all to the end.
        crop: (height, width) from the centre, or (top, left, height, width).
        size: (height, width) to resize to after the crop, bilinear with antialiasing.

    Returns:
        ``[T, 3, H, W]`` float32 in [0, 1].

    Raises:
        VideoError: missing, empty, unreadable or truncated file, no video stream, fewer frames than asked for, crop larger than the frame.
    """
    if frames is not None and frames < 1:
        raise ValueError(f"frames expected to be at least 1, got {frames}")
    out: list[Tensor] = []
    with contextlib.closing(read_frames(path, start)) as source:
        for frame in source:
            out.append(_resized(_cropped(frame, crop, path), size))
            if len(out) == frames:
                break
    if not out or (frames is not None and len(out) < frames):
        wanted = "at least one frame" if frames is None else f"{frames} frames"
        raise VideoError(f"{path}: expected {wanted} from frame {start} on, found {len(out)} (short or truncated file?)")
    return torch.stack(out).float() / 255


def is_image(path: Path_) -> bool:
    """Whether a file name is that of a picture (by its suffix: see :data:`IMAGE_SUFFIXES`)."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def read_image(path: Path_, crop: tuple[int, int] | tuple[int, int, int, int] | None = None) -> Tensor:
    """Read a picture file (Pillow), turned as its EXIF data say; grey and palettes become RGB, transparency is dropped.

    Args:
        path: PNG, JPEG, WebP, BMP or TIFF.
        crop: as in :func:`read_video`.

    Returns:
        ``[3, H, W]`` float32 in [0, 1].

    Raises:
        VideoError: missing or unreadable file, more than 8 bits a sample, crop larger than the picture.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    if not path.is_file():
        raise VideoError(f"{path} is a folder; expected a picture" if path.is_dir() else f"{path}: no such file")
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise VideoError(f"{path}: expected 8 bits a sample, found mode {file.mode}")
            image = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path}: cannot be read as a picture ({error})") from error
    return _cropped(torch.from_numpy(image).permute(2, 0, 1), crop, path).float() / 255


def _cropped(frame: Tensor, crop: Sequence[int] | None, path: Path_) -> Tensor:
    if crop is None:
        return frame
    h, w = frame.shape[-2:]
    if len(crop) == 2:
        height, width = crop
        top, left = (h - height) // 2, (w - width) // 2
    elif len(crop) == 4:
        top, left, height, width = crop
    else:
        raise ValueError(f"crop expected (height, width) or (top, left, height, width), got {crop!r}")
    if min(top, left) < 0 or min(height, width) < 1 or top + height > h or left + width > w:
        raise VideoError(f"{path}: crop {tuple(crop)} does not fit frames of {h} x {w} (height x width)")
    return frame[:, top : top + height, left : left + width]


def _resized(frame: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or tuple(frame.shape[-2:]) == tuple(size):
        return frame
    if min(size) < 1:
        raise ValueError(f"size expected (height, width) of at least 1, got {size!r}")
    out = torch.nn.functional.interpolate(frame[None].float(), tuple(size), mode="bilinear", antialias=True)[0]
    return out.round().clamp(0, 255).to(torch.uint8)


@contextlib.contextmanager
def replacing(path: Path_) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block succeeds, and vanishes when it does not."""
    path = Path(path)
    if not path.parent.is_dir():
        raise VideoError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise VideoError(f"{path} is a folder; expected a file to write")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise VideoError(f"{path}: cannot write there ({error.strerror})") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only the owner reads
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise VideoError(f"{path}: no space left to write it; nothing was kept") from error
        raise VideoError(f"{path}: cannot be written ({error.strerror or error}); nothing was kept") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_video(
    path: Path_,
    video: Tensor | Iterable[Tensor],
    fps: float | Fraction = 25,
    crf: float = 10,
    preset: str = "medium",
    lossless: bool = False,
) -> None:
    """Write a video file. It appears whole or not at all.

    Args:
        path: file to write; its ending chooses the container (.mp4, .mkv, ...).
        video: ``[T, 3, H, W]`` in [0, 1], or an iterable of such chunks of one size (memory stays that of a chunk).
        fps: frames per second.
        crf, preset: of libx264; CRF 10 is near-lossless to the eye.
        lossless: keep every 8-bit RGB value (libx264rgb at QP 0; many players do not play it).

    Raises:
        VideoError: unknown container, no space, folder missing. ValueError: chunks of different size, no frames, CRF, preset or rate out of range.
    """
    import av

    path = Path(path)
    if path.suffix.lower() not in _WRITABLE:
        raise VideoError(f"{path}: expected a file ending in {', '.join(_WRITABLE)}, got {path.suffix!r}")
    if not 0 < fps <= 1000:
        raise ValueError(f"fps expected to lie in (0, 1000], got {fps!r}")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf expected to lie in [0, 51], got {crf!r}")
    require("preset", preset, X264_PRESETS)
    chunks = [video] if isinstance(video, Tensor) else video
    with replacing(path) as temporary:
        try:
            with av.open(str(temporary), "w") as container:
                stream: Any = None
                for chunk in chunks:
                    if isinstance(chunk, Tensor) and (chunk.dim() != 4 or chunk.shape[1] != 3):
                        raise ValueError(f"write_video expected frames [T, 3, H, W], got shape {tuple(chunk.shape)}")
                    check_tensor(chunk, "write_video")
                    check_values(chunk, "write_video")
                    frames = to_8bit(chunk).permute(0, 2, 3, 1).contiguous().cpu().numpy()  # [T, H, W, 3]
                    if stream is None:
                        stream = _stream(container, frames.shape[1], frames.shape[2], fps, crf, preset, lossless)
                    if frames.shape[1:3] != (stream.height, stream.width):
                        raise ValueError(
                            f"chunks of one size expected: {stream.height} x {stream.width}, then {frames.shape[1]} x {frames.shape[2]}"
                        )
                    for frame in frames:
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                if stream is None:
                    raise ValueError("write_video expected at least one frame, got none")
                container.mux(stream.encode(None))
        except av.error.FFmpegError as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            raise VideoError(f"{path}: cannot be written as video ({error.strerror or error}); nothing was kept") from error


def _stream(container: Any, h: int, w: int, fps: float | Fraction, crf: float, preset: str, lossless: bool) -> Any:
    rate = Fraction(fps).limit_denominator(1001)
    # 4:2:0 needs even sizes; odd ones keep full chroma instead of losing a row
    pixels = "rgb24" if lossless else ("yuv420p" if h % 2 == 0 and w % 2 == 0 else "yuv444p")
    options = {"qp": "0"} if lossless else {"crf": str(crf)}
    stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate, options=options | {"preset": preset})
    stream.height, stream.width, stream.pix_fmt = h, w, pixels
    if not lossless:  # what swscale makes of RGB: BT.601 (SMPTE 170M), limited range; untagged, players guess by size
        stream.codec_context.colorspace, stream.codec_context.color_range = 6, 1
    return stream


class Clips(Dataset[Tensor]):
    """Random clips from the videos of a folder.

    Item i of epoch e is drawn from (seed, e, i) alone: the same on any number of workers and after a resume.

    Args:
        folder: searched with all its sub-folders for video files, in sorted order; or a list of files.
        frames: clip length T.
        size: (height, width) of the random crop, or one number for both; None keeps whole frames. Frames smaller than it are scaled up to it.
        length: items in an epoch; None for one a file.
        seed: of the draws.
        strict: True raises on the first files that cannot serve (unreadable, shorter than T), False leaves them out with a warning.

    Item: ``[T, 3, H, W]`` float32 in [0, 1].

    Raises:
        VideoError: no such folder, no videos in it, or (strict) unusable ones, by name.
    """

    def __init__(
        self,
        folder: Path_ | Sequence[Path_],
        frames: int = 8,
        size: int | tuple[int, int] | None = 128,
        length: int | None = None,
        seed: int = 0,
        strict: bool = True,
    ) -> None:
        if frames < 1:
            raise ValueError(f"frames expected to be at least 1, got {frames}")
        if length is not None and length < 1:
            raise ValueError(f"length expected to be at least 1, got {length}")
        self.frames, self.seed, self.epoch = frames, seed, 0
        self.size = (size, size) if isinstance(size, int) else size
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size expected to be at least 1, got {size!r}")
        paths = video_files(folder)
        self.files: list[tuple[Path, VideoInfo]] = []
        unusable: list[str] = []
        for path in paths:
            try:
                info = video_info(path)
                if info.frames < frames:
                    raise VideoError(f"{path}: {info.frames} frames, {frames} needed")
                self.files.append((path, info))
            except VideoError as error:
                unusable.append(str(error))
        if unusable and strict:
            raise VideoError(
                f"{len(unusable)} of {len(paths)} files cannot serve (strict=False leaves them out): " + "; ".join(unusable[:5])
            )
        if unusable:
            import warnings

            warnings.warn(f"{len(unusable)} of {len(paths)} files left out: " + "; ".join(unusable[:5]), stacklevel=2)
        if not self.files:
            raise VideoError(f"none of {len(paths)} files in {folder} can serve")
        self.length = length or len(self.files)

    def set_epoch(self, epoch: int) -> None:
        """Draw other clips from now on; call it before the DataLoader makes its workers."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if not -self.length <= index < self.length:
            raise IndexError(f"item {index} of {self.length}")
        index %= self.length
        generator = torch.Generator().manual_seed(key(self.seed, self.epoch, index))

        def draw(n: int) -> int:
            return int(torch.randint(n, (1,), generator=generator))

        # one a file: go through all of them; else draw
        path, info = self.files[index if self.length == len(self.files) else draw(len(self.files))]
        start = draw(info.frames - self.frames + 1)
        if self.size is None:
            return read_video(path, start, self.frames)
        height, width = self.size
        scale = max(height / info.height, width / info.width, 1.0)
        if scale > 1:
            video = read_video(
                path, start, self.frames, size=(max(height, round(info.height * scale)), max(width, round(info.width * scale)))
            )
            top, left = draw(video.shape[-2] - height + 1), draw(video.shape[-1] - width + 1)
            return video[..., top : top + height, left : left + width].contiguous()
        crop = (draw(info.height - height + 1), draw(info.width - width + 1), height, width)
        return read_video(path, start, self.frames, crop=crop)


def key(*numbers: int) -> int:
    """One 63-bit seed from several numbers (splitmix64's mixing), so that neighbouring items share nothing."""
    mask, z = (1 << 64) - 1, 0
    for n in numbers:
        z = (z + n + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
    return z >> 1


def video_files(folder: Path_ | Sequence[Path_]) -> list[Path]:
    """The video files below a folder, sorted; a file stands for itself.

    Raises:
        VideoError: missing path, or nothing found.
    """
    places = [folder] if isinstance(folder, (str, os.PathLike)) else list(folder)
    out: list[Path] = []
    for place in map(Path, places):
        if place.is_file():
            out.append(place)
        elif place.is_dir():
            out += sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        else:
            raise VideoError(f"{place}: no such file or folder")
    if not out:
        raise VideoError(f"no video files ({', '.join(SUFFIXES)}) in {', '.join(map(str, places))}")
    return out
