"""Building blocks of the networks: convolutions, pixel unshuffle, TAsBlock, scaling of the residual (sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcodec.motion import BlockMotion, NoMotion, SPyNet, warp

Motion = Callable[[Tensor, Tensor], Tensor]
SLOPE = 0.2  # of LeakyReLU


def sigma_clip(x: Tensor, sigma: float, times: int = 2) -> Tensor:
    """Clip each sample to its mean +- ``sigma`` standard deviations, ``times`` times over. Shape: ``[B, ...]`` -> same."""
    for _ in range(times):
        flat = x.flatten(1)
        mean, width = flat.mean(1), sigma * flat.std(1)
        shape = (-1, *[1] * (x.dim() - 1))
        x = torch.maximum(torch.minimum(x, (mean + width).view(shape)), (mean - width).view(shape))
    return x


def scale_residual(residual: Tensor, alpha: float, sigma: float) -> Tensor:
    """Eq. (2): sigma-clipped, each frame of unit L2 norm, times alpha. Shape: ``[B, C, T, H, W]`` -> same."""
    clipped = sigma_clip(residual, sigma)
    norm = clipped.square().sum((1, 3, 4), keepdim=True).clamp(min=1e-12).sqrt()  # [B, 1, T, 1, 1]
    return alpha * clipped / norm


def channels_last(net: nn.Module) -> nn.Module:
    """Weights of 3-D convolutions with channels last, in place: faster, with equal values. ``net.to`` would refuse the 2-D ones of SPyNet."""
    for p in net.parameters():
        if p.dim() == 5:
            p.data = p.data.contiguous(memory_format=torch.channels_last_3d)
    return net


def conv(a: int, b: int, stride: int | tuple[int, int, int] = 1) -> nn.Conv3d:
    return nn.Conv3d(a, b, 3, stride, 1)


def level(a: int, b: int, convs: int, stride: int | tuple[int, int, int] = 1) -> nn.Sequential:
    """``convs`` convolutions with LeakyReLU, the first one strided."""
    layers: list[nn.Module] = [conv(a, b, stride), nn.LeakyReLU(SLOPE)]
    for _ in range(convs - 1):
        layers += [conv(b, b), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def to_channels(x: Tensor, patch: int) -> Tensor:
    """Pixel unshuffle of each frame by k = ``patch``. Shape: ``[B, C, T, H, W] -> [B, C k k, T, H/k, W/k]``."""
    if patch == 1:
        return x
    return F.pixel_unshuffle(x.transpose(1, 2), patch).transpose(1, 2)


def to_pixels(x: Tensor, patch: int) -> Tensor:
    """Inverse of :func:`to_channels`."""
    if patch == 1:
        return x
    return F.pixel_shuffle(x.transpose(1, 2), patch).transpose(1, 2)


def estimator(name: str) -> Motion:
    """The motion estimator that a configuration names, ``(current, reference) -> flow``."""
    return {"block": BlockMotion, "spynet": SPyNet, "none": NoMotion}[name]()


class TAsBlock(nn.Module):
    """Temporal-associated features (section 3.1): align every frame with the target frame, apply two 3 x 3 x 3 convolutions (3-32-3), warp the
    features back to their frames.

    Args:
        motion: ``(current, reference) -> flow`` of frames in [0, 1]; shared between encoder and decoder.
        target: index of the target frame.
    """

    def __init__(self, motion: Motion, target: int = 4) -> None:
        super().__init__()
        self.motion, self.target = motion, target
        self.features = nn.Sequential(conv(3, 32), nn.LeakyReLU(SLOPE), conv(32, 3))

    def forward(self, video: Tensor) -> Tensor:
        """Shape: ``[B, 3, T, H, W] -> [B, 3, T, H, W]``."""
        if isinstance(self.motion, NoMotion):
            return self.features(video)  # type: ignore[no-any-return]
        b, c, t, h, w = video.shape
        frames = video.transpose(1, 2).flatten(0, 1)  # [B*T, 3, H, W]
        flow = self.flow(video).flatten(0, 1)  # [B*T, 2, H, W]
        aligned = warp(frames, flow).view(b, t, c, h, w).transpose(1, 2)
        found = self.features(aligned)  # [B, 3, T, H, W]
        back = warp(found.transpose(1, 2).flatten(0, 1), inverse(flow))
        return back.view(b, t, c, h, w).transpose(1, 2)

    def flow(self, video: Tensor) -> Tensor:
        """Flow in pixels from the target frame to every frame, 0 for the target itself; without gradient.

        Shape: ``[B, 3, T, H, W] -> [B, T, 2, H, W]``.
        """
        b, _, t, h, w = video.shape
        scenes = (video.detach().transpose(1, 2) + 1) / 2  # [B, T, 3, H, W] in [0, 1]
        goal = scenes[:, self.target, None]
        others = torch.cat([scenes[:, : self.target], scenes[:, self.target + 1 :]], 1)  # [B, T-1, 3, H, W]
        with torch.no_grad():
            flow = self.motion(goal.expand_as(others).flatten(0, 1), others.flatten(0, 1)).view(b, t - 1, 2, h, w)
        return torch.cat([flow[:, : self.target], torch.zeros_like(flow[:, :1]), flow[:, self.target :]], 1)


def inverse(flow: Tensor) -> Tensor:
    """Approximate inverse flow: one step of the fixed-point iteration ``v(x) = -u(x + v(x))`` from ``v = -u``. Shape: ``[N, 2, H, W]`` -> same."""
    return -warp(flow, -flow)
