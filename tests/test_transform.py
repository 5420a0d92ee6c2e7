"""The DCT."""

import numpy as np
import pytest
import scipy.fft
import torch
import torch_dct
from torch.autograd import gradcheck

from diffcodec import transform


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
