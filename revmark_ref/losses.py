"""The paper's losses, eqs. (11) to (20) (section 3.6). Video here is ``[B, 3, T, H, W]`` on the [-1, 1] scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import sigma_clip
from .config import Training


def message_loss(message: Tensor, logits: Tensor) -> Tensor:
    """Eq. (11): binary cross-entropy. Shape: ``[B, L]`` (0 or 1), ``[B, L] -> []``."""
    return F.binary_cross_entropy_with_logits(logits, message)


def spatial_mask(clip: Tensor, sigma: float) -> Tensor:
    """Eqs. (14) and (15): sum of the magnitudes of both Sobel responses of each colour channel, sigma-clipped, with unit L2 norm per frame.

    Shape: ``[B, 3, T, H, W]`` -> same.
    """
    b, c, t, h, w = clip.shape
    across = clip.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T])[:, None]  # [2, 1, 3, 3]
    planes = F.pad(clip.reshape(-1, 1, h, w), (1, 1, 1, 1), mode="replicate")  # the frame border does not count as an edge
    mask = F.conv2d(planes, kernels).abs().sum(1).view(b, c, t, h, w)
    mask = sigma_clip(mask, sigma)
    return mask / mask.square().sum((1, 3, 4), keepdim=True).clamp(min=1e-12).sqrt()


def spatial_loss(residual: Tensor, clip: Tensor, sigma: float) -> Tensor:
    """Squared eq. (16) of each frame: the part of the residual that exceeds the mask. Shape: two ``[B, 3, T, H, W] -> [B, T]``."""
    return (residual.abs() - spatial_mask(clip, sigma)).clamp(min=0).square().sum((1, 3, 4))


def temporal_loss(marked: Tensor, clip: Tensor) -> Tensor:
    """Squared eq. (18) of each pair of frames: flicker that was not in the clip (mask of eq. (17)). Shape: two ``[B, 3, T, H, W] -> [B, T-1]``."""
    flicker, own = marked.diff(dim=2).abs(), clip.diff(dim=2).abs()
    return (flicker - own).clamp(min=0).square().sum((1, 3, 4))


def mask_loss(residual: Tensor, clip: Tensor, training: Training, sigma: float) -> Tensor:
    """Eq. (19), mean over the batch; N is the number of pixels in a frame."""
    pixels = clip.shape[3] * clip.shape[4]
    space = spatial_loss(residual, clip, sigma).mean(1)
    time = temporal_loss(clip + residual, clip).mean(1) if clip.shape[2] > 1 else torch.zeros_like(space)
    return (training.spatial_mask * space + training.temporal_mask * time).mean() / pixels


def adversarial_loss(score_marked: Tensor) -> Tensor:
    """Eq. (12): the discriminator's score of the marked video. Shape: ``[B] -> []``."""
    return score_marked.mean()


def discriminator_loss(score: Tensor, score_marked: Tensor) -> Tensor:
    """Eq. (13): the discriminator's score of the video minus that of the marked video. Shape: ``[B], [B] -> []``."""
    return score.mean() - score_marked.mean()


def total_loss(message: Tensor, adversarial: Tensor, mask: Tensor, training: Training, step: int) -> Tensor:
    """Eq. (20) with the weights that ``training`` gives at a step."""
    return (
        training.message_weight * message + training.at("adversarial_weight", step) * adversarial + training.at("mask_weight", step) * mask
    )
