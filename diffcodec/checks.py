"""Checks on what a layer is given, and the switch that turns the costly ones on everywhere.

Shapes and dtypes are always checked: that costs nothing. Values are checked where reading them costs no
synchronisation (eager CPU calls), elsewhere only under ``validate(True)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LOWEST, _HIGHEST = -1.0, 2.0  # a watermarked video leaves [0, 1] a little; a 0..255 tensor leaves this at once
_always = False


class validate:
    """Check the values of every input, on every device.

    By default values (range, NaN) are checked on eager CPU calls only: on CUDA the check would wait for the GPU.
    Works as a call (``validate(True)``) and as a context manager (``with validate(True): ...``).

    Args:
        on: True checks everywhere, False restores the default.
    """

    def __init__(self, on: bool) -> None:
        global _always
        self._before, _always = _always, bool(on)

    def __enter__(self) -> validate:
        return self

    def __exit__(self, *_: object) -> None:
        global _always
        _always = self._before


def check_tensor(x: object, who: str) -> Tensor:
    """A floating point tensor with no empty dimension, or an error that names what came instead."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{who} expected a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{who} expected floating point values in [0, 1], got dtype {x.dtype}; for 8-bit video use video.float() / 255")
    if 0 in x.shape:
        raise ValueError(f"{who} expected every dimension to be at least 1, got shape {tuple(x.shape)}")
    return x


def check_video(x: object, who: str) -> Tensor:
    """A video ``[B, T, 3, H, W]``; errors point to :func:`diffcodec.adapt` where the layout looks like another one."""
    x = check_tensor(x, who)
    if x.dim() != 5 or x.shape[2] != 3:
        raise ValueError(f"{who} expected a video [B, T, 3, H, W], got shape {tuple(x.shape)}{_layout_hint(x)}")
    return x


def check_image_or_video(x: object, who: str, channels: tuple[int, ...] = (1, 3)) -> Tensor:
    """An image batch ``[B, C, H, W]`` or a video ``[B, T, C, H, W]`` with C in ``channels``."""
    x = check_tensor(x, who)
    if x.dim() not in (4, 5) or x.shape[-3] not in channels:
        c = " or ".join(map(str, channels))
        raise ValueError(f"{who} expected images [B, {c}, H, W] or videos [B, T, {c}, H, W], got shape {tuple(x.shape)}{_layout_hint(x)}")
    return x


def _layout_hint(x: Tensor) -> str:
    if x.dim() == 5 and x.shape[1] == 3:
        return "; this looks like [B, C, T, H, W]: wrap the layer with diffcodec.adapt(layer, layout='BCTHW')"
    if x.dim() in (4, 5) and x.shape[-1] == 3:
        layout = "BTHWC" if x.dim() == 5 else "BHWC"
        return f"; this looks like channels last: wrap the layer with diffcodec.adapt(layer, layout='{layout}')"
    if x.dim() in (3, 4):
        return "; a single clip or image needs a batch dimension: x[None]"
    return ""


def check_values(x: Tensor, who: str) -> None:
    """Raise where values are NaN, infinite, or so far outside [0, 1] that they must be on another scale."""
    if torch.compiler.is_compiling() or not (_always or x.device.type == "cpu"):
        return
    low, high = (v.item() for v in torch.aminmax(x.detach()))
    if low >= _LOWEST and high <= _HIGHEST:
        return
    if not (low > -float("inf") and high < float("inf")):  # aminmax carries NaN through
        raise ValueError(f"{who} expected finite values in [0, 1], got NaN or infinity (min {low}, max {high})")
    hint = " (a 0..255 video? divide by 255)" if high > 2 else ""
    raise ValueError(
        f"{who} expected values in [0, 1], got min {low:.4g}, max {high:.4g}{hint};"
        " for another range wrap the layer with diffcodec.adapt(layer, range=(low, high))"
    )


def clamp_through(x: Tensor) -> Tensor:
    """Clamp to [0, 1] forward, pass the gradient unchanged: values slightly outside stay steerable.

    Shape: any -> same.
    """
    return _ClampThrough.apply(x)  # type: ignore[no-any-return]


class _ClampThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad


class _FloorThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return x.floor()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad


def floor_through(x: Tensor) -> Tensor:
    """Floor forward, gradient unchanged. Shape: any -> same."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return x.floor()
    return _FloorThrough.apply(x)  # type: ignore[no-any-return]


def half_up(x: Tensor) -> Tensor:
    """Rounded as codecs do, ``floor(x + 1/2)``, gradient unchanged. Shape: any -> same."""
    return floor_through(x + 0.5)


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, stand_in, value):  # type: ignore[no-untyped-def]
        return value.clone()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad, None


def replace_value(stand_in: Tensor, value: Tensor) -> Tensor:
    """``value`` to the bit in the forward pass, the gradient of ``stand_in`` in the backward pass."""
    return _Replace.apply(stand_in, value)  # type: ignore[no-any-return]


def require(name: str, value: object, allowed: Sequence[object]) -> None:
    """``value`` is one of ``allowed``, or an error that lists them."""
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(map(repr, allowed))}")


def traced(x: Tensor) -> bool:
    """Whether torch traces or fakes a tensor, rather than computes with it."""
    return torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter)
