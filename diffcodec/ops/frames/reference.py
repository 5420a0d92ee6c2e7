"""Attacks that are one pass over the video: a choice of frames, the mean of neighbouring frames, 3-D blur, noise.

Each takes videos of any floating dtype, clamps input and output to [0, 1] with the gradient passed through, and returns the dtype of its input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...backend import operation
from ...checks import as_given, as_working


def _per_sample(value: Tensor, video: Tensor) -> Tensor:
    """Shape: ``[B] -> [B, 1, ...]``."""
    return value.to(video).view(-1, *[1] * (video.dim() - 1))


@operation
def take_frames(video: Tensor, index: Tensor) -> Tensor:
    """Frames of each clip by index. Shape: ``[B, T, ...], [B, T'] -> [B, T', ...]``."""
    x = as_working(video)
    return as_given(x[torch.arange(x.shape[0], device=x.device)[:, None], index], video)


@take_frames.outputs
def _(video: Tensor, index: Tensor) -> Tensor:
    return video.new_empty(video.shape[0], index.shape[1], *video.shape[2:])


@operation
def average_frames(video: Tensor, window: Tensor) -> Tensor:
    """Means of a window of frames around each, cut off at the ends; even windows reach one frame further back.

    Shape: ``[B, T, ...], [B]`` (lengths in frames) -> as the first.
    """
    x = as_working(video)
    t = x.shape[1]
    n = window.to(x)[:, None, None]  # [B, 1, 1]
    i = torch.arange(t, device=x.device)
    distance = (i[None, :] - i[:, None]).to(x)  # [T, T], source minus target
    inside = (distance >= -torch.floor(n / 2)) & (distance <= torch.floor((n - 1) / 2))
    weights = inside.to(x)
    weights = weights / weights.sum(-1, keepdim=True)  # [B, T, T]
    return as_given((weights @ x.flatten(2)).view(x.shape), video)


@average_frames.outputs
def _(video: Tensor, window: Tensor) -> Tensor:
    return video.new_empty(video.shape)


@operation
def blur(video: Tensor, weights: Tensor) -> Tensor:
    """Filter over frames (of a video), rows and columns; edges are repeated.

    Shape: ``[B, T, C, H, W]`` or ``[B, C, H, W]``, symmetric ``[B, K]`` -> as the first.
    """
    x = as_working(video)
    for dim in (1, -2, -1) if x.dim() == 5 else (-2, -1):
        x = _filter(x, weights, dim)
    return as_given(x, video)


@blur.outputs
def _(video: Tensor, weights: Tensor) -> Tensor:
    return video.new_empty(video.shape)


def _filter(video: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Correlate one axis with each sample's weights ``[B, K]``."""
    n, r = video.shape[dim], weights.shape[1] // 2
    first, last = video.narrow(dim, 0, 1), video.narrow(dim, n - 1, 1)
    padded = torch.cat([first] * r + [video] + [last] * r, dim)
    out = torch.zeros_like(video)
    for k in range(weights.shape[1]):
        out = out + _per_sample(weights[:, k], video) * padded.narrow(dim, k, n)
    return out


@operation
def add_noise(video: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """``video + sigma noise``. Shape: ``[B, ...]``, same, ``[B]`` -> as the first."""
    x = as_working(video)
    return as_given(x + _per_sample(sigma, x) * noise.to(x), video)


@add_noise.outputs
def _(video: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    return video.new_empty(video.shape)
