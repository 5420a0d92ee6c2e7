"""Gradients of the quantiser in an exact codec: a slope for every coefficient, independent of the forward value.

A slope is a function of ``y``, the coefficient in quantiser steps, and ``step``, the step in 8-bit levels, which broadcast; it returns the factor
on the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Slope = Callable[[Tensor, Tensor], Tensor]

NOISES = ("uniform", "gaussian", "laplacian")


def cubic(y: Tensor, step: Tensor) -> Tensor:
    """3 (y - round(y))^2: the slope of :func:`diffcodec.rounding.cubic`, 0 at every level and 1/4 on average."""
    return 3 * (y - y.round()).square()


def straight_through(y: Tensor, step: Tensor) -> Tensor:
    """1 everywhere: colour and chroma filters still act on the gradient, the quantiser does not."""
    return torch.ones_like(y)


def soft(y: Tensor, step: Tensor, sharpness: float = 5.0) -> Tensor:
    """s (1 - tanh(s r)^2) / (2 tanh(s / 2)) with r = y - floor(y) - 1/2 and s the sharpness: the slope of :func:`diffcodec.rounding.soft`."""
    r = y - y.floor() - 0.5
    return sharpness / (2 * math.tanh(sharpness / 2)) * (1 - torch.tanh(sharpness * r).square())


@dataclass(frozen=True)
class Expected:
    """Slope of the expected quantiser output, d/dy E[round(y + n)], when noise n is added to the coefficient.

    It is the sum over k of the density of n at k + 1/2 - y, y and n in quantiser steps.

    It tends to 1 where the step is small compared with the noise. Where the step is large, a coefficient near a threshold passes more gradient
    than one deep in the dead zone, which still passes some.

    Args:
        noise: "uniform", "gaussian" or "laplacian".
        width: standard deviation of the noise in levels (orthonormal transform, 0..255 scale), above 0.

    Raises:
        ValueError: unknown noise, or a width that is not above 0.
    """

    noise: str = "laplacian"
    width: float = 9.0  # chosen by steering gain on training photographs: benchmarks/jpeg.py

    def __post_init__(self) -> None:
        if self.noise not in NOISES:
            raise ValueError(f"unknown noise {self.noise!r}; expected one of {', '.join(map(repr, NOISES))}")
        if not 0 < self.width < math.inf:
            raise ValueError(f"width expected to be above 0, got {self.width!r}")

    def __call__(self, y: Tensor, step: Tensor) -> Tensor:
        sigma = self.width / step  # in quantiser steps
        r = (y - y.floor()).sub_(0.5).abs_()  # distance to the nearest threshold, 0..0.5; the others lie 1, 2, ... further
        if self.noise == "laplacian":  # the two-sided geometric series in closed form
            b = sigma / math.sqrt(2)
            near = r.mul(-math.log2(math.e) / b).exp2_().clamp_(min=1e-30)  # exp(-r / b); no 0 / 0 below
            return (torch.exp(-1 / b) / near).add_(near).mul_(1 / (2 * b * -torch.expm1(-1 / b)))
        if self.noise == "uniform":  # how many thresholds the interval covers
            half = sigma * math.sqrt(3)
            return (torch.floor(half - r) + torch.floor(half + r) + 1) / (2 * half)
        # the sum over thresholds where it is narrow, its Fourier series where it is wide: a term or two are exact to 1e-4
        narrow = sum(_normal(r - k, sigma) for k in (-1, 0, 1))
        wide = 1 + 2 * torch.exp(-2 * (math.pi * sigma).square()) * torch.cos(2 * math.pi * r)
        return torch.where(sigma > 0.45, wide, narrow)

    def moments(self, y: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Moments that the gradient with respect to the step needs in addition to the slope.

        With M = E[round(y + n)], y = c / step and n of fixed width in levels, d(step M)/d step = M - m and dM/d step = -m / step,
        m being the sum over thresholds t of t times the density of n at t - y.

        Returns:
            M and m, in quantiser steps.
        """
        sigma = self.width / step
        near = y.floor() + 0.5  # the nearest threshold
        r = y - near  # -0.5 .. 0.5
        if self.noise == "laplacian":
            b = sigma / math.sqrt(2)
            rest = -torch.expm1(-1 / b)  # 1 - q, q = exp(-1 / b)
            sinh = (torch.exp((r - 1) / b) - torch.exp((-r - 1) / b)) / 2  # q sinh(r / b), which cannot overflow
            mean = near - 0.5 * r.sign() * torch.expm1(-r.abs() / b) + sinh / rest
            return mean, near * self(y, step) + sinh / (b * rest.square())
        if self.noise == "uniform":
            half = sigma * math.sqrt(3)
            low, high = (y - half).round(), (y + half).round()  # the interval covers the thresholds low + 1/2 .. high - 1/2
            moment = (high.square() - low.square()) / 2
            return (high * (y + half) - low * (y - half) - moment) / (2 * half), moment / (2 * half)
        narrow = near + sum(torch.special.ndtr((r - k) / sigma) for k in (-1, 0, 1)) - 1.5
        narrow_moment = sum((near + k) * _normal(r - k, sigma) for k in (-1, 0, 1))
        # first term of the Fourier series of round(y) - y, and m = y M_y + sigma M_sigma
        wave = torch.exp(-2 * (math.pi * sigma).square())
        sine = wave * torch.sin(2 * math.pi * r) / math.pi
        wide_moment = y * self(y, step) - (2 * math.pi * sigma).square() * sine
        wide = sigma > 0.45
        return torch.where(wide, y + sine, narrow), torch.where(wide, wide_moment, narrow_moment)


def _normal(x: Tensor, sigma: Tensor) -> Tensor:
    """Density of a Gaussian."""
    return torch.exp(-0.5 * (x / sigma).square()) / (sigma * math.sqrt(2 * math.pi))


def moments(slope: Slope, y: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """:meth:`Expected.moments` for any slope; for slopes other than :class:`Expected`, M is the hard level and m the slope times y."""
    return slope.moments(y, step) if isinstance(slope, Expected) else (y.round(), slope(y, step) * y)


SLOPES: dict[str, Slope] = {
    "cubic": cubic,
    "straight_through": straight_through,
    "soft": soft,
    "expected": Expected(),
    "expected_gaussian": Expected("gaussian", 6.0),
    "expected_uniform": Expected("uniform", 6.0),
}
#: Names of gradients that the exact :class:`~diffcodec.DiffJPEG` takes; "identity" bypasses the codec.
GRADIENTS = (*SLOPES, "identity")
