"""Prediction of groups of frames."""

from __future__ import annotations

import dataclasses

import torch
from helpers import natural

from diffcodec.h264.dpb import DecodedPictureBuffer
from diffcodec.h264.gop import Gop
from diffcodec.h264.lookahead import look_ahead
from diffcodec.h264.motion import SearchedMotion
from diffcodec.h264.plan import SourceFrames
from diffcodec.h264.prediction import choose_intra, predict_inter_frames, predict_intra_frames
from diffcodec.h264.presets import PRESETS, constants_of

MEDIUM = PRESETS["medium"]


def test_intra_frames_are_predicted_from_themselves() -> None:
    source = SourceFrames.of(natural(1, 1, 48, 64))
    plan, _ = look_ahead(source.luma, [Gop("I")], 1, MEDIUM)
    (group,) = plan.groups(source, torch.full((1, 3, 4), 20.0), 0)
    p = predict_intra_frames(group, MEDIUM, constants_of(MEDIUM))
    assert p.intra.all()
    assert p.not_skipped.all()
    assert not (p.transform_8x8 & p.intra16x16).any()
    flat = (source.luma - source.luma.mean()).square().mean()
    assert (p.luma - source.luma).square().mean() < 0.6 * flat
    assert p.luma.shape == source.luma.shape
    assert p.chroma.shape == source.chroma.shape


def test_types_of_macroblocks_follow_the_preset() -> None:
    luma = SourceFrames.of(natural(1, 1, 48, 64)).luma
    lam = torch.ones(1, 3, 4)
    assert len(choose_intra(luma, luma, lam, PRESETS["ultrafast"]).modes) == 1
    both = choose_intra(luma, luma, lam, MEDIUM)
    assert set(both.mb_type.unique().tolist()) <= {0, 1, 2}
    assert (choose_intra(luma, luma, 1000 * lam, MEDIUM).mb_type == 0).float().mean() >= (both.mb_type == 0).float().mean()


def test_p_frames_take_intra_macroblocks_where_they_are_cheaper() -> None:
    video = natural(1, 2, 48, 64)
    video[:, 1] = natural(1, 1, 48, 64, seed=9)[:, 0].flip(-1)  # another scene: nothing to refer to
    source = SourceFrames.of(video)
    plan, costs = look_ahead(source.luma, [Gop("IP")], 2, MEDIUM)
    dpb = DecodedPictureBuffer(plan, source.luma)
    dpb.store([0], source.luma[:1], source.chroma[:1])
    group = plan.groups(source, torch.full((2, 3, 4), 24.0), 0)[1]
    constants = constants_of(MEDIUM)
    share = []
    for bias in (constants.intra_bias, 1e6):
        p = predict_inter_frames(
            group, dpb, SearchedMotion(plan, costs, MEDIUM), MEDIUM, dataclasses.replace(constants, intra_bias=bias), rate=True
        )
        share.append(p.intra.float().mean())
    assert share[0] > 0.3
    assert share[1] == 0
