import numpy as np
import pytest
import scipy.fft
import torch
import torch_dct
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from diffcodec import blocks, transform

sizes = st.integers(1, 40)


@given(sizes, sizes, st.sampled_from([1, 2, 4, 8, 16]))
def test_pad_split_join_crop_is_the_identity(h: int, w: int, k: int) -> None:
    x = torch.rand(2, 3, h, w)
    padded = blocks.pad_to_multiple(x, k)
    assert padded.shape[-2] % k == padded.shape[-1] % k == 0
    assert padded.shape[-2] - h < k
    cut = blocks.split(padded, k)
    assert cut.shape == (2, 3, padded.shape[-2] // k, padded.shape[-1] // k, k, k)
    assert torch.equal(blocks.crop(blocks.join(cut), h, w), x)


def test_padding_repeats_the_edge() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert blocks.pad_to_multiple(x, 4).tolist() == [[1, 2, 2, 2], [3, 4, 4, 4], [3, 4, 4, 4], [3, 4, 4, 4]]


def test_blocks_are_in_raster_order() -> None:
    x = torch.arange(64.0).view(8, 8)
    assert blocks.split(x, 4)[0, 1].tolist() == x[:4, 4:].tolist()


def test_split_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="6 x 8"):
        blocks.split(torch.rand(6, 8), 8)


@pytest.mark.parametrize("k", transform.SIZES)
def test_dct_is_scipys_and_torch_dcts(k: int) -> None:
    x = torch.randn(3, 5, k, k)
    ours = transform.dct2(x)
    torch.testing.assert_close(ours, torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho")), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, torch_dct.dct_2d(x, norm="ortho"), atol=1e-5, rtol=0)
    torch.testing.assert_close(transform.idct2(ours), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", transform.SIZES)
def test_dct_is_orthonormal_and_differentiable(k: int) -> None:
    d = transform.dct_matrix(k)
    np.testing.assert_allclose(d @ d.T, np.eye(k), atol=1e-12)
    x = torch.randn(1, k, k, dtype=torch.float64, requires_grad=True)
    assert gradcheck(transform.dct2, x)
    assert gradcheck(transform.idct2, x)


def test_other_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(5, 5\)"):
        transform.dct2(torch.rand(5, 5))
    with pytest.raises(ValueError, match=r"\(8, 4\)"):
        transform.idct2(torch.rand(8, 4))


def test_constants_made_in_inference_mode_serve_a_graph_later() -> None:
    from diffcodec.constants import Constant

    c = Constant([1.0, 2.0])
    with torch.inference_mode():
        c.like(torch.zeros(1))
    x = torch.rand(2, requires_grad=True)
    (x * c.like(x)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0]
