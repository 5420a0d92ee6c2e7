"""Real JPEG through Pillow."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from torch import nn

from .. import opaque
from ..checks import require
from ..color import SUBSAMPLINGS
from ..jpeg import DiffJPEG
from ..strength import Strength, StrengthLike
from .base import Array, Real


class RealJPEG(Real):
    """JPEG by Pillow's libjpeg (default Huffman tables, baseline).

    Args:
        quality: 1..100; a number, ``[B]``, range or schedule; rounded to whole numbers, the only ones that libjpeg accepts.
        subsampling: "4:2:0", "4:2:2" or "4:4:4".
        gradient: "best" (that of :class:`~diffcodec.DiffJPEG` at the same quality), "identity", None or a simulator: see
            :class:`~diffcodec.real.base.Real`.

    Shape:
        ``[B, 3, H, W]``, ``[B, 1, H, W]`` (grey) or ``[B, T, 3, H, W]`` (each frame a file), any H, W from 1 to 65500 (libjpeg's limit).

    Example:
        >>> import torch, diffcodec as dc
        >>> image = torch.rand(1, 3, 24, 24).mul(255).round() / 255
        >>> (dc.RealJPEG(50)(image) - dc.DiffJPEG(50)(image)).abs().max() * 255 <= 1
        tensor(True)
    """

    images = True
    channels = (1, 3)
    operator = opaque.operator("real_jpeg")

    def __init__(self, quality: StrengthLike = 75, subsampling: str = "4:2:0", gradient: str | nn.Module | None = "best") -> None:
        super().__init__(gradient)
        self.quality = Strength(quality, "quality", 1, 100)
        require("subsampling", subsampling, list(SUBSAMPLINGS))
        self.subsampling = subsampling
        self.settle_gradient()

    def draw(self, shape, generator, step, device):  # type: ignore[no-untyped-def]
        draw = super().draw(shape, generator, step, device)
        for d in (draw, draw["gradient"] if self._best else draw):  # the simulator, too
            d["quality"] = d["quality"].round()
        return draw

    def simulator(self) -> DiffJPEG:
        return DiffJPEG(subsampling=self.subsampling)

    def code(self, clip: Array, draw: Mapping[str, float]) -> tuple[Array, list[int], str, bytes, None]:
        from PIL import Image

        if max(clip.shape[1:3]) > 65500:
            raise ValueError(f"libjpeg codes at most 65500 x 65500, got {clip.shape[1]} x {clip.shape[2]}")
        frames, stream, bits = [], b"", []
        for frame in clip:
            file = io.BytesIO()
            image = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
            options = {} if frame.shape[-1] == 1 else {"subsampling": list(SUBSAMPLINGS).index(self.subsampling)}
            image.save(file, "JPEG", quality=round(draw["quality"]), **options)
            data = file.getvalue()
            bits.append(8 * len(scan(data)))
            stream += data
            decoded = np.asarray(Image.open(file))
            frames.append(decoded[..., None] if decoded.ndim == 2 else decoded)
        return np.stack(frames), bits, "I" * len(clip), stream, None

    def extra_repr(self) -> str:
        return f"quality={self.quality!r}, subsampling={self.subsampling!r}" + self.gradient_repr()


def scan(data: bytes) -> bytes:
    """The entropy-coded segment of a baseline JPEG file (ITU-T T.81, B.1): what follows the SOS header, up to EOI."""
    at = 2
    while data[at + 1] != 0xDA:  # SOS
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[at:-2]
