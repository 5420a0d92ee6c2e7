"""Attacks on geometry and sharpness."""

import pytest
import torch
import torch.nn.functional as F
from helpers import natural

import diffcodec as dc


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("p", [0.4, 0.7, 1.0])
def test_crop_keeps_its_share_of_each_side(p: float) -> None:
    x = torch.rand(4, 2, 3, 40, 60) * 0.5 + 0.4
    y = dc.RandomCrop(p)(x, generator=generator())
    inside = y != 0
    assert inside.float().mean() == pytest.approx(round(p * 40) * round(p * 60) / 2400)
    assert torch.equal(y[inside], x[inside])
    places = {tuple(v.nonzero()[0].tolist()) for v in inside[:, 0, 0]}
    assert len(places) == (1 if p == 1 else 4)  # each sample has its own window


def test_crop_and_resize() -> None:
    x = natural(2)
    torch.testing.assert_close(dc.RandomCrop(1.0, mode="resize")(x), x)
    layer = dc.RandomCrop(0.5, mode="resize")
    draw = layer.sample(x.shape, generator())
    top, left = (int(u * (n - n // 2 + 1)) for u, n in zip(draw["position"][0].tolist(), x.shape[-2:]))
    window = x[0, :, :, top : top + 24, left : left + 32]
    torch.testing.assert_close(
        layer(x, draw)[0], F.interpolate(window, size=(48, 64), mode="bilinear", align_corners=False), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.7, 1.0])
def test_resize_is_interpolate_with_antialias(scale: float) -> None:
    x = natural(1)
    small = F.interpolate(x[0], size=(round(48 * scale), round(64 * scale)), mode="bilinear", antialias=True)
    torch.testing.assert_close(
        dc.Resize(scale)(x)[0], F.interpolate(small, size=(48, 64), mode="bilinear", align_corners=False), atol=2e-5, rtol=0
    )


def test_rotate() -> None:
    x = natural(1, 2, 33, 33)
    assert torch.equal(dc.Rotate(0.0)(x), x)
    wide = torch.rand(1, 1, 3, 8, 1281)
    assert torch.equal(dc.Rotate(0.0)(wide), wide)
    torch.testing.assert_close(dc.Rotate(90.0)(x), torch.rot90(x, 1, (-2, -1)), atol=1e-4, rtol=0)
    torch.testing.assert_close(dc.Rotate(180.0)(x), x.flip(-1, -2), atol=1e-4, rtol=0)


def test_flip() -> None:
    x = natural(1)
    assert torch.equal(dc.Flip(1.0)(x), x.flip(-1))
    assert torch.equal(dc.Flip(1.0, axis="vertical")(x), x.flip(-2))
    assert torch.equal(dc.Flip(0.0)(x), x)


def test_noise_has_its_deviation() -> None:
    x = torch.full((2, 4, 3, 64, 64), 0.5)
    y = dc.GaussianNoise(torch.tensor([0.02, 0.08]))(x) - x
    assert y[0].std().item() == pytest.approx(0.02, rel=0.02)
    assert y[1].std().item() == pytest.approx(0.08, rel=0.02)


def test_blur_is_a_normalised_gaussian_in_three_dimensions() -> None:
    x = torch.zeros(1, 5, 3, 7, 7)
    x[:, 2, :, 3, 3] = 1
    w = torch.exp(-torch.tensor([1.0, 0, 1]) / (2 * 2.0**2))
    w = w / w.sum()
    y = dc.GaussianBlur(2.0, 3, over="time and space")(x)
    torch.testing.assert_close(y[0, 1:4, 0, 2:5, 2:5], w[:, None, None] * w[:, None] * w)
    flat = torch.full((1, 3, 3, 5, 5), 0.7)
    torch.testing.assert_close(dc.GaussianBlur(5.0, 7)(flat), flat)
    image = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(dc.GaussianBlur(2.0)(image), dc.GaussianBlur(2.0)(image[:, None])[:, 0])


def test_resize_is_torchs_there_and_back() -> None:
    x = natural(2, 1)[:, 0]
    up, down = dc.Resize(1.5)(x), dc.Resize(0.5)(x)
    for scale, ours in ((1.5, up), (0.5, down)):
        there = F.interpolate(x, [round(scale * n) for n in x.shape[-2:]], mode="bilinear", antialias=True)
        torch.testing.assert_close(ours, F.interpolate(there, x.shape[-2:], mode="bilinear", antialias=True), atol=1e-5, rtol=0)
    torch.testing.assert_close(dc.Resize((0.9, 1.5))(x, scale=1.0), x, atol=1e-5, rtol=0)
    mixed = dc.Resize((0.5, 2.0))(x, scale=[0.5, 1.5])
    torch.testing.assert_close(mixed[0], down[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[1], up[1], atol=1e-5, rtol=0)
    for own, most in (((0.5, 1.0), 1), (0.5, 1), ((0.7, 1.5), 1.5), (dc.Steps({0: 0.5, 9: 1.2}), 1.2)):
        with pytest.raises(ValueError, match=rf"scale expected to lie in \[0.001, {most}\], got 2"):
            dc.Resize(own)(x, scale=2.0)  # type: ignore[arg-type]


def test_perspective_moves_corners_to_where_they_were_drawn() -> None:
    """A picture that is its own map of positions: red is x, green is y, blue is inside."""
    x = torch.stack(
        [torch.linspace(0.1, 0.9, 61).expand(41, 61), torch.linspace(0.1, 0.9, 41)[:, None].expand(41, 61), torch.ones(41, 61)]
    )[None]
    layer = dc.Perspective(1.0)
    still = layer(x, {"distortion": torch.zeros(1), "corners": torch.rand(1, 4, 2)})
    torch.testing.assert_close(still, x, atol=1e-4, rtol=0)
    corners = torch.tensor([[[0.5, 0.4], [0.2, 0.6], [0.1, 0.2], [0.3, 0.1]]])
    y = layer(x, {"distortion": torch.ones(1), "corners": corners})[0]
    for (cx, cy), (sx, sy) in zip(corners[0].tolist(), [(0, 0), (1, 0), (1, 1), (0, 1)]):
        px, py = (sx + (1 - 2 * sx) * cx / 2) * 60, (sy + (1 - 2 * sy) * cy / 2) * 40
        inside = y[:, round(py) + (2 if sy == 0 else -2), round(px) + (2 if sx == 0 else -2)]
        assert inside[2] > 0.9
        assert inside[:2].tolist() == pytest.approx([0.1 + 0.8 * sx, 0.1 + 0.8 * sy], abs=0.1)  # the picture's own corner
        outside_x, outside_y = round(px) + (-3 if sx == 0 else 3), round(py) + (-3 if sy == 0 else 3)
        if 0 <= outside_x <= 60 and 0 <= outside_y <= 40:
            assert y[2, outside_y, outside_x] < 0.1


def test_median_is_scipys() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    x = natural(1, 2)
    for kernel in (1, 3, 5):
        ours = dc.MedianFilter(kernel)(x)[0].numpy()
        theirs = ndimage.median_filter(x[0].numpy(), size=(1, 1, kernel, kernel), mode="nearest")
        assert abs(ours - theirs).max() == 0


def test_blur_over_space_is_that_of_each_frame() -> None:
    x = natural(2, 3)
    layer = dc.GaussianBlur((0.5, 2.0), kernel=5, over="space")
    draw = layer.sample(x.shape)
    for t in range(3):
        torch.testing.assert_close(layer(x, draw)[:, t], layer(x[:, t], draw))
