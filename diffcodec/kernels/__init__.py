"""Fused CUDA kernels in Triton, one operation a file; the pure-torch twin of each lies in the room that it serves.

Layers take ``backend``: "auto" (Triton where it can run, else torch), "reference" (torch) or "triton" (an error that says why where it cannot run).
A codec of many parts names its backend once, with :func:`using`; the parts ask :func:`here`.
Kernels are registered with ``torch.library``: compiler and autocast see one opaque operation with a gradient.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch.autograd.function import once_differentiable

from ..checks import require, traced, transforms

_F = TypeVar("_F", bound=Callable[..., Any])
BACKENDS = ("auto", "reference", "triton")


try:
    _INSTALLED = importlib.util.find_spec("triton") is not None
except ImportError:
    _INSTALLED = False
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's interpreter stands in for a GPU


def obstacle(x: torch.Tensor) -> str | None:
    """Why no kernel can run on a tensor; None where one can."""
    if x.dtype == torch.float64:
        return "kernels compute in float32, the input is float64"
    if x.device.type != "cuda" and not (_INTERPRETED and x.device.type == "cpu"):
        return f"it needs a CUDA device, the input is on {x.device} (TRITON_INTERPRET=1 runs kernels on the CPU, slowly, for tests)"
    if not _INSTALLED:
        return "triton is not installed: pip install 'diffcodec[kernels]'"
    if x.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(x.device)
        if major < 8:
            return f"it needs compute capability 8.0, this GPU has {major}.{minor}"
    return None


def checked(backend: str) -> str:
    """A backend's name.

    Raises:
        ValueError: there is none of that name.
    """
    require("backend", backend, list(BACKENDS))
    return backend


def wanted(backend: str, x: torch.Tensor, missing: str | None = None) -> bool:
    """Whether to call a kernel.

    Args:
        backend: of :data:`BACKENDS`.
        x: the input.
        missing: what was asked for that the kernel does not have.

    Raises:
        RuntimeError: "triton" where it cannot run.
    """
    if backend == "reference" or (backend == "auto" and x.device.type != "cuda"):
        return False
    why = obstacle(x) or missing
    if backend == "triton" and why:
        raise RuntimeError(f"backend='triton' cannot run: {why}")
    return why is None


_of_parts: ContextVar[str] = ContextVar("backend", default="auto")


@contextmanager
def using(backend: str) -> Iterator[None]:
    """Backend of all parts of a codec that run inside."""
    token = _of_parts.set(checked(backend))
    try:
        yield
    finally:
        _of_parts.reset(token)


def here(x: torch.Tensor) -> bool:
    """Whether a part calls its kernel: :func:`wanted` by the backend of :func:`using`."""
    return wanted(_of_parts.get(), x)


class Operator:
    """An operator of torch.library as eager code calls it: past torch's dispatcher, whose bookkeeping takes longer than launching a kernel."""

    def __init__(self, name: str, run: Callable[..., Any]) -> None:
        self.name, self.run = name, run
        self.function: Any = None  # torch.autograd.Function of one that has a gradient

    def __call__(self, *args: Any) -> Any:
        first = args[0][0] if isinstance(args[0], list) else args[0]
        if traced(first) or transforms(first):
            return getattr(torch.ops.diffcodec, self.name)(*args)
        if self.function is None or not torch.is_grad_enabled():
            return self.run(*args)
        return self.function.apply(*args)


class _Operators:
    """All operators by name."""

    def __getattr__(self, name: str) -> Operator:
        from . import attacks, color, deblock, inter, intra, jpeg, motion, residual, warp  # noqa: F401

        if name not in self.__dict__:
            raise AttributeError(f"there is no operator diffcodec::{name}")
        return self.__dict__[name]  # type: ignore[no-any-return]


ops: Any = _Operators()


def implements(library: torch.library.Library, name: str) -> Callable[[_F], _F]:
    """Register what an operator does; it runs on the GPU that its first tensor is on, which need not be torch's current one."""

    def register(run: _F) -> _F:
        @functools.wraps(run)
        def there(first: torch.Tensor | list[torch.Tensor], *rest: Any) -> Any:
            device = first.device if isinstance(first, torch.Tensor) else first[0].device
            if device.type != "cuda":
                return run(first, *rest)
            with torch.cuda.device(device):
                return run(first, *rest)

        library.impl(name, there, "CompositeExplicitAutograd")
        setattr(ops, name, Operator(name, there))
        return run

    return register


def differentiates(library: torch.library.Library, name: str, keep: Callable[..., None], gradients: Callable[..., Any]) -> None:
    """Register an operator's gradient.

    Args:
        keep: ``keep(ctx, inputs, output)`` saves what the gradient needs.
        gradients: ``gradients(ctx, *grads)``, one for each input.
    """
    torch.library.register_autograd(f"diffcodec::{name}", gradients, setup_context=keep, lib=library)
    operator: Operator = getattr(ops, name)

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            out = operator.run(*args)
            keep(ctx, args, out)
            return out

        @staticmethod
        @once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, *grads: Any) -> Any:
            found = gradients(ctx, *grads)
            return tuple(None if isinstance(g, list) else g for g in found) if isinstance(found, tuple) else found

    operator.function = Direct
