"""PSNR, SSIM, bit accuracy."""

import math

import pytest
import torch
from helpers import natural

from diffcodec import metrics


def test_psnr_and_bit_accuracy() -> None:
    a = torch.zeros(2, 3, 4, 4)
    b = a.clone()
    b[1] = 0.1
    assert metrics.psnr(a, b).tolist() == [math.inf, pytest.approx(20)]
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\)"):
        metrics.psnr(a, a[:1])
    bits = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0]])
    assert metrics.bit_accuracy(bits, torch.tensor([[3.0, -1, -0.1, 2], [-1, -1, -1, -1]])).tolist() == [0.75, 1.0]


def test_ssim() -> None:
    x = natural(1, 2)
    assert metrics.ssim(x, x).item() == pytest.approx(1, abs=1e-5)
    values = [
        metrics.ssim(x, (x + s * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)).item()
        for s in (0.01, 0.05, 0.2)
    ]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.5
    constant = metrics.ssim(torch.full((1, 3, 16, 16), 0.4), torch.full((1, 3, 16, 16), 0.6)).item()
    assert metrics.ssim(torch.full((1, 3, 16, 16), 0.9999), torch.ones(1, 3, 16, 16)).item() <= 1
    assert constant == pytest.approx((2 * 0.4 * 0.6 + 1e-4) / (0.16 + 0.36 + 1e-4), abs=1e-4)  # the luminance term alone
    assert metrics.ssim(torch.rand(1, 3, 4, 5), torch.rand(1, 3, 4, 5)).isfinite().all()
