"""Tunes, profiles, options, bitrate: as x264 has them, for model and encoder alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from diffcodec import fidelity, report
from diffcodec.h264 import PRESETS, PROFILES, TUNES, Preset
from diffcodec.h264.options import OPTIONS, habits


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return report.load_clip(report.demo_clips()[1], 8, 128).video


ASKED: list[dict[str, Any]] = [
    {"tune": "film"},
    {"tune": "animation"},
    {"tune": "zerolatency"},
    {"tune": "psnr,fastdecode"},
    {"profile": "main"},
    {"bframes": 0},
    {"options": {"x264-params": "mbtree=0:8x8dct=0:psy-rd=0.5,0:no-deblock=1"}},
    {"options": {"bf": 1, "x264-params": "aq-mode=0:deblock=-2,-2"}},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_one_dict_makes_simulator_and_encoder(clip: Tensor, asked: dict[str, Any]) -> None:
    """What moves the encoder moves the simulator: nearer with the same habits than with the preset's own."""
    real = dc.RealCodec(crf=24, gradient=None, **asked)
    mine, plain = (fidelity.compare([clip], dc.DiffH264(24, **a), real) for a in (asked, {}))
    assert mine.survival_error < 0.06
    assert mine.survival_error < plain.survival_error + 0.005


@pytest.mark.parametrize("tune", TUNES)
@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_every_tune_codes(tune: str, preset: str) -> None:
    out = dc.DiffH264(30, preset, tune=tune)(natural(1, 3, 32, 48))
    assert out.isfinite().all()


def test_habits_are_changed_in_x264s_order() -> None:
    assert habits("medium", tune="animation").bframes == 5
    assert habits("medium", tune="animation", bframes=1).bframes == 1
    assert habits("medium", tune="animation", profile="baseline").bframes == 0
    assert habits("veryfast", tune="animation").references == 1
    assert habits("medium", options={"subme": 5}).chroma_offset == 0
    assert habits("medium", tune="film").chroma_offset == -3
    assert habits("medium", options={"x264-params": "no-mbtree:no-8x8dct=1:psy=0"}) == Preset(
        **{**PRESETS["medium"].__dict__, "tree": False, "transform8": False, "psy": 0.0}
    )
    assert habits(Preset(references=2), keyint=12).keyint == 12
    assert habits("medium", options={"tune": "film", "profile": "main", "g": "9"}).keyint == 9
    assert habits("medium", options={"aq-strength": 2, "no-mbtree": False, "aq-mode": False}).aq_strength == 0
    assert not habits("superfast", options={"mbtree": True}).tree  # without lookahead there is none
    assert habits("ultrafast", options={"subme": 2}).subpel == 4
    assert habits("medium", tune="film,grain", strict=False) == habits("medium", tune="film")
    assert habits("medium", options={"aq-mode": 0}).tree  # x264 keeps the tree: quantisation is adaptive without strength
    assert habits("medium", options={"unheard-of": 1, "bf": "many"}, strict=False) == PRESETS["medium"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"tune": "flim"}, "unknown tune 'flim'; expected one of 'film'"),
        ({"tune": "film,grain"}, "more than one of film"),
        ({"profile": "high444"}, "unknown profile 'high444'"),
        ({"options": {"foo": 1}}, r"no option foo='1'; it knows bframes, ref"),
        ({"options": {"x264-params": "subme=11"}}, r"option subme='11': expected a whole number 0..9"),
        ({"options": {"x264-params": "deblock=-1,2"}}, "two equal offsets"),
        ({"options": {"direct": "temporal"}}, "temporal prediction is not modelled"),
        ({"options": {"aq-mode": 2}}, r"option aq-mode='2': expected a whole number 0..1"),
        ({"bframes": 2, "options": {"bf": 1}}, "set the same: give one of them"),
        ({"tune": "film", "options": {"tune": "grain"}}, "one of them sets it"),
        ({"bframes": 99}, r"option bframes='99': expected a whole number 0..16"),
        ({"crf": 20, "bitrate": 1e5}, "both crf=20 and bitrate=100000.0"),
        ({"bitrate": 10}, "bitrate"),
    ],
)
def test_errors_name_the_value(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dc.DiffH264(**asked)


def test_every_option_is_taken_by_the_encoder() -> None:
    """The model's names are x264's: the encoder takes each with a value that the model takes."""
    values = {"direct": "spatial", "partitions": "all", "deblock": "0,0", "psy-rd": "1.0,0.0"}
    for name in OPTIONS:
        params = {"x264-params": f"{name}={values.get(name, 1)}"}
        assert habits("medium", options=params)
        dc.RealCodec(options=params, gradient=None)
    for tune in TUNES:
        dc.RealCodec(tune=tune, gradient=None)
    for profile in PROFILES:
        dc.RealCodec(profile=profile, gradient=None)
    with pytest.raises(ValueError, match="one of them sets it"):
        dc.RealCodec(tune="film", options={"tune": "grain"})


def test_the_encoders_own_simulator_has_its_habits() -> None:
    simulator = dc.RealCodec(crf=24, preset="fast", tune="zerolatency", options={"x264-params": "no-deblock=1"}).gradient
    assert isinstance(simulator, dc.DiffH264)
    assert simulator.settings == habits("fast", tune="zerolatency", options={"no-deblock": 1})


def test_bitrate_is_met_by_every_clip(clip: Tensor) -> None:
    video = torch.stack([clip[:, :, :64, :64], clip[:, :, 64:, 64:]])
    bitrate = torch.tensor([12e3, 50e3], requires_grad=True)
    coded = dc.DiffH264(bitrate=bitrate).encode(video)
    torch.testing.assert_close(coded.bits.detach(), bitrate.detach() * 8 / 25, rtol=0.06, atol=0)
    psnr = dc.metrics.psnr(coded.video, video)
    (grad,) = torch.autograd.grad(psnr.sum(), bitrate)
    assert (grad > 0).all()  # more bits, a better picture
    layer = dc.DiffH264(bitrate=bitrate)
    crf = layer.crf_of_bitrate(video, bitrate, layer.gops(torch.full((2,), -1), 8), None)
    (by_bitrate,) = torch.autograd.grad(crf.sum(), bitrate)
    with torch.no_grad():
        more, fewer = (layer.crf_of_bitrate(video, bitrate * f, layer.gops(torch.full((2,), -1), 8), None) for f in (1.3, 1 / 1.3))
    torch.testing.assert_close(by_bitrate * bitrate.detach() * (1.3 - 1 / 1.3), more - fewer, rtol=0.4, atol=0)


def test_bitrate_at_the_call_in_a_mixture_and_drawn() -> None:
    video = natural(2, 3, 32, 32)
    layer = dc.DiffH264(bitrate=(5e4, 5e5))
    draw = layer.sample(video.shape, torch.Generator().manual_seed(0))
    assert ((draw["bitrate"] >= 5e4) & (draw["bitrate"] <= 5e5)).all()
    assert torch.equal(layer(video, draw), layer(video, draw))
    small, large = (layer.encode(video, bitrate=b).bits for b in (5e4, 3e5))
    assert (large > 2 * small).all()
    mixture = dc.RandomDistortion([layer, dc.DiffH264(30, tune="film")])
    assert mixture(video, generator=torch.Generator().manual_seed(1)).shape == video.shape


def test_intra_frames_come_when_it_is_time() -> None:
    video = natural(1, 9, 32, 48)
    for preset in ("ultrafast", "medium"):
        types = dc.DiffH264(30, preset, keyint=4).encode(video).frame_types[0]
        assert [i for i, letter in enumerate(types) if letter == "I"] == [0, 4, 8], preset
    assert dc.DiffH264(30, "medium", keyint=1).encode(video).frame_types == ["I" * 9]


def test_a_scene_that_begins_is_an_intra_frame() -> None:
    cut = torch.cat([0.5 * natural(1, 5, 64, 64), 0.4 + 0.5 * natural(1, 5, 64, 64, seed=7).flip(-1)], 1)
    real = dc.RealCodec(crf=26, gradient=None).encode(cut).frame_types[0]
    assert dc.DiffH264(26).encode(cut).frame_types[0].index("I", 1) == real.index("I", 1) == 5
    assert "I" not in dc.DiffH264(26, options={"scenecut": 0}).encode(cut).frame_types[0][1:]


@pytest.mark.parametrize("compiled", [False, True])
def test_frames_around_a_window(compiled: bool) -> None:
    """The window of a longer video, coded as a part of it; a gradient of its own."""
    video = natural(1, 12, 32, 48)
    layer = dc.DiffH264(28, "veryfast")
    whole = layer(video)
    window = video[:, 4:8].clone().requires_grad_()
    call = torch.compile(layer, backend="eager") if compiled else layer
    out = call(window, before=video[:, :4], after=video[:, 8:])
    torch.testing.assert_close(out, whole[:, 4:8])
    (grad,) = torch.autograd.grad(out.square().sum(), window)
    assert grad.isfinite().all()
    assert grad.any()
    coded = layer.encode(window, before=video[:, :4])
    assert coded.frame_bits.shape == (1, 4)
    assert len(coded.frame_types[0]) == 4


def test_frames_around_a_window_are_checked() -> None:
    layer, video = dc.DiffH264(28), natural(2, 3, 32, 48)
    with pytest.raises(ValueError, match=r"before= of shape \(1, 2, 3, 32, 48\)"):
        layer(video, before=video[:1, :2])
    with pytest.raises(ValueError, match="after"):
        layer(video, after=natural(2, 2, 32, 32))
    with pytest.raises(ValueError, match="before=: "):
        layer(video, before=video * float("nan"))
    with pytest.raises(ValueError, match="say where it lies in its stream"):
        dc.DiffH264(28, gop="middle")(video, after=video)
    with pytest.raises(TypeError, match="options expected a mapping"):
        dc.DiffH264(options="bf=1")
    draw = layer.sample(video.shape)
    assert torch.equal(layer(video, before=video[:, :0]), layer(video, draw))  # the first window of a video
    assert layer(video.double(), before=video.double()).dtype == torch.float64
    with pytest.raises(TypeError, match="takes no before"):
        dc.DiffH264(model="revmark")(video, before=video)
    with pytest.raises(ValueError, match="already determines what is coded"):
        dc.DiffH264(28, gop=dc.h264.Gop("IPP"))(video, before=video)
