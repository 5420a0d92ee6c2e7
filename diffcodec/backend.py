"""Selection of the implementation of an operation: policy and registry. Depends on no operation.

An operation is defined once, in torch, in ``ops/<family>/reference.py``::

    @operation
    def blur(video: Tensor, weights: Tensor) -> Tensor: ...

    @blur.outputs
    def _(video: Tensor, weights: Tensor) -> Tensor: ...  # allocates the outputs without computing them

The signature is the schema. Other implementations are in sibling modules named after the backend (``triton.py``), which are imported on first
use::

    @implements(blur)  # of diffcodec.implement
    def forward(video, weights): ...

Layers take ``backend``: "auto" (the fastest that can run: "triton" on CUDA devices, "native" on CPUs), "reference" (torch) or another of
:data:`BACKENDS` (a RuntimeError gives the reason if it cannot run). A codec of many operations sets its backend once, with :func:`using`.
:func:`backends` lists what runs on this machine.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from .checks import require, traced

if TYPE_CHECKING:
    from .implement import Implementation

BACKENDS = ("auto", "reference", "native", "triton")

P = ParamSpec("P")
R = TypeVar("R")

try:
    _INSTALLED = importlib.util.find_spec("triton") is not None
except ImportError:
    _INSTALLED = False
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's interpreter stands in for a GPU


# Policy


def validate_backend(backend: str) -> str:
    """Check the name of a backend.

    Raises:
        ValueError: unknown name.
    """
    require("backend", backend, list(BACKENDS))
    return backend


def obstacle(backend: str, x: Tensor) -> str | None:
    """Why a backend cannot run on a tensor; None if it can."""
    if backend == "reference":
        return None
    if x.dtype == torch.float64:
        return "kernels compute in float32, the input is float64"
    if backend == "native":
        if x.device.type not in ("cpu", "cuda"):
            return f"it runs on CPUs (CUDA tensors are copied), the input is on {x.device}"
        return native_obstacle()
    if x.device.type != "cuda" and not (_INTERPRETED and x.device.type == "cpu"):
        return f"it needs a CUDA device, the input is on {x.device} (TRITON_INTERPRET=1 runs kernels on the CPU, slowly, for tests)"
    if not _INSTALLED:
        return "triton is not installed: pip install 'diffcodec[kernels]'"
    if x.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(x.device)
        if major < 8:
            return f"it needs compute capability 8.0, this GPU has {major}.{minor}"
    return None


def native_obstacle() -> str | None:
    """Why native code cannot run in this process; None if it can."""
    global _native
    if _native is None:
        from .ops.common import native

        _native = native.library()
    return _native if isinstance(_native, str) else None


_native: Any = None  # the library, or why there is none; None before the first look-up


def _say_once() -> None:
    from .ops.common import native

    native.say_why_not()


_say_once._dynamo_marked_constant = True  # type: ignore[attr-defined]
native_obstacle._dynamo_marked_constant = True  # type: ignore[attr-defined]  # see _loaded


class Availability(NamedTuple):
    """Whether a backend runs on this machine, and how it runs, or why it does not."""

    runs: bool
    why: str


def backends() -> dict[str, Availability]:
    """The backends and whether they run on this machine.

    Returns:
        For each backend whether it runs, and how, or why not. "auto" uses the last one that runs on the device of its input.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.backends()["reference"]
        Availability(runs=True, why='torch, on any device: the definition')
    """
    from .ops.common import native

    found = native.library()
    out = {"reference": Availability(True, "torch, on any device: the definition")}
    if isinstance(found, str):
        out["native"] = Availability(False, found)
    else:
        out["native"] = Availability(True, f"on CPUs: {found.isa}, {torch.get_num_threads()} threads ({found.path})")
    if torch.cuda.is_available():
        why = obstacle("triton", torch.empty(0, device="cuda", dtype=torch.float32))
        out["triton"] = Availability(why is None, why or f"on {torch.cuda.get_device_name()}")
    else:
        out["triton"] = Availability(
            _INTERPRETED and _INSTALLED, "in Triton's interpreter, for tests" if _INTERPRETED else "there is no CUDA device"
        )
    return out


def resolve_backend(backend: str, x: Tensor, lacking: str | None = None) -> str:
    """Choose the backend for an input.

    Args:
        backend: one of :data:`BACKENDS`.
        x: the input.
        lacking: a requested feature that the implementation lacks, as text; None for none.

    Returns:
        A name other than "auto".

    Raises:
        RuntimeError: a backend other than "auto" was named and cannot run; the message gives the reason.
    """
    if backend == "reference":
        return backend
    if backend == "auto" and lacking is None and x.device.type == "cpu" and x.dtype != torch.float64 and native_obstacle() is None:
        return "native"  # fast path of most calls
    name = backend if backend != "auto" else "triton" if x.device.type == "cuda" else "native"
    why = obstacle(name, x) or lacking
    if why and backend == "auto" and name == "native":
        _say_once()
    if backend != "auto" and why:
        raise RuntimeError(f"backend={backend!r} cannot run: {why}")
    return "reference" if why else name


_of_parts: ContextVar[str] = ContextVar("backend", default="auto")


@contextmanager
def using(backend: str) -> Iterator[None]:
    """Context manager: the backend of all operations called inside, in this thread.

    Raises:
        ValueError: unknown name.
    """
    token = _of_parts.set(validate_backend(backend))
    try:
        yield
    finally:
        _of_parts.reset(token)


def active(x: Tensor) -> str:
    """The backend that operations on a tensor run on under the current :func:`using`."""
    return resolve_backend(_of_parts.get(), x)


# Operations

OPERATIONS: dict[str, Operation[..., Any]] = {}  # by name, of the families that have been imported: see diffcodec.ops.families
LIBRARY = torch.library.Library("diffcodec", "FRAGMENT")


def register_operator(name: str, schema: str, run: Callable[..., Any], allocate: Callable[..., Any]) -> Any:
    """An operator ``diffcodec::name`` of torch.library."""
    LIBRARY.define(name + schema)
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"diffcodec::{name}", allocate, lib=LIBRARY)
    operator, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.diffcodec, operator), overload)


class Operation(Generic[P, R]):
    """An operation: its definition in torch and its other implementations.

    A call runs on the backend of :func:`using`; :meth:`on` takes a backend. The first argument, a tensor or a list of tensors, determines the device.

    Args:
        reference: the definition. Its signature is the schema of all implementations (annotations as in ``torch.library``, no defaults), its
            docstring that of the operation.
        opaque: whether compilers treat the reference, too, as a single node.
        writes: names of inputs that it writes to; such an operation returns nothing.

    Attributes:
        name: name of the definition.
        reference: the definition.
        family: the package that holds its implementations.
        differentiable: names of the inputs for which implementations have a gradient.

    Raises:
        TypeError: a parameter with a default or a star.
    """

    def __init__(self, reference: Callable[P, R], opaque: bool = False, writes: Sequence[str] = ()) -> None:
        self.name, self.reference, self.opaque, self.writes = reference.__name__, reference, opaque, tuple(writes)
        self.family = reference.__module__.rpartition(".")[0]
        self.parameters = tuple(inspect.signature(reference).parameters)
        for p in inspect.signature(reference).parameters.values():
            if p.default is not p.empty or p.kind is not p.POSITIONAL_OR_KEYWORD:
                raise TypeError(f"operation {self.name}: {p} expected to be plain, without a default or a star: its signature is a schema")
        self.differentiable: tuple[str, ...] = ()
        self._allocate: Callable[..., Any] | None = None
        self._implementations: dict[str, Implementation] = {}
        functools.update_wrapper(self, reference)
        OPERATIONS[self.name] = self

    def __repr__(self) -> str:
        return f"<operation {self.name} of {self.family}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.on(_of_parts.get(), *args, **kwargs)

    def on(self, backend: str, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run on a backend; "auto" chooses.

        Raises:
            RuntimeError: the backend that was named cannot run.
        """
        if kwargs:
            args = self.bound(*args, **kwargs)  # type: ignore[assignment]
        first: Any = args[0]
        first = first[0] if isinstance(first, (list, tuple)) else first
        name = resolve_backend(backend, first)
        if name != "reference" and not _loaded(self.name, name):
            name = "reference"
        if name != "reference" and (lacks := self._implementations[name].lacks) is not None:
            name = resolve_backend(backend, first, lacks(*args))
        if name != "reference":
            return self._implementations[name](*args)  # type: ignore[no-any-return]
        if self.opaque and traced(first):
            return getattr(torch.ops.diffcodec, self.name).reference(*args)  # type: ignore[no-any-return]
        return self.reference(*args)  # type: ignore[call-arg]

    def bound(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Positional arguments of a call."""
        return inspect.signature(self.reference).bind(*args, **kwargs).args

    def outputs(self, allocate: Callable[P, R]) -> Callable[P, R]:
        """Register the function that allocates the outputs for given inputs, for compilers and for implementations to write to."""
        self._allocate = allocate
        return allocate

    def allocate(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Outputs for these inputs, their values not computed."""
        if self._allocate is None:
            raise NotImplementedError(f"{self.name} does not declare what it returns: register @{self.name}.outputs beside its reference")
        return self._allocate(*args, **kwargs)  # type: ignore[no-any-return]

    def schema(self, further: int = 0) -> str:
        """Schema for torch.library, with ``further`` additional tensors returned."""
        text = torch.library.infer_schema(inspect.unwrap(self.reference), mutates_args=self.writes)
        if not further:
            return text
        inputs, _, returned = text.rpartition(" -> ")
        return f"{inputs} -> ({', '.join([returned.strip('()'), *['Tensor'] * further])})"

    def implementation(self, backend: str) -> Implementation | None:
        """The implementation for a backend, or None."""
        return self._implementations[backend] if _loaded(self.name, backend) else None

    def backends(self) -> list[str]:
        """Backends that have an implementation and can run here, the reference first."""
        missing = {"triton": not _INSTALLED, "native": native_obstacle() is not None}
        return ["reference", *(b for b in BACKENDS[2:] if not missing[b] and self.implementation(b) is not None)]

    @functools.cached_property
    def number_of_outputs(self) -> int:
        """Number of tensors that the reference returns."""
        returned = self.schema().rpartition(" -> ")[2]
        return returned.count("Tensor")


def _loaded(name: str, backend: str) -> bool:
    """Import the module of an operation's implementation, and return whether there is one."""
    op = OPERATIONS[name]
    if backend not in op._implementations and importlib.util.find_spec(f"{op.family}.{backend}") is not None:
        importlib.import_module(f"{op.family}.{backend}")
    return backend in op._implementations


# torch.compile runs it during tracing and treats the result as constant: torch.compiler.assume_constant_result, without importing the compiler
_loaded._dynamo_marked_constant = True  # type: ignore[attr-defined]


def operation(reference: Callable[P, R]) -> Operation[P, R]:
    """Decorator: make a torch function the definition of an :class:`Operation`."""
    return Operation(reference)


def writing_operation(*writes: str) -> Callable[[Callable[P, R]], Operation[P, R]]:
    """As :func:`operation`, for one that writes to the named inputs and returns nothing; without gradient."""
    return lambda reference: Operation(reference, writes=writes)


def opaque_operation(reference: Callable[P, R]) -> Operation[P, R]:
    """As :func:`operation`, for one without gradient that is a single node for compilers, whichever implementation runs."""
    out = Operation(reference, opaque=True)
    register_operator(f"{out.name}.reference", out.schema(), reference, out.allocate)
    return out
