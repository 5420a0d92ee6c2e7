"""Wrong arguments of attacks are named."""

import pytest
import torch

import diffcodec as dc


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dc.FrameAverage(0), "got 0"),
        (lambda: dc.FrameAverage(2.5), "2.5"),
        (lambda: dc.FrameDrop(1.1), "1.1"),
        (lambda: dc.FrameSwap(-0.1), "-0.1"),
        (lambda: dc.RandomCrop(0), "got 0"),
        (lambda: dc.RandomCrop(0.5, mode="cut"), "cut"),
        (lambda: dc.Resize(5.0), "5.0"),
        (lambda: dc.MedianFilter(4), "got 4"),
        (lambda: dc.Perspective(1.5), "1.5"),
        (lambda: dc.GaussianBlur(2.0, over="time"), "'time'"),
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
