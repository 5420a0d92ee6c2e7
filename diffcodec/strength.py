"""How strong a distortion is: a number, one number per sample, a range to draw from, or a schedule over steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Union

import torch
from torch import Tensor

Value = Union[float, tuple[float, float], Tensor]
StrengthLike = Union[Value, Callable[[int], Value]]


@dataclass(frozen=True)
class Ramp:
    """A strength that moves linearly with the training step.

    The step is an argument of the layer's call (``layer(video, step=n)``): the schedule keeps no state, so a resumed
    run goes on exactly where it stopped.

    Args:
        first: value (a number or a (low, high) range) up to step ``start``.
        last: value from step ``stop`` on; of the same kind as ``first``.
        start, stop: steps between which the value moves.
    """

    first: float | tuple[float, float]
    last: float | tuple[float, float]
    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.stop < self.start:
            raise ValueError(f"Ramp expected start <= stop, got start={self.start}, stop={self.stop}")
        if isinstance(self.first, tuple) != isinstance(self.last, tuple):
            raise ValueError(f"Ramp expected two numbers or two ranges, got {self.first!r} and {self.last!r}")

    def __call__(self, step: int) -> float | tuple[float, float]:
        span = self.stop - self.start
        t = float(step >= self.stop) if span == 0 else min(max((step - self.start) / span, 0.0), 1.0)
        if isinstance(self.first, tuple) and isinstance(self.last, tuple):
            return (_mix(self.first[0], self.last[0], t), _mix(self.first[1], self.last[1], t))
        return _mix(self.first, self.last, t)  # type: ignore[arg-type]


def _mix(a: float, b: float, t: float) -> float:
    return a + (b - a) * t


class Strength:
    """One strength of a layer, checked when the layer is made and drawn when it is called.

    Args:
        value: a number, a tensor ``[B]``, a (low, high) range drawn uniformly per sample, or a callable step -> one of these.
        name: what the user called it, for errors.
        low, high: the values it may take, inclusive.
        integer: draw whole numbers.
    """

    def __init__(self, value: StrengthLike, name: str, low: float, high: float, *, integer: bool = False) -> None:
        self.name, self.low, self.high, self.integer = name, low, high, integer
        self.value = value
        if isinstance(value, Ramp):
            self._check(value.first)
            self._check(value.last)
        elif not callable(value):
            self._check(value)

    def _check(self, value: object) -> None:
        expected = f"{self.name} expected to lie in [{self.low:g}, {self.high:g}]"
        if isinstance(value, Tensor):
            if value.dim() > 1:
                raise ValueError(f"{self.name} expected a tensor [B], got shape {tuple(value.shape)}")
            if value.device.type == "cpu" and not torch.compiler.is_compiling():
                bad = value.detach()[~((value.detach() >= self.low) & (value.detach() <= self.high))]
                if bad.numel():
                    raise ValueError(f"{expected}, got {bad.flatten()[0].item():g}")
            return
        if isinstance(value, (tuple, list)):
            if len(value) != 2 or not all(isinstance(v, Real) for v in value) or not float(value[0]) <= float(value[1]):
                raise ValueError(f"{self.name} expected a range (low, high) with low <= high, got {value!r}")
            self._check(value[0])
            self._check(value[1])
            return
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{self.name} expected a number, a tensor [B], a range (low, high) or a schedule, got {value!r}")
        if not self.low <= float(value) <= self.high:  # NaN fails as well
            raise ValueError(f"{expected}, got {value!r}")
        if self.integer and not float(value).is_integer():
            raise ValueError(f"{self.name} expected a whole number, got {value!r}")

    def at(self, step: int | None) -> Value:
        """The value (number, range or tensor) in force at a training step."""
        if not callable(self.value):
            return self.value
        if step is None:
            raise ValueError(f"{self.name} follows a schedule: call the layer with step=<training step>")
        value = self.value(step)
        self._check(value)
        return value

    def draw(
        self, batch: int, generator: torch.Generator | None = None, device: torch.device | None = None, step: int | None = None
    ) -> Tensor:
        """One value per sample, ``[B]`` float32."""
        value = self.at(step)
        where = draw_device(generator, device)
        if isinstance(value, Tensor):
            if value.dim() == 1 and value.shape[0] != batch:
                raise ValueError(f"{self.name} holds {value.shape[0]} values, the batch has {batch} samples")
            out = value.float().expand(batch)
        elif isinstance(value, (tuple, list)):
            low, high = value
            u = torch.rand(batch, generator=generator, device=where)
            out = torch.floor(low + u * (high - low + 1)).clamp(max=high) if self.integer else low + u * (high - low)
        else:
            out = torch.full((batch,), float(value), device=where)
        return out if device is None else out.to(device)

    def __repr__(self) -> str:
        return repr(self.value)


def draw_device(generator: torch.Generator | None, device: torch.device | None) -> torch.device:
    """Where random numbers are made: a generator works on its own device only."""
    if generator is not None:
        return generator.device
    return torch.device("cpu") if device is None else torch.device(device)


def uniform(shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """Uniform numbers in [0, 1), made on the generator's device, then moved."""
    out = torch.rand(shape, generator=generator, device=draw_device(generator, device))
    return out if device is None else out.to(device)


def normal(shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """Standard normal numbers, made on the generator's device, then moved."""
    out = torch.randn(shape, generator=generator, device=draw_device(generator, device))
    return out if device is None else out.to(device)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """``[B]`` -> ``[B, 1, ..., 1]`` of the rank, device and dtype of ``like``."""
    return values.to(like).reshape(-1, *[1] * (like.dim() - 1))
