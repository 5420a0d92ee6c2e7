"""Inputs on which every implementation of an operation is compared with its reference, checked against torch's contract for operators, and timed.

A family's ``cases.py`` registers them::

    @case(quarter_pel)
    def planes(scene: Scene) -> tuple[Any, ...]:
        return (scene.luma(),)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backend import Operation
from .. import families

Inputs = Callable[["Scene"], tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """One set of inputs of an operation, and the tolerances within which implementations must agree with the reference.

    Attributes:
        operation: the operation.
        name: name of the case.
        inputs: function from a :class:`Scene` to the arguments.
        differ: fraction of an output's elements that may differ at will (decisions between equal costs), 0..1.
        close: largest difference of the other elements.
        gradient: largest relative error of each gradient, by norm.
        absolute: absolute error of a gradient that is always accepted, for sums that cancel.
        fixed: whether one size is enough: inputs have a fixed size, or differ from those of another case only in a mode.
        differ_cuda, close_cuda, gradient_cuda: the same on a GPU, whose logarithms and order of summation differ; None for the same tolerance.
    """

    operation: Operation[..., Any]
    name: str
    inputs: Inputs
    differ: float = 0.0
    close: float = 0.0
    gradient: float = 2e-6
    absolute: float = 1e-12
    fixed: bool = False
    differ_cuda: float | None = None
    close_cuda: float | None = None
    gradient_cuda: float | None = None

    def __str__(self) -> str:
        return f"{self.operation.name}-{self.name}"


CASES: list[Case] = []


def case(operation: Operation[..., Any], name: str | None = None, **tolerances: Any) -> Callable[[Inputs], Inputs]:
    """Decorator: register a function that makes inputs as a case of an operation.

    Args:
        operation: the operation.
        name: name of the case; None for that of the function.
        **tolerances: as for :class:`Case`.
    """

    def register(inputs: Inputs) -> Inputs:
        CASES.append(Case(operation, name or inputs.__name__, inputs, **tolerances))  # type: ignore[attr-defined]
        return inputs

    return register


def all_cases() -> list[Case]:
    """Cases of all families."""
    for family in families():
        importlib.import_module(f"diffcodec.ops.{family}.cases")
    return list(CASES)


class Scene:
    """Makes reproducible inputs of one size.

    Args:
        n: number of frames.
        h, w: height and width of luma, multiples of 16.
        device: device of the inputs.
        seed: seed of random numbers.
    """

    def __init__(self, n: int = 2, h: int = 48, w: int = 32, device: torch.device | str = "cpu", seed: int = 0) -> None:
        self.n, self.h, self.w, self.device = n, h, w, torch.device(device)
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform random numbers in [0, 1)."""
        return torch.rand(shape, generator=self._generator, dtype=torch.float32, device="cpu").to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal random numbers."""
        return torch.randn(shape, generator=self._generator, dtype=torch.float32, device="cpu").to(self.device)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        """Random whole numbers low..high - 1."""
        return torch.randint(low, high, shape, generator=self._generator, device="cpu").to(self.device)

    def mask(self, chance: float, *shape: int) -> Tensor:
        """A mask that is True with probability ``chance``."""
        return self.uniform(*shape) < chance

    def picture(self, n: int, channels: int, h: int, w: int) -> Tensor:
        """Smooth fields that move from frame to frame ``[n, channels, h, w]``, in [0, 1]."""
        big = torch.zeros(1, channels, h + 2 * n, w + 2 * n, dtype=torch.float32, device="cpu")
        for k in (3, 8, 24):
            noise = torch.rand(1, channels, k, k, generator=self._generator, dtype=torch.float32, device="cpu")
            big += F.interpolate(noise, size=big.shape[-2:], mode="bicubic", align_corners=False) / 3
        return torch.stack([big[0, :, i : i + h, 2 * i : 2 * i + w] for i in range(n)]).clamp(0, 1).to(self.device)

    def luma(self, n: int | None = None, grain: float = 8, h: int | None = None, w: int | None = None) -> Tensor:
        """Moving luma with some grain ``[n, h, w]``, whole numbers 0..255."""
        n, h, w = n or self.n, h or self.h, w or self.w
        return (self.picture(n, 1, h, w)[:, 0] * 255 + grain * self.normal(n, h, w)).round().clamp(0, 255)

    def chroma(self, n: int | None = None, grain: float = 8) -> Tensor:
        """``[n, 2, h/2, w/2]``."""
        n = n or self.n
        return self.luma(2 * n, grain, self.h // 2, self.w // 2).view(n, 2, self.h // 2, self.w // 2)

    def black_and_white(self, *shape: int) -> Tensor:
        """0 and 255 at random, which makes filters clip."""
        return 255.0 * self.whole(0, 2, *shape)

    def near(self, x: Tensor, share: float = 0.15) -> Tensor:
        """A prediction of luma or chroma x, whole numbers: x blended with another picture, whose weight is ``share``."""
        return (x + share * (self.luma().view(x.shape) - x if x.dim() == 3 else self.chroma() - x)).round()

    def macroblocks(self, chance: float) -> Tensor:
        """A mask of macroblocks ``[n, h/16, w/16]``."""
        return self.mask(chance, self.n, self.h // 16, self.w // 16)

    def qp(self, low: int = 16, high: int = 36) -> Tensor:
        """QPs low..high - 1 ``[n, h/16, w/16]``."""
        return self.whole(low, high, self.n, self.h // 16, self.w // 16).float()

    def lam(self, most: float = 5.0) -> Tensor:
        """Lambdas from 0 to ``most`` ``[n, h/16, w/16]``."""
        return most * self.uniform(self.n, self.h // 16, self.w // 16)
