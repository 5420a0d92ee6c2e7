"""Surrogates of round() with a useful gradient.

Quantisation is ``round(c / q) * q``; its derivative is 0 almost everywhere, so training through it needs a surrogate. Each function
here takes a tensor of any shape and returns one of the same shape. :data:`ROUNDINGS` lists them by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Rounding = Callable[[Tensor], Tensor]


def paper(x: Tensor) -> Tensor:
    """Eq. (1) of REVMark (ACM MM'23), taken literally: x^3 for \\|x\\| < 0.5, x otherwise.

    Only the dead zone is modelled: values beyond it are not rounded at all.
    """
    return torch.where(x.abs() < 0.5, x**3, x)


def cubic(x: Tensor) -> Tensor:
    """round(x) + (x - round(x))^3 (Shin and Song 2017; REVMark's public code). Slope 3 (x - round(x))^2, 1/4 on average.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.rounding.cubic(torch.tensor([0.2, 1.0]))
        tensor([0.0080, 1.0000])
    """
    r = x.detach().round()
    return r + (x - r) ** 3


def straight_through(x: Tensor) -> Tensor:
    """round(x) forward, slope 1 (Bengio et al. 2013)."""
    return x + (x.round() - x).detach()


def identity(x: Tensor) -> Tensor:
    """x: no rounding, slope 1."""
    return x


def noise(x: Tensor, u: Tensor | None = None) -> Tensor:
    """x + u with u uniform in [-0.5, 0.5) (Balle et al. 2017), slope 1.

    Args:
        x: any shape.
        u: uniform numbers in [0, 1) of the same shape; None draws them here.
    """
    u = torch.rand_like(x) if u is None else u.to(x)
    return x + (u - 0.5)


def soft(x: Tensor, sharpness: float = 5.0) -> Tensor:
    """Soft rounding, floor(x) + 1/2 + tanh(s r) / (2 tanh(s / 2)) with r = x - floor(x) - 1/2 (Agustsson and Theis 2020, eq. 9).

    Args:
        x: any shape.
        sharpness: s > 0; towards 0 the function tends to x, towards infinity to round(x).

    Raises:
        ValueError: sharpness that is not above 0.
    """
    if not sharpness > 0:
        raise ValueError(f"sharpness expected to be above 0, got {sharpness!r}")
    base = x.detach().floor() + 0.5
    return base + torch.tanh(sharpness * (x - base)) / (2 * math.tanh(sharpness / 2))


#: Surrogates of round() by name: paper, cubic, straight_through, identity, noise, soft.
ROUNDINGS: dict[str, Rounding] = {
    "paper": paper,
    "cubic": cubic,
    "straight_through": straight_through,
    "identity": identity,
    "noise": noise,
    "soft": soft,
}


def get(rounding: str | Rounding) -> Rounding:
    """The surrogate of that name; a callable is returned unchanged."""
    if callable(rounding):
        return rounding
    if rounding not in ROUNDINGS:
        raise ValueError(f"unknown rounding {rounding!r}; expected one of {', '.join(map(repr, ROUNDINGS))} or a function")
    return ROUNDINGS[rounding]
