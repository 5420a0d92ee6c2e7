"""Embedding by descent: the residual follows the gradient of the message's loss through a distortion layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import diffcodec as dc

from .keys import generator
from .model import REVMark
from .waves import WaveEncoder, added, hidden, luma

RATE = 0.15  # of a step, in units of the residual's deviation
HIGHEST = 2.5  # of a sample, in units of the residual's deviation below the mask
MARGIN = 0.25  # share of the mean response without a codec that each bit should keep
STEEP = 8.0


def default_layers() -> list[tuple[nn.Module, float]]:
    """What :func:`refine` goes through, and how much it counts: the codec, and the paper's crop."""
    return [(dc.DiffH264(crf=(20.0, 34.0), preset="medium"), 1.0), (dc.RandomCrop(0.4), 0.5)]


def refine(
    net: REVMark,
    video: Tensor,
    message: Tensor,
    alpha: float,
    steps: int = 8,
    layers: Sequence[tuple[nn.Module, float]] | None = None,
    seed: int = 0,
) -> Tensor:
    """The residual of :meth:`REVMark.embed` after some steps of normalised gradient descent, on the same strength and below the same mask.

    Each step draws the layers' strengths anew and descends on the mean over bits of ``softplus(STEEP (MARGIN - q))``, where q is a bit's response
    after a layer over the mean response without one. What the codec takes away has no gradient, so the energy moves to where it survives.

    Args:
        net: a model with the mapping "waves".
        video: ``[B, T, 3, H, W]`` in [0, 1].
        message: ``[B, L]``, 0 or 1.
        alpha: the paper's strength, as of :meth:`REVMark.embed`.
        steps: 0 returns what the encoder says.
        layers: pairs of a :class:`diffcodec.Layer` and its weight; None for :func:`default_layers`.
        seed: of the layers' draws.

    Returns:
        ``[B, T, 3, H, W]`` on the [0, 1] scale, to be added to ``video``.

    Raises:
        ValueError: a model with another mapping, or clips or messages of another size than the model's.
    """
    encoder = net.encoder
    if not isinstance(encoder, WaveEncoder):
        raise ValueError(f"refine expected a model with the mapping 'waves', got {net.model.mapping!r}")
    layers = default_layers() if layers is None else layers
    with torch.no_grad():
        start = 255 * net.residual(video, message, alpha)[:, :, 0]  # [B, T, H, W]
        mask = hidden(luma(video))
        sign = 2 * message - 1
        full = (sign * net.extract(added(video, start))).mean(1, keepdim=True).clamp(min=1e-6)
    below = start / mask  # the residual before the mask
    draws = generator(seed, "refine", steps)
    for _ in range(steps):
        below = below.detach().requires_grad_(True)
        marked = added(video, encoder.scaled(below * mask, mask, alpha))
        loss = below.new_zeros(())
        for layer, weight in layers:
            draw = layer.sample(marked.shape, draws, device=marked.device)  # type: ignore[operator]
            kept = sign * net.extract(layer(marked, draw).clamp(0, 1)) / full
            loss = loss + weight * F.softplus(STEEP * (MARGIN - kept)).sum()
        (slope,) = torch.autograd.grad(loss, below)
        with torch.no_grad():
            size = below.square().mean((1, 2, 3), keepdim=True).sqrt()
            below = below - RATE * size * slope / slope.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
            size = below.square().mean((1, 2, 3), keepdim=True).sqrt()
            below = torch.maximum(torch.minimum(below, HIGHEST * size), -HIGHEST * size)
    with torch.no_grad():
        residual = encoder.scaled(below * mask, mask, alpha)
    return residual[:, :, None].expand_as(video) / 255
