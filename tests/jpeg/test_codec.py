import io

import numpy as np
import pytest
import torch
from helpers import natural
from PIL import Image
from test_color import jpeg_round_trip
from torch import Tensor

import diffcodec as dc
from diffcodec.jpeg import quality_tables
from diffcodec.jpeg.masks import _RANK


def pillow_tables(quality: int) -> dict[int, list[int]]:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    return Image.open(file).quantization  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("quality", range(1, 101))
def test_tables_are_libjpegs(quality: int) -> None:
    ours = quality_tables(torch.tensor([float(quality)]), torch.zeros(1))[0]
    theirs = pillow_tables(quality)  # in natural order since Pillow 8.3
    for i in (0, 1):
        assert ours[i].flatten().tolist() == theirs[i]


def test_tables_of_a_quality_that_wants_a_gradient_are_the_same() -> None:
    quality = torch.tensor([1.0, 30, 49, 50, 51.0, 100])
    wanted = quality_tables(quality.clone().requires_grad_(), torch.zeros(1))
    assert wanted.requires_grad
    assert torch.equal(wanted, quality_tables(quality, torch.zeros(1)))
    between = quality_tables(torch.tensor([50.0, 50.5]), torch.zeros(1))
    assert torch.equal(between[0], wanted[3])
    assert not torch.equal(between[1], between[0])


def test_zigzag_is_the_standards() -> None:
    rank = _RANK.value.long()
    assert rank[0].tolist() == [0, 1, 5, 6, 14, 15, 27, 28]  # T.81 figure A.6
    assert rank[:, 0].tolist() == [0, 2, 3, 9, 10, 20, 21, 35]
    assert rank[7].tolist() == [35, 36, 48, 49, 57, 58, 62, 63]


@pytest.mark.parametrize(("subsampling", "pillow"), [("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)])
@pytest.mark.parametrize(("quality", "nearer"), [(10, 14.0), (50, 9.0), (75, 7.0), (95, 3.0)])
@pytest.mark.parametrize("size", [(96, 128), (37, 51)])
def test_nearer_to_libjpeg_than_doing_nothing(subsampling: str, pillow: int, quality: int, nearer: float, size: tuple[int, int]) -> None:
    x = natural(1, 1, *size)[0]
    ours = (dc.DiffJPEG(quality, subsampling, "straight_through")(x) * 255).round() / 255
    real = jpeg_round_trip(x[0], quality, pillow)[None]
    assert (dc.metrics.psnr(ours, real) - dc.metrics.psnr(x, real)).item() > nearer


def test_quality_is_monotone() -> None:
    x = natural(1)
    for layer in (lambda q: dc.DiffJPEG(q, rounding="straight_through"), dc.RealJPEG):
        psnrs = [dc.metrics.psnr(layer(q)(x), x).item() for q in (1, 10, 30, 50, 70, 90, 100)]
        assert psnrs == sorted(psnrs)


def test_finite_at_both_ends() -> None:
    for q in (1, 100):
        x = natural(1).requires_grad_(True)
        dc.DiffJPEG(q)(x).sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_quality_per_sample_and_steerable() -> None:
    x = natural(2)
    q = torch.tensor([20.0, 80.0], requires_grad=True)
    y = dc.DiffJPEG(q, rounding="straight_through")(x)
    for i, v in enumerate((20, 80)):
        torch.testing.assert_close(y[i : i + 1], dc.DiffJPEG(v, rounding="straight_through")(x[i : i + 1]))
    (g,) = torch.autograd.grad((y - x).square().sum(), q)
    assert g.isfinite().all()
    assert q.tolist() == [20.0, 80.0]  # the caller's tensor is left alone


def test_range_is_drawn_per_sample() -> None:
    draw = dc.DiffJPEG((30, 60)).sample((1000, 1, 3, 8, 8), torch.Generator().manual_seed(0))
    q = draw["quality"]
    assert 30 <= q.min() < 31
    assert 59 < q.max() <= 60


def test_grey_and_colour_images() -> None:
    x = natural(1, 1)[:, 0]
    grey = x.mean(1, keepdim=True)
    assert dc.DiffJPEG(90)(x).shape == x.shape
    y = dc.DiffJPEG(90, rounding="straight_through")(grey)
    real = dc.RealJPEG(90)(grey)
    assert y.shape == real.shape == grey.shape
    assert dc.metrics.psnr((y * 255).round() / 255, real).item() > 50


def test_frames_of_a_video_are_coded_alone() -> None:
    x = natural(1, 3)
    torch.testing.assert_close(dc.DiffJPEG(50)(x)[:, 1], dc.DiffJPEG(50)(x[:, 1]))
    assert torch.equal(dc.RealJPEG(50)(x)[:, 1], dc.RealJPEG(50)(x[:, 1]))


def test_mask_keeps_low_frequencies_only() -> None:
    x = natural(1)
    y = dc.JPEGMask(luma=64, chroma=64)(x)
    torch.testing.assert_close(y, x, atol=1e-5, rtol=0)
    flat = dc.JPEGMask(luma=1, chroma=1)(x)
    assert flat[..., :8, :8].flatten(3).std(-1).max() < 1e-5  # blocks of one colour
    with pytest.raises(ValueError, match="65"):
        dc.JPEGMask(luma=65)


def test_drop_rate_follows_quality() -> None:
    x = natural(1)
    far = [dc.metrics.psnr(dc.JPEGDrop(q)(x), x).item() for q in (10, 50, 95)]
    assert far == sorted(far)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dc.DiffJPEG(0), "got 0"),
        (lambda: dc.DiffJPEG(101), "got 101"),
        (lambda: dc.DiffJPEG(float("nan")), "got nan"),
        (lambda: dc.DiffJPEG((60, 30)), r"\(60, 30\)"),
        (lambda: dc.DiffJPEG(torch.tensor([50.0, 0.0])), "got 0"),
        (lambda: dc.DiffJPEG(50, "4:1:1"), "4:1:1"),
        (lambda: dc.DiffJPEG(50, rounding="hard"), "hard"),
        (lambda: dc.RealJPEG(0), "got 0"),
        (lambda: dc.RealJPEG(50, gradient="cubic"), "cubic"),
    ],
)
def test_bad_arguments(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()


def test_quality_of_another_batch_size() -> None:
    with pytest.raises(ValueError, match="holds 2 values, the batch has 3"):
        dc.DiffJPEG(torch.tensor([50.0, 60.0]))(natural(3))


def test_real_jpeg_is_pillow_to_the_bit() -> None:
    x = natural(2, 1, 33, 47)[:, 0]
    y = dc.RealJPEG(40)(x)
    for i in range(2):
        assert torch.equal(y[i], jpeg_round_trip(x[i], 40, 2))


def test_real_jpeg_counts_the_entropy_coded_segment() -> None:
    x = natural(1, 1)[:, 0]
    coded = dc.RealJPEG(40).encode(x)
    data = coded.streams[0]
    sos = data.index(b"\xff\xda")
    header = 2 + int.from_bytes(data[sos + 2 : sos + 4], "big")
    assert coded.bits.item() == 8 * (len(data) - sos - header - 2)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), dc.color.to_8bit(coded.video[0]).permute(1, 2, 0).numpy())


def straight(x: Tensor) -> Tensor:
    return dc.DiffJPEG(50)(x)


def test_real_jpeg_gradients() -> None:
    x = natural(1, 1)[:, 0]
    assert not dc.RealJPEG(50, gradient=None)(x.clone().requires_grad_(True)).requires_grad
    for gradient, expected in (("identity", lambda v: v), (dc.DiffJPEG(50), straight)):
        a, b = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
        y = dc.RealJPEG(50, gradient=gradient)(a)
        assert torch.equal(y.detach(), dc.RealJPEG(50)(x))
        w = torch.randn_like(x)
        torch.testing.assert_close(torch.autograd.grad((y * w).sum(), a), torch.autograd.grad((expected(b) * w).sum(), b))
