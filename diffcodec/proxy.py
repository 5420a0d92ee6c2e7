"""CompNet: DVMark's learned proxy of a video codec (Luo et al., IEEE TIP 2023, section III-D)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .layer import Layer


class CompNet(Layer):
    """DVMark's differentiable proxy of a video codec: a small 3-D CNN regressed on pairs of a clip and its real decoded version.

    Untrained it is the identity. :meth:`fit` trains it and freezes its weights, so that training a watermark through it does not change
    it. It is the only layer with parameters.

    Args:
        width: channels of the hidden layers, at least 1.
        depth: number of 3 x 3 x 3 convolutions, at least 2.

    Shape:
        ``[B, T, 3, H, W]``, any T, H, W >= 1.

    Raises:
        ValueError: width < 1 or depth < 2.

    Example:
        >>> import torch, diffcodec as dc
        >>> net = dc.CompNet(width=4, depth=2)
        >>> losses = net.fit(dc.GaussianBlur(), [torch.rand(1, 2, 3, 8, 8)], steps=3)
        >>> len(losses)
        3
    """

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        if width < 1 or depth < 2:
            raise ValueError(f"CompNet expected width >= 1 and depth >= 2, got width={width}, depth={depth}")
        widths = [3] + [width] * (depth - 1) + [3]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Conv3d(a, b, 3, padding=1, padding_mode="replicate"), nn.LeakyReLU(0.1)]
        self.net = nn.Sequential(*layers[:-1])
        last = self.net[-1]
        assert isinstance(last, nn.Conv3d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return self.residual(video)

    def residual(self, video: Tensor) -> Tensor:
        """Video plus what the network adds, unclamped. Shape: ``[B, T, 3, H, W]`` -> same."""
        x = video.transpose(1, 2)  # [B, 3, T, H, W]
        x = x + self.net((x - 0.5).to(next(self.net.parameters()).dtype)).to(x)
        return x.transpose(1, 2)

    def fit(
        self,
        codec: Callable[[Tensor], Tensor],
        clips: Iterable[Tensor],
        steps: int = 1000,
        lr: float = 1e-3,
        report: Callable[[int, float], None] | None = None,
    ) -> list[float]:
        """Regress on a real codec: mean squared error between our output and ``codec(clip)``, Adam with cosine decay.

        Args:
            codec: what to imitate, ``[B, T, 3, H, W]`` -> same (for example a :class:`~diffcodec.RealCodec`).
            clips: batches ``[B, T, 3, H, W]`` in [0, 1]; iterated repeatedly until ``steps`` are done.
            steps: optimiser steps.
            lr: first learning rate.
            report: called with (step, loss) after every step.

        Returns:
            The loss of every step. The weights are frozen when it returns.

        Raises:
            ValueError: ``clips`` is empty or steps < 1.
        """
        if steps < 1:
            raise ValueError(f"steps expected to be at least 1, got {steps}")
        self.net.requires_grad_(True)
        optimiser = torch.optim.Adam(self.net.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        losses: list[float] = []
        while len(losses) < steps:
            before = len(losses)
            for clip in clips:
                self.check(clip)
                with torch.no_grad():
                    target = codec(clip)
                loss = (self.residual(clip) - target).square().mean()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
                if report is not None:
                    report(len(losses), losses[-1])
                if len(losses) == steps:
                    break
            if len(losses) == before:
                raise ValueError("clips is empty, or an iterator that is used up: pass a list or a DataLoader")
        self.net.requires_grad_(False)
        return losses
