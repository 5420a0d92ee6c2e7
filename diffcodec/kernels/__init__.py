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

from ..checks import require

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
        return run

    return register


def ops() -> Any:
    """The operators of H.264's parts, registered."""
    from . import color, deblock, inter, intra, residual  # noqa: F401

    return torch.ops.diffcodec
