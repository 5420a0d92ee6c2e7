"""Checks of layer inputs, and operations whose gradient is not that of their value.

Shapes and dtypes are always checked, at no cost. Values are checked in eager calls on every device, unless ``validate(False)`` is set.
"""

from __future__ import annotations

import functools
import math
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

_EIGHT_BIT = 8.0  # a maximum above this, with hardly anything below 0, indicates a scale such as 0..255
_OUTSIDE, _SHARE = 0.05, 0.1  # values further outside [0, 1] than this count as lost to the clamp; a larger share of them is warned of
_reads: ContextVar[bool] = ContextVar("validate", default=True)
_warned: set[tuple[str, str]] = set()


class validate:
    """Switch the check of input values (NaN, infinity, a scale other than [0, 1]) on or off.

    It is on by default, on every device. On CUDA it synchronises with the GPU once per call; ``validate(False)`` avoids that.
    Use it as a call (``validate(False)``, from now on) or as a context manager (``with validate(False): ...``); both affect the current thread
    only.

    Args:
        on: whether values are checked.

    Example:
        >>> import torch, diffcodec as dc
        >>> with dc.validate(False):  # nothing waits for a GPU
        ...     out = dc.DiffJPEG(50)(torch.rand(1, 3, 8, 8))
    """

    def __init__(self, on: bool) -> None:
        self._on = bool(on)
        self._before = [_reads.get()]
        self._entered = False
        _reads.set(self._on)

    def __enter__(self) -> validate:
        if self._entered:  # the same object entered again: the current setting is restored afterwards
            self._before.append(_reads.get())
            _reads.set(self._on)
        self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        _reads.set(self._before.pop())


def check_tensor(x: object, who: str) -> Tensor:
    """Check for a floating point tensor without empty dimensions; the error names the value received."""
    if isinstance(x, (list, tuple)):
        raise TypeError(
            f"{who} expected a torch.Tensor, got {type(x).__name__}; for [noised, cover] wrap the layer with diffcodec.adapt(layer)"
        )
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
        raise ValueError(f"{who} expected a video [B, T, 3, H, W], got shape {tuple(x.shape)}{_layout_hint(x, True)}")
    return x


def check_image_or_video(x: object, who: str, channels: tuple[int, ...] = (1, 3)) -> Tensor:
    """An image batch ``[B, C, H, W]`` or a video ``[B, T, C, H, W]`` with C in ``channels``."""
    x = check_tensor(x, who)
    if x.dim() not in (4, 5) or x.shape[-3] not in channels:
        c = " or ".join(map(str, channels))
        hint = _layout_hint(x, False)
        raise ValueError(f"{who} expected images [B, {c}, H, W] or videos [B, T, {c}, H, W], got shape {tuple(x.shape)}{hint}")
    return x


def _layout_hint(x: Tensor, only_videos: bool) -> str:
    if x.dim() == 5 and x.shape[1] == 3:
        return "; this looks like [B, C, T, H, W]: wrap the layer with diffcodec.adapt(layer, layout='BCTHW')"
    if x.dim() in (4, 5) and x.shape[-1] == 3:
        layout = "BTHWC" if x.dim() == 5 else "BHWC"
        return f"; this looks like channels last: wrap the layer with diffcodec.adapt(layer, layout='{layout}')"
    if x.dim() == 4 and x.shape[1] == 3 and only_videos:
        return "; a batch of images is a batch of clips of one frame each, x[:, None]; the frames of one clip are x[None]"
    if x.dim() == 4 and x.shape[1] == 3:
        return "; a single clip needs a batch dimension: x[None]"
    if x.dim() == 3:
        return "; a single image needs a batch dimension: x[None]" + (", as a clip of one frame x[None, None]" if only_videos else "")
    return ""


def check_values(x: Tensor, who: str) -> None:
    """Reject values that cannot be a picture; warn once if many are lost to the clamp.

    The same on every device: NaN and infinity are errors, and so are values on a 0..255 scale and values that all lie outside [0, 1]. Values outside
    [0, 1] are clamped, with the gradient passed through; if more than a tenth of them lie well outside, there is a warning, once for each ``who``.
    """
    plain = _readable(x)
    if plain is None:
        return
    low, high = (v.item() for v in torch.aminmax(plain))
    if low >= -_OUTSIDE and high <= 1 + _OUTSIDE and high >= 0 and low <= 1:
        return
    if not (low > -math.inf and high < math.inf):  # aminmax carries NaN through
        raise ValueError(f"{who} expected finite values in [0, 1], got NaN or infinity (min {low}, max {high})")
    span = f"min {low:.4g}, max {high:.4g}"
    if high > _EIGHT_BIT and low > -high / 4:
        raise ValueError(
            f"{who} expected values in [0, 1], got {span}: a 0..255 video? divide by 255, or wrap the layer with"
            " diffcodec.adapt(layer, range=(0, 255))"
        )
    if high < 0 or low > 1:
        raise ValueError(
            f"{who} expected values in [0, 1], got {span}: all of them lie outside;"
            " for another range wrap the layer with diffcodec.adapt(layer, range=(low, high))"
        )
    if (who, "outside") in _warned:
        return
    share = ((plain < -_OUTSIDE) | (plain > 1 + _OUTSIDE)).float().mean().item()
    if share > _SHARE:
        _warned.add((who, "outside"))
        meant = "for values in [-1, 1]" if -1.001 <= low < -0.5 and high <= 1.001 else "for another range"
        warnings.warn(
            f"{who} expected values in [0, 1], got {span}: {100 * share:.0f} % of them lie outside and are clamped; {meant} wrap the layer with"
            f" diffcodec.adapt(layer, range={'(-1, 1)' if meant.endswith('[-1, 1]') else '(low, high)'}) (shown once)",
            stacklevel=_outside_stack(),
        )


def _outside_stack() -> int:
    """Stack level of the caller's own line: the first frame outside diffcodec and torch."""
    import sys

    level, frame = 1, sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("diffcodec", "torch"):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    return level


def as_working(video: Tensor) -> Tensor:
    """A video in working precision, float64 or float32, clamped to [0, 1] with the gradient passed through."""
    return clamp_through(video if video.dtype == torch.float64 else video.float())


def as_given(out: Tensor, video: Tensor) -> Tensor:
    """A layer's result, clamped to [0, 1] with the gradient passed through and cast to the dtype of its input."""
    return clamp_through(out).to(video.dtype)


def check_names(who: str, draw: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that a draw holds exactly the expected names."""
    held = sorted(map(str, draw)) or "nothing"
    for name in expected:
        if name not in draw:
            raise ValueError(f"{who} got a draw without {name!r}: sample(video.shape) makes one; it holds {held}")
    if extra := [str(name) for name in draw if name not in expected]:
        raise ValueError(
            f"{who} got a draw with {', '.join(map(repr, extra))}, which it does not draw: is it of another layer? It holds {held}"
        )


def check_frames(who: str, index: Tensor, frames: int) -> None:
    """Check the frame indices of a draw. Values on a GPU are not read, so nothing waits for it.

    Raises:
        ValueError: not integers, or outside 0..frames - 1.
    """
    if index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"{who} got a draw with frame indices of dtype {index.dtype}, whole numbers were expected")
    if index.device.type == "cpu" and not traced(index) and not 0 <= int(index.min()) <= int(index.max()) < frames:
        raise ValueError(
            f"{who} got a draw with frames {index.flatten()[:8].tolist()} for clips of {frames} frames: sample(video.shape) makes one"
        )


def _readable(x: Tensor) -> Tensor | None:
    """The plain tensor whose values can be read now; None if they cannot be read or the check is off."""
    if traced(x) or not _reads.get() or (x.device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        return None
    x = x.detach()
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return None
        x = torch._C._functorch.get_unwrapped(x)
    return x


def traced(x: Tensor) -> bool:
    """Whether a tensor is traced or fake, so that it has no values."""
    return torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter)


def transforms(x: Tensor) -> list[str]:
    """The torch.func transforms (and forward-mode autograd) that wrap a tensor, innermost first: "grad" (vjp, jacrev), "jvp", "vmap"."""
    if torch.compiler.is_compiling():
        return []
    functorch, forward = torch._C._functorch, torch.autograd.forward_ad
    kinds = {s.level(): s.key().name.lower() for s in functorch.get_interpreter_stack() or []}
    out = []
    while functorch.is_functorch_wrapped_tensor(x):
        out.append(kinds.get(functorch.maybe_get_level(x), "grad"))
        x = functorch.get_unwrapped(x)
    if not kinds and forward._current_level >= 0 and forward.unpack_dual(x).tangent is not None:
        out.append("jvp")
    return out


SECOND_ORDER = (
    "gradients of second order are not supported by this layer: its backward pass is not differentiable; DiffJPEG(rounding='cubic') has"
    " them, and attacks with backend='reference'"
)


class _NotTwice(torch.autograd.Function):
    """Identity on gradients that keeps them in the graph, so that differentiating them raises an error."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(t.clone() for t in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        raise RuntimeError(SECOND_ORDER)


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Mark the backward of an autograd function as not differentiable: differentiating it raises an error."""

    @functools.wraps(backward)
    def guarded(ctx: Any, *grads: Any) -> Any:
        if torch.compiler.is_compiling():
            return backward(ctx, *grads)
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled() or not any(isinstance(g, Tensor) and g.requires_grad for g in grads):
            return found
        single = not isinstance(found, tuple)
        out = [found] if single else list(found)
        places = [i for i, g in enumerate(out) if isinstance(g, Tensor)]
        for i, g in zip(places, _NotTwice.apply(len(places), *(out[i] for i in places), *(g for g in grads if isinstance(g, Tensor)))):
            out[i] = g
        return out[0] if single else tuple(out)

    return guarded


# Operations whose gradient is not that of their value. Each is a pair of classes: torch.compile rejects a custom forward-mode derivative,
# torch.func.jvp requires one.


class _ClampThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clamp(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class _FloorThrough(_ClampThrough):
    @staticmethod
    def forward(x: Tensor) -> Tensor:  # type: ignore[override]
        return x.floor()


class _Replace(_ClampThrough):
    @staticmethod
    def forward(stand_in: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


class _Tangent:
    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *rest: Any) -> Tensor:
        return tangent.clone()


class _ClampThroughEager(_Tangent, _ClampThrough):
    pass


class _FloorThroughEager(_Tangent, _FloorThrough):
    pass


class _ReplaceEager(_Tangent, _Replace):
    pass


def clamp_through(x: Tensor) -> Tensor:
    """Clamp to [0, 1] forward, pass the gradient unchanged, so that values outside still receive one.

    Shape: any -> same.
    """
    return (_ClampThrough if torch.compiler.is_compiling() else _ClampThroughEager).apply(x)  # type: ignore[no-any-return]


def floor_through(x: Tensor) -> Tensor:
    """Floor forward, gradient unchanged. Shape: any -> same."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return x.floor()
    return (_FloorThrough if torch.compiler.is_compiling() else _FloorThroughEager).apply(x)  # type: ignore[no-any-return]


def half_up(x: Tensor) -> Tensor:
    """Round as codecs do, ``floor(x + 1/2)``, gradient unchanged. Shape: any -> same."""
    return floor_through(x + 0.5)


def replace_value(stand_in: Tensor, value: Tensor) -> Tensor:
    """Exactly ``value`` in the forward pass, the gradient of ``stand_in`` in the backward pass."""
    return (_Replace if torch.compiler.is_compiling() else _ReplaceEager).apply(stand_in, value)  # type: ignore[no-any-return]


def require(name: str, value: object, allowed: Sequence[object]) -> None:
    """Check that ``value`` is one of ``allowed``; the error lists them."""
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(map(repr, allowed))}")


def frame_rate(fps: object, name: str = "fps", low: float = 0.1, high: float = 1000) -> Fraction:
    """A frame rate as a fraction with a denominator of at most 1001.

    Args:
        fps: a number, a :class:`~fractions.Fraction`, or text such as "25", "23.976" or "30000/1001".

    Raises:
        ValueError: anything else, or outside [low, high].
    """
    try:
        if isinstance(fps, bool) or not isinstance(fps, (numbers.Real, Fraction, str)):
            raise ValueError
        rate = Fraction(fps if isinstance(fps, (str, Fraction)) else float(fps))
    except (ValueError, OverflowError, ZeroDivisionError):
        raise ValueError(f"{name} expected a number or text such as '30000/1001', got {fps!r}") from None
    if not low <= rate <= high:
        raise ValueError(f"{name} expected to lie in [{low:g}, {high:g}], got {fps!r}")
    return rate.limit_denominator(1001)
