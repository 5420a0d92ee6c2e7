"""Image files: reading, cropping, resizing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .files import Path_
from .media import (
    VideoError,
)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000  # of a picture, by default: 1.2 GB in float32


def is_image(path: Path_) -> bool:
    """Whether a file name is that of a picture (by its suffix: see :data:`IMAGE_SUFFIXES`)."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def read_image(path: Path_, crop: tuple[int, int] | tuple[int, int, int, int] | None = None, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a picture file (Pillow), oriented by its EXIF data; greyscale and palette images become RGB, transparency is dropped.

    Args:
        path: PNG, JPEG, WebP, BMP or TIFF.
        crop: (height, width) from the centre, or (top, left, height, width).
        max_pixels: largest height times width accepted: a small file can decompress to gigabytes.

    Returns:
        ``[3, H, W]`` float32 in [0, 1].

    Raises:
        VideoError: missing or unreadable file, more than 8 bits a sample, more than ``max_pixels``, crop larger than the picture.
        ValueError: a crop that is neither 2 nor 4 numbers.
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
                    f"{path}: {file.height} x {file.width} pixels are more than max_pixels={max_pixels}; raise it to read the file"
                )
            if file.mode.startswith(("I", "F")):
                raise VideoError(f"{path}: expected 8 bits a sample, found mode {file.mode}")
            image = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path}: cannot be read as a picture ({error})") from error
    return cropped(torch.from_numpy(image).permute(2, 0, 1), crop, path).float() / 255


def cropped(frame: Tensor, crop: Sequence[int] | None, path: Path_) -> Tensor:
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


def resized(frame: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or tuple(frame.shape[-2:]) == tuple(size):
        return frame
    if min(size) < 1:
        raise ValueError(f"size expected (height, width) of at least 1, got {size!r}")
    out = torch.nn.functional.interpolate(frame[None].float(), tuple(size), mode="bilinear", antialias=True)[0]
    return out.round().clamp(0, 255).to(torch.uint8)
