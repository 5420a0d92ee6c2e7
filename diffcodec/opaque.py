"""Layers that compilers and torch.func cannot trace, as a single step: an operator of torch.library, or an autograd function.

A codec that loops over frames, or calls an encoder, is one node of a compiled graph: the layer itself computes its value, its shape is known
beforehand, and its backward pass runs the codec again (which saves the memory of all intermediates). Layers are passed by number, as a graph
cannot hold objects.
"""

from __future__ import annotations

import ast
import collections
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .checks import SECOND_ORDER, transforms

if TYPE_CHECKING:
    from .layer import Layer

_library = torch.library.Library("diffcodec", "FRAGMENT")
_layers: weakref.WeakValueDictionary[int, Layer] = weakref.WeakValueDictionary()
_recent: collections.deque[Layer] = collections.deque(maxlen=64)  # a compiled layer may go out of scope before its backward pass
_numbers = itertools.count()


def number(layer: Layer) -> int:
    """Register a layer; returns its number, valid in this process for as long as the layer lives."""
    n = next(_numbers)
    _layers[n] = layer
    return n


def _layer(n: int) -> Layer:
    layer = _layers.get(n)
    if layer is None:
        raise RuntimeError("a compiled graph calls a layer that was freed: keep a reference to the module that was compiled")
    if layer not in _recent:
        _recent.append(layer)
    return layer


def flatten(draw: Any, tensors: list[Tensor]) -> str:
    """A draw as text; its tensors are appended to a list and written as ``(i,)``, their index. Inverse: :func:`unflatten`."""
    if isinstance(draw, Tensor):
        tensors.append(draw)
        return f"({len(tensors) - 1},)"
    if isinstance(draw, Mapping):
        return "{" + ", ".join([f"{k!r}: {flatten(v, tensors)}" for k, v in draw.items()]) + "}"
    if isinstance(draw, (list, tuple)):
        return "[" + ", ".join([flatten(v, tensors) for v in draw]) + "]"
    if draw is None or isinstance(draw, (bool, int, float, str)):
        return repr(draw)
    raise TypeError(
        f"a draw of tensors and plain data was expected, it holds {type(draw).__name__}: this cannot be compiled or transformed"
    )


def unflatten(text: str, tensors: Sequence[Tensor]) -> Any:
    """A draw from its text and its tensors."""

    def filled(x: Any) -> Any:
        if isinstance(x, tuple):
            return tensors[x[0]]
        if isinstance(x, dict):
            return {k: filled(v) for k, v in x.items()}
        return [filled(v) for v in x] if isinstance(x, list) else x

    return filled(ast.literal_eval(text))


def _code(layer: Layer, draw: str, video: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        return layer.work(video.detach(), unflatten(draw, [t.detach() for t in tensors])).contiguous().clone()


def _differentiate(layer: Layer, draw: str, grad: Tensor, video: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Gradients with respect to the video and the floating point tensors, by running the layer again."""
    inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in (video, *tensors)]
    wanted = [x for x in inputs if x.requires_grad]
    with torch.enable_grad():
        out = layer.work(inputs[0], unflatten(draw, inputs[1:]))
        found = torch.autograd.grad(out, wanted, grad.to(out.dtype), allow_unused=True) if out.requires_grad else [None] * len(wanted)
    return [torch.zeros_like(x) if g is None else g.contiguous().clone() for g, x in zip(found, wanted)]


def _coded(video: Tensor, tensors: list[Tensor], layer: int, draw: str) -> Tensor:
    return _code(_layer(layer), draw, video, tensors)


def _gradients(grad: Tensor, video: Tensor, tensors: list[Tensor], layer: int, draw: str) -> list[Tensor]:
    return _differentiate(_layer(layer), draw, grad, video, tensors)


def _with_gaps(found: Sequence[Tensor], tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    """Gradients of the video, and of all tensors: None where one is not floating point."""
    rest = iter(found[1:])
    return found[0], [next(rest) if t.is_floating_point() else None for t in tensors]


class _Transformed(torch.autograd.Function):
    """For torch.func, which unwraps tensors before they get here."""

    @staticmethod
    def forward(layer: Layer, draw: str, video: Tensor, *tensors: Tensor) -> Tensor:  # type: ignore[override]
        return _code(layer, draw, video, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.layer, ctx.draw, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        found = _TransformedGradient.apply(ctx.layer, ctx.draw, grad, *ctx.saved_tensors)
        wrt_video, rest = _with_gaps(found, ctx.saved_tensors[1:])
        return None, None, wrt_video, *rest


class _TransformedGradient(torch.autograd.Function):
    @staticmethod
    def forward(layer: Layer, draw: str, grad: Tensor, video: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(_differentiate(layer, draw, grad, video, tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        raise RuntimeError(SECOND_ORDER)

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], layer: Layer, draw: str, *tensors: Tensor) -> Any:
        """A loop over the batch: jacrev maps the backward pass over rows of the Jacobian."""
        rows = [[t if d is None else t.select(d, i) for t, d in zip(tensors, dims[2:])] for i in range(info.batch_size)]
        found = [_TransformedGradient.apply(layer, draw, *row) for row in rows]
        return tuple(torch.stack(parts) for parts in zip(*found)), (0,) * len(found[0])


def operator(name: str) -> Callable[[Layer, Tensor, Mapping[str, Any]], Tensor]:
    """Register ``diffcodec::name`` and its gradient.

    Returns:
        ``call(layer, video, draw)``: the layer's :meth:`~diffcodec.Layer.work` as one step.
    """

    def shape(video: Tensor, tensors: list[Tensor], layer: int, draw: str) -> Tensor:
        return torch.empty_like(video, memory_format=torch.contiguous_format)

    def shapes(grad: Tensor, video: Tensor, tensors: list[Tensor], layer: int, draw: str) -> list[Tensor]:
        return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (video, *tensors) if x.is_floating_point()]

    forward = torch.library.custom_op(f"diffcodec::{name}", _coded, mutates_args=())
    forward.register_fake(shape)
    # no autograd of its own: it runs autograd inside, which a custom_op would switch off
    _library.define(f"{name}_backward{torch.library.infer_schema(_gradients, mutates_args=())}")
    _library.impl(f"{name}_backward", _gradients, "CompositeExplicitAutograd")
    torch.library.register_fake(f"diffcodec::{name}_backward", shapes, lib=_library)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        video, tensors, ctx.layer, ctx.draw = inputs
        ctx.save_for_backward(video, *tensors)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        video, *tensors = ctx.saved_tensors
        with torch.no_grad():
            found = getattr(torch.ops.diffcodec, f"{name}_backward")(grad.contiguous(), video, tensors, ctx.layer, ctx.draw)
        return *_with_gaps(found, tensors), None, None

    forward.register_autograd(differentiate, setup_context=keep)

    def call(layer: Layer, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        tensors: list[Tensor] = []
        text = flatten(draw, tensors)
        if any(transforms(x) for x in (video, *tensors)):
            return _Transformed.apply(layer, text, video, *tensors)  # type: ignore[no-any-return]
        return forward(video, tensors, layer.number, text)  # type: ignore[no-any-return]

    return call


# Mixtures: what is drawn is Python data, on which a graph would be specialised. Called without a draw they are one operator that draws as it
# runs; its backward pass draws the same again from the random state of before.

CPU_STATE = torch.get_rng_state().numel()


def _random_state(device: torch.device) -> Tensor:
    """The state of the generators that a draw for this device takes numbers from, as bytes on the CPU."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _checked(layer: Layer) -> Layer:
    from .layer import Layer

    for member in layer.modules():
        for name, strength in member.strengths().items() if isinstance(member, Layer) else ():
            if isinstance(strength.value, Tensor) and strength.value.requires_grad:
                raise RuntimeError(
                    f"{member.who}: {name} requires a gradient, which a compiled mixture gives only with a draw: pass mixture.sample(..)"
                )
    return layer


def _draw_and_run(layer: Layer, video: Tensor, step: int) -> Tensor:
    return layer.work(video, layer.sample(video.shape, step=None if step < 0 else step, device=video.device))


def _mixed(video: Tensor, layer: int, step: int) -> tuple[Tensor, Tensor]:
    state = _random_state(video.device)
    with torch.no_grad():
        out = _draw_and_run(_checked(_layer(layer)), video.detach(), step)
    if out.shape != video.shape:
        raise ValueError(
            f"a compiled mixture called without a draw must keep the shape of the video, got {tuple(out.shape)} for {tuple(video.shape)}:"
            " pass mixture.sample(video.shape)"
        )
    return out.contiguous().clone(), state


def _mixed_gradient(grad: Tensor, video: Tensor, state: Tensor, layer: int, step: int) -> Tensor:
    cuda = [video.device] if video.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.enable_grad():
        torch.set_rng_state(state[:CPU_STATE])
        for device in cuda:
            torch.cuda.set_rng_state(state[CPU_STATE:], device)
        x = video.detach().requires_grad_(True)
        out = _draw_and_run(_layer(layer), x, step)
        (found,) = torch.autograd.grad(out, x, grad.to(out.dtype)) if out.requires_grad else (torch.zeros_like(x),)
    return found.contiguous().clone()


_mixture = torch.library.custom_op("diffcodec::mixture", _mixed, mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
_library.define(f"mixture_backward{torch.library.infer_schema(_mixed_gradient, mutates_args=())}")
_library.impl("mixture_backward", _mixed_gradient, "CompositeExplicitAutograd")


@_mixture.register_fake
def _(video: Tensor, layer: int, step: int) -> tuple[Tensor, Tensor]:
    size = CPU_STATE + (16 if video.device.type == "cuda" else 0)  # seed and offset of a CUDA generator
    return torch.empty_like(video, memory_format=torch.contiguous_format), torch.empty(size, dtype=torch.uint8, device="cpu")


@torch.library.register_fake("diffcodec::mixture_backward", lib=_library)
def _(grad: Tensor, video: Tensor, state: Tensor, layer: int, step: int) -> Tensor:
    return torch.empty_like(video, memory_format=torch.contiguous_format)


def _keep_mixed(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    video, ctx.layer, ctx.step = inputs
    ctx.save_for_backward(video, output[1])


def _differentiate_mixed(ctx: Any, grad: Tensor, _state: Any) -> tuple[Any, ...]:
    with torch.no_grad():
        return torch.ops.diffcodec.mixture_backward(grad.contiguous(), *ctx.saved_tensors, ctx.layer, ctx.step), None, None


_mixture.register_autograd(_differentiate_mixed, setup_context=_keep_mixed)


def mixture(layer: Layer, video: Tensor, step: int | None) -> Tensor:
    """Draw and apply a layer as one step of a graph, whatever it draws.

    Raises:
        ValueError: the layer changes the shape of the video.
        RuntimeError: a strength that requires a gradient.
    """
    return _mixture(video, layer.number, -1 if step is None else step)[0]  # type: ignore[no-any-return]
