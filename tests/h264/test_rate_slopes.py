"""The gradient of the bit count by samples."""

from __future__ import annotations

import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from diffcodec import rate
from diffcodec.blocks import from_macroblock_blocks
from diffcodec.h264 import rate_slopes
from diffcodec.ops.common.tables import TRANSFORM, zigzag
from diffcodec.ops.residual.reference import QuantSettings, code_chroma, code_luma, steps


def residual_of(luma: Tensor, chroma: Tensor, qp: Tensor, eight: bool, second: bool) -> rate_slopes.Residual:
    yes = torch.ones_like(qp, dtype=torch.bool)
    quant = QuantSettings(decimate=False).numbers()
    types = yes, yes if eight else ~yes, yes if second else ~yes
    _, four, of8, coded = code_luma(luma.detach(), torch.zeros_like(luma), qp, *types, quant, True)
    _, of_chroma = code_chroma(chroma.detach(), torch.zeros_like(chroma), qp, yes, quant, True)
    return rate_slopes.Residual(luma, chroma, qp, qp, *types, (four, of8, of_chroma), coded)


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_crossings_are_the_slopes_of_means_under_noise(threshold: float) -> None:
    width = 0.1
    y = torch.linspace(-4, 4, 81, dtype=torch.float64) + 0.0137
    noise = torch.linspace(-3, 3, 60001, dtype=torch.float64)
    density = torch.exp(-noise.abs() / width) / (2 * width) * (noise[1] - noise[0])

    def mean(x: Tensor) -> Tensor:  # octaves, nonzero, hard nonzero
        level = (((x[:, None] + noise).abs() + 1 - threshold).floor()).clamp(min=0)
        terms = torch.log2(1 + level), 1 - torch.exp(-level.square()), (level > 0).double()
        return torch.stack([(t * density).sum(1) for t in terms])

    step = 0.02
    expected = (mean(y + step) - mean(y - step)) / (2 * step)
    found = torch.stack([s * y.sign() for s in rate.crossings(y.abs(), y.abs() - threshold, width)])
    torch.testing.assert_close(found, expected, atol=0.15, rtol=0.05)


@pytest.mark.parametrize("k", [4, 8])
def test_each_coefficient_has_the_slope_of_its_own_threshold(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    qp = torch.full((1, 1, 1), 30.0)
    step = steps(qp.flatten(), k)[0]  # [k*k], scan order
    y = torch.randn(256 // k**2, k * k, generator=generator)
    matrix = torch.from_numpy(TRANSFORM[k]).float()
    place = torch.from_numpy(zigzag(k))
    raster = torch.zeros_like(y)
    raster[:, place] = y * step
    blocks = matrix.mT @ raster.view(-1, k, k) @ matrix
    luma = from_macroblock_blocks(blocks.view(1, 1, 1, -1, k * k), k).requires_grad_(True)
    residual = residual_of(luma, torch.zeros(1, 2, 8, 8), qp, k == 8, False)
    slopes = rate_slopes.Slopes(intra=0.6, inter=0.9)
    octaves, _, coded = rate_slopes.sums(residual, slopes)[0]
    assert octaves > 0
    assert coded == residual.coded.sum()
    (grad,) = torch.autograd.grad(octaves, luma)
    by_block = grad.view(16 // k, k, 16 // k, k).transpose(1, 2).reshape(-1, k, k)
    by_y = (matrix @ by_block @ matrix.mT).reshape(-1, k * k)[:, place] * step
    level = residual.levels[k == 8].view(-1, k * k)
    over = torch.minimum(y.abs() - 0.6, torch.where(level == 0, -rate_slopes.CUT, torch.inf))
    expected = rate.crossings(y.abs(), over, slopes.width)[0] * y.sign()
    torch.testing.assert_close(by_y, expected, atol=2e-3, rtol=2e-3)


def test_dcs_and_chroma_take_part() -> None:
    """More of what is there costs more, in every kind of block."""
    generator = torch.Generator().manual_seed(0)
    qp = torch.full((1, 2, 2), 26.0)
    luma = (torch.randn(1, 32, 32, generator=generator) * 8 + 40).requires_grad_(True)
    chroma = (torch.randn(1, 2, 16, 16, generator=generator) * 8 + 30).requires_grad_(True)
    for second in (False, True):
        residual = residual_of(luma, chroma, qp, False, second)
        of_luma, of_chroma = torch.autograd.grad(rate_slopes.sums(residual)[:, :2].sum(), (luma, chroma))
        assert (of_luma * luma).sum() > 0
        assert (of_chroma * chroma).sum() > 0


def test_an_empty_block_has_a_gradient() -> None:
    """Coefficients in the dead zone: what the count gains when they become levels. By the level alone it would be 0."""
    video = torch.full((1, 2, 3, 32, 32), 0.5)
    video += 0.004 * torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    video.requires_grad_(True)
    coded = dc.DiffH264(30).encode(video)
    (grad,) = torch.autograd.grad(coded.bits.sum(), video)
    assert grad.isfinite().all()
    assert (grad * (video - 0.5)).sum() > 0  # more contrast costs more


@pytest.mark.parametrize("layer", [dc.DiffH264(24, "ultrafast"), dc.DiffH264(24), dc.DiffJPEG(60)], ids=["ultrafast", "medium", "jpeg"])
def test_the_gradient_of_bits_follows_finite_differences(layer: dc.Codec) -> None:
    """Along contrast and blurring, within a third; without the dead zone more than a half is missing."""
    video = dc.fidelity.quantised(natural(1, 4, 96, 96))
    less = dc.GaussianBlur(1.5, over="space")(video)
    for direction in (video - less, less - video):
        d = direction / direction.square().mean().sqrt() / 255
        high, low = (dc.fidelity.quantised(video + sign * 2 * d) for sign in (1, -1))
        with torch.no_grad():
            change = layer.encode(high).bits.log() - layer.encode(low).bits.log()
        x = video.clone().requires_grad_(True)
        (grad,) = torch.autograd.grad(layer.encode(x).bits.log().sum(), x)
        assert 0.67 < ((grad * (high - low)).sum() / change).item() < 1.5
