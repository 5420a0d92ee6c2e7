"""How strong a distortion is: a number, one number per sample, a range or values to draw from, or a schedule over steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeGuard, Union

import numpy as np
import torch
from torch import Tensor

from .checks import traced


@dataclass(frozen=True)
class Choice:
    """A strength drawn from a few values, one for each sample: ``DiffH264(crf=dc.Choice([28, 34, 40]))``.

    Args:
        values: values to draw from, at least one.
        weights: relative weight of each value, >= 0 and not all 0; None for equal weights.

    Raises:
        TypeError: values that are not numbers.
        ValueError: no values, or weights of another number, negative or all 0.

    Example:
        >>> import torch, diffcodec as dc
        >>> layer = dc.DiffJPEG(dc.Choice([30, 50, 90]))
        >>> set(layer.sample((64, 3, 8, 8))["quality"].tolist()) == {30, 50, 90}
        True
    """

    values: Sequence[float]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ValueError("Choice expected at least one value, got none")
        if not all(map(_is_number, self.values)):
            raise TypeError(f"Choice expected numbers, got {self.values!r}")
        if self.weights is None:
            return
        object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))
        if len(self.weights) != len(self.values) or not all(0 <= w < float("inf") for w in self.weights) or not sum(self.weights):
            raise ValueError(f"Choice expected {len(self.values)} weights >= 0 and not all 0, got {self.weights!r}")

    def draw(self, batch: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Shape: ``[batch]`` float32."""
        shares = torch.tensor(self.weights or [1.0] * len(self.values), dtype=torch.float32, device=device)
        index = torch.multinomial(shares, batch, replacement=True, **_from(generator))
        return torch.tensor([float(v) for v in self.values], dtype=torch.float32, device=device)[index]


Value = Union[float, tuple[float, float], Choice, Tensor, np.ndarray]
StrengthLike = Union[Value, Callable[[int], Value]]


@dataclass(frozen=True)
class Ramp:
    """A strength, or the weights of a mixture, that moves linearly with the training step.

    The step is an argument of the layer's call (``layer(video, step=n)``): the schedule keeps no state, so a resumed
    run goes on exactly where it stopped. A strength that takes whole numbers only is rounded.

    Args:
        first: value (a number, a (low, high) range or a list of weights) up to step ``start``.
        last: value from step ``stop`` on; of the same kind as ``first``.
        start, stop: training steps between which the value moves, start <= stop.

    Raises:
        TypeError: ends that are not numbers or lists of numbers.
        ValueError: start > stop, or ``first`` and ``last`` of different kinds or lengths.

    Example:
        >>> import torch, diffcodec as dc
        >>> layer = dc.GaussianNoise(dc.Ramp(0.0, 0.1, 0, 1000))
        >>> layer.sample((1, 3, 2, 2), step=500)["sigma"]
        tensor([0.0500])
    """

    first: float | Sequence[float]
    last: float | Sequence[float]
    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.stop < self.start:
            raise ValueError(f"Ramp expected start <= stop, got start={self.start}, stop={self.stop}")
        for end in (self.first, self.last):
            if not all(map(_is_number, end if isinstance(end, Sequence) else [end])):
                raise TypeError(f"Ramp expected numbers, ranges or lists of numbers, got {end!r}")
        if _length(self.first) != _length(self.last):
            raise ValueError(f"Ramp expected two numbers, two ranges or two lists of one length, got {self.first!r} and {self.last!r}")

    def __call__(self, step: int) -> float | tuple[float, ...]:
        span = self.stop - self.start
        t = float(step >= self.stop) if span == 0 else min(max((step - self.start) / span, 0.0), 1.0)
        if isinstance(self.first, Sequence) and isinstance(self.last, Sequence):
            return tuple(_mix(a, b, t) for a, b in zip(self.first, self.last))
        return _mix(self.first, self.last, t)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Steps:
    """A strength, or the weights of a mixture, that changes at given training steps.

    Args:
        values: by the training step from which it holds, a value: a number, a (low, high) range, a :class:`Choice` or a list of weights. Step 0 is
            required.

    Raises:
        ValueError: there is no value for step 0, or a step is negative or not a whole number.

    Example:
        >>> import torch, diffcodec as dc
        >>> layer = dc.RandomDistortion([dc.Identity(), dc.DiffJPEG(50)], weights=dc.Steps({0: [1, 0], 3000: [1, 4]}))
        >>> layer.sample((2, 3, 8, 8), step=2999)["choice"]
        [0, 0]
    """

    values: Mapping[int, Any]

    def __post_init__(self) -> None:
        if wrong := [step for step in self.values if not _is_number(step) or step != int(step)]:
            raise ValueError(f"Steps expected whole numbers of steps, got {wrong[0]!r}")
        steps = {int(step): value for step, value in self.values.items()}
        if not steps or min(steps) != 0:
            raise ValueError(f"Steps expected values from step 0 on, got {dict(self.values)!r}")
        object.__setattr__(self, "values", dict(sorted(steps.items())))

    def __call__(self, step: int) -> Any:
        return self.values[max(s for s in self.values if s <= max(0, step))]


def _values_of(value: object) -> list[Any]:
    """The values of a schedule; of anything else, the value itself."""
    if isinstance(value, Ramp):
        return [value.first, value.last]
    return list(value.values.values()) if isinstance(value, Steps) else [value]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _length(value: object) -> int | None:
    return len(value) if isinstance(value, Sequence) else None


def _mix(a: float, b: float, t: float) -> float:
    return a + (b - a) * t


_FORMS = "a list is one value per sample; a range is a tuple (low, high), values to choose from are diffcodec.Choice([...])"


class Strength:
    """One strength of a layer, checked when the layer is made and drawn when it is called.

    Args:
        value: a number, one number per sample (a list, a tensor or an array ``[B]``), a range drawn uniformly per sample (a tuple (low, high)), a
            :class:`Choice`, or a callable step -> one of these.
        name: name of the argument, for error messages.
        low, high: allowed range, ends included.
        integer: whether only whole numbers are allowed; ranges then draw whole numbers, and a :class:`Ramp` is rounded.

    Raises:
        TypeError: a value of another kind.
        ValueError: a value out of range or not a whole number, a range with low > high, a tensor of more than one dimension.
    """

    def __init__(self, value: StrengthLike, name: str, low: float, high: float, *, integer: bool = False) -> None:
        self.name, self.low, self.high, self.integer = name, low, high, integer
        self._some: tuple[list[int], int] | None = None  # a subset of the batch: sample indices, batch size
        if isinstance(value, (Ramp, Steps)):
            for one in _values_of(value):
                if isinstance(value, Ramp) and isinstance(one, list):
                    raise TypeError(f"{name} expected the ends of a Ramp to be numbers or ranges (low, high), got {one!r}; {_FORMS}")
                (self._check if isinstance(value, Ramp) else self._checked)(one)
        elif not callable(value):
            value = self._checked(value)
        self.value = value

    def given(self, value: object) -> Strength:
        """The same strength with a value given at a call, in the same forms.

        Raises:
            ValueError, TypeError: out of range, or of another kind.
        """
        return Strength(value, self.name, self.low, self.high, integer=self.integer)  # type: ignore[arg-type]

    def rows(self, rows: list[int], batch: int) -> Strength:
        """The same strength for a subset of the batch: values given as ``[B]`` are restricted to it."""
        if not (callable(self.value) or (isinstance(self.value, Tensor) and self.value.dim())):
            return self
        out = copy.copy(self)
        out._some = (rows, batch) if self._some is None else ([self._some[0][i] for i in rows], self._some[1])
        return out

    def _checked(self, value: object) -> Value:
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value.copy()) if value.ndim else value.item()
        if isinstance(value, list):
            if not value or not all(map(_is_number, value)):
                raise TypeError(f"{self.name} expected a number for each sample, got {value!r}; {_FORMS}")
            value = torch.tensor([float(v) for v in value], dtype=torch.float32, device="cpu")
        self._check(value)
        return value  # type: ignore[return-value]

    def _check(self, value: object) -> None:
        if isinstance(value, Tensor):
            if value.dim() > 1:
                raise ValueError(f"{self.name} expected a tensor [B], got shape {tuple(value.shape)}")
            self.check_drawn(value, "")
            return
        if isinstance(value, Choice):
            for v in value.values:
                self._check(v)
            return
        if isinstance(value, tuple):
            if len(value) != 2 or not all(isinstance(v, Real) for v in value) or not float(value[0]) <= float(value[1]):
                raise ValueError(
                    f"{self.name} expected a range (low, high) with low <= high, got {value!r};"
                    f" values to choose from are diffcodec.Choice({list(value)!r})"
                )
            self._check(value[0])
            self._check(value[1])
            return
        if not _is_number(value):
            raise TypeError(f"{self.name} expected a number, a tensor [B], a range (low, high), a Choice or a schedule, got {value!r}")
        if not self.low <= float(value) <= self.high:  # NaN fails as well
            raise ValueError(f"{self.name} expected to lie in [{self.low:g}, {self.high:g}], got {value!r}")
        if self.integer and not float(value).is_integer():
            raise ValueError(f"{self.name} expected a whole number, got {value!r}")

    def check_drawn(self, values: Tensor, where: str) -> None:
        """Check that values are allowed. Values on a GPU are not read, so nothing waits for it.

        Args:
            values: drawn or given values, any shape.
            where: beginning of the error message.

        Raises:
            ValueError: out of range, or not whole numbers.
        """
        if values.device.type != "cpu" or traced(values):
            return
        values = values.detach()
        wrong = ~((values >= self.low) & (values <= self.high))
        if wrong.any():
            raise ValueError(f"{where}{self.name} expected to lie in [{self.low:g}, {self.high:g}], got {values[wrong][0].item():g}")
        if self.integer and (broken := values != values.round()).any():
            raise ValueError(f"{where}{self.name} expected whole numbers, got {values[broken][0].item():g}")

    def most(self) -> float:
        """The largest value that can be drawn, as far as it is known: ``high`` for a callable or a tensor."""
        return max(self._most(v) for v in _values_of(self.value))

    def _most(self, value: object) -> float:
        if isinstance(value, Choice):
            return float(max(value.values))
        if isinstance(value, tuple):
            return float(value[1])
        return float(value) if isinstance(value, Real) else self.high

    def at(self, step: int | None) -> Value:
        """The value (number, range, choice or tensor) in force at a training step."""
        if not callable(self.value):
            return self.value
        if step is None:
            raise ValueError(f"{self.name} follows a schedule: call the layer with step=<training step>")
        value = self.value(int(step))
        if self.integer and isinstance(self.value, Ramp):
            value = tuple(round(v) for v in value) if isinstance(value, tuple) else round(value)  # type: ignore[arg-type,assignment]
        return self._checked(value)

    def check_batch(self, batch: int, value: object = None) -> None:
        """Check that a tensor of values (``value``, by default the strength's own) has one per sample."""
        value = self.value if value is None else value
        whole = self._some[1] if self._some else batch
        if isinstance(value, Tensor) and value.dim() == 1 and value.shape[0] != whole:
            raise ValueError(f"{self.name} holds {value.shape[0]} values, the batch has {whole} samples: {_FORMS}")

    def draw(
        self, batch: int, generator: torch.Generator | None = None, device: torch.device | None = None, step: int | None = None
    ) -> Tensor:
        """Draw one value per sample, ``[B]`` float32.

        Args:
            batch: number of samples.
            generator: source of randomness; None for torch's default generator.
            device: device of the result; None leaves it where it was made.
            step: training step, for schedules.

        Raises:
            ValueError: a schedule without ``step``, a value of a schedule out of range, or values for another batch size.
        """
        value = self.at(step)
        where = draw_device(generator, device)
        if isinstance(value, Tensor):
            self.check_batch(batch, value)
            rows = self._some[0] if self._some else None
            out = value.float()
            out = out[rows] if rows is not None and value.dim() == 1 else out.expand(batch)
        elif isinstance(value, Choice):
            out = value.draw(batch, generator, where)
        elif isinstance(value, tuple):
            low, high = (float(v) for v in value)
            u = uniform((batch,), generator, where)
            out = torch.floor(low + u * (high - low + 1)).clamp(max=high) if self.integer else (low + u * (high - low)).clamp(low, high)
        else:
            out = torch.full((batch,), float(value), dtype=torch.float32, device=where)  # type: ignore[arg-type]
        return out if device is None else out.to(device)

    def __repr__(self) -> str:
        return repr(self.value)


def draw_device(generator: torch.Generator | None, device: torch.device | None) -> torch.device:
    """Where random numbers are made: a generator works on its own device only."""
    if generator is not None:
        return generator.device
    return torch.device("cpu") if device is None else torch.device(device)


def _from(generator: torch.Generator | None) -> dict[str, Any]:
    """A keyword argument only if there is a generator: with generator=None torch's random functions take no symbolic sizes when compiled."""
    return {} if generator is None else {"generator": generator}


def uniform(shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """Uniform numbers in [0, 1), made on the generator's device, then moved."""
    out = torch.rand(shape, device=draw_device(generator, device), **_from(generator), dtype=torch.float32)
    return out if device is None else out.to(device)


def whole(high: int, shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """Whole numbers in 0..high - 1, made on the generator's device, then moved."""
    out = torch.randint(high, shape, device=draw_device(generator, device), **_from(generator))
    return out if device is None else out.to(device)


def normal(shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """Standard normal numbers, made on the generator's device, then moved."""
    out = torch.randn(shape, device=draw_device(generator, device), **_from(generator), dtype=torch.float32)
    return out if device is None else out.to(device)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """``[B]`` -> ``[B, 1, ..., 1]`` of the rank, device and dtype of ``like``."""
    return values.to(like).reshape(-1, *[1] * (like.dim() - 1))
