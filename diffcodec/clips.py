"""A dataset of random clips over a folder of videos."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .checks import require
from .files import Path_, key, video_files
from .media import (
    DAMAGED,
    VideoError,
)
from .video import VideoInfo, read_video, video_info


class Clips(Dataset[Tensor]):
    """Random clips from the videos of a folder.

    Item i of epoch e depends on (seed, e, i) only: it is the same on any number of workers and after a resume.

    Args:
        folder: searched with all its subfolders for video files, in sorted order; or a list of files and folders.
        frames: clip length T, >= 1.
        size: (height, width) of the random crop, or one number for both; None keeps whole frames. Smaller frames are scaled up to it.
        length: number of items in an epoch; None for one per file.
        seed: seed of the draws.
        strict: True raises an error for unusable files (unreadable, damaged, shorter than T); False leaves them out with a warning. A file that
            turns out to be unusable only when a clip is read is then replaced by another one for that item.
        lazy: False checks all files now, in parallel (with a progress bar on a terminal); True checks each when it is drawn, for large folders.
        damaged: "error" or "keep": see :func:`diffcodec.read_video`.

    Item: ``[T, 3, H, W]`` float32 in [0, 1].

    Raises:
        VideoError: no such folder, no videos in it, or (strict) unusable ones, by name; also when an item is read.
        ValueError: frames, size or length below 1, or unknown ``damaged``.
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
        """Check all files and leave out unusable ones."""
        total = len(self.files)
        for path, info in zip(self.files, _parallel(_info_or_error, self.files, "checking videos")):
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
        """Set the epoch, which determines the clips; call it before the DataLoader starts its workers."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if not -self.length <= index < self.length:
            raise IndexError(f"item {index} is outside the {self.length} items of an epoch")
        index %= self.length
        for attempt in range(_ATTEMPTS):
            # the file drawn first, or the file of the index; further draws only if it cannot be read, so that the other items stay the same
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
    return int(torch.randint(n, (1,), generator=generator, device="cpu"))


def _info_or_error(path: Path) -> VideoInfo | VideoError:
    try:
        return video_info(path)
    except VideoError as error:
        return error


def _parallel(work: Callable[[Path], Any], paths: Sequence[Path], what: str) -> list[Any]:
    """``work`` over files in threads, in order; with a progress bar for many files on a terminal."""
    threads = min(len(paths), 2 * (os.cpu_count() or 1))  # opening a file waits for the disk
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(work, paths)
        if len(paths) < 100 or not sys.stderr.isatty():
            return list(found)
        from rich.console import Console
        from rich.progress import track

        return list(track(found, description=what, total=len(paths), console=Console(stderr=True), transient=True))
