"""Implementations of operations beside their reference: how the modules ``ops/<family>/<backend>.py`` register them and their gradients."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .backend import LIBRARY, Operation, register_operator
from .checks import first_order, traced, transforms

F = TypeVar("F", bound=Callable[..., Any])


class Implementation:
    """An implementation; eager calls bypass torch's dispatcher, whose overhead is larger than that of a kernel launch.

    Attributes:
        operator: the operator of torch.library, ``torch.ops.diffcodec.<operation>.<backend>``, used by compilers and torch.func.
        lacks: function from inputs to a feature that the implementation lacks, as text, or None.
    """

    def __init__(self, op: Operation[..., Any], backend: str, run: Callable[..., Any], kept: Callable[..., Tensor] | None) -> None:
        self.op, self.backend, self.run = op, backend, _placed(run, backend, [op.parameters.index(n) for n in op.writes])
        self.returned = op.number_of_outputs
        self.further = int(kept is not None)
        self.lacks: Callable[..., str | None] | None = None
        self.function: Any = None  # torch.autograd.Function of one that has a gradient

        def allocate(*args: Any) -> Any:
            out: Any = op.allocate(*args)
            return out if kept is None else (*(out if isinstance(out, tuple) else (out,)), kept(*args))

        self.allocate = allocate
        self.operator = register_operator(f"{op.name}.{backend}", op.schema(self.further), self.run, allocate)

    def __call__(self, *args: Any) -> Any:
        first = args[0][0] if isinstance(args[0], (list, tuple)) else args[0]
        if traced(first) or transforms(first):
            out = self.operator(*args)
        elif self.function is None or not torch.is_grad_enabled():
            out = self.run(*args)
        else:
            out = self.function.apply(*args)
        if not self.further:
            return out
        return out[0] if self.returned == 1 else tuple(out[: self.returned])


def _placed(run: F, backend: str, writes: Sequence[int] = ()) -> F:
    """Run on the GPU of the first tensor, which need not be torch's current one; native code runs on the CPU, with copies to it and back.

    Args:
        run: the implementation.
        backend: its backend.
        writes: positions of the arguments that it writes to.
    """

    @functools.wraps(run)
    def wrapped(*args: Any) -> Any:
        device = next(_tensors(args)).device
        if device.type == "cpu":
            return run(*args)
        if backend == "native":
            on_cpu = _moved(args, torch.device("cpu"))
            out = run(*on_cpu)
            for i in writes:
                args[i].copy_(on_cpu[i])
            return _moved(out, device)
        with torch.cuda.device(device):
            return run(*args)

    return wrapped  # type: ignore[return-value]


def _tensors(values: Any) -> Iterator[Tensor]:
    """Tensors in arguments, one after the other."""
    for v in values:
        if isinstance(v, Tensor):
            yield v
        elif isinstance(v, (list, tuple)):
            yield from _tensors(v)


def _moved(values: Any, device: torch.device) -> Any:
    """Values with their tensors on a device."""
    if isinstance(values, Tensor):
        return values.to(device)
    return type(values)(_moved(v, device) for v in values) if isinstance(values, (list, tuple)) else values


def implements(
    op: Operation[..., Any], kept: Callable[..., Tensor] | None = None, lacks: Callable[..., str | None] | None = None
) -> Callable[[F], F]:
    """Decorator: register an implementation of an operation; its backend is the name of its module.

    Args:
        op: the operation. The implementation takes the same arguments and returns the same outputs.
        kept: if the implementation returns one additional tensor for its backward: the function that allocates it for the inputs.
        lacks: function from the inputs to a feature that the implementation lacks, as text, or None. If one is lacking, "auto" runs the
            reference, and a backend that was named raises RuntimeError.

    Raises:
        TypeError: parameters other than the operation's.
    """

    def register(run: F) -> F:
        backend = run.__module__.rpartition(".")[2]
        if tuple(inspect.signature(run).parameters) != op.parameters:
            raise TypeError(f"{run.__module__}.{run.__name__} expected the parameters of {op.name}: {', '.join(op.parameters)}")
        implementation = Implementation(op, backend, run, kept)
        implementation.lacks = lacks
        op._implementations[backend] = implementation
        return run

    return register


def backward_of(op: Operation[..., Any], of: Sequence[str]) -> Callable[[F], F]:
    """Decorator: register the backward of this module's implementation of an operation, as an operator of its own.

    Its arguments are chosen by its parameters' names: ``grad...`` are the gradients of the outputs in order (annotated ``Tensor | None``: None if
    there is none; else zeros), names of the operation's parameters are its inputs, ``kept`` is the additional tensor of :func:`implements`,
    ``<input>_shape`` the shape of an input that need not be kept, ``needs_<input>`` whether the gradient of that input is needed.

    Args:
        op: the operation.
        of: names of the inputs whose gradients it returns, in this order.

    Raises:
        TypeError: a parameter with another name, no ``grad...``, or an unknown input in ``of``.
    """

    def register(run: F) -> F:
        backend = run.__module__.rpartition(".")[2]
        forward = op._implementations[backend]
        parameters = inspect.signature(run).parameters
        grads = [n for n in parameters if n.startswith("grad")]
        places = {n: i for i, n in enumerate(op.parameters)}
        for n in parameters:
            known = (
                n in grads
                or n in places
                or n == "kept"
                or (n.startswith("needs_") and n[6:] in places)
                or n.removesuffix("_shape") in places
            )
            if not known:
                raise TypeError(
                    f"{run.__module__}.{run.__name__} has a parameter {n!r} that {op.name} does not have; it can ask for grad..., kept,"
                    f" needs_<input>, <input>_shape and {', '.join(op.parameters)}"
                )
        if not grads or set(of) - set(places):
            raise TypeError(f"the gradient of {op.name} takes grad... first and returns those of its inputs, got of={list(of)}")

        def given(ctx: Any, grad: Sequence[Any], tensors: dict[str, Any]) -> list[Any]:
            out: list[Any] = []
            for n, parameter in parameters.items():
                if n in grads:
                    value = grad[grads.index(n)]
                    if value is None and "None" not in str(parameter.annotation):
                        shape, dtype, device = ctx.returned[grads.index(n)]
                        value = torch.zeros(shape, dtype=dtype, device=device)
                    out.append(value)
                elif n.startswith("needs_"):
                    out.append(ctx.needs_input_grad[places[n[6:]]])
                else:
                    out.append(tensors[n] if n in tensors else ctx.plain[n])
            return out

        def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            tensors: dict[str, Any] = {}
            ctx.plain, ctx.lists = {}, {}
            for n in parameters:
                if n in places:
                    value = inputs[places[n]]
                    if isinstance(value, Tensor):
                        tensors[n] = value
                    elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
                        ctx.lists[n] = len(value)
                        tensors |= {f"{n}[{i}]": v for i, v in enumerate(value)}
                    else:
                        ctx.plain[n] = value
                elif n == "kept":
                    tensors[n] = outputs[-1]
                elif n.endswith("_shape"):
                    ctx.plain[n] = list(inputs[places[n[:-6]]].shape)
            ctx.names = list(tensors)
            ctx.returned = [(o.shape, o.dtype, o.device) for o in outputs[: len(grads)]]
            ctx.length = len(inputs)
            ctx.list_inputs = {i: len(v) for i, v in enumerate(inputs) if isinstance(v, (list, tuple)) and v and isinstance(v[0], Tensor)}
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors.values())

        def differentiate(ctx: Any, *grad: Any) -> tuple[Any, ...]:
            tensors = dict(zip(ctx.names, ctx.saved_tensors))
            for n, length in ctx.lists.items():
                tensors[n] = [tensors[f"{n}[{i}]"] for i in range(length)]
            found = call(*given(ctx, grad, tensors))
            found = found if isinstance(found, tuple) else (found,)
            out: list[Any] = [None] * ctx.length
            for i, length in ctx.list_inputs.items():
                out[i] = [None] * length
            for n, g in zip(of, found):
                out[places[n]] = g if ctx.needs_input_grad[places[n]] else None
            return tuple(out)

        def allocate(*args: Any) -> Any:
            by_name = dict(zip(parameters, args))
            like = by_name[grads[0]]
            out = []
            for n in of:
                source = by_name.get(n, like)
                shape = by_name.get(f"{n}_shape", source.shape) if by_name.get(f"needs_{n}", True) else (0,)
                out.append(source.new_empty(shape))
            return tuple(out) if len(out) > 1 else out[0]

        named = f"{op.name}_backward.{backend}"
        direct = _placed(run, backend)
        operator = register_operator(named, torch.library.infer_schema(run, mutates_args=()), direct, allocate)

        def call(*args: Any) -> Any:
            first = next(a for a in args if isinstance(a, Tensor))
            return operator(*args) if traced(first) or transforms(first) else direct(*args)

        _differentiate(op, forward, keep, differentiate, of)
        return run

    return register


def passes_gradient(op: Operation[..., Any], module: str, of: str) -> None:
    """Register an implementation's backward as the identity.

    Args:
        op: the operation.
        module: ``__name__`` of the module of the implementation.
        of: name of the input to which the gradient passes unchanged.
    """
    backend = module.rpartition(".")[2]
    place, length = op.parameters.index(of), len(op.parameters)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    def differentiate(ctx: Any, grad: Any) -> tuple[Any, ...]:
        return tuple(grad if i == place else None for i in range(length))

    _differentiate(op, op._implementations[backend], keep, differentiate, (of,))


def _differentiate(
    op: Operation[..., Any], forward: Implementation, keep: Callable[..., None], differentiate: Callable[..., Any], of: Sequence[str]
) -> None:
    """Give an implementation its gradient: to the operator of torch.library, and to eager calls."""
    op.differentiable = tuple(of)
    torch.library.register_autograd(f"diffcodec::{op.name}.{forward.backend}", differentiate, setup_context=keep, lib=LIBRARY)

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            out = forward.run(*args)
            keep(ctx, args, out)
            return out

        @staticmethod
        @first_order
        def backward(ctx: Any, *grads: Any) -> Any:
            return tuple(None if isinstance(g, list) else g for g in differentiate(ctx, *grads))

    forward.function = Direct
