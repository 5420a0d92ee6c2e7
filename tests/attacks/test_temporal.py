"""Attacks on the order and number of frames."""

import itertools

import pytest
import torch
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
