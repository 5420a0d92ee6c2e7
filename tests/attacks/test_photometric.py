"""Attacks on colour."""

import pytest
import torch
from helpers import natural

import diffcodec as dc


def test_photometric_identities_and_ends() -> None:
    x = natural(1)
    for layer in (dc.Brightness(1.0), dc.Contrast(1.0), dc.Saturation(1.0), dc.Hue(0.0)):
        torch.testing.assert_close(layer(x), x, atol=2e-6, rtol=0)
    assert dc.Brightness(0.0)(x).max() == 0
    grey = dc.Saturation(0.0)(x)
    torch.testing.assert_close(grey[:, :, 0], dc.color.luma(x))
    torch.testing.assert_close(grey[:, :, 0], grey[:, :, 2])
    assert dc.Contrast(0.0)(x)[0, 0].std() < 1e-6
    soft = x * 0.2 + 0.4  # in gamut after a turn
    torch.testing.assert_close(dc.color.luma(dc.Hue(0.3)(soft)), dc.color.luma(soft), atol=1e-5, rtol=0)
    torch.testing.assert_close(dc.Hue(-0.3)(dc.Hue(0.3)(soft)), soft, atol=1e-5, rtol=0)


def test_dither_keeps_the_mean_on_few_levels() -> None:
    x = torch.full((1, 4, 3, 64, 64), 0.4)
    y = dc.ColorDither(3)(x)
    assert set(y.unique().tolist()) <= {0.0, 0.5, 1.0}
    assert y.mean().item() == pytest.approx(0.4, abs=0.01)
    v = x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(dc.ColorDither(3)(v).sum(), v)
    torch.testing.assert_close(g, torch.ones_like(g))
