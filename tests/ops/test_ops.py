"""Every operation x case x backend against the reference: values, gradients by name, torch's contract for operators.

Kernels run in Triton's interpreter where there is no GPU (conftest sets it up). An operation without a case, or without outputs, fails.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diffcodec import backend, ops
from diffcodec.ops.common.cases import Case, Scene, all_cases

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CUDA = DEVICE == "cuda"
CASES = all_cases()
BACKENDS = backend.BACKENDS[2:]


def tensors(out: Any) -> list[Tensor]:
    return [] if out is None else [out] if isinstance(out, Tensor) else list(out)


def skip_without(name: str, case: Case) -> None:
    if name not in case.operation.backends():
        pytest.skip(f"{case.operation.name} has no {name} implementation here")


def skip_lacking(name: str, case: Case, args: tuple[Any, ...]) -> None:
    lacks = case.operation.implementation(name).lacks  # type: ignore[union-attr]
    if lacks is not None and (why := lacks(*args)) is not None:
        pytest.skip(why)


def computed(call: Any, args: tuple[Any, ...], case: Case) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What a call returns, and gradients of the differentiable inputs by name for fixed random weights of the outputs."""
    names = case.operation.parameters
    args = tuple(x.clone().requires_grad_() if n in case.operation.differentiable else x for n, x in zip(names, args))
    args = tuple(x.clone() if n in case.operation.writes else x for n, x in zip(names, args))
    out = tensors(call(*args)) + [x for n, x in zip(names, args) if n in case.operation.writes]
    leaves = {n: x for n, x in zip(names, args) if n in case.operation.differentiable}
    generator = torch.Generator().manual_seed(3)
    weighed = [
        (o.float() * torch.randn(o.shape, generator=generator).to(o.device)).sum() for o in out if o.requires_grad and o.is_floating_point()
    ]
    grads = torch.autograd.grad(sum(weighed), list(leaves.values()), allow_unused=True) if weighed else [None] * len(leaves)  # type: ignore[arg-type]
    return [o.detach() for o in out], {n: g for n, g in zip(leaves, grads) if g is not None}


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    ("case", "size"),
    [(c, s) for c in CASES for s in [(2, 48, 32), (1, 16, 16)][: 1 if c.fixed else 2]],
    ids=lambda x: str(x).replace(" ", ""),
)
def test_like_the_reference(case: Case, size: tuple[int, int, int], name: str) -> None:
    skip_without(name, case)
    args = case.inputs(Scene(*size, device=DEVICE))
    skip_lacking(name, case, args)
    expected, expected_grads = computed(case.operation.reference, args, case)
    out, grads = computed(lambda *a: case.operation.on(name, *a), args, case)
    assert len(out) == len(expected)
    differ = case.differ if not CUDA or case.differ_cuda is None else case.differ_cuda
    close = case.close if not CUDA or case.close_cuda is None else case.close_cuda
    for a, b in zip(expected, out):
        assert b.shape == a.shape
        assert b.dtype == a.dtype
        assert not b.is_floating_point() or b.isfinite().all()
        apart = (a.double() - b.double()).abs() > close
        assert apart.double().mean() <= differ if apart.numel() else True
    assert grads.keys() == expected_grads.keys()
    most = case.gradient if not CUDA or case.gradient_cuda is None else case.gradient_cuda
    for n, g in expected_grads.items():
        assert grads[n].isfinite().all(), n
        assert grads[n].dtype == g.dtype
        assert (grads[n].double() - g.double()).norm() <= most * g.double().norm() + case.absolute, n


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("operation", ops.operations().values(), ids=list(ops.operations()))
def test_keeps_the_compilers_contract(operation: backend.Operation[..., Any], name: str) -> None:
    """Schema, fake outputs, gradient under aot_autograd: ``torch.library.opcheck`` on the operation's first case."""
    case = next(c for c in CASES if c.operation is operation)
    skip_without(name, case)
    args = case.inputs(Scene(1, 16, 16, device=DEVICE))
    skip_lacking(name, case, args)
    args = tuple(x.clone().requires_grad_() if n in operation.differentiable else x for n, x in zip(operation.parameters, args))
    implementation = operation.implementation(name)
    assert implementation is not None
    torch.library.opcheck(implementation.operator, args)


@pytest.mark.parametrize("operation", ops.operations().values(), ids=list(ops.operations()))
def test_says_what_it_returns(operation: backend.Operation[..., Any]) -> None:
    """Every operation has a case, and allocates outputs of the shapes and types that its reference returns."""
    cases = [c for c in CASES if c.operation is operation]
    assert cases, f"{operation.name} has no case: register one in {operation.family}.cases"
    for case in cases:
        args = case.inputs(Scene(device=DEVICE))
        for a, b in zip(tensors(operation.reference(*args)), tensors(operation.allocate(*args)), strict=True):
            assert a.shape == b.shape, case
            assert a.dtype == b.dtype, case
    assert operation.__doc__
    assert operation.schema()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_is_the_same_every_time(case: Case) -> None:
    first, second = (case.inputs(Scene(1, 16, 16)) for _ in range(2))
    for a, b in zip(first, second):
        assert torch.equal(a, b) if isinstance(a, Tensor) else isinstance(a, list) or a == b
