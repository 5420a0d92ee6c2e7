"""What each encoder takes: every argument and every option of ffmpeg's acts, or is an error."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from diffcodec.real import av_codec
from diffcodec.real.encoders import _OURS, ENCODERS, GENERIC

pytest.importorskip("av")
PRESET = {"libx264": "superfast", "libx265": "superfast", "libvpx-vp9": "5", "libsvtav1": "10"}


@cache
def scenes() -> Tensor:
    """Two scenes with some noise, ``[1, 16, 3, 64, 64]``: key frames, B frames and rate control have something to do."""
    cut = torch.cat([natural(1, 7, 64, 64), 0.3 + 0.6 * natural(1, 9, 64, 64, seed=3).flip(-1)], 1)
    return (cut + 0.02 * torch.randn(cut.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def stream(encoder: str, **asked: Any) -> bytes:
    given = {"preset": PRESET[encoder], "gradient": None} | ({} if "bitrate" in asked else {"crf": 30}) | asked
    streams = dc.RealCodec(encoder, **given).encode(scenes()).streams
    assert streams is not None
    return streams[0]


# of each argument: what it is given beside, two values with different streams. A text: what the error says
RATE = {"bitrate": 150e3}
LIMITS = {"maxrate": ({"bufsize": 1e5, "crf": 20}, 1e5, 1e6), "bufsize": ({"maxrate": 5e4, "crf": 20}, 2e4, 1e6)}
NAMED: dict[str, dict[str, Any]] = {
    "libx264": {
        "tune": ({}, None, "grain"), "profile": ({}, None, "main"), "bframes": ({}, None, 0), "keyint": ({}, None, 4),
        "preset": ({}, "veryfast", "fast"), "crf": ({}, 30, 30.4), "bitrate": ({}, 1e5, 2e5), **LIMITS,
    },
    "libx265": {
        "tune": ({}, None, "grain"), "profile": ({}, "main10", "codes 8-bit 4:2:0 in main"), "bframes": ({}, None, 0), "keyint": ({}, None, 4),
        "preset": ({}, "veryfast", "fast"), "crf": ({}, 30, 30.4), "bitrate": ({}, 1e5, 2e5), **LIMITS,
    },
    "libvpx-vp9": {
        "tune": ({}, None, "ssim"), "profile": ({}, "1", "codes 8-bit 4:2:0 in 0"), "bframes": ({}, 0, "libvpx-vp9 has no bframes, got bframes=0"),
        "keyint": ({}, None, 4), "preset": ({}, 4, 5), "crf": ({}, 30, 31), "bitrate": ({}, 1e5, 2e5),
        "maxrate": ({"bufsize": "1x", **RATE}, "1.5x", "no limit above the bitrate"), "bufsize": ({"maxrate": "1x", **RATE}, "0.2x", "1x"),
    },
    "libsvtav1": {
        "tune": ({}, None, 0), "profile": ({}, "1", "codes 8-bit 4:2:0 in main"), "bframes": ({}, 2, "libsvtav1 has no bframes, got bframes=2"),
        "keyint": ({}, None, 4), "preset": ({}, 9, 10), "crf": ({}, 30, 31), "bitrate": ({}, 1e5, 2e5),
        "maxrate": ({"crf": 20}, None, 2e4), "bufsize": ({"maxrate": 1e5}, 1e5, "its cap of a CRF has no buffer"),
    },
}  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_argument_acts_or_is_an_error(encoder: str) -> None:
    assert {len(names) for names in NAMED.values()} == {9}
    for name, (beside, one, other) in NAMED[encoder].items():
        if isinstance(other, str) and " " in other:
            with pytest.raises(ValueError, match=other):
                dc.RealCodec(encoder, **beside, **{name: one})
        else:
            assert stream(encoder, **beside, **{name: one}) != stream(encoder, **beside, **{name: other}), name


@pytest.mark.parametrize(
    ("encoder", "asked", "words"),
    [
        ("libvpx-vp9", {"tune": "film"}, "libvpx-vp9 has no tune 'film': expected 'psnr' or 'ssim'"),
        ("libvpx-vp9", {"tune": 2}, "no tune '2'"),
        ("libsvtav1", {"tune": "psnr"}, "libsvtav1 has no tune 'psnr': expected '0' or"),
        ("libsvtav1", {"tune": 0, "options": {"svtav1-params": "tune=1"}}, "one of them sets it"),
        ("libvpx-vp9", {"preset": 7}, "preset='7' of libvpx-vp9 is its 5: give that, or options={'deadline': 'realtime'}"),
        ("libsvtav1", {"preset": 12}, "preset"),
        ("libvpx-vp9", {"bitrate": 1e5, "maxrate": 2e5, "bufsize": 2e5}, "no limit above the bitrate"),
        ("libvpx-vp9", {"crf": 30, "maxrate": 2e5, "bufsize": 2e5}, "no limit above the bitrate"),
        ("libsvtav1", {"bitrate": 1e5, "maxrate": "2x"}, "with crf only"),
        ("libx264", {"options": {"lossless": 1}}, "constant CRF or bitrate"),
        ("libvpx-vp9", {"options": {"speed": 2}}, "argument of RealCodec"),
        ("libvpx-vp9", {"options": {"enable-tpl": 1}}, "ignores the option enable-tpl='1'"),
        ("libx265", {"options": {"flags": "+cgop+psnr"}}, "ignores flags=psnr: leave them out"),
        ("libx264", {"options": {"profile": "main", "qblur": 1}}, "libx264 ignores the option qblur='1': leave it out"),
    ],
)  # fmt: skip
def test_what_would_be_passed_over_is_an_error(encoder: str, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as said:
        dc.RealCodec(encoder, **asked)
    assert "\n" not in str(said.value)


def test_values_that_need_another_mode_act_there() -> None:
    slow, fast = (stream("libvpx-vp9", preset=p, options={"deadline": "realtime"}) for p in (5, 8))
    assert slow != fast
    constant = stream("libvpx-vp9", maxrate="1.0x", bufsize="1x", **RATE)
    assert constant != stream("libvpx-vp9", **RATE)
    assert stream("libsvtav1", tune=0, options={"svtav1-params": "keyint=4"}) != stream("libsvtav1", options={"svtav1-params": "keyint=4"})


# Of ffmpeg's options for all codecs, those that each encoder takes notice of: what it is given beside, and a value
TAKEN: dict[str, tuple[dict[str, Any], object]] = {
    "g": ({}, 3), "bf": ({}, 1), "qcomp": ({}, 0.9), "qmin": ({}, 40), "qmax": ({}, 10), "qdiff": ({}, 1), "i_qfactor": ({}, 3),
    "aspect": ({}, "4/3"), "sar": ({}, "4/3"),
    "b_qfactor": ({}, 5), "keyint_min": ({}, 2), "refs": ({}, 3), "subq": ({}, 5), "me_range": ({"preset": "fast"}, 4),
    "level": ({}, 41), "cmp": ({"preset": "fast"}, "sad"), "trellis": ({}, 1), "slices": ({}, 2), "chroma_sample_location": ({}, "topleft"),
    "rc_init_occupancy": ({"bitrate": 150e3, "maxrate": "1x", "bufsize": "1x"}, 10000), "minrate": (RATE, 10**6),
}  # fmt: skip
ELSEWHERE: dict[tuple[str, str], tuple[dict[str, Any], object]] = {  # where it is another value or mode
    ("libvpx-vp9", "qmin"): (RATE, 40), ("libvpx-vp9", "qmax"): (RATE, 10), ("libvpx-vp9", "level"): ({"bitrate": 1e6}, 1),
    ("libsvtav1", "qmin"): (RATE, 40), ("libsvtav1", "qmax"): (RATE | {"options": {"g": 4}}, 10),
}  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
def test_options_for_all_codecs_that_are_taken_act(encoder: str) -> None:
    for name in ENCODERS[encoder].generic - {"profile"}:
        beside, value = ELSEWHERE.get((encoder, name), TAKEN[name])
        asked = {k: v for k, v in beside.items() if k != "options"}
        options = beside.get("options", {})
        assert stream(encoder, options=options | {name: value}, **asked) != stream(encoder, options=options, **asked), name
    for flag in ENCODERS[encoder].flags:
        sign = "-" if (encoder, flag) == ("libx264", "cgop") else "+"  # ffmpeg sets it for libx264
        assert stream(encoder, options={"g": 8, "flags": f"{sign}{flag}"}) != stream(encoder, options={"g": 8}), flag


# A value, not the default, of each of the others that ffmpeg takes for an encoder
PASSED_OVER: dict[str, object] = {
    "bt": 1000, "flags2": "+fast", "export_side_data": "+mvs", "cutoff": 100, "qblur": 5, "b_qoffset": 10, "i_qoffset": 10, "strict": 1,
    "rc_override_count": 3, "dct": "fastint", "lumi_mask": 0.5, "tcplx_mask": 0.5, "scplx_mask": 0.5, "p_mask": 0.5, "dark_mask": 0.5, "dia_size": 4,
    "last_pred": 3, "pre_dia_size": 4, "global_quality": 3000, "mbd": "rd", "subcmp": "satd", "mbcmp": "rd", "ildctcmp": "sad", "precmp": "satd",
    "mblmin": 3000, "mblmax": 300, "bidir_refine": 3, "mv0_threshold": 0, "compression_level": 9, "rc_max_vbv_use": 0.1, "rc_min_vbv_use": 9,
    "thread_type": "slice", "has_b_frames": 3, "nssew": 20, "skip_top": 1, "skip_bottom": 1, "idct": "simple", "err_detect": "explode",
    "skip_frame": "nokey", "skip_loop_filter": "all", "bits_per_coded_sample": 8, "apply_cropping": 0,
}  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
def test_options_that_are_passed_over_are_errors(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = PASSED_OVER | {name: value for name, (beside, value) in TAKEN.items() if not beside and name not in ENCODERS[encoder].generic}
    for name in GENERIC - ENCODERS[encoder].generic - set(_OURS):
        with pytest.raises(ValueError, match=rf"{encoder} ignores|not free"):
            dc.RealCodec(encoder, options={name: values.get(name, "1")})
    before = [stream(encoder), stream(encoder, **RATE)]
    monkeypatch.setattr(av_codec, "check_options", lambda *_: None)
    assert before == [stream(encoder, options=values, **mode) for mode in ({}, RATE)]  # none of them had an effect
