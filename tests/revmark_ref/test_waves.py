"""The mark of ``base`` in clips."""

import dataclasses
import math

import pytest
import torch
from helpers import footage
from torch import Tensor

import diffcodec as dc
from revmark_ref import weights
from revmark_ref.config import PRESETS, Model
from revmark_ref.keys import messages
from revmark_ref.model import REVMark
from revmark_ref.refine import refine
from revmark_ref.waves import WaveDecoder, WaveDetector, texture, wave_vectors


@pytest.fixture(scope="module")
def net() -> REVMark:
    return weights.load("base")[0]


@pytest.fixture(scope="module")
def clips() -> Tensor:
    video = footage(20, 128, 160)
    return torch.stack([video[:8, :, :, :128], video[10:18, :, :, 30:158]])


def test_bits_are_read_after_the_papers_attacks(net: REVMark, clips: Tensor) -> None:
    message = messages(0, [1, 2], 96)
    with torch.no_grad():
        marked = net.embed(clips, message, 6.2).clamp(0, 1)
    assert 30 < float(dc.metrics.psnr(marked, clips).mean()) < 40  # more texture than most clips have, so a stronger mark
    assert (net.extract(marked) > 0).float().eq(message).all()
    for layer, least in ((dc.FrameAverage(3), 0.99), (dc.FrameSwap(0.5), 0.97), (dc.GaussianNoise(0.04), 0.99), (dc.RandomCrop(0.6), 0.9)):
        draw = layer.sample(marked.shape, torch.Generator().manual_seed(0))
        read = net.extract(layer(marked, draw).clamp(0, 1)) > 0
        assert read.float().eq(message).float().mean() >= least, layer


def test_the_residual_is_grey_masked_and_of_the_strength(net: REVMark, clips: Tensor) -> None:
    message = messages(0, [3, 4], 96)
    flat = clips.clone()
    flat[..., :64] = 0.5
    with torch.no_grad():
        weak, strong = (net.residual(flat, message, a) for a in (3.1, 6.2))
    assert (weak[:, :, 0] == weak[:, :, 2]).all()
    assert float(strong.norm() / weak.norm()) == pytest.approx(2.0, rel=0.01)
    assert strong[..., :48].square().mean() < 0.02 * strong[..., 80:].square().mean()
    assert texture(torch.full((1, 1, 20, 20), 99.0)).max() < 0.11


def test_descent_makes_the_codec_keep_more(net: REVMark, clips: Tensor) -> None:
    message = messages(0, [5, 6], 96)
    codec = dc.DiffH264(crf=33.0, preset="medium")

    def kept(residual: Tensor) -> float:
        with torch.no_grad():
            marked = (clips + residual).clamp(0, 1)
            said = (2 * message - 1) * net.extract(codec(marked, codec.sample(marked.shape)))
        return float(said.clamp(max=float(said.mean())).mean())

    begin, end = (refine(net, clips, message, 6.2, steps, [(codec, 1.0)]) for steps in (0, 5))
    assert kept(end) > kept(begin)
    assert float(end.square().mean() / begin.square().mean()) == pytest.approx(1.0, rel=0.15)
    soft = refine(net, clips, message, 6.2, 3, [(codec, 1.0)], perceptual=lambda a, b: (a - b).abs().mean((1, 2, 3, 4)))
    assert soft.isfinite().all()
    assert soft.abs().mean() < begin.abs().mean() * 1.2
    with pytest.raises(ValueError, match=r"steps expected .* >= 0, got -1"):
        refine(net, clips, message, 6.2, -1)
    with pytest.raises(ValueError, match="mapping 'waves', got 'spread'"):
        refine(weights.load("small")[0], clips[..., :64, :64], message[:, :32], 6.2)


def test_frames_shown_twice_are_read_as_the_frame_they_are(net: REVMark, clips: Tensor) -> None:
    message = messages(0, [5, 6], 96)
    marked = (clips + net.residual(clips, message, 6.2)).clamp(0, 1)
    plain = (2 * message - 1) * net.extract(marked)
    for index in ([0, 0, 2, 2, 4, 4, 6, 6], [1, 1, 1, 3, 3, 5, 7, 7]):
        kept = (2 * message - 1) * net.extract(marked[:, index])
        assert (kept > 0).float().mean() >= 0.97, index
        assert kept.mean() > 0.85 * plain.mean(), index


def test_a_frame_alone_tells_whether_it_is_marked(net: REVMark, clips: Tensor) -> None:
    assert isinstance(net.decoder, WaveDecoder)
    detector = WaveDetector(net.decoder)
    marked = (clips + net.residual(clips, messages(0, [5, 6], 96), 6.2)).clamp(0, 1)
    with torch.no_grad():
        assert (detector(marked.flatten(0, 1)) > 0).float().mean() > 0.95
        assert (detector(clips.flatten(0, 1)) > 0).float().mean() < 0.1
        assert (detector(torch.rand(64, 3, 128, 128)) > 0).float().mean() < 0.06  # 1 of 80, by its threshold
        assert detector(torch.full((2, 3, 128, 128), 0.5)).isfinite().all()


def test_sizes_and_wrong_ones() -> None:
    for bits in (64, 128):
        model = dataclasses.replace(PRESETS["base"].model, bits=bits)
        net = REVMark(model)
        video, message = torch.rand(1, 8, 3, 128, 128), messages(0, [1], bits)
        assert (net.extract(net.embed(video, message, 8.0).clamp(0, 1)) > 0).float().eq(message).float().mean() > 0.9
    vectors = wave_vectors(96, 32)
    assert len(vectors) == len(
        {(abs(a), abs(b), math.copysign(1, a * b)) for a, b in vectors if a and b} | {v for v in vectors if not v[0] * v[1]}
    )
    with pytest.raises(ValueError, match="holds .* bits, got 9999"):
        wave_vectors(9999, 32)
    with pytest.raises(ValueError, match="multiples of 32"):
        Model(mapping="waves", tile=32, tas=False, motion="none", height=100)
    with pytest.raises(ValueError, match=r"message \[1, 96\]"):
        REVMark(PRESETS["base"].model).embed(torch.rand(1, 8, 3, 128, 128), torch.zeros(1, 32), 6.2)


def test_a_clip_of_one_frame_has_a_gradient(net: REVMark, clips: Tensor) -> None:
    still = clips[:1, :1].expand(-1, 8, -1, -1, -1).clone().requires_grad_(True)
    flat = torch.full_like(still, 0.5).detach().requires_grad_(True)
    for video in (still, flat):
        net.extract(video).sum().backward()
        assert video.grad is not None
        assert video.grad.isfinite().all()
