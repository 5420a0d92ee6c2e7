"""Training clips from a folder of videos, a packed file, or synthetic moving photographs."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from diffcodec.files import replacing, sha256, video_files
from diffcodec.images import read_image
from diffcodec.video import VideoError, read_video, video_info

from . import checkpoint
from .heldout import Video
from .keys import generator
from .progress import counted

PACKED = ".clips"  # suffix of a packed file
_LONGEST = 250  # maximum number of frames kept per video
_SHORT_SIDE = 288  # videos are scaled down to it when they are loaded


class TrainingClips(Dataset[tuple[Tensor, int]]):
    """Augmented random clips of videos held in memory as 8-bit frames.

    Sample k depends on (seed, k) alone, with k counting through the whole training, so it is the same for any number of workers and processes
    and after a resume. Half of the samples are windows at the video's resolution, half are larger windows scaled down to the clip size (as
    larger videos are when they are marked); some are mirrored or reversed in time.

    Args:
        source: videos that were read, or what :func:`gather` reads.
        frames, size: clip length and (height, width).
        seed: of the draws.
        augment: False takes windows without mirroring, reversing or scaling.

    Item k: ``([T, 3, H, W] float32 in [0, 1], k)``.

    Raises:
        VideoError: no usable video in the source.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[Path] | Sequence[Video],
        frames: int,
        size: tuple[int, int],
        seed: int = 0,
        augment: bool = True,
    ) -> None:
        self.frames, self.size, self.seed, self.augment = frames, size, seed, augment
        read = not isinstance(source, (str, os.PathLike)) and all(isinstance(v, Video) for v in source)
        videos: Any = source if read else gather(source, frames, size, seed)  # type: ignore[arg-type]
        self.videos = [v.frames for v in videos]

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        g = generator(self.seed, "clip", k)

        def draw(n: int) -> int:
            return int(torch.randint(n, (1,), generator=g, device="cpu"))

        video = self.videos[draw(len(self.videos))]
        first = draw(len(video) - self.frames + 1)
        clip = video[first : first + self.frames]
        wide, mirrored, backwards = draw(2), draw(2), draw(4)
        height, width = self.size
        h, w = clip.shape[-2:]
        most = min(h / height, w / width)
        if most < 1 or (self.augment and wide and most > 1):  # a larger window, scaled
            scale = most if not self.augment else most ** (0.5 + 0.5 * draw(1001) / 1000)
            tall, broad = min(h, round(height * scale)), min(w, round(width * scale))
            top, left = draw(h - tall + 1), draw(w - broad + 1)
            window = clip[..., top : top + tall, left : left + broad].float()
            out = F.interpolate(window, self.size, mode="bilinear", antialias=True).round().clamp(0, 255)
        else:
            top, left = draw(h - height + 1), draw(w - width + 1)
            out = clip[..., top : top + height, left : left + width].float()
        if self.augment and mirrored:
            out = out.flip(-1)
        if self.augment and backwards == 0:
            out = out.flip(0)
        return (out / 255).contiguous(), k


class Order(Sampler[list[int]]):
    """Batch sampler of sample numbers that starts at micro-batch ``first``: ``first * batch, first * batch + 1, ...``."""

    def __init__(self, batch: int, first: int, last: int) -> None:
        self.batch_size, self.first, self.last = batch, first, last
        self.drop_last = True

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(self.first, self.last):
            yield list(range(i * self.batch_size, (i + 1) * self.batch_size))

    def __len__(self) -> int:
        return self.last - self.first


def gather(
    source: str | os.PathLike[str] | Sequence[Path], frames: int, size: tuple[int, int], seed: int = 0, quiet: bool = True
) -> list[Video]:
    """The videos of a source that have at least ``frames`` frames.

    Args:
        source: a folder of videos, a list of files, a packed file (:func:`pack`), or "synthetic".
        frames, size: length and (height, width) of the clips that are wanted.
        seed: of synthetic videos.
        quiet: False reports how far it is.

    Raises:
        VideoError: no usable video in the source.
    """
    if isinstance(source, (str, os.PathLike)) and str(source) == "synthetic":
        made = synthetic(48, frames + 8, max(size) * 2, seed)
        found = [Video(f"synthetic {i}", _hash(f"synthetic {seed} {i}".encode()), v) for i, v in enumerate(made)]
    elif isinstance(source, (str, os.PathLike)) and Path(source).suffix == PACKED:
        found = _unpacked(source, quiet)
    else:
        found = load(source, quiet)
    usable = [v for v in found if len(v.frames) >= frames]
    if not usable:
        raise VideoError(f"{source}: none of {len(found)} videos has {frames} frames")
    return usable


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def load(source: str | os.PathLike[str] | Sequence[Path], quiet: bool = True) -> list[Video]:
    """All videos of a folder (or of a list of files), scaled down to a short side of 288 pixels, at most 250 frames of each; unreadable ones are
    left out with a warning.

    Raises:
        VideoError: none could be read.
    """
    out, unusable = [], []
    for path in counted(video_files(source), "reading videos", quiet):
        try:
            info = video_info(path)
            scale = min(1.0, _SHORT_SIDE / min(info.height, info.width))
            size = (max(1, round(info.height * scale)), max(1, round(info.width * scale)))
            frames = read_video(path, 0, min(info.frames, _LONGEST), size=size)
            out.append(Video(path.name, sha256(path), (frames * 255).round().to(torch.uint8)))
        except VideoError as error:
            unusable.append(str(error))
    if not out:
        raise VideoError(f"no video could be read: {'; '.join(unusable[:3])}")
    if unusable:
        import warnings

        warnings.warn(f"{len(unusable)} files left out: " + "; ".join(unusable[:5]), stacklevel=2)
    return out


def synthetic(count: int, frames: int, side: int, seed: int = 0, pictures: Sequence[Path] = ()) -> list[Tensor]:
    """Moving photographs: pan and zoom at constant speed over a picture larger than the frame.

    Args:
        count: number of videos.
        frames: frames per video.
        side: height and width in pixels.
        seed: of camera paths and synthetic pictures.
        pictures: photographs; if none are given, synthetic textures with many scales and edges.

    Returns:
        uint8 ``[T, 3, side, side]`` each.
    """
    out = []
    for i in range(count):
        g = generator(seed, "synthetic", i)
        big = read_image(pictures[i % len(pictures)])[None] if pictures else _texture(2 * side, g)
        angle, speed, zoom = torch.rand(3, generator=g, dtype=torch.float32, device="cpu").tolist()
        start = 0.3 * (torch.rand(2, generator=g, dtype=torch.float32, device="cpu") - 0.5)
        step = (
            speed
            * 3
            / side
            * torch.tensor([math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)], dtype=torch.float32, device="cpu")
        )
        t = torch.arange(frames, device="cpu").float()
        centre = start + t[:, None] * step  # [T, 2] (x, y), in halves of the picture
        scale = 0.5 * (1 + 0.01 * (zoom - 0.5) * t)
        theta = torch.zeros(frames, 2, 3, dtype=torch.float32, device="cpu")
        theta[:, 0, 0] = theta[:, 1, 1] = scale
        theta[:, :, 2] = centre
        grid = F.affine_grid(theta, [frames, 3, side, side], align_corners=False)
        video = F.grid_sample(big.expand(frames, -1, -1, -1), grid, padding_mode="reflection", align_corners=False)
        out.append((video.clamp(0, 1) * 255).round().to(torch.uint8))
    return out


def _texture(side: int, g: torch.Generator) -> Tensor:
    """A synthetic picture ``[1, 3, side, side]``: coloured noise with the spectrum of photographs, divided into regions."""
    x = torch.zeros(1, 3, side, side, dtype=torch.float32, device="cpu")
    cells = 2
    while cells <= side:
        noise = torch.randn(1, 3, cells, cells, generator=g, dtype=torch.float32, device="cpu") * 0.6 + torch.randn(
            1, 1, cells, cells, generator=g, dtype=torch.float32, device="cpu"
        )
        x += F.interpolate(noise, size=(side, side), mode="bicubic", align_corners=False) / cells**0.75
        cells *= 2
    regions = F.interpolate(
        torch.randn(1, 1, 6, 6, generator=g, dtype=torch.float32, device="cpu"), size=(side, side), mode="bicubic", align_corners=False
    )
    x = x + 0.6 * regions.sign() * torch.randn(1, 3, 1, 1, generator=g, dtype=torch.float32, device="cpu")
    return (0.5 + 0.18 * x).clamp(0, 1)


def pack(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    budget: float = 22.0,
    frames: int = 12,
    side: int = 144,
    count: int | None = None,
    quality: int = 80,
) -> dict[str, Any]:
    """Pack the videos of a folder into one file with every frame as a WebP picture, which Pillow can read.

    Args:
        source: folder of videos.
        out: file to write, ``*.clips``.
        budget: maximum size in MB; videos are taken evenly from the folder as long as they fit.
        frames: frames per video, from its middle.
        side: short side of the frames in pixels.
        count: maximum number of videos.
        quality: WebP quality.

    Returns:
        What was packed: ``{"videos", "frames", "bytes", "names"}``.

    Raises:
        VideoError: nothing readable, or not even one video fits.
    """
    from PIL import Image

    out = Path(out)
    if out.suffix != PACKED:
        raise VideoError(f"{out}: expected a name ending in {PACKED}")
    paths = video_files(source)
    # bit-reversed order: covers the whole folder evenly from the start
    order = sorted(range(len(paths)), key=lambda i: int(f"{i:020b}"[::-1], 2))
    data: list[bytes] = []
    table: list[dict[str, Any]] = []
    spent = 0
    for i in order:
        if count is not None and len(table) == count:
            break
        try:
            info = video_info(paths[i])
            n = min(frames, info.frames)
            scale = min(1.0, side / min(info.height, info.width))
            size = (round(info.height * scale), round(info.width * scale))
            video = read_video(paths[i], (info.frames - n) // 2, n, size=size)
        except VideoError:
            continue
        pictures = []
        for frame in (video * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "WEBP", quality=quality, method=4)
            pictures.append(buffer.getvalue())
        size_ = sum(map(len, pictures))
        if spent + size_ > budget * 1e6 - 200_000:  # room for the table
            continue
        spent += size_
        table.append({"name": paths[i].name, "sizes": [len(p) for p in pictures]})
        data += pictures
    if not table:
        raise VideoError(f"{source}: no video could be packed into {budget:g} MB")
    head = json.dumps({"format": "revmark clips 1", "videos": table}).encode()
    with replacing(out) as temporary, open(temporary, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for picture in data:
            file.write(picture)
    return {"videos": len(table), "frames": len(data), "bytes": out.stat().st_size, "names": [v["name"] for v in table]}


def unpack(path: str | os.PathLike[str]) -> list[Tensor]:
    """Videos of a packed file, uint8 ``[T, 3, H, W]`` each.

    Raises:
        VideoError: missing, damaged, or not a packed file.
    """
    return [v.frames for v in _unpacked(path)]


def _unpacked(path: str | os.PathLike[str], quiet: bool = True) -> list[Video]:
    from PIL import Image

    path = Path(path)
    if not path.is_file():
        raise VideoError(f"{path}: no such file")
    raw = path.read_bytes()
    try:
        length = int.from_bytes(raw[:8], "little")
        head = json.loads(raw[8 : 8 + length])
        if head["format"] != "revmark clips 1":
            raise ValueError(f"format {head['format']!r}")
        at, out = 8 + length, []
        for video in counted(head["videos"], "reading clips", quiet):
            frames, begin = [], at
            for size in video["sizes"]:
                if not isinstance(size, int) or not 0 < size <= len(raw) - at:
                    raise ValueError(f"a picture of {size} bytes at {at} of {len(raw)}")
                with Image.open(io.BytesIO(raw[at : at + size])) as picture:
                    frames.append(np.array(picture.convert("RGB")))
                at += size
            pictures = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()
            out.append(Video(str(video["name"]), _hash(raw[begin:at]), pictures))
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError, *checkpoint.BROKEN) as error:
        raise VideoError(f"{path}: not a packed file of revmark, or damaged ({error})") from error
    return out
