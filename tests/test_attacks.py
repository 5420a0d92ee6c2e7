import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import natural
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import diffcodec as dc


def numbered(t: int, b: int = 1) -> Tensor:
    """Frames that carry their own number."""
    return (torch.arange(t) / 100)[None, :, None, None, None].expand(b, t, 3, 4, 4).contiguous()


def numbers(video: Tensor) -> list[int]:
    return (video[0, :, 0, 0, 0] * 100).round().int().tolist()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_average_by_hand() -> None:
    x = numbered(5)
    torch.testing.assert_close(dc.FrameAverage(3)(x)[0, :, 0, 0, 0] * 100, torch.tensor([0.5, 1, 2, 3, 3.5]))
    torch.testing.assert_close(dc.FrameAverage(2)(x)[0, :, 0, 0, 0] * 100, torch.tensor([0, 0.5, 1.5, 2.5, 3.5]))
    assert torch.equal(dc.FrameAverage(1)(x), x)
    torch.testing.assert_close(dc.FrameAverage(99)(x), x.mean(1, keepdim=True).expand_as(x))


@given(st.integers(1, 12), st.floats(0, 1), st.integers(0, 1000))
def test_drop_keeps_the_length_and_repeats_neighbours(t: int, p: float, seed: int) -> None:
    out = numbers(dc.FrameDrop(p)(numbered(t), generator=generator(seed)))
    kept = sorted(set(out))
    assert len(out) == t
    for i, n in enumerate(out):
        assert abs(n - i) == min(abs(k - i) for k in kept)
    assert out == sorted(out)


def test_drop_rate_and_ends() -> None:
    assert torch.equal(dc.FrameDrop(0)(numbered(6)), numbered(6))
    assert len(set(numbers(dc.FrameDrop(1.0)(numbered(6))))) == 1  # one frame always stays
    index = dc.FrameDrop(0.5).sample((500, 20, 3, 4, 4), generator())["index"]
    survivors = torch.tensor([len(set(row)) for row in index.tolist()]).float().mean() / 20
    assert 0.47 < survivors < 0.53


def test_drop_may_return_the_shorter_clip() -> None:
    y = dc.FrameDrop(0.5, keep_length=False)(numbered(10, 3))
    assert y.shape[1] == 5
    assert numbers(y) == sorted(set(numbers(y)))
    with pytest.raises(ValueError, match="one p for the whole batch"):
        dc.FrameDrop((0.2, 0.8), keep_length=False)(numbered(10, 3))


@given(st.integers(1, 12), st.floats(0, 1), st.integers(0, 1000))
def test_swap_is_a_permutation_of_immediate_neighbours(t: int, p: float, seed: int) -> None:
    out = numbers(dc.FrameSwap(p)(numbered(t), generator=generator(seed)))
    assert sorted(out) == list(range(t))
    assert all(abs(n - i) <= 1 for i, n in enumerate(out))


def test_swap_ends() -> None:
    assert numbers(dc.FrameSwap(0)(numbered(5))) == [0, 1, 2, 3, 4]
    assert numbers(dc.FrameSwap(1.0)(numbered(5))) == [1, 0, 3, 2, 4]


@given(st.integers(1, 12), st.floats(0, 1), st.integers(0, 1000))
def test_insert_repeats_frames_in_order(t: int, p: float, seed: int) -> None:
    out = numbers(dc.FrameInsert(p)(numbered(t), generator=generator(seed)))
    assert len(out) == t
    assert out[0] == 0
    assert all(b - a in (0, 1) for a, b in itertools.pairwise(out))
    assert all(out.count(n) <= 2 for n in out)


def test_insert_ends() -> None:
    assert numbers(dc.FrameInsert(0)(numbered(4))) == [0, 1, 2, 3]
    assert numbers(dc.FrameInsert(1.0)(numbered(4))) == [0, 0, 1, 1]
    longer = dc.FrameInsert(0.5, keep_length=False)(numbered(4))
    assert longer.shape[1] == 6
    assert set(numbers(longer)) == {0, 1, 2, 3}


def test_frame_rate() -> None:
    x = numbered(8)
    assert torch.equal(dc.FrameRate(1)(x), x)
    assert numbers(dc.FrameRate(0.5)(x)) == [0, 0, 2, 2, 4, 4, 6, 6]
    assert numbers(dc.FrameRate(0.5, keep_length=False)(x)) == [0, 2, 4, 6]
    assert numbers(dc.FrameRate(2.0, keep_length=False)(numbered(3))) == [0, 0, 1, 1, 2, 2]
    assert numbers(dc.FrameRate(2.0)(x)) == list(range(8))
    assert numbers(dc.FrameRate(25 / 30)(x)) == [0, 0, 1, 2, 4, 5, 6, 6]  # 6 * 25/30 is 5, whatever float32 makes of it
    assert numbers(dc.FrameRate(1.2, keep_length=False)(numbered(40)))[18::6] == [15, 20, 25, 30, 35]
    assert dc.FrameRate(0.01, keep_length=False)(x).shape[1] == 1


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
    y = dc.GaussianBlur(2.0, 3)(x)
    torch.testing.assert_close(y[0, 1:4, 0, 2:5, 2:5], w[:, None, None] * w[:, None] * w)
    flat = torch.full((1, 3, 3, 5, 5), 0.7)
    torch.testing.assert_close(dc.GaussianBlur(5.0, 7)(flat), flat)
    image = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(dc.GaussianBlur(2.0)(image), dc.GaussianBlur(2.0)(image[:, None])[:, 0])


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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dc.FrameAverage(0), "got 0"),
        (lambda: dc.FrameAverage(2.5), "2.5"),
        (lambda: dc.FrameDrop(1.1), "1.1"),
        (lambda: dc.FrameSwap(-0.1), "-0.1"),
        (lambda: dc.RandomCrop(0), "got 0"),
        (lambda: dc.RandomCrop(0.5, mode="cut"), "cut"),
        (lambda: dc.Resize(2.0), "2.0"),
        (lambda: dc.GaussianBlur(2.0, kernel=4), "got 4"),
        (lambda: dc.GaussianNoise(-1), "-1"),
        (lambda: dc.ColorDither(1), "got 1"),
        (lambda: dc.Hue(0.7), "0.7"),
        (lambda: dc.Flip(0.5, axis="diagonal"), "diagonal"),
        (lambda: dc.FrameRate(0), "got 0"),
    ],
)
def test_bad_arguments(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()


def test_video_only_attacks_say_so_for_images() -> None:
    with pytest.raises(ValueError, match=r"\[B, T, 3, H, W\]"):
        dc.FrameDrop()(torch.rand(2, 3, 8, 8))
    assert dc.GaussianNoise()(torch.rand(2, 3, 8, 8)).shape == (2, 3, 8, 8)
