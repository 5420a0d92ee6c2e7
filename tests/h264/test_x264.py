"""DiffH264's x264 model as a whole, against the real encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import natural
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import diffcodec as dc
from diffcodec import fidelity, report
from diffcodec.blocks import from_flat_blocks
from diffcodec.h264 import Gop
from diffcodec.ops.interpolate.reference import fetch_luma, predict_chroma, quarter_pel


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return report.load_clip(report.demo_clips()[0], 8, 128).video


def cosine(a: Tensor, b: Tensor) -> float:
    return ((a * b).sum() / (a.norm() * b.norm())).item()


@pytest.mark.parametrize(
    ("preset", "skill", "error"), [("ultrafast", 2.0, 0.03), ("superfast", 1.5, 0.05), ("veryfast", 1.2, 0.05), ("medium", 0.8, 0.05)]
)
def test_is_like_libx264(clip: Tensor, preset: str, skill: float, error: float) -> None:
    f = fidelity.compare([clip], dc.DiffH264(24, preset), dc.RealCodec(crf=24, preset=preset))
    assert f.survival_error < error
    assert f.skill > skill
    assert f.error_cosine > 0.6
    assert f.distortion_gap < 0.6


def test_crf_sets_the_strength(clip: Tensor) -> None:
    crf = torch.tensor([18.0, 26.0, 34.0])
    coded = dc.DiffH264(crf).encode(clip.expand(3, *clip.shape))
    psnr = dc.metrics.psnr(coded.video, clip.expand(3, *clip.shape))
    assert psnr[0] > psnr[1] + 2 > psnr[2] + 4
    assert coded.bits[0] > 1.5 * coded.bits[1] > 1.5 * coded.bits[2]
    one = dc.DiffH264(26)(clip[None])
    torch.testing.assert_close(coded.video[1:2], one, atol=1e-5, rtol=0)
    faster = dc.DiffH264(26, fps=100)(clip[None])
    assert dc.metrics.psnr(faster, clip[None]) < dc.metrics.psnr(one, clip[None]) - 0.3


def test_gradients_reach_video_and_crf(clip: Tensor) -> None:
    x = clip[None, :4, :, :64, :64].clone().requires_grad_(True)
    crf = torch.tensor([26.0], requires_grad=True)
    out = dc.DiffH264(crf, "superfast")(x)
    gx, gq = torch.autograd.grad((out - x.detach()).square().sum(), (x, crf))
    assert gx.isfinite().all()
    assert (gx.flatten(2).norm(dim=2) > 0).all()
    assert gq.isfinite().all()
    assert gq != 0
    coded = dc.DiffH264(crf, "superfast").encode(x)
    (gb,) = torch.autograd.grad(coded.bits.sum(), crf)
    assert gb < 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 51), st.sampled_from(["ultrafast", "medium"]), st.integers(0, 100))
def test_gradient_is_bounded(crf: int, preset: str, seed: int) -> None:
    x = natural(1, 3, 32, 32, seed=seed).requires_grad_(True)
    out = dc.DiffH264(crf, preset)(x)
    g = torch.randn_like(out)
    (gx,) = torch.autograd.grad(out, x, g)
    assert gx.norm() < 30 * g.norm()


@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_a_guide_brings_it_nearer(clip: Tensor, preset: str) -> None:
    x = clip[None]
    real = dc.RealCodec(crf=24, preset=preset).encode(x)
    layer = dc.DiffH264(24, preset)
    guided, alone = layer.encode(x, guide=real.guide), layer(x)
    assert guided.frame_types == real.frame_types
    assert cosine(guided.video - x, real.video - x) > cosine(alone - x, real.video - x) + 0.03
    assert dc.metrics.psnr(guided.video, real.video) > dc.metrics.psnr(x, real.video) + (5 if preset == "ultrafast" else 2)


def test_real_forward_guided_backward(clip: Tensor) -> None:
    x = clip[None, :4, :, :64, :64].clone().requires_grad_(True)
    simulator = dc.DiffH264(28, "ultrafast")
    codec = dc.RealCodec(crf=28, preset="ultrafast", gradient=simulator)
    out = codec(x)
    coded = dc.RealCodec(crf=28, preset="ultrafast").encode(x.detach())
    assert torch.equal(out, coded.video)
    w = torch.randn_like(out)
    (mine,) = torch.autograd.grad((out * w).sum(), x)
    (guided,) = torch.autograd.grad((simulator(x, guide=coded.guide) * w).sum(), x)
    (alone,) = torch.autograd.grad((simulator(x) * w).sum(), x)
    assert torch.equal(mine, guided)
    assert not torch.equal(mine, alone)


def test_a_guide_of_another_clip_is_an_error(clip: Tensor) -> None:
    guide = dc.RealCodec(crf=30, preset="ultrafast").encode(clip[None]).guide
    layer = dc.DiffH264(30, "ultrafast")
    for wrong, words in (
        (clip[None, :4], "8 frames, the clip has 4"),
        (clip[None, :, :, :64], "64 x 128"),
        (1 - clip[None], "another clip"),
    ):
        with pytest.raises(ValueError, match=words):
            layer(wrong, guide=guide)
    with pytest.raises(ValueError, match="list of 2 guides"):
        layer(clip.expand(2, *clip.shape), guide=guide)
    with pytest.raises(TypeError, match="takes no guide"):
        dc.DiffH264(model="revmark")(clip[None], guide=guide)


def test_frame_types(clip: Tensor) -> None:
    assert dc.DiffH264(gop=Gop("IPbP")).encode(clip[None, :4]).frame_types == ["IPBP"]
    assert dc.DiffH264(preset="ultrafast").encode(clip[None, :3]).frame_types == ["IPP"]
    inside = dc.DiffH264(30, "veryfast", gop="middle")
    seen = set()
    for seed in range(6):
        coded = inside.encode(clip[None, :6, :, :48, :48], generator=torch.Generator().manual_seed(seed))
        assert coded.video.shape == (1, 6, 3, 48, 48)
        assert coded.frame_bits.shape == (1, 6)
        seen.add(coded.frame_types[0])
    assert len(seen) > 1
    assert not any("I" in types for types in seen)
    both = dc.DiffH264(30, gop="random").sample((40, 6, 3, 48, 48), torch.Generator().manual_seed(0))["phase"]
    assert 5 < int((both == -1).sum()) < 35
    with pytest.raises(ValueError, match="is for 4 frames"):
        dc.DiffH264(gop=Gop("IPbP"))(clip[None])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crf": 52}, "52"),
        ({"preset": "warp"}, "warp"),
        ({"fps": 0}, "fps"),
        ({"gop": "end"}, "end"),
        ({"model": "x266"}, "x266"),
    ],
)
def test_bad_options(options: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=words):
        dc.DiffH264(**options)
    with pytest.raises(TypeError, match="motion"):
        dc.DiffH264(motion=None)


def test_skipped_blocks_are_the_decoders_own() -> None:
    """Where a stream says "copy from there" and nothing else, prediction is all there is: luma and chroma equal the decoder's to the bit."""
    av = pytest.importorskip("av")
    big = natural(1, 1, 160, 160)[0, 0]
    turned = [
        torch.nn.functional.affine_grid(torch.tensor([[[1, 0, 0.013 * t], [0, 1, 0.021 * t]]]), [1, 3, 160, 160], align_corners=False)
        for t in range(5)
    ]
    clip = torch.cat([torch.nn.functional.grid_sample(big[None], g, align_corners=False)[..., 32:128, 32:128] for g in turned]).clamp(0, 1)
    options = {"bf": "0", "refs": "1", "x264-params": "no-deblock=1:weightp=0"}
    real = dc.RealCodec(crf=40, preset="medium", options=options).encode(clip[None])
    guide = real.guide[0]
    decoder = av.CodecContext.create("h264", "r")
    packets = [*decoder.parse(real.streams[0]), *decoder.parse(b"")]
    frames = [f for p in packets for f in decoder.decode(p)] + list(decoder.decode(None))
    planes = torch.from_numpy(np.stack([f.to_ndarray(format="yuv420p") for f in frames])).float()  # [5, 144, 96]
    luma, chroma = planes[:, :96], planes[:, 96:].reshape(5, 2, 48, 48)
    previous = torch.arange(4)[:, None, None]
    vectors = guide.vectors[1:, 0]
    predicted = from_flat_blocks(fetch_luma(quarter_pel(luma[:-1]), previous, vectors, 8), 8)
    predicted_c = from_flat_blocks(predict_chroma(chroma[:-1], previous, vectors, 4).movedim(3, 1).flatten(0, 1), 4).view(4, 2, 48, 48)
    same = (predicted == luma[1:]).view(4, 6, 16, 6, 16).all(4).all(2)
    same_c = (predicted_c == chroma[1:]).view(4, 2, 6, 8, 6, 8).all(5).all(3).all(1)
    fraction = (vectors[:, ::2, ::2] % 4 != 0).any(-1)
    assert (same & same_c).float().mean() > 0.3
    assert (same & same_c & fraction).float().mean() > 0.1


def test_the_gradient_of_bits_by_crf_is_that_of_finite_differences(clip: Tensor) -> None:
    x = clip[None, :6]
    for preset in ("medium", "ultrafast"):
        for crf in (18.0, 23.0, 30.0, 40.0):
            q = torch.tensor([crf], requires_grad=True)
            (g,) = torch.autograd.grad(dc.DiffH264(q, preset).encode(x).bits.log().sum(), q)
            with torch.no_grad():
                low, high = (dc.DiffH264(crf + d, preset).encode(x).bits.log() for d in (-2, 2))
            assert 0.75 < (g / ((high - low) / 4)).item() < 1.35, (preset, crf)
