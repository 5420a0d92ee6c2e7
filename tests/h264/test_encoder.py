"""The whole encoder: by kernels as by the reference, without waiting for a GPU."""

from __future__ import annotations

import pytest
import torch
from helpers import natural
from torch._subclasses.fake_tensor import FakeTensorMode

import diffcodec as dc
from diffcodec import backend, ops

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("poisoned")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("preset", "frames", "dtype"), [("medium", 3, torch.float32), ("ultrafast", 2, torch.bfloat16)], ids=str)
def test_whole_codec(preset: str, frames: int, dtype: torch.dtype) -> None:
    video = natural(1, frames, 20, 30).to(DEVICE, dtype)
    found = []
    for name in ("reference", "triton"):
        layer = dc.DiffH264(24, preset, backend=name)
        draw = layer.sample(video.shape, torch.Generator().manual_seed(1), device=video.device)
        x = video.clone().requires_grad_()
        coded = layer.encode(x, draw)
        torch.manual_seed(2)
        loss = (coded.video.float() * torch.randn(video.shape, device=DEVICE)).sum() + 1e-3 * coded.bits.sum()
        found.append((coded.video.detach(), coded.frame_bits.detach(), torch.autograd.grad(loss, x)[0]))
    (a, bits, g), (b, fused_bits, h) = found
    assert b.dtype == h.dtype == dtype
    if DEVICE == "cuda":  # one decision that falls the other way changes what follows
        noise = [(v.float() - video.float()).square().mean() for v in (a, b)]
        torch.testing.assert_close(noise[1], noise[0], rtol=0.05, atol=0)
        torch.testing.assert_close(fused_bits, bits, rtol=0.1, atol=10)
        torch.testing.assert_close(h.float().norm(), g.float().norm(), rtol=0.1, atol=0)
        return
    assert (a != b).float().mean() < 1e-2
    torch.testing.assert_close(fused_bits, bits, rtol=1e-2, atol=1)
    assert (g - h).float().norm() < 0.02 * g.float().norm()


def test_gradient_of_the_real_codec() -> None:
    pytest.importorskip("av")
    video, grads = natural(1, 4, 32, 48).to(DEVICE), []
    for name in ("reference", "triton"):
        x = video.clone().requires_grad_()
        out = dc.RealCodec(crf=24, gradient=dc.DiffH264(24, backend=name))(x)
        torch.manual_seed(2)
        grads.append(torch.autograd.grad((out * torch.randn(video.shape, device=DEVICE)).sum(), x)[0])
    assert (grads[0] - grads[1]).norm() < (0.02 if DEVICE == "cpu" else 0.3) * grads[0].norm()


@pytest.mark.parametrize("preset", ["medium", "ultrafast"])
def test_nothing_waits_for_a_gpu(preset: str) -> None:
    """Where frame types are given, values are never asked for: fake tensors have none."""
    types = "IPBbPP" if preset == "medium" else "IPPPPP"
    layer = dc.DiffH264(24, preset, gop=dc.h264.Gop(types), backend="triton")
    draw = layer.sample((2, 6, 3, 32, 48), torch.Generator().manual_seed(0))
    for operation in ops.operations().values():
        operation.backends()  # imported before tensors are fake
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        video = torch.rand(2, 6, 3, 32, 48, device=DEVICE, requires_grad=True)
        out = layer.coded(video, {k: fake.from_tensor(v).to(DEVICE) if k == "crf" else v for k, v in draw.items()}).video
        (grad,) = torch.autograd.grad(out.sum(), video)
    assert out.shape == grad.shape == video.shape


def test_a_backend_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        dc.DiffH264(backend="cuda")
    with pytest.raises(TypeError, match="backend='triton'"):
        dc.DiffH264(model="revmark", backend="triton")
    monkeypatch.setattr(backend, "_INTERPRETED", False)
    with pytest.raises(RuntimeError, match="backend='triton' cannot run: it needs a CUDA device"):
        dc.DiffH264(backend="triton")(natural(1, 1, 16, 16))


def test_float64_is_coded_in_float32_on_every_backend() -> None:
    video = natural(1, 2, 16, 16).to(DEVICE)
    for name in ("reference", "triton"):
        layer = dc.DiffH264(24, "ultrafast", backend=name)
        draw = layer.sample(video.shape, device=video.device)
        out = layer(video.double(), draw)
        assert out.dtype == torch.float64
        assert torch.equal(out.float(), layer(video, draw))
