"""Fused kernels against their twins in torch: in Triton's interpreter where there is no GPU (conftest sets it up), else on the GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from conftest import natural
from torch import Tensor

import diffcodec as dc
from diffcodec import kernels

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
    for backend in ("reference", "triton"):
        layer = make(backend)  # type: ignore[operator]
        v, q = x.clone().requires_grad_(), torch.tensor(draw, device=DEVICE, dtype=torch.float32).requires_grad_()
        out = layer(v, {"quality": q})
        found.append((out.detach(), *torch.autograd.grad((out.float() * weight).sum(), (v, q))))
    return found


def close(a: Tensor, b: Tensor, relative: float) -> None:
    assert torch.isfinite(a).all()
    assert float((a.float() - b.float()).norm()) <= relative * float(b.float().norm()) + 1e-12


SIZES = [(1, 3, 32, 48), (2, 3, 21, 37), (1, 1, 9, 17), (1, 3, 5, 3), (1, 3, 1, 1)]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_jpeg_exact(size: tuple[int, int, int, int], subsampling: str) -> None:
    if size[1] == 1 and subsampling != "4:4:4":
        pytest.skip("grey has no chroma")
    reference, fused = both(lambda b: dc.DiffJPEG(subsampling=subsampling, backend=b), pictures(*size), [20.0, 55, 90][: size[0]])
    assert torch.equal(reference[0], fused[0])
    close(fused[1], reference[1], 2e-6)
    close(fused[2], reference[2], 1e-5)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("gradient", ["cubic", "straight_through", "soft", "expected_gaussian", "expected_uniform"])
def test_jpeg_gradients(gradient: str) -> None:
    reference, fused = both(lambda b: dc.DiffJPEG(gradient=gradient, backend=b), pictures(1, 3, 24, 18), [40.0])
    close(fused[1], reference[1], 1e-5)
    close(fused[2], reference[2], 1e-4)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("rounding", ["cubic", "straight_through", "soft", "paper", "identity"])
def test_jpeg_soft(rounding: str, subsampling: str) -> None:
    reference, fused = both(lambda b: dc.DiffJPEG(subsampling=subsampling, rounding=rounding, backend=b), pictures(1, 3, 13, 19), [60.0])
    assert float((fused[0] - reference[0]).abs().max()) * 255 < 1e-3
    close(fused[1], reference[1], 3e-5)
    if rounding != "identity":  # whose gradient by quality is 0
        close(fused[2], reference[2], 3e-4)


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
    assert torch.equal(a, b)


def test_jpeg_operator_keeps_the_compilers_contract() -> None:
    from diffcodec.kernels import jpeg as _  # noqa: F401

    x, tables = pictures(1, 3, 16, 16).requires_grad_(), torch.full((1, 2, 8, 8), 9.0, device=DEVICE).requires_grad_()
    torch.library.opcheck(torch.ops.diffcodec.jpeg.default, (x, tables, 2, 2, True, 3, 9.0))
    layer = dc.DiffJPEG(50, backend="triton")
    draw = layer.sample(x.shape, device=x.device)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert torch.equal(compiled(x, draw), layer(x, draw))
    (a,), (b,) = (torch.autograd.grad(f(x, draw).square().sum(), x) for f in (compiled, layer))
    close(a, b, 1e-6)


def test_a_backend_that_cannot_run_says_why() -> None:
    x = natural(1, 1, 16, 16)[:, 0].to(DEVICE)
    with pytest.raises(ValueError, match="unknown backend 'cuda'; expected one of 'auto', 'reference', 'triton'"):
        dc.DiffJPEG(50, backend="cuda")
    with pytest.raises(RuntimeError, match="no kernel for DiffJPEG.*rounding='noise'"):
        dc.DiffJPEG(50, rounding="noise", backend="triton")(x)
    with pytest.raises(RuntimeError, match="float64"):
        dc.DiffJPEG(50, backend="triton")(x.double())
    assert not kernels.wanted("auto", x.cpu())
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
    "blur": lambda b: dc.GaussianBlur((0.5, 3.0), backend=b),
    "wide blur": lambda b: dc.GaussianBlur((0.5, 3.0), kernel=5, backend=b),
}


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 5, 3, 5, 6), torch.float32), ((1, 1, 3, 1, 2), torch.float16), ((1, 2, 3, 3, 400), torch.bfloat16)],
    ids=str,
)
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    video = (natural(*shape[:2], *shape[3:]) * 1.2 - 0.1).to(DEVICE, dtype)
    layers = [ATTACKS[name](b) for b in ("reference", "triton")]
    draw = layers[0].sample(video.shape, torch.Generator().manual_seed(1), device=video.device)
    found = []
    for layer in layers:
        v = video.clone().requires_grad_()
        out = layer(v, draw)
        torch.manual_seed(7)
        found.append((out, *torch.autograd.grad(out, v, torch.randn(out.shape, device=DEVICE).to(dtype))))
    reference, fused = found
    assert fused[0].dtype == fused[1].dtype == dtype
    last = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(fused[0], reference[0], atol=last, rtol=last)
    torch.testing.assert_close(fused[1], reference[1], atol=4 * last, rtol=4 * last)


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


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(2, 3, 9, 13), (1, 1, 1, 1)], ids=str)
def test_warp(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    n, c, h, w = size
    torch.manual_seed(1)
    reference = natural(n, 1, h, w)[:, 0, :c].to(DEVICE, dtype)
    flow = 6 * torch.randn(n, 2, h, w, device=DEVICE)
    flow[..., ::3] = flow[..., ::3].round()  # whole positions, too
    weight = torch.randn(size, device=DEVICE)
    found = []
    for backend in ("reference", "triton"):
        a, b = reference.clone().requires_grad_(), flow.clone().requires_grad_()
        out = dc.motion.warp(a, b, backend=backend)
        found.append((out.detach(), *torch.autograd.grad((out.float() * weight).sum(), (a, b))))
    for a, b in zip(*found):
        assert a.dtype == b.dtype
        last = 2e-5 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(b, a, atol=last, rtol=last)
    still = torch.zeros_like(flow)
    assert torch.equal(dc.motion.warp(reference, still, backend="triton"), reference)
    torch.library.opcheck(torch.ops.diffcodec.warp.default, (reference.float().requires_grad_(), flow.requires_grad_()))


@pytest.mark.parametrize(("block", "search", "subpel", "size"), [(8, 2, 4, (20, 36)), (16, 4, 2, (33, 16)), (4, 2, 1, (13, 9))])
def test_block_motion(block: int, search: int, subpel: int, size: tuple[int, int]) -> None:
    video = natural(1, 2, *size).to(DEVICE)
    current, reference = video[:, 0], video[:, 1].roll((1, -2), (2, 3))
    flows = [dc.motion.BlockMotion(block, search, subpel, backend=b)(current, reference) for b in ("reference", "triton")]
    assert flows[0].abs().mean() > 0.1
    assert (flows[0] == flows[1]).all(1).float().mean() > 0.9  # sums in another order: a tie may fall the other way
    errors = [(dc.motion.warp(reference, f) - current).abs().mean() for f in flows]
    torch.testing.assert_close(errors[1], errors[0], rtol=1e-3, atol=0)


def test_operators_called_directly_are_those_of_torch_library() -> None:
    x = pictures(1, 3, 16, 24)
    weights = torch.tensor([[0.25, 0.5, 0.25]], device=DEVICE)
    found = []
    for call in (kernels.ops.blur, torch.ops.diffcodec.blur):
        v = x.clone().requires_grad_()
        out = call(v, weights, False)
        (grad,) = torch.autograd.grad(out.square().sum(), v)
        found.append((out.detach(), grad))
    assert all(torch.equal(a, b) for a, b in zip(*found))
    v = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(kernels.ops.blur(v, weights, False).square().sum(), v, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
    with pytest.raises(AttributeError, match="no operator diffcodec::nothing"):
        _ = kernels.ops.nothing
