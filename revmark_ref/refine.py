"""Embedding by gradient descent: the residual is optimised for the message loss through distortion layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import diffcodec as dc

from .keys import generator
from .model import REVMark
from .waves import SIZE, WaveEncoder, added, deviation, hidden, luma, smooth, texture

FIRST, LAST = 0.15, 0.03  # first and last step size, in units of the residual's RMS; decreases linearly
MOMENTUM = 0.6
HIGHEST = 2.5  # limit of a sample, in units of the RMS of the residual before the mask
FLAT, CROWDED = 1.0, 1.6  # limits of the local RMS, in the same units: up to BARE levels of texture, and from FULL levels on
BARE, FULL = 1.5, 5.5
MARGIN = 0.25  # share of the mean response without a codec that each bit should keep
STEEP = 8.0
VISIBLE, PERCEPTUAL = 0.2, 0.1  # weights of the gradients of visibility and perceptual distance, relative to the message's
SCALES = (1, 2, 4)
SEEN = 2.0  # levels of texture that are added to a picture's own when visibility is computed


def default_layers() -> list[tuple[nn.Module, float]]:
    """Default layers of :func:`refine` and their weights: the real codec with the simulator's gradient, the paper's crop and frame drop."""
    return [(dc.RealCodec("libx264", crf=(21.0, 34.0), preset="medium"), 1.0), (dc.RandomCrop(0.4), 0.5), (dc.FrameDrop(0.5), 0.5)]


def visibility(residual: Tensor, y: Tensor) -> Tensor:
    """Visibility of a residual: its power over that of the surrounding texture, at three scales.

    Shape: ``[B, T, H, W]``, in levels, and luma of the same shape -> ``[B]``.
    """
    total = residual.new_zeros(len(residual))
    for scale in SCALES:
        r, v = (F.avg_pool2d(x, scale) for x in (residual, y))
        total = total + (r / (deviation(v, SIZE)[1] + SEEN)).square().mean((1, 2, 3))
    return total


def refine(
    net: REVMark,
    video: Tensor,
    message: Tensor,
    alpha: float,
    steps: int = 16,
    layers: Sequence[tuple[nn.Module, float]] | None = None,
    seed: int = 0,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """The residual of :meth:`REVMark.embed` after ``steps`` steps of normalised gradient descent, at the same strength and under the same mask.

    Each step draws new strengths for the layers and descends on the mean over bits of ``softplus(STEEP (MARGIN - q))``, where q is a bit's response
    after a layer divided by the mean response without one, and on the logarithm of :func:`visibility`. What the codec removes has no gradient, so the
    energy moves to where it survives; in flat areas a limit keeps it from accumulating.

    Args:
        net: a model with the mapping "waves".
        video: ``[B, T, 3, H, W]`` in [0, 1].
        message: ``[B, L]``, 0 or 1.
        alpha: the paper's strength, as in :meth:`REVMark.embed`.
        steps: number of steps; 0 returns the encoder's residual.
        layers: pairs of a :class:`diffcodec.Layer` and its weight; None for :func:`default_layers`.
        seed: of the layers' draws.
        perceptual: a differentiable distance ``[B]`` between marked and unmarked clips that is minimised as well (:class:`revmark_ref.lpips.LPIPS`).

    Returns:
        ``[B, T, 3, H, W]`` on the [0, 1] scale, to be added to ``video``.

    Raises:
        ValueError: a model with another mapping, steps below 0, or clips or messages of another size than the model's.
    """
    encoder = net.encoder
    if not isinstance(encoder, WaveEncoder):
        raise ValueError(f"refine expected a model with the mapping 'waves', got {net.model.mapping!r}")
    if steps < 0:
        raise ValueError(f"steps expected a whole number >= 0, got {steps!r}")
    layers = default_layers() if layers is None else layers
    with torch.no_grad():
        start = 255 * net.residual(video, message, alpha)[:, :, 0]  # [B, T, H, W]
        y = luma(video)
        mask = hidden(y)
        most = FLAT + (CROWDED - FLAT) * ((texture(y) - BARE) / (FULL - BARE)).clamp(0, 1)
        sign = 2 * message - 1
        full = (sign * net.extract(added(video, start))).mean(1, keepdim=True).clamp(min=1e-6)
    below = start / mask  # the residual before the mask
    speed = torch.zeros_like(below)
    draws = generator(seed, "refine", steps)
    for step in range(steps):
        below = below.detach().requires_grad_(True)
        residual = encoder.scaled(below * mask, mask, alpha)
        marked = added(video, residual)
        loss = below.new_zeros(())
        for layer, weight in layers:
            draw = layer.sample(marked.shape, draws, device=marked.device)  # type: ignore[operator]
            kept = sign * net.extract(layer(marked, draw).clamp(0, 1)) / full
            loss = loss + weight * F.softplus(STEEP * (MARGIN - kept)).sum()
        slope = _unit(_slope(loss, below)) + VISIBLE * _unit(_slope(visibility(residual, y).clamp(min=1e-12).log().sum(), below))
        if perceptual is not None:
            slope = slope + PERCEPTUAL * _unit(_slope(perceptual(marked, video).clamp(min=1e-6).log().sum(), below))
        with torch.no_grad():
            speed = _unit(slope) + MOMENTUM * speed
            rate = FIRST + (LAST - FIRST) * step / max(1, steps - 1)
            below = below - rate * _size(below) * _unit(speed)
            size = _size(below)
            below = below * (most * size / smooth(below * below, SIZE).sqrt().clamp(min=1e-12)).clamp(max=1)
            below = torch.maximum(torch.minimum(below, HIGHEST * size), -HIGHEST * size)
    with torch.no_grad():
        residual = encoder.scaled(below * mask, mask, alpha)
    return residual[:, :, None].expand_as(video) / 255


def _slope(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at, retain_graph=True)[0]


def _size(x: Tensor) -> Tensor:
    """Root mean square of each clip. Shape: ``[B, T, H, W] -> [B, 1, 1, 1]``."""
    return x.square().mean((1, 2, 3), keepdim=True).sqrt()


def _unit(x: Tensor) -> Tensor:
    return x / _size(x).clamp(min=1e-12)
