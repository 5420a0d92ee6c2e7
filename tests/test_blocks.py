"""Blocks of planes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffcodec import blocks

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
