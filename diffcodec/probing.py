"""What the metrics share: probe signals, clips of 8 bits, codecs that are called on variations of one clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .blocks import join
from .checks import check_values, check_video
from .layer import Codec, Layer
from .transform import idct2

BANDS = ((0, 0), (1, 2), (3, 5), (6, 9), (10, 14))  # of the 8x8 DCT, by u + v, ends included
PROBES = tuple(f"{a}-{b} {kind}" if a != b else f"{a} {kind}" for a, b in BANDS for kind in ("static", "changing"))
CHROMA_BANDS = ((0, 2), (3, 5))  # of the 8x8 DCT of a plane of half the size
CHROMA_PROBES = tuple(f"{plane} {a}-{b} {kind}" for plane in ("Cb", "Cr") for a, b in CHROMA_BANDS for kind in ("static", "changing"))
STRENGTH = 37.5  # dB PSNR of an added probe, per frame
VideoFunction = Callable[[Tensor], Tensor]
_RGB = ((0.0, -0.344136, 1.772), (1.402, -0.714136, 0.0))  # R, G, B for a unit of Cb and of Cr at equal Y' (BT.601)


def probes(frames: int, height: int, width: int, generator: torch.Generator, strength: float = STRENGTH) -> Tensor:
    """The ten probe signals: five bands of the 8x8 DCT, each static and changing.

    White Gaussian coefficients inside the band, the same on R, G and B, scaled to ``strength`` dB PSNR per frame.

    Args:
        frames, height, width: size of the clip.
        generator: source of randomness, on the CPU.
        strength: PSNR of a clip with the probe added, dB.

    Returns:
        ``[10, T, 3, H, W]`` on the [0, 1] scale, in the order of :data:`PROBES`.
    """
    out = [pattern(n, height, width, band, generator).expand(frames, height, width) for band in BANDS for n in (1, frames)]
    signal = torch.stack(out)  # [10, T, H, W]
    return scaled(signal, strength)[:, :, None].expand(-1, -1, 3, -1, -1)


def chroma_probes(frames: int, height: int, width: int, generator: torch.Generator, strength: float = STRENGTH) -> Tensor:
    """The eight chroma probes: Cb and Cr, two lower bands of the 8x8 DCT at the resolution of 4:2:0, each static and changing.

    White Gaussian coefficients inside the band of a plane of half the size, whose samples are repeated over 2 x 2 pixels; Y' (BT.601) stays the same;
    scaled as :func:`probes`.

    Returns:
        ``[8, T, 3, H, W]`` on the [0, 1] scale, in the order of :data:`CHROMA_PROBES`.
    """
    out = []
    for colour in _RGB:
        for band in CHROMA_BANDS:
            for n in (1, frames):
                plane = pattern(n, -(-height // 2), -(-width // 2), band, generator).repeat_interleave(2, 1).repeat_interleave(2, 2)
                out.append(
                    (plane[:, None, :height, :width] * torch.tensor(colour, dtype=torch.float32, device="cpu")[:, None, None]).expand(
                        frames, 3, height, width
                    )
                )
    return scaled(torch.stack(out), strength, dims=(-3, -2, -1))


def pattern(n: int, height: int, width: int, band: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Noise whose 8x8 DCT is white inside a band of u + v and zero outside. Shape: ``[n, H, W]``."""
    u = torch.arange(8, device="cpu")
    index = u[:, None] + u
    mask = (index >= band[0]) & (index <= band[1])
    c = torch.randn(n, -(-height // 8), -(-width // 8), 8, 8, generator=generator, dtype=torch.float32, device="cpu") * mask
    return join(idct2(c))[:, :height, :width]


def scaled(signal: Tensor, strength: float, dims: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Scale each frame, the dimensions ``dims``, to an RMS of ``strength`` dB below 1. Shape: any -> same."""
    rms = signal.square().mean(dims, keepdim=True).sqrt()
    return signal * (10 ** (-strength / 20) / rms.clamp(min=1e-12))


class repeatable:
    """A codec whose random decisions are drawn once, so that it can be called on variations of one clip."""

    def __init__(self, codec: VideoFunction, shape: Sequence[int], generator: torch.Generator | None = None) -> None:
        self.codec = codec
        self.draw = codec.sample((1, *shape), generator) if isinstance(codec, Layer) else None

    def __call__(self, video: Tensor) -> Tensor:
        """Shape: ``[B, T, 3, H, W]`` -> same; all samples get the same draw."""
        if isinstance(self.codec, Layer):
            return self.codec(video, _repeated(self.draw, len(video)))  # type: ignore[no-any-return]
        return self.codec(video)

    def coded(self, video: Tensor) -> tuple[Tensor, Tensor | None]:
        """Decoded video and bits ``[B]``, None if the codec has none. Shape: ``[B, T, 3, H, W]`` -> same; all samples get the same draw."""
        if isinstance(self.codec, Codec):
            out = self.codec.encode(video, _repeated(self.draw, len(video)))
            return out.video, out.bits
        return self(video), None

    @torch.no_grad()
    def plain(self, clip: Tensor) -> tuple[Tensor, float | None]:
        """The clip itself: decoded ``[T, 3, H, W]`` and bits."""
        video, bits = self.coded(clip[None])
        return video[0].detach(), None if bits is None else float(bits[0])


def _repeated(draw: Any, n: int) -> Any:
    """A draw for one sample as one for n."""
    if n == 1:
        return draw
    if isinstance(draw, Tensor):
        return draw.repeat_interleave(n, 0)
    if isinstance(draw, dict):
        return {k: _repeated(v, n) for k, v in draw.items()}
    return draw * n if isinstance(draw, list) else draw


def checked(clips: Sequence[Tensor], strength: float) -> list[Tensor]:
    """Clips ``[T, 3, H, W]`` rounded to 8 bits; an error for anything else."""
    if isinstance(clips, Tensor):
        raise TypeError(f"expected a list of clips [T, 3, H, W], got one tensor of shape {tuple(clips.shape)}; list(tensor) makes one")
    if not len(clips):
        raise ValueError("expected at least one clip, got none")
    if not 10 <= strength <= 60:
        raise ValueError(f"strength expected a PSNR in [10, 60] dB, got {strength!r}")
    for clip in clips:
        if isinstance(clip, Tensor) and clip.dim() != 4:
            raise ValueError(f"expected clips [T, 3, H, W], got shape {tuple(clip.shape)}")
        check_video(clip[None] if isinstance(clip, Tensor) else clip, "fidelity")
        check_values(clip, "fidelity")
    return [quantised(c) for c in clips]


def quantised(x: Tensor) -> Tensor:
    """Round to 8 bits and clamp. Shape: any -> same."""
    return torch.round(x.detach() * 255).clamp(0, 255) / 255
