"""The CRF of a bitrate: what its search costs, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from diffcodec import report
from diffcodec.h264 import bitrate as bitrates
from diffcodec.h264 import encoder


@pytest.fixture(scope="module")
def video() -> Tensor:
    return torch.stack([report.load_clip(path, 6, 128).video[..., :96, :] for path in report.demo_clips()[:2]])


def test_a_call_costs_one_more_encode(video: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"encode_frames": 0, "look_ahead": 0}

    def counting(name: str) -> Callable[..., Any]:
        of = getattr(encoder, name)

        def call(*args: Any, **given: Any) -> Any:
            calls[name] += 1
            return of(*args, **given)

        return call

    for name in calls:
        monkeypatch.setattr(encoder, name, counting(name))
    monkeypatch.setattr(bitrates, "FAR", 99.0)  # the guess is near enough
    rate = torch.tensor([1e5, 2e5])
    for bitrate, crf, encodes in ((None, 30, 1), (rate, None, 2), (rate.clone().requires_grad_(), None, 3)):
        calls.update(dict.fromkeys(calls, 0))
        dc.DiffH264(crf, "veryfast", bitrate=bitrate)(video)
        assert calls == {"encode_frames": encodes, "look_ahead": 1}


@pytest.mark.parametrize("preset", ["ultrafast", "superfast", "veryfast", "medium"])
@pytest.mark.parametrize("gop", ["start", "middle"])
def test_bitrates_are_met(video: Tensor, preset: str, gop: str) -> None:
    errors = []
    for bitrate in (6e4, 1e5, 2e5):
        layer = dc.DiffH264(bitrate=bitrate, preset=preset, gop=gop)
        draw = layer.sample(video.shape, torch.Generator().manual_seed(0))
        crf = layer.crf_of_bitrate(video, draw["bitrate"], layer.gops(draw["phase"], 6), None)
        bits = layer.encode(video, draw).bits
        errors.append((bits / (bitrate * 6 / 25)).log2().abs()[(crf > 0) & (crf < 51)])
    assert torch.cat(errors).max() < 0.25
    assert torch.cat(errors).mean() < 0.08


def test_a_guess_that_is_far_off_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise, of which the lookahead sees little at half resolution, beside a clip for which the guess is good; neither changes the other's."""
    noise = 0.5 + 0.1 * torch.randn(1, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    both = torch.cat([noise.clamp(0, 1), natural(1, 4, 64, 64)])
    layer, rate = dc.DiffH264(bitrate=3e5, preset="veryfast"), torch.full((2,), 3e5)
    error = (layer.encode(both).bits / (3e5 * 4 / 25)).log2().abs()
    assert error[0] < 0.15
    gops = layer.gops(torch.full((2,), -1), 4)
    alone = torch.cat([layer.crf_of_bitrate(both[i : i + 1], rate[:1], gops[:1], None) for i in range(2)])
    torch.testing.assert_close(layer.crf_of_bitrate(both, rate, gops, None), alone, atol=0.13, rtol=0)
    monkeypatch.setattr(bitrates, "FAR", 99.0)
    assert (layer.encode(both).bits / (3e5 * 4 / 25)).log2().abs()[0] > error[0]


def test_the_size_that_is_counted_is_that_of_the_encode(video: Tensor) -> None:
    for preset in ("ultrafast", "medium"):
        layer = dc.DiffH264(30, preset)
        settings = encoder.Settings(layer.fps, layer.settings, layer.constants, False)
        analysis = encoder.Analysis.of(video, layer.gops(torch.full((2,), -1), 6), settings)
        torch.testing.assert_close(encoder.size_of(analysis, torch.full((2,), 30.0), settings), layer.encode(video).bits)


def test_a_clip_is_coded_alike_in_any_batch_and_after_any_call(video: Tensor) -> None:
    rates = torch.tensor([9e4, 2e5])
    layer = dc.DiffH264(bitrate=rates, preset="veryfast")
    whole = layer(video)
    dc.DiffH264(bitrate=1e6)(video)
    assert torch.equal(layer(video), whole)
    for i in range(2):
        torch.testing.assert_close(layer(video[i : i + 1], bitrate=rates[i].item()), whole[i : i + 1], atol=1e-5, rtol=0)
    assert layer(video.half()).dtype == torch.float16


def test_bitrates_out_of_reach_take_the_ends(video: Tensor) -> None:
    for preset in ("ultrafast", "medium"):
        for bitrate, crf in ((1e3, 51), (1e9, 0)):
            layer = dc.DiffH264(bitrate=bitrate, preset=preset)
            found = layer.crf_of_bitrate(video, torch.full((2,), bitrate, requires_grad=True), layer.gops(torch.full((2,), -1), 6), None)
            assert (found - crf).abs().max() < 0.5
    flat = torch.full((1, 3, 3, 32, 32), 0.5)
    assert dc.DiffH264(bitrate=1e5)(flat).isfinite().all()
    assert dc.DiffH264(bitrate=1e5)(flat[:, :1]).isfinite().all()


def test_bitrate_of_a_window_and_in_a_mixture(video: Tensor) -> None:
    layer = dc.DiffH264(bitrate=2e5, preset="veryfast")
    window = video[:, 2:4].clone().requires_grad_()
    out = layer(window, before=video[:, :2], after=video[:, 4:])
    torch.testing.assert_close(out, layer(video)[:, 2:4])
    (grad,) = torch.autograd.grad(out.square().sum(), window)
    assert grad.isfinite().all() and grad.any()  # noqa: PT018
    mixture = dc.RandomDistortion([layer, dc.GaussianNoise()], per="sample")
    draw = mixture.sample(video.shape, torch.Generator().manual_seed(1))
    assert torch.equal(mixture(video, draw), mixture(video, draw))


def test_the_guess_falls_with_the_crf(video: Tensor) -> None:
    for preset in ("ultrafast", "slow"):
        layer = dc.DiffH264(30, preset)
        settings = encoder.Settings(layer.fps, layer.settings, layer.constants, False)
        analysis = encoder.Analysis.of(video, layer.gops(torch.full((2,), -1), 6), settings)
        guess = bitrates.guessed_sizes(analysis, settings, 2)
        assert (guess.diff(dim=1) <= 1e-6).all()
        real = encoder.size_of(analysis, torch.full((2,), 26.0), settings).log2()
        assert (guess[:, 26 * bitrates.STEPS] - real).abs().max() < 1
