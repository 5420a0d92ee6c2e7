"""Colour conversion against ffmpeg's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diffcodec as dc


@pytest.mark.parametrize("size", [(16, 24), (48, 64)])
def test_colour_is_ffmpegs(size: tuple[int, int]) -> None:
    av = pytest.importorskip("av")
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8))
    frame = av.VideoFrame.from_ndarray(x.permute(1, 2, 0).contiguous().numpy(), format="rgb24").reformat(format="yuv420p")
    theirs = frame.to_ndarray()
    h, w = size
    luma, chroma = dc.color.rgb_to_yuv420(x[None].float() / 255)
    assert np.array_equal(luma[0].numpy(), theirs[:h])
    planes = theirs[h:].reshape(2, h // 2, w // 2).astype(float)
    apart = np.abs(chroma[0].numpy() - planes)
    assert apart.max() <= 1
    assert not apart[:, 1:-1].any()
    back = dc.color.yuv420_to_rgb(torch.from_numpy(theirs[:h])[None].float(), torch.from_numpy(planes)[None].float())
    assert np.array_equal((back[0] * 255).round().permute(1, 2, 0).numpy(), frame.to_ndarray(format="rgb24"))
