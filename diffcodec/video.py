"""Video files: read, write, and a dataset of random clips over a folder (PyAV)."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .checks import check_tensor, check_values, frame_rate, require
from .color import to_8bit
from .media import (
    DAMAGED,
    NO_SPACE,
    Converter,
    Damage,
    Pictures,
    VideoError,
    coded_vops,
    decode,
    is_packed,
    opened,
    orientation,
    x264_options,
)

SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".y4m", ".ts")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000  # of a picture, by default: 1.2 GB in float32
_WRITABLE = (".mp4", ".mkv", ".mov", ".m4v", ".avi")  # containers that take H.264
X264_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
Path_ = str | os.PathLike[str]


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


def video_info(path: Path_) -> VideoInfo:
    """Size, length and rate of a video file; one frame is decoded, to know how it is turned.

    Raises:
        VideoError: missing, empty, unreadable, without a video stream, or its first frame cannot be decoded.
    """
    import av

    with opened(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        counted, first, packed = 0, None, is_packed(container, stream)
        for packet in container.demux(stream):
            counted += coded_vops(packet) if packed else packet.size > 0 and not packet.is_discard
            if first is None:
                with contextlib.suppress(av.error.InvalidDataError):
                    first = next(iter(packet.decode()), None)
            elif stream.frames and not packed:
                break
        if first is None:
            raise VideoError(f"{path}: damaged, no frame could be decoded")
        size = (first.height, first.width)
        quarters, _ = orientation(first)
        return VideoInfo(counted if packed else stream.frames or counted, *(size[::-1] if quarters % 2 else size), Fraction(rate))


def read_frames(path: Path_, start: int = 0, damaged: str = "error") -> Generator[Tensor, None, None]:
    """Frames one by one as players show them (turned as the file says), uint8 ``[3, H, W]``, from frame ``start`` on: memory stays that of one frame.

    Far starts are found through the time stamps of all packets and a seek to the key frame before; where a file has none, frames are counted
    from its beginning. Either way the frame is the exact one.

    Args:
        path: video file.
        start: first frame.
        damaged: "error", or "keep": damaged frames are handed out as decoders conceal them, and a warning counts them at the end.

    Raises:
        VideoError: unreadable, or damaged: what the decoder marks, packets without a frame, an end before the announced one. Bits that changed
            unnoticed by the format (VP8, VP9 and AV1 have no checks at all) cannot be told.
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
        if start > 250:  # nearer starts: decoding on is as quick
            with opened(path) as (container, stream):
                for frame in _from(container, stream, start, damage):
                    yield checked(frame)
                    n += 1
            if n > start:
                return
            damage = Damage()  # the seek went astray: once more, from the beginning
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
    finally:
        if damage and damaged == "keep":
            warnings.warn(f"{path}: {damage}, kept as they are", stacklevel=2)


def _from(container: Any, stream: Any, start: int, damage: Damage) -> Iterator[Any]:
    """Frames from a far one on, found by its time stamp; none where time stamps do not tell or the seek goes astray."""
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
    """Time stamp of a frame in display order, from the packets alone; None where they do not tell."""
    stamps = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
    if None in stamps or len(set(stamps)) < len(stamps) or index >= len(stamps):
        return None
    return sorted(stamps)[index]  # type: ignore[no-any-return]


def read_video(
    path: Path_,
    start: int = 0,
    frames: int | None = None,
    crop: tuple[int, int] | tuple[int, int, int, int] | None = None,
    size: tuple[int, int] | None = None,
    damaged: str = "error",
) -> Tensor:
    """Read frames of a video file as players show them.

    Args:
        path: video file in any format that ffmpeg reads.
        start: first frame.
        frames: how many; None for all to the end.
        crop: (height, width) from the centre, or (top, left, height, width).
        size: (height, width) to resize to after the crop, bilinear with antialiasing.
        damaged: "error" or "keep": see :func:`read_frames`.

    Returns:
        ``[T, 3, H, W]`` float32 in [0, 1].

    Raises:
        VideoError: missing, empty, unreadable, damaged or truncated file, no video stream, fewer frames than asked for, crop larger than the frame.
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


def read_image(path: Path_, crop: tuple[int, int] | tuple[int, int, int, int] | None = None, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a picture file (Pillow), turned as its EXIF data say; grey and palettes become RGB, transparency is dropped.

    Args:
        path: PNG, JPEG, WebP, BMP or TIFF.
        crop: as in :func:`read_video`.
        max_pixels: largest height times width: a small file can unpack to gigabytes.

    Returns:
        ``[3, H, W]`` float32 in [0, 1].

    Raises:
        VideoError: missing or unreadable file, more than 8 bits a sample, more than ``max_pixels``, crop larger than the picture.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    if not path.is_file():
        raise VideoError(f"{path} is a folder; expected a picture" if path.is_dir() else f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is the limit here
            file = Image.open(path)
        with file:
            if file.width * file.height > max_pixels:
                raise VideoError(
                    f"{path}: {file.height} x {file.width} pixels are more than max_pixels={max_pixels}; a larger one reads it"
                )
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
    temporary = path.parent / f".{path.stem}.{secrets.token_hex(4)}{path.suffix}"
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))  # with the permissions that any new file gets
    except OSError as error:
        raise VideoError(f"{path}: cannot write there ({error.strerror})") from error
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise VideoError(f"{path}: no space left to write it; nothing was kept") from error
        raise VideoError(f"{path}: cannot be written ({error.strerror or error}); nothing was kept") from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_video(
    path: Path_,
    video: Tensor | Iterable[Tensor],
    fps: float | Fraction | str = 25,
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


class Clips(Dataset[Tensor]):
    """Random clips from the videos of a folder.

    Item i of epoch e is drawn from (seed, e, i) alone: the same on any number of workers and after a resume.

    Args:
        folder: searched with all its sub-folders for video files, in sorted order; or a list of files.
        frames: clip length T.
        size: (height, width) of the random crop, or one number for both; None keeps whole frames. Frames smaller than it are scaled up to it.
        length: items in an epoch; None for one a file.
        seed: of the draws.
        strict: True raises on the first files that cannot serve (unreadable, damaged, shorter than T), False leaves them out with a warning each,
            also where that shows only while the clip is read: another file is drawn for that item then.
        lazy: False looks into all files now, in parallel (with a progress bar on a terminal); True looks into each when it is drawn, for large
            folders.
        damaged: "error" or "keep": see :func:`diffcodec.read_video`.

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
        lazy: bool = False,
        damaged: str = "error",
    ) -> None:
        if frames < 1:
            raise ValueError(f"frames expected to be at least 1, got {frames}")
        if length is not None and length < 1:
            raise ValueError(f"length expected to be at least 1, got {length}")
        require("damaged", damaged, DAMAGED)
        self.frames, self.seed, self.epoch, self.strict, self.damaged = frames, seed, 0, strict, damaged
        self.size = (size, size) if isinstance(size, int) else size
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size expected to be at least 1, got {size!r}")
        self.files = video_files(folder)
        self._infos: dict[Path, VideoInfo] = {}
        self._left_out: dict[Path, str] = {}
        if not lazy:
            self._scan(folder)
        self.length = length or len(self.files)

    def _scan(self, folder: object) -> None:
        """Look into all files and leave out those that cannot serve."""
        total = len(self.files)
        for path, info in zip(self.files, _parallel(_info_or_error, self.files, "looking into videos")):
            try:
                self._serves(path, info)
            except VideoError as error:
                self._left_out[path] = str(error)
        said = list(self._left_out.values())
        if said and self.strict:
            raise VideoError(f"{len(said)} of {total} files cannot serve (strict=False leaves them out): " + "; ".join(said[:5]))
        if said:
            warnings.warn(f"{len(said)} of {total} files left out: " + "; ".join(said[:5]), stacklevel=3)
        self.files = [path for path in self.files if path not in self._left_out]
        if not self.files:
            raise VideoError(f"none of {total} files in {folder} can serve")

    def _serves(self, path: Path, info: VideoInfo | VideoError) -> VideoInfo:
        if isinstance(info, VideoError):
            raise info
        if info.frames < self.frames:
            raise VideoError(f"{path}: {info.frames} frames, {self.frames} needed")
        self._infos[path] = info
        return info

    def set_epoch(self, epoch: int) -> None:
        """Draw other clips from now on; call it before the DataLoader makes its workers."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if not -self.length <= index < self.length:
            raise IndexError(f"item {index} of {self.length}")
        index %= self.length
        for attempt in range(_ATTEMPTS):
            # the first file that is drawn, or that the index names; further ones only where it cannot be read, so that items stay the same
            generator = torch.Generator().manual_seed(key(self.seed, self.epoch, index, *([attempt] if attempt else [])))
            given = index if self.length == len(self.files) and not attempt else None
            path = self.files[_draw(generator, len(self.files)) if given is None else given]
            if path in self._left_out:
                continue
            try:
                return self._clip(path, generator)
            except VideoError as error:
                if self.strict:
                    raise
                self._left_out[path] = str(error)
                warnings.warn(f"left out: {error}", stacklevel=2)
        raise VideoError(f"none of {_ATTEMPTS} files that were drawn can serve: " + "; ".join(list(self._left_out.values())[:5]))

    def _clip(self, path: Path, generator: torch.Generator) -> Tensor:
        info = self._infos.get(path) or self._serves(path, video_info(path))
        start = _draw(generator, info.frames - self.frames + 1)
        crop = size = None
        if self.size is not None:
            height, width = self.size
            scale = max(height / info.height, width / info.width, 1.0)
            inner = (
                (max(height, round(info.height * scale)), max(width, round(info.width * scale))) if scale > 1 else (info.height, info.width)
            )
            place = _draw(generator, inner[0] - height + 1), _draw(generator, inner[1] - width + 1)
            size, crop = (inner, None) if scale > 1 else (None, (*place, height, width))
        try:
            video = read_video(path, start, self.frames, crop, size, self.damaged)
        except VideoError:
            if self.damaged != "keep" or not start:
                raise
            video = read_video(path, 0, self.frames, crop, size, self.damaged)  # fewer frames than its header says
        if size is not None:
            top, left = place
            video = video[..., top : top + height, left : left + width].contiguous()
        return video


_ATTEMPTS = 100  # files drawn for one item of Clips(strict=False) before it gives up


def _draw(generator: torch.Generator, n: int) -> int:
    return int(torch.randint(n, (1,), generator=generator))


def _info_or_error(path: Path) -> VideoInfo | VideoError:
    try:
        return video_info(path)
    except VideoError as error:
        return error


def _parallel(work: Callable[[Path], Any], paths: Sequence[Path], what: str) -> list[Any]:
    """``work`` over files in threads, in order, with a progress bar on a terminal where it takes longer."""
    threads = min(len(paths), 2 * (os.cpu_count() or 1))  # opening a file waits for the disk
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(work, paths)
        if len(paths) < 100 or not sys.stderr.isatty():
            return list(found)
        from rich.console import Console
        from rich.progress import track

        return list(track(found, description=what, total=len(paths), console=Console(stderr=True), transient=True))


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
    """The video files below a folder, sorted, without hidden ones (such as those that a killed process left half-written); a file stands for itself.

    Raises:
        VideoError: missing path, or nothing found.
    """
    places = [folder] if isinstance(folder, (str, os.PathLike)) else list(folder)
    out: list[Path] = []
    for place in map(Path, places):
        if place.is_file():
            out.append(place)
        elif place.is_dir():
            out += sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())
        elif place.exists():
            raise VideoError(f"{place} is a pipe or device; expected a video file or a folder")
        else:
            raise VideoError(f"{place}: no such file or folder")
    if not out:
        raise VideoError(f"no video files ({', '.join(SUFFIXES)}) in {', '.join(map(str, places))}")
    return out
