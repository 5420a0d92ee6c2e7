"""The exact forward against Pillow's libjpeg, and the gradients that go with it."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from helpers import natural
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import diffcodec as dc
from diffcodec.backend import native_obstacle
from diffcodec.jpeg import Expected
from diffcodec.ops.jpeg import exact
from diffcodec.slopes import NOISES, SLOPES
from diffcodec.transform import dct2, dct_matrix, idct2

SUBSAMPLINGS = ("4:2:0", "4:2:2", "4:4:4")


def levels_apart(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) * 255).round().abs()


@settings(max_examples=150)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 100), st.sampled_from(SUBSAMPLINGS), st.booleans(), st.booleans(),
    st.integers(0, 9999),
)  # fmt: skip
def test_equals_libjpeg(h: int, w: int, quality: int, subsampling: str, noise: bool, grey: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 3, h, w, generator=g) if noise else natural(1, 1, h, w, seed=seed)[:, 0]
    x = (x.mean(1, keepdim=True) if grey else x).mul(255).round() / 255
    apart = levels_apart(dc.DiffJPEG(quality, subsampling)(x), dc.RealJPEG(quality, subsampling)(x))
    assert apart.max() <= 1
    assert (apart > 0).sum() <= 2 + 1e-4 * x.numel()


def test_share_of_identical_samples() -> None:
    total = different = 0
    for subsampling in SUBSAMPLINGS:
        for quality in (5, 30, 50, 75, 92, 100):
            x = natural(2, 1, 250, 187, seed=quality)[:, 0]
            apart = levels_apart(dc.DiffJPEG(quality, subsampling)(x), dc.RealJPEG(quality, subsampling)(x))
            total, different = total + apart.numel(), different + int((apart > 0).sum())
            assert apart.max() <= 1
    assert different / total < 1e-4


@pytest.mark.skipif(native_obstacle() is not None, reason="there is no native code here")
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_native_code_is_libjpeg_to_the_bit_on_any_number_of_threads(subsampling: str) -> None:
    layer = dc.DiffJPEG((5, 100), subsampling, backend="native")
    for shape in ((3, 3, 150, 187), (2, 1, 33, 70), (16, 3, 96, 128)):  # the last one is large enough to be written past the cache
        x = natural(shape[0], 1, *shape[2:], seed=shape[2])[:, 0, : shape[1]].mul(255).round() / 255
        found = []
        before = torch.get_num_threads()
        try:
            for threads in (1, 3):
                torch.set_num_threads(threads)
                leaves = x.clone().requires_grad_(), torch.linspace(7, 98, shape[0]).round().requires_grad_()
                out = layer(leaves[0], {"quality": leaves[1]})
                found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
        finally:
            torch.set_num_threads(before)
        for a, b in zip(*found):
            assert torch.equal(a, b)
        for i, quality in enumerate(torch.linspace(7, 98, shape[0]).round().tolist()):
            real = dc.RealJPEG(int(quality), subsampling)(x[i : i + 1])
            assert torch.equal((found[0][0][i : i + 1] * 255).round(), (real * 255).round())


def test_quality_per_sample_videos_and_input_that_is_not_8_bit() -> None:
    x = (natural(2, 3, 33, 47) + 0.3 / 255).clamp(0, 1)
    q = torch.tensor([20.0, 85.0])
    ours = dc.DiffJPEG(q)(x)
    for i in range(2):
        assert levels_apart(ours[i : i + 1], dc.RealJPEG(q[i].item())(x[i : i + 1])).max() <= 1


def test_autocast_and_half_precision_stay_exact() -> None:
    x = natural(1, 1, 40, 40)[:, 0]
    real = dc.RealJPEG(60)(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dc.DiffJPEG(60)(x), dc.DiffJPEG(60)(x).float())
        assert levels_apart(dc.DiffJPEG(60)(x), real).max() <= 1
    assert levels_apart(dc.DiffJPEG(60)(x.half()).float(), real).max() <= 1


def test_custom_tables_equal_libjpegs_with_them() -> None:
    g = torch.Generator().manual_seed(0)
    tables = torch.randint(1, 120, (2, 2, 8, 8), generator=g).float()
    x = natural(2, 1, 50, 62)[:, 0]
    ours = dc.DiffJPEG(tables=tables)(x)
    for i in range(2):
        file = io.BytesIO()
        qtables = [t.flatten().int().tolist() for t in tables[i]]
        Image.fromarray(dc.color.to_8bit(x[i]).permute(1, 2, 0).numpy()).save(file, "JPEG", qtables=qtables, subsampling=2)
        theirs = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) / 255
        assert levels_apart(ours[i], theirs).max() <= 1
        assert (levels_apart(ours[i], theirs) > 0).float().mean() < 1e-3


def test_transform_is_nearly_orthonormal() -> None:
    np.testing.assert_allclose(exact.islow_matrix() / (8192 * math.sqrt(8)), dct_matrix(8), atol=1e-4)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("width", [2.0, 8.0, 40.0])
def test_expected_slope_is_the_slope_of_the_mean(noise: str, width: float) -> None:
    """Against the mean of round(y + n) itself, by numerical integration."""
    step = 10.0
    y = torch.linspace(-1.6, 1.6, 33, dtype=torch.float64)[1:-1] + 0.013
    n = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    s = width / step
    density = {
        "uniform": (n.abs() <= s * math.sqrt(3)).double(),
        "gaussian": torch.exp(-0.5 * (n / s) ** 2),
        "laplacian": torch.exp(-math.sqrt(2) * n.abs() / s),
    }[noise]
    density = density / density.sum()

    def mean(v: float) -> float:
        return float((torch.round(v + n) * density).sum())

    h = 0.02
    numeric = torch.tensor([(mean(v + h) - mean(v - h)) / (2 * h) for v in y.tolist()])
    ours = Expected(noise, width)(y, torch.tensor(step, dtype=torch.float64)).float()
    if noise == "uniform":  # the mean is piecewise linear: leave its corners out
        half = s * math.sqrt(3)
        r = (y - y.floor() - 0.5).abs()
        clear = ((half - r) % 1 - 0.0).abs().minimum(1 - (half - r) % 1).minimum((half + r) % 1).minimum(1 - (half + r) % 1) > 2 * h
        numeric, ours = numeric[clear], ours[clear]
    torch.testing.assert_close(ours, numeric, atol=2e-2, rtol=2e-2)


def test_expected_goes_from_threshold_to_straight_through() -> None:
    y = torch.tensor([0.0, 0.3, 0.49])
    wide, narrow = Expected(width=200.0)(y, torch.tensor(10.0)), Expected(width=1.0)(y, torch.tensor(10.0))
    torch.testing.assert_close(wide, torch.ones(3), atol=2e-2, rtol=0)
    assert narrow[0] < 0.02
    assert narrow[2] > 4
    mean = Expected(width=5.0)(torch.linspace(0, 1, 1001)[:-1], torch.tensor(10.0)).mean()
    assert mean.item() == pytest.approx(1, abs=5e-3)


def test_gradient_is_the_slope_between_the_transforms() -> None:
    """A smooth function in the coefficient domain, by hand: grey, one block."""
    x = natural(1, 1, 8, 8)[:, 0].mean(1, keepdim=True)
    table = dc.jpeg.quality_tables(torch.tensor([40.0]), x)[0, 0]
    d = torch.from_numpy(dct_matrix(8)).float()
    pixels = (x[0, 0] * 255).round() - 128
    y = d @ pixels @ d.T / table
    w = torch.randn(8, 8)
    for name, slope in SLOPES.items():
        v = x.clone().requires_grad_(True)
        (g,) = torch.autograd.grad((dc.DiffJPEG(40, gradient=name)(v) * w).sum(), v)
        by_hand = d.T @ ((d @ w @ d.T) * slope(y, table)) @ d
        torch.testing.assert_close(g[0, 0], by_hand, atol=2e-2, rtol=2e-2)


def test_identity_passes_the_gradient_unchanged() -> None:
    x = natural(1, 1, 20, 24)[:, 0].requires_grad_(True)
    w = torch.randn(1, 3, 20, 24)
    (g,) = torch.autograd.grad((dc.DiffJPEG(30, gradient="identity")(x) * w).sum(), x)
    assert torch.equal(g, w)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_straight_through_is_the_real_valued_chain(subsampling: str) -> None:
    """Without the quantiser, the exact codec's gradient is that of colour and chroma filters alone: the soft codec's with no rounding."""
    x = natural(1, 1, 32, 48)[:, 0]
    w = torch.randn_like(x)
    grads = []
    for layer in (dc.DiffJPEG(50, subsampling, gradient="straight_through"), dc.DiffJPEG(50, subsampling, rounding="identity")):
        v = x.clone().requires_grad_(True)
        grads.append(torch.autograd.grad((layer(v) * w).sum(), v)[0])
    torch.testing.assert_close(*grads, atol=2e-3, rtol=1e-3)


def _mean_of_quantiser(c: Tensor, step: Tensor, noise: str, width: float) -> Tensor:
    """step * E[round((c + n) / step)] by brute force over 20000 quantiles of n; c in levels, float64."""
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    quantiles = {
        "uniform": (u - 0.5) * math.sqrt(12),
        "gaussian": torch.special.ndtri(u),
        "laplacian": -torch.sign(u - 0.5) * torch.log1p(-2 * (u - 0.5).abs()) / math.sqrt(2),
    }[noise]
    return step * sum(torch.round((c[..., None] + width * n) / step[..., None]).sum(-1) for n in quantiles.split(500)) / len(u)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("width", [1.0, 6.0, 30.0])
def test_moments_against_finite_differences_of_the_mean(noise: str, width: float) -> None:
    c = torch.linspace(-33, 33, 34, dtype=torch.float64) + 0.37
    step = torch.full_like(c, 10.0)
    mean, moment = Expected(noise, width).moments(c / step, step)
    torch.testing.assert_close(step * mean, _mean_of_quantiser(c, step, noise, width), atol=5e-3, rtol=1e-3)
    h = 0.05
    numeric = (_mean_of_quantiser(c, step + h, noise, width) - _mean_of_quantiser(c, step - h, noise, width)) / (2 * h)
    error = (mean - moment - numeric).abs()
    assert error.median() < 0.02  # the mean of the uniform one has corners
    if noise != "uniform":
        assert error.max() < 0.1


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("wrt", ["quality", "tables"])
def test_strength_gradient_against_finite_differences_of_the_smoothed_codec(wrt: str, noise: str) -> None:
    """Colour, 4:2:0, two samples of different strength: the codec with its quantiser replaced by the mean of it, differentiated numerically."""
    width = 25.0
    x = natural(1, 2, 32, 32)[0] * 0.5 + 0.25  # away from the clamps
    w = dc.DiffJPEG(10)(x).double() - x  # an error to make smaller
    strength = torch.tensor([25.0, 50.0] if wrt == "quality" else [2.0, 1.0])  # whole steps: nothing is lost by libjpeg's rounding of them

    def tables(v: Tensor) -> Tensor:
        base = torch.stack([dc.jpeg.LUMA.like(v), dc.jpeg.CHROMA.like(v)])
        factor = v if wrt == "tables" else torch.where(v < 50, 5000 / v, 200 - 2 * v) / 100
        return base * factor[:, None, None, None]

    def smoothed(v: Tensor) -> Tensor:
        ycc = dc.color.rgb_to_ycbcr(x.double())
        planes = []
        for i, plane in enumerate(ycc.unbind(1)):
            small = dc.color.downsample(plane) if i else plane
            c = dct2(dc.blocks.split(small - 128, 8))
            table = tables(v)[:, min(i, 1), None, None].expand_as(c)
            decoded = dc.blocks.join(idct2(_mean_of_quantiser(c, table, noise, width))) + 128
            planes.append(dc.color.upsample(decoded, 32, 32) if i else decoded)
        return dc.color.ycbcr_to_rgb(torch.stack(planes, 1))

    s = strength.clone().requires_grad_(True)
    slope = Expected(noise, width)
    layer = dc.DiffJPEG(s, gradient=slope) if wrt == "quality" else dc.DiffJPEG(tables=tables(s), gradient=slope)
    (ours,) = torch.autograd.grad((layer(x) * w).sum(), s)
    for i in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[i] = 0.5 if wrt == "quality" else 0.02
        numeric = ((smoothed(strength + step) - smoothed(strength - step)) * w).sum() / (2 * step[i])
        assert ours[i].item() == pytest.approx(numeric.item(), rel=0.05), (ours, numeric)


def test_bits_follow_the_real_file() -> None:
    estimated, real = [], []
    for quality in (10, 30, 50, 75, 90):
        for seed in range(3):
            x = natural(1, 1, 96, 128, seed=seed)[:, 0]
            estimated.append(dc.DiffJPEG(quality).encode(x).bits.item())
            real.append(dc.RealJPEG(quality).encode(x).bits.item())
    rank, error = dc.fidelity.rate_agreement(estimated, real)
    assert rank > 0.97
    assert error < 0.2


def test_bits_steer() -> None:
    x = natural(1, 1, 32, 32)[:, 0].requires_grad_(True)
    q = torch.tensor([50.0], requires_grad=True)
    gx, gq = torch.autograd.grad(dc.DiffJPEG(q).encode(x).bits.sum(), (x, q))
    assert gx.isfinite().all()
    assert gx.any()
    assert gq.item() > 0  # better quality, more bits


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dc.DiffJPEG(50, gradient="hard"), "hard"),
        (lambda: dc.DiffJPEG(50, rounding="cubic", gradient="cubic"), "leave out"),
        (lambda: dc.DiffJPEG(tables=torch.ones(8, 8)), r"\(8, 8\)"),
        (lambda: dc.DiffJPEG(tables=torch.zeros(2, 8, 8)), "min 0"),
        (lambda: dc.DiffJPEG(tables=torch.full((2, 8, 8), 256.0)), "max 256"),
        (lambda: Expected("cauchy"), "cauchy"),
        (lambda: Expected(width=0), "got 0"),
    ],
)
def test_bad_arguments(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()


def test_a_slope_of_your_own() -> None:
    x = natural(1, 1, 16, 16)[:, 0].requires_grad_(True)
    (g,) = torch.autograd.grad(dc.DiffJPEG(50, gradient=lambda y, step: torch.zeros_like(y))(x).sum(), x)
    assert not g.any()
    with pytest.raises(TypeError, match="name or a function"):
        dc.DiffJPEG(50, gradient=3)  # type: ignore[arg-type]
