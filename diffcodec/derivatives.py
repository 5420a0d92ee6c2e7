"""Derivatives of a simulator against finite differences of the real codec.

A gradient may be wrong although the simulator's output and bits are right: rounding is replaced by a surrogate, decisions are held. The figures here
compare autograd with what the real codec does when the video really changes; beside each stands the simulator's own finite difference, which tells
an error of the gradient from one of the simulator.

Slopes. For a clip x and a direction d, f is either ln of the bits or D, the mean squared difference between input and output in squared 8-bit levels:

    real, simulated:  [f(q(x + e d)) - f(q(x - e d))] / 2e        gradient:  <grad f(x), q(x + e d) - q(x - e d)> / 2e

q rounds to 8 bits, and e is :data:`STEP`. The directions:

===========  ====================================================================================================  ===================
name         d                                                                                                     at
===========  ====================================================================================================  ===================
sharpen      x minus its Gaussian blur of 1 pixel, per frame (d = 1: twice the detail)                             the clip
blur         the Gaussian blur of 2 pixels minus x, per frame                                                      the clip
noise        n, a middle band probe that changes from frame to frame, 37.5 dB PSNR (see :mod:`.fidelity`)          the clip with n added
===========  ====================================================================================================  ===================

Noise is measured where it is there already: at the clip itself n and -n are equally likely, and the mean slope is 0. Slopes are means over clips, a
ratio is a ratio of such means: 1 is perfect.

Cosine. With S the simulator, R the real codec, p a probe that is white over all 64 DCT positions (37.5 dB PSNR) and d_k = p with a random sign for
each cell (a band of the 8x8 DCT in a square of 32 x 32 pixels): the cosine over clips and k of

    <grad <S(x), p>, d_k>    and    <R(q(x + d_k)) - R(q(x - d_k)), p> / 2

It is 1 if the gradient knows how much of p survives in which band and where. The identity's figure is 1 less the variation of that survival.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attacks import GaussianBlur
from .blocks import join
from .probing import BANDS, PROBES, STRENGTH, VideoFunction, checked, probes, quantised, repeatable, scaled
from .transform import idct2

DIRECTIONS = ("sharpen", "blur", "noise")
STEP = 0.25  # of a direction: about 2 levels RMS of sharpening on natural clips, 0.9 of noise
PAIRS = 6  # d_k of each kind a clip
CELL = 32  # pixels, a multiple of 8


@dataclass(frozen=True)
class Slope:
    """A directional derivative, mean over clips; None where a codec has no bits or no gradient.

    Attributes:
        gradient: autograd through the simulator.
        simulated, real: finite differences of simulator and real codec.
    """

    gradient: float | None
    simulated: float | None
    real: float | None

    @property
    def ratio(self) -> float | None:
        """Gradient over the real codec's finite difference; None if one is missing or the latter is 0."""
        return _over(self.gradient, self.real)

    @property
    def ratio_simulated(self) -> float | None:
        """The simulator's finite difference over the real codec's."""
        return _over(self.simulated, self.real)


@dataclass(frozen=True)
class Cosine:
    """Cosine with the real codec's finite differences, over clips and directions; None where a vector is zero or missing.

    Attributes:
        gradient: of autograd through the simulator.
        simulated: of the simulator's finite differences.
        identity: of the identity's: what a straight-through gradient gets.
    """

    gradient: float | None
    simulated: float | None
    identity: float | None


@dataclass(frozen=True)
class Derivatives:
    """Figures of a simulator against a real codec (:func:`compare`).

    Attributes:
        clips: number of clips.
        bits: slopes of ln(bits), by :data:`DIRECTIONS`.
        distortion: slopes of the mean squared error, in squared 8-bit levels.
        cosine: by the kind of p, "static" and "changing"; clips of one frame have only the former.
    """

    clips: int
    bits: dict[str, Slope]
    distortion: dict[str, Slope]
    cosine: dict[str, Cosine]


@dataclass(frozen=True)
class Measured:
    """Both codecs on one clip: values (gradient, simulated, real) of each direction, and rows (gradient, simulated, real, identity) of each pair."""

    bits: dict[str, tuple[float, float, float]]
    distortion: dict[str, tuple[float, float, float]]
    pairs: dict[str, Tensor]  # [PAIRS, 4]


def compare(
    clips: Sequence[Tensor], simulator: VideoFunction, real: VideoFunction, *, seed: int = 0, pairs: int = PAIRS,
    progress: Callable[[], None] | None = None,
) -> Derivatives:  # fmt: skip
    """Compute all figures.

    A clip costs 6 + 4 ``pairs`` passes of each codec and 4 backward passes.

    Args:
        clips: videos ``[T, 3, H, W]``, 8-bit values; sizes may differ.
        simulator: codec that the gradient flows through.
        real: codec that is encoded and decoded, without a gradient.
        seed: seed of noise, probes and draws; clip i uses ``seed + i``.
        pairs: directions d_k of each of the static and the changing probe.
        progress: called after every clip.

    Raises:
        ValueError: no clips, or clips of another shape or range.
        TypeError: a tensor in place of a list of clips.

    Example:
        >>> import torch, diffcodec as dc
        >>> from diffcodec import derivatives
        >>> clip = (torch.rand(1, 3, 32, 32) * 255).round() / 255
        >>> d = derivatives.compare([clip], dc.DiffJPEG(50), dc.RealJPEG(50, gradient=None))
        >>> sorted(d.bits), sorted(d.cosine)
        (['blur', 'noise', 'sharpen'], ['static'])
    """
    found = []
    for i, clip in enumerate(checked(clips, STRENGTH)):
        found.append(measure(simulator, real, clip, torch.Generator().manual_seed(seed + i), pairs))
        if progress is not None:
            progress()
    return summary(found)


def measure(simulator: VideoFunction, real: VideoFunction, clip: Tensor, generator: torch.Generator, pairs: int = PAIRS) -> Measured:
    """Both codecs on one clip ``[T, 3, H, W]`` of 8-bit values; several make a :func:`summary`."""
    draws = torch.Generator().manual_seed(
        int(torch.randint(2**62, (1,), generator=generator, device="cpu"))
    )  # probes are the same for every codec
    s, r = (repeatable(c, clip.shape, draws) for c in (simulator, real))
    n = probes(len(clip), clip.shape[2], clip.shape[3], generator)[PROBES.index("3-5 changing")].to(clip)
    bits: dict[str, tuple[float, float, float]] = {}
    distortion: dict[str, tuple[float, float, float]] = {}
    at: list[tuple[Tensor, dict[str, Tensor]]] = [
        (clip, {"sharpen": clip - _blurred(clip, 1.0), "blur": _blurred(clip, 2.0) - clip}),
        (quantised(clip + n), {"noise": n}),
    ]
    for x, directions in at:
        of_bits, of_distortion = _gradients(s, x)
        for name, d in directions.items():
            ends = torch.stack([quantised(x + STEP * d), quantised(x - STEP * d)])
            moved = (ends[0] - ends[1]) / (2 * STEP)
            simulated, actual = _figures(s, ends), _figures(r, ends)
            for out, gradient, k in ((bits, of_bits, 0), (distortion, of_distortion, 1)):
                slope = math.nan if gradient is None else (gradient * moved).sum().item()
                differences = [(v[0, k] - v[1, k]).item() / (2 * STEP) for v in (simulated, actual)]
                out[name] = (slope, differences[0], differences[1])
    kinds = ("static", "changing") if len(clip) > 1 else ("static",)
    return Measured(bits, distortion, {k: _pairs(s, r, clip, k, generator, pairs) for k in kinds})


def _blurred(clip: Tensor, sigma: float) -> Tensor:
    return GaussianBlur(sigma, kernel=2 * math.ceil(3 * sigma) + 1, over="space")(clip[None])[0]  # type: ignore[no-any-return]


def _gradients(codec: repeatable, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ln(bits) and of the distortion at a clip; None where there is none."""
    x = x.detach().requires_grad_(True)
    video, bits = codec.coded(x[None])
    if not video.requires_grad:  # a codec whose gradient is that of a call
        video = codec(x[None])
    distortion = 255**2 * (video[0] - x).square().mean()
    out: list[Tensor | None] = []
    for value in (None if bits is None else bits[0].log(), distortion if video.requires_grad else None):
        known = value is not None and value.requires_grad
        out.append(torch.autograd.grad(value, x, retain_graph=True)[0] if known else None)  # type: ignore[arg-type]
    return out[0], out[1]


@torch.no_grad()
def _figures(codec: repeatable, videos: Tensor) -> Tensor:
    """ln(bits), NaN if there are none, and distortion. Shape: ``[B, T, 3, H, W] -> [B, 2]`` float64."""
    out, bits = codec.coded(videos)
    ln = torch.full((len(videos),), math.nan, dtype=torch.float32, device="cpu") if bits is None else bits.log()
    error = (out.double() - videos.double()).square().flatten(1).mean(1)
    return torch.stack([ln.double(), 255**2 * error], 1)


def _pairs(s: repeatable, r: repeatable, clip: Tensor, kind: str, generator: torch.Generator, pairs: int) -> Tensor:
    """Derivatives along signed cells of a probe: gradient, simulator, real, identity. Shape: ``[pairs, 4]``."""
    t, _, h, w = clip.shape
    p, cells = _cells(1 if kind == "static" else t, h, w, generator)
    p, cells = p.to(clip).expand(t, h, w), cells.to(clip).expand(len(BANDS), t, h, w)
    x = clip.detach().requires_grad_(True)
    out = s(x[None])[0]
    product = (out * p[:, None]).sum()
    gradient = torch.autograd.grad(product, x)[0] if product.requires_grad else torch.full_like(clip, math.nan)
    signs = torch.randint(0, 2, (pairs, len(BANDS), 1, -(-h // CELL), -(-w // CELL)), generator=generator, device="cpu").to(clip) * 2 - 1
    rows = []
    for some in signs.split(max(1, 2**22 // clip.numel())):  # a batch of float32 clips stays within 32 MiB
        d = (cells * some.repeat_interleave(CELL, -2).repeat_interleave(CELL, -1)[..., :h, :w]).sum(1)[:, :, None]  # [N, T, 1, H, W]
        ends = quantised(torch.cat([clip + d, clip - d]))
        half = _halves(ends)
        with torch.no_grad():
            moved = [_halves(codec(ends)) for codec in (s, r)]
        values = [half * gradient, *(m * p[:, None] for m in moved), half * p[:, None]]
        rows.append(torch.stack([v.flatten(1).sum(1) for v in values], 1))
    return torch.cat(rows).double()


def _halves(ends: Tensor) -> Tensor:
    """Half the difference between the first and the second half of a batch. Shape: ``[2 N, ...] -> [N, ...]``."""
    first, second = ends.chunk(2)
    return (first - second) / 2


def _cells(frames: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A probe that is white over the 8x8 DCT, and its parts by band. Shape: ``[n, H, W]``, ``[bands, n, H, W]``."""
    u = torch.arange(8, device="cpu")
    index = u[:, None] + u
    c = torch.randn(frames, -(-height // 8), -(-width // 8), 8, 8, generator=generator, dtype=torch.float32, device="cpu")
    parts = torch.stack([join(idct2(c * ((index >= a) & (index <= b))))[:, :height, :width] for a, b in BANDS])
    whole = parts.sum(0)
    size = scaled(whole, STRENGTH).norm() / whole.norm()
    return whole * size, parts * size


def summary(found: Sequence[Measured]) -> Derivatives:
    """Figures over the clips that were measured."""

    def slopes(each: Sequence[dict[str, tuple[float, float, float]]]) -> dict[str, Slope]:
        means = {k: torch.tensor([e[k] for e in each], dtype=torch.float64, device="cpu").mean(0).tolist() for k in DIRECTIONS}
        return {k: Slope(*(v if math.isfinite(v) else None for v in m)) for k, m in means.items()}

    cosines = {}
    for kind in found[0].pairs:
        rows = torch.cat([m.pairs[kind] for m in found if kind in m.pairs])
        gradient, simulated, real, identity = rows.unbind(1)
        cosines[kind] = Cosine(*(_cosine(v, real) for v in (gradient, simulated, identity)))
    return Derivatives(len(found), slopes([m.bits for m in found]), slopes([m.distortion for m in found]), cosines)


def _cosine(a: Tensor, b: Tensor) -> float | None:
    value = (a @ b / (a.norm() * b.norm())).item()
    return value if math.isfinite(value) else None


def _over(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b + 0.0  # no -0
