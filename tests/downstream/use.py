"""Code of a user that is type-checked against the installed wheel (``make wheel``): mypy --strict, nothing is run."""

from __future__ import annotations

import torch
from typing_extensions import assert_type

import diffcodec as dc
from diffcodec.h264 import X264H264, Guide, REVMarkH264


def train(video: torch.Tensor) -> torch.Tensor:
    layer = dc.DiffH264(crf=(18.0, 28.0), preset="veryfast", fps=30, gop="random")
    assert_type(layer, X264H264)
    assert_type(dc.DiffH264(model="revmark", reference=0), REVMarkH264)
    draw = layer.sample(video.shape, torch.Generator().manual_seed(0), step=3)
    coded = layer.encode(video, draw)
    assert_type(coded, dc.Coded)
    assert_type(coded.bits, torch.Tensor)
    mixture = dc.RandomDistortion([layer, dc.DiffJPEG(50), dc.FrameDrop(0.5)], weights=[2, 1, 1], per="sample")
    real = dc.RealCodec("libx264", crf=23, gradient=layer)
    guides: list[Guide] = real.encode(video).guide
    out: torch.Tensor = mixture(video) + layer(video, guide=guides)
    return out


def wrong() -> None:
    dc.DiffH264(preset=3)  # type: ignore[call-overload]
    dc.GaussianBlur(kernel="3")  # type: ignore[arg-type]
