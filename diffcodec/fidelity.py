"""Metrics for how closely a simulator matches the real codec.

A simulator is useful for training if the signals that survive it are those that survive the real codec. All figures take tensors: clips are 8-bit
videos (values k / 255) ``[T, 3, H, W]``, a codec is any callable ``[B, T, 3, H, W] -> [B, T, 3, H, W]``. Random decisions of a simulator are drawn
once per clip and kept for all of its probes, so that only the probe differs.

S is the simulator, R the real codec, x a clip and d a probe added to it. The surviving share of the probe is g_C = <C(x + d) - C(x), d> / <d, d> for
C = S, R. The last column gives the figures of the identity as a simulator.

=================  =====================================================================  ===================  ==========
figure             definition                                                             perfect              identity
=================  =====================================================================  ===================  ==========
survival error     mean over probes of abs(mean over clips g_S - mean over clips g_R)      0                    1 - mean g_R
distortion gap     mean over clips of abs(PSNR(x, S(x)) - PSNR(x, R(x))), dB               0                    infinite
skill              mean over clips of PSNR(S(x), R(x)) - PSNR(x, R(x)), dB                 large                0
error cosine       mean over clips of cos(S(x) - x, R(x) - x)                              1                    undefined
steering gain      :func:`steering`                                                        large                1
rate agreement     Spearman rank, median relative error of estimated bits                  1 and 0              -
=================  =====================================================================  ===================  ==========

The probes of the survival error are grey. Those in Cb and Cr (:func:`chroma_probes`) have a survival error of their own, which is not part of the
former: 4:2:0 keeps a quarter of the samples and x264 quantises them by another QP, so a mean over both would hide which of them is wrong, and would
not compare with earlier results. PSNR is that of R, G and B; the figures of luma alone are those of Y' on the scale 16..235 (BT.601, peak 255), as in
ffmpeg's psnr filter. Gradients have figures of their own, in :mod:`diffcodec.derivatives`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .checks import clamp_through
from .color import luma
from .metrics import psnr
from .probing import BANDS as BANDS
from .probing import CHROMA_PROBES, PROBES, STRENGTH, VideoFunction, checked, chroma_probes, pattern, probes, quantised, repeatable


@dataclass(frozen=True)
class Fidelity:
    """The figures of one simulator against one real codec.

    Attributes:
        clips: number of clips.
        survival_error: see the module's table.
        per_clip_survival_error: mean over clips and probes of abs(g_S - g_R).
        distortion_gap, skill: in dB.
        error_cosine: -1..1, over the clips that both codecs change; NaN if there is none.
        psnr_simulated, psnr_real: mean PSNR against the source, dB.
        survival_simulated, survival_real: mean surviving share g of each probe, by name (:data:`PROBES`).
        rank_correlation, rate_error: rate agreement over the clips (:func:`rate_agreement`); None if one of the codecs gives no bits.
        bits_simulated, bits_real: bits of each clip, or None.
        chroma_survival_error: survival error of the probes in Cb and Cr; None if they were not measured.
        chroma_survival_simulated, chroma_survival_real: mean surviving share of each of them, by name (:data:`CHROMA_PROBES`).
        luma_distortion_gap, luma_skill, luma_psnr_simulated, luma_psnr_real: as without luma, of Y' alone, dB.
    """

    clips: int
    survival_error: float
    per_clip_survival_error: float
    distortion_gap: float
    skill: float
    error_cosine: float
    psnr_simulated: float
    psnr_real: float
    survival_simulated: dict[str, float]
    survival_real: dict[str, float]
    rank_correlation: float | None
    rate_error: float | None
    bits_simulated: list[float] | None
    bits_real: list[float] | None
    chroma_survival_error: float | None = None
    chroma_survival_simulated: dict[str, float] | None = None
    chroma_survival_real: dict[str, float] | None = None
    luma_distortion_gap: float | None = None
    luma_skill: float | None = None
    luma_psnr_simulated: float | None = None
    luma_psnr_real: float | None = None

    def to_json(self) -> str:
        """JSON; infinite and undefined values become null."""
        return json.dumps(jsonable(dataclasses.asdict(self)))


@dataclass(frozen=True)
class Steering:
    """Steering gain (:func:`steering`), mean over clips.

    Attributes:
        static: of a probe that is the same in all frames.
        changing: of a probe that changes from frame to frame; of clips of one frame that of the static probe.
    """

    static: float
    changing: float


@dataclass(frozen=True)
class Measured:
    """Measurements of one codec on one clip, which need no other codec."""

    video: Tensor  # [T, 3, H, W], 8 bits
    survival: Tensor  # [10]
    bits: float | None
    chroma_survival: Tensor | None = None  # [8]


def measure(codec: VideoFunction, clip: Tensor, generator: torch.Generator, strength: float = STRENGTH, batch: int = 1) -> Measured:
    """Run one codec over a clip and over the clip with each probe added.

    Args:
        codec: simulator or real codec.
        clip: ``[T, 3, H, W]``, 8-bit values.
        generator: source of the probes and of the simulator's draws; give every codec a generator of the same seed.
        strength: PSNR of the probes, 10..60 dB.
        batch: number of probes per call of the codec: more is faster for small clips and takes more memory.

    Raises:
        ValueError: another shape or range of the clip, a strength out of range, or a codec that changes the shape.
    """
    if batch < 1:
        raise ValueError(f"batch expected a whole number of at least 1, got {batch!r}")
    (clip,) = checked([clip], strength)
    added = probes(clip.shape[0], clip.shape[2], clip.shape[3], generator, strength)
    call = repeatable(codec, clip.shape, generator)
    again = torch.Generator().manual_seed(generator.initial_seed())  # what the codec drew must not change the probes
    in_chroma = chroma_probes(clip.shape[0], clip.shape[2], clip.shape[3], again, strength)
    plain, bits = call.plain(clip)
    grey, chroma = (_survival(call, clip, plain, p.to(clip), batch) for p in (added, in_chroma))
    return Measured(quantised(plain), grey, bits, chroma)


@torch.no_grad()
def _survival(call: repeatable, clip: Tensor, plain: Tensor, added: Tensor, batch: int) -> Tensor:
    """Surviving share of each probe ``[N, T, 3, H, W]`` of a clip whose decoded form is ``plain``. Shape: ``[N]``."""
    marked = quantised(clip + added)
    d = marked - clip
    survival = []
    for m, di in zip(marked.split(batch), d.split(batch)):
        out = call(m)
        if not isinstance(out, Tensor) or out.shape != m.shape:
            what = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"{type(call.codec).__name__} was given a video of shape {tuple(m.shape)} and returned {what}")
        survival.append(((out - plain) * di).flatten(1).sum(1) / di.flatten(1).square().sum(1))
    return torch.cat(survival)


def compare(
    clips: Sequence[Tensor], simulator: VideoFunction | Sequence[Measured], real: VideoFunction | Sequence[Measured], *,
    seed: int = 0, strength: float = STRENGTH,
) -> Fidelity:  # fmt: skip
    """Compute all figures except the steering gain.

    Args:
        clips: videos ``[T, 3, H, W]``, 8-bit values; sizes may differ.
        simulator, real: codecs, or the results of :func:`measure` for each of the clips.
        seed: seed of probes and draws; clip i uses ``seed + i``.
        strength: PSNR of the probes, 10..60 dB.

    Raises:
        ValueError: no clips, clips of another shape or range, measurements of another number of clips, a strength out of range.
        TypeError: a tensor in place of a list of clips.
    """
    x = checked(clips, strength)
    s, r = (
        [measure(c, clip, torch.Generator().manual_seed(seed + i), strength) for i, clip in enumerate(clips)] if callable(c) else list(c)
        for c in (simulator, real)
    )
    if not len(s) == len(r) == len(clips):
        raise ValueError(f"{len(clips)} clips, but {len(s)} and {len(r)} measurements")
    g_s, g_r = (torch.stack([m.survival for m in ms]) for ms in (s, r))  # [clips, 10]
    gap, skill, psnr_s, psnr_r = _distances(x, [m.video for m in s], [m.video for m in r])
    of_luma = _distances(*([_luma(v) for v in videos] for videos in (x, [m.video for m in s], [m.video for m in r])))
    cosines = [_cosine(a.video - c, b.video - c) for a, b, c in zip(s, r, x)]
    bits_s, bits_r = ([m.bits for m in ms] for ms in (s, r))
    rated = None not in bits_s and None not in bits_r
    rank, error = rate_agreement(bits_s, bits_r) if rated else (None, None)  # type: ignore[arg-type]
    return Fidelity(
        clips=len(clips),
        survival_error=(g_s.mean(0) - g_r.mean(0)).abs().mean().item(),
        per_clip_survival_error=(g_s - g_r).abs().mean().item(),
        distortion_gap=gap,
        skill=skill,
        error_cosine=_mean([v for v in cosines if not math.isnan(v)]) if not all(map(math.isnan, cosines)) else math.nan,
        psnr_simulated=psnr_s,
        psnr_real=psnr_r,
        survival_simulated=dict(zip(PROBES, g_s.mean(0).tolist())),
        survival_real=dict(zip(PROBES, g_r.mean(0).tolist())),
        rank_correlation=rank,
        rate_error=error,
        bits_simulated=bits_s if None not in bits_s else None,  # type: ignore[arg-type]
        bits_real=bits_r if None not in bits_r else None,  # type: ignore[arg-type]
        **_chroma(s, r),
        luma_distortion_gap=of_luma[0],
        luma_skill=of_luma[1],
        luma_psnr_simulated=of_luma[2],
        luma_psnr_real=of_luma[3],
    )


def _distances(x: Sequence[Tensor], s: Sequence[Tensor], r: Sequence[Tensor]) -> tuple[float, float, float, float]:
    """Means over clips of distortion gap, skill, PSNR of simulator and real codec, dB."""
    of_s, of_r = ([_psnr(c, v) for c, v in zip(x, vs)] for vs in (s, r))
    skill = [_psnr(a, b) - p for a, b, p in zip(s, r, of_r)]
    gap = _mean([abs(_difference(a, b)) for a, b in zip(of_s, of_r)])
    return gap, _mean([0.0 if math.isnan(v) else v for v in skill]), _mean(of_s), _mean(of_r)  # inf - inf: both codecs are lossless


def _luma(video: Tensor) -> Tensor:
    """Y' of the range 16..235, over 255. Shape: ``[T, 3, H, W] -> [T, H, W]``."""
    return 219 / 255 * luma(video)


def _chroma(s: Sequence[Measured], r: Sequence[Measured]) -> dict[str, Any]:
    """Figures of the chroma probes, where all clips have them."""
    found = [[m.chroma_survival for m in ms if m.chroma_survival is not None] for ms in (s, r)]
    if any(len(f) < len(s) for f in found):
        return {}
    g_s, g_r = (torch.stack(f).mean(0) for f in found)
    named = (dict(zip(CHROMA_PROBES, g.tolist())) for g in (g_s, g_r))
    values = ((g_s - g_r).abs().mean().item(), *named)
    return dict(zip(("chroma_survival_error", "chroma_survival_simulated", "chroma_survival_real"), values))


def _psnr(a: Tensor, b: Tensor) -> float:
    return psnr(a[None].double(), b[None].double()).item()


def _difference(a: float, b: float) -> float:
    return 0.0 if a == b else a - b  # both infinite: no gap


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return ((a * b).sum() / (a.norm() * b.norm())).item() if a.any() and b.any() else math.nan


def rate_agreement(estimated: Sequence[float], real: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation and the median of abs(estimated - real) / real, over clips x strengths.

    Returns:
        (rank correlation, median relative error); the former is NaN for fewer than two values or if all values of a list are equal.

    Raises:
        ValueError: empty lists, or lists of different length.
    """
    a, b = (torch.tensor(list(v), dtype=torch.float64, device="cpu") for v in (estimated, real))
    if a.shape != b.shape or not a.numel():
        raise ValueError(f"expected two lists of one length >= 1, got {len(a)} and {len(b)}")
    ranks = torch.stack([_ranks(a), _ranks(b)])
    rank = torch.corrcoef(ranks)[0, 1].item() if a.numel() > 1 else math.nan
    error = ((a - b).abs() / b).sort().values
    middle = error.numel() // 2
    median = error[middle] if error.numel() % 2 else (error[middle - 1] + error[middle]) / 2
    return rank, median.item()


def _ranks(x: Tensor) -> Tensor:
    """Ranks, ties sharing their mean. Shape: ``[N] -> [N]``."""
    return (x[None] < x[:, None]).double().sum(1) + ((x[None] == x[:, None]).double().sum(1) - 1) / 2


def steering(
    clips: Sequence[Tensor],
    through: VideoFunction,
    real: VideoFunction,
    *,
    seed: int = 0,
    steps: int = 8,
    strength: float = STRENGTH,
    bands: Sequence[tuple[int, int]] | None = None,
    progress: Callable[[], None] | None = None,
) -> Steering:
    """Steering gain: does the gradient through a simulator lead to signals that survive the real codec?

    For a probe p that is white over all 64 DCT positions, start from d = 0 and take ``steps`` steps of
    ``d <- n unit(d + n/2 unit(grad <S(x + d), p>))`` with ``unit(v) = v / |v|`` and n the norm of ``strength`` dB PSNR; round ``x + d`` to 8 bits and
    score it on the real codec by ``<R(x + d) - R(x), p> / (|p| |d|)``. The gain is this score divided by the score of d = n unit(p), mean over clips.

    Args:
        clips: videos ``[T, 3, H, W]``, 8-bit values.
        through: codec S that the gradient flows through.
        real: codec R that scores the result.
        seed: seed of probes and draws; clip i uses ``seed + i``.
        steps: number of gradient steps.
        strength: PSNR of d, 10..60 dB.
        bands: bands (first, last) of u + v to which the probe is confined, one after the other; the gain is then a ratio of scores summed over
            bands (the band test). None for the whole block.
        progress: called after every clip.

    Raises:
        ValueError: no clips, clips of another shape or range, a strength out of range, or a codec without a gradient.
    """
    if steps < 1:
        raise ValueError(f"steps expected a whole number of at least 1, got {steps!r}")
    gains: dict[str, list[float]] = {"static": [], "changing": []}
    for i, x in enumerate(checked(clips, strength)):
        t, _, h, w = x.shape
        for kind, n in (("static", 1), ("changing", t))[: 1 if t == 1 else 2]:
            steered = naive = 0.0
            for band in bands or [(0, 14)]:
                generator = torch.Generator().manual_seed(seed + i)
                p = pattern(n, h, w, band, generator).expand(t, h, w)[:, None].expand(t, 3, h, w).contiguous().to(x)
                size = 10 ** (-strength / 20) * math.sqrt(x.numel())
                codec = repeatable(through, x.shape, generator)
                referee = repeatable(real, x.shape, generator)
                base = referee(x[None])[0].detach()
                naive += _score(referee, x, base, size * _unit(p), p)
                steered += _score(referee, x, base, _steer(codec, x, p, size, steps), p)
            gains[kind].append(steered / naive)  # a ratio of sums: a band that the codec removes has a score near 0
        if t == 1:  # one frame: nothing can change
            gains["changing"].append(gains["static"][-1])
        if progress is not None:
            progress()
    return Steering(static=_mean(gains["static"]), changing=_mean(gains["changing"]))


def _steer(codec: VideoFunction, x: Tensor, p: Tensor, size: float, steps: int) -> Tensor:
    d = torch.zeros_like(x)
    for _ in range(steps):
        d = d.requires_grad_(True)
        out = codec(clamp_through(x + d)[None])[0]  # a codec sees a picture; the score clamps as well
        if not out.requires_grad:
            raise ValueError("steering needs a codec with a gradient; a real one takes gradient='identity' or a simulator")
        (gradient,) = torch.autograd.grad((out * p).sum(), d)
        d = size * _unit(d.detach() + size / 2 * _unit(gradient))
    return d


def _score(referee: VideoFunction, x: Tensor, base: Tensor, d: Tensor, p: Tensor) -> float:
    with torch.no_grad():
        out = referee(quantised(x + d)[None])[0]
    return (((out - base) * p).sum() / (p.norm() * d.norm())).item()


def _unit(x: Tensor) -> Tensor:
    return x / x.norm().clamp(min=1e-12)


def jsonable(value: Any) -> Any:
    """A copy that JSON can hold: dataclasses become dicts, infinite and undefined numbers null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
