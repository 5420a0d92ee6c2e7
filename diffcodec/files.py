"""Files and folders: finding videos, atomic writes; seeds of random draws."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from .media import (
    NO_SPACE,
    VideoError,
)

SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".y4m", ".ts")
Path_ = str | os.PathLike[str]


@contextlib.contextmanager
def replacing(path: Path_) -> Iterator[Path]:
    """Write a file atomically: a temporary path beside ``path`` that replaces it if the block succeeds, and is removed if not."""
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
    """Flush a folder's entries to disk, where the system supports it, so that new files survive a power cut."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def files_below(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Files with one of some suffixes below a folder, sorted, without hidden ones (such as those that a killed process left half-written)."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file())


def video_files(folder: Path_ | Sequence[Path_]) -> list[Path]:
    """The video files below a folder, sorted, without hidden ones (:func:`files_below`); a file is returned as it is.

    Raises:
        VideoError: missing path, or nothing found.
    """
    places = [folder] if isinstance(folder, (str, os.PathLike)) else list(folder)
    out: list[Path] = []
    for place in map(Path, places):
        if place.is_file():
            out.append(place)
        elif place.is_dir():
            out += files_below(place)
        elif place.exists():
            raise VideoError(f"{place} is a pipe or device; expected a video file or a folder")
        else:
            raise VideoError(f"{place}: no such file or folder")
    if not out:
        raise VideoError(f"no video files ({', '.join(SUFFIXES)}) in {', '.join(map(str, places))}")
    return out


def sha256(path: Path) -> str:
    """Hash of a file, read in parts."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def without_folders(word: str) -> str:
    """A command-line word for publication: paths from the root, the home or a parent folder are cut to their last component."""
    return Path(word).name if word.startswith(("/", "~", "..")) else word


def key(*numbers: int) -> int:
    """One 63-bit seed from several numbers (splitmix64's mixing), so that neighbouring items get unrelated seeds."""
    mask, z = (1 << 64) - 1, 0
    for n in numbers:
        z = (z + n + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
    return z >> 1
