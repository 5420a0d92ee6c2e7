"""Which implementation runs, how it is registered, and layers with their kernels: compiled, in half precision, on images and videos."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from diffcodec import backend, implement
from diffcodec.ops.frames.reference import blur, take_frames

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pictures(n: int, c: int, h: int, w: int) -> Tensor:
    """Some samples lie outside [0, 1]."""
    return (natural(n, 1, h, w)[:, 0, :c] * 1.1 - 0.05).to(DEVICE)


def both(make: object, x: Tensor, draw: object) -> list[tuple[Tensor, ...]]:
    """Output and gradients of the input and of the quality, by reference and by kernel."""
    torch.manual_seed(5)
    weight = torch.randn(x.shape, device=DEVICE)
    found = []
    for name in ("reference", "triton"):
        layer = make(name)  # type: ignore[operator]
        v, q = x.clone().requires_grad_(), torch.tensor(draw, device=DEVICE, dtype=torch.float32).requires_grad_()
        out = layer(v, {"quality": q})
        found.append((out.detach(), *torch.autograd.grad((out.float() * weight).sum(), (v, q))))
    return found


def close(a: Tensor, b: Tensor, relative: float) -> None:
    assert torch.isfinite(a).all()
    assert float((a.float() - b.float()).norm()) <= relative * float(b.float().norm()) + 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_jpeg_half_precision(dtype: torch.dtype) -> None:
    reference, fused = both(lambda b: dc.DiffJPEG(backend=b), pictures(1, 3, 16, 16).to(dtype), [50.0])
    assert fused[0].dtype == fused[1].dtype == dtype
    assert torch.equal(reference[0], fused[0])
    close(fused[1], reference[1], 1e-2)


def test_jpeg_own_tables_and_video() -> None:
    torch.manual_seed(3)
    tables = torch.randint(1, 60, (2, 8, 8)).float().to(DEVICE)
    video = natural(2, 2, 10, 12).to(DEVICE)
    layers = [dc.DiffJPEG(tables=tables, backend=b) for b in ("reference", "triton")]
    a, b = (layer(video) for layer in layers)
    torch.testing.assert_close(a, b, rtol=0, atol=0 if DEVICE == "cpu" else 1e-7)  # on a GPU the reference multiplies with 1 / 255


def test_jpeg_compiles_with_its_kernel() -> None:
    x = pictures(1, 3, 16, 16).requires_grad_()
    layer = dc.DiffJPEG(50, backend="triton")
    draw = layer.sample(x.shape, device=x.device)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert torch.equal(compiled(x, draw), layer(x, draw))
    (a,), (b,) = (torch.autograd.grad(f(x, draw).square().sum(), x) for f in (compiled, layer))
    close(a, b, 1e-6)


def test_a_backend_that_cannot_run_says_why() -> None:
    x = natural(1, 1, 16, 16)[:, 0].to(DEVICE)
    with pytest.raises(ValueError, match="unknown backend 'cuda'; expected one of 'auto', 'reference', 'native', 'triton'"):
        dc.DiffJPEG(50, backend="cuda")
    with pytest.raises(RuntimeError, match="no kernel for DiffJPEG.*rounding='noise'"):
        dc.DiffJPEG(50, rounding="noise", backend="triton")(x)
    with pytest.raises(RuntimeError, match="float64"):
        dc.DiffJPEG(50, backend="triton")(x.double())
    assert backend.resolve_backend("auto", x.cpu()) == ("native" if dc.backends()["native"].runs else "reference")
    assert backend.resolve_backend("auto", x.cpu().double()) == "reference"
    code = "import torch, diffcodec as dc; dc.DiffJPEG(50, backend='triton')(torch.rand(1, 3, 8, 8))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PATH": ""}, check=False)
    assert "RuntimeError: backend='triton' cannot run: it needs a CUDA device, the input is on cpu" in run.stderr


ATTACKS = {
    "drop": lambda b: dc.FrameDrop(0.5, backend=b),
    "swap": lambda b: dc.FrameSwap(0.7, backend=b),
    "insert": lambda b: dc.FrameInsert(0.5, keep_length=False, backend=b),
    "rate": lambda b: dc.FrameRate((0.3, 0.9), backend=b),
    "average": lambda b: dc.FrameAverage((1, 5), backend=b),
    "noise": lambda b: dc.GaussianNoise((0.02, 0.1), backend=b),
    "blur": lambda b: dc.GaussianBlur((0.5, 3.0), over="time and space", backend=b),
    "wide blur": lambda b: dc.GaussianBlur((0.5, 3.0), kernel=5, over="time and space", backend=b),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_keep_the_compilers_contract(name: str) -> None:
    torch.compiler.reset()  # or the layers before count towards the limit of recompilations
    video = natural(2, 2, 4, 4).to(DEVICE)
    layer = ATTACKS[name]("triton")
    draw = layer.sample(video.shape, device=video.device)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = []
    for call in (compiled, layer):
        v = video.clone().requires_grad_()
        out = call(v, draw)
        found.append((out.detach(), *torch.autograd.grad(out.square().sum(), v)))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


def test_blur_beyond_the_kernels_windows() -> None:
    video = natural(1, 2, 8, 8).to(DEVICE)
    with pytest.raises(RuntimeError, match="windows up to 5, not 7"):
        dc.GaussianBlur(2.0, kernel=7, backend="triton")(video)


def test_operators_called_directly_are_those_of_torch_library() -> None:
    x = pictures(1, 3, 16, 24)
    weights = torch.tensor([[0.25, 0.5, 0.25]], device=DEVICE)
    assert "triton" in blur.backends()  # imported now
    found = []
    for call in (lambda *a: blur.on("triton", *a), torch.ops.diffcodec.blur.triton):
        v = x.clone().requires_grad_()
        out = call(v, weights)
        (grad,) = torch.autograd.grad(out.square().sum(), v)
        found.append((out.detach(), grad))
    assert all(torch.equal(a, b) for a, b in zip(*found))
    v = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(blur.on("triton", v, weights).square().sum(), v, create_graph=True)
    with pytest.raises(RuntimeError, match="second order"):
        grad.sum().backward()


def test_an_operation_without_an_implementation_runs_its_reference() -> None:
    def doubled(x: Tensor) -> Tensor:
        """Twice x."""
        return 2 * x

    doubled.__module__ = "diffcodec.ops.common.reference"
    try:
        op = backend.operation(doubled)
        assert op.backends() == ["reference"]
        assert op.implementation("triton") is None
        assert torch.equal(op.on("triton", torch.ones(2, device=DEVICE)), 2 * torch.ones(2, device=DEVICE))
        with pytest.raises(NotImplementedError, match="doubled does not declare what it returns"):
            op.allocate(torch.ones(2))
    finally:
        del backend.OPERATIONS["doubled"]


def test_an_implementation_has_the_parameters_of_its_operation() -> None:
    with pytest.raises(TypeError, match="expected the parameters of take_frames: video, index"):

        @implement.implements(take_frames)
        def other(video: Tensor, frames: Tensor) -> Tensor:
            return video


def test_signatures_are_schemas() -> None:
    def scaled(x: Tensor, factor: float = 2.0) -> Tensor:
        return factor * x

    with pytest.raises(TypeError, match="operation scaled: factor.* without a default"):
        backend.operation(scaled)
    assert "scaled" not in backend.OPERATIONS


def test_a_gradient_asks_for_what_there_is() -> None:
    def gradient(grad: Tensor, frames: int) -> Tensor:
        return grad

    gradient.__module__ = "diffcodec.ops.frames.triton"
    assert take_frames.implementation("triton") is not None
    with pytest.raises(TypeError, match="'frames' that take_frames does not have; it can ask for .*video, index"):
        implement.backward_of(take_frames, of=["video"])(gradient)


def test_arguments_by_name() -> None:
    video, index = natural(1, 3, 8, 8), torch.tensor([[2, 0]])
    assert torch.equal(take_frames(index=index, video=video), video[:, [2, 0]])


def test_a_backend_is_that_of_its_block_and_thread() -> None:
    x = torch.ones(1, device=DEVICE)
    with backend.using("triton"):
        assert backend.active(x) == "triton"
        with backend.using("reference"):
            assert backend.active(x) == "reference"
        assert backend.active(x) == "triton"
    with pytest.raises(ValueError, match="unknown backend 'cpu'"), backend.using("cpu"):
        pass


def test_no_module_imports_itself_over_others() -> None:
    """``backend`` is a leaf, a reference imports no codec, and nothing at the top of a module imports in a circle."""
    code = f"""
import sys, types
pkg = types.ModuleType("diffcodec"); pkg.__path__ = [{next(iter(dc.__path__))!r}]; sys.modules["diffcodec"] = pkg
from diffcodec import backend
loaded = {{m for m in sys.modules if m.startswith("diffcodec.")}}
assert loaded == {{"diffcodec.backend", "diffcodec.checks"}}, loaded
from diffcodec import ops
ops.operations()
loaded = {{m.split(".")[1] for m in sys.modules if m.startswith("diffcodec.")}}
assert not loaded & {{"h264", "jpeg", "real", "attacks", "layer"}}, loaded
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
