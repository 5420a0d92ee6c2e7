"""Motion that is searched for or given."""

from __future__ import annotations

import torch
from helpers import natural

from diffcodec.h264.dpb import DecodedPictureBuffer
from diffcodec.h264.gop import Gop
from diffcodec.h264.lookahead import look_ahead
from diffcodec.h264.motion import GuideMotion, SearchedMotion, motion_bits
from diffcodec.h264.plan import SourceFrames
from diffcodec.h264.presets import PRESETS


def moving() -> SourceFrames:
    return SourceFrames.of(natural(1, 3, 64, 64))  # each frame 1 down and 2 to the right of the one before


def test_search_finds_what_moved_and_predicts_it() -> None:
    source, preset = moving(), PRESETS["medium"]
    plan, costs = look_ahead(source.luma, [Gop("IPP")], 3, preset)
    dpb = DecodedPictureBuffer(plan, source.luma)
    dpb.store([0], source.luma[:1], source.chroma[:1])
    group = plan.groups(source, torch.full((3, 4, 4), 24.0), 0)[1]
    out = SearchedMotion(plan, costs, preset).find(group, dpb)
    luma, _ = dpb.compensate(out.lists, out.vectors, out.direction)
    assert (out.vectors[0][:, 1:-1, 1:-1] == torch.tensor([4, 8])).all(-1).float().mean() > 0.8
    apart = (luma - source.luma[1]).abs()
    assert apart[:, 8:-8, 8:-8].mean() < 0.5
    assert out.uses_list[0].all()
    assert not out.intra.any()


def test_a_guide_is_followed_and_says_what_is_intra() -> None:
    source, preset = moving(), PRESETS["medium"]
    plan, _ = look_ahead(source.luma, [Gop("IPP")], 3, preset)
    dpb = DecodedPictureBuffer(plan, source.luma)
    dpb.store([0], source.luma[:1], source.chroma[:1])
    vectors, used = torch.zeros(3, 2, 8, 8, 2, dtype=torch.long), torch.zeros(3, 2, 8, 8, dtype=torch.bool)
    vectors[1, 0] = torch.tensor([4, 8])
    used[1, 0, :, 2:] = True  # the first column of macroblocks is not predicted
    group = plan.groups(source, torch.full((3, 4, 4), 24.0), 0)[1]
    out = GuideMotion(plan, vectors, used).find(group, dpb)
    assert torch.equal(out.vectors[0][0], vectors[1, 0])
    assert out.intra[0].tolist() == [[True, False, False, False]] * 4


def test_bits_of_motion() -> None:
    like, used = torch.zeros(1, 1, 2), torch.ones(1, 2, 4, dtype=torch.bool)
    still = torch.zeros(1, 2, 4, 2, dtype=torch.long)
    bits, moved = motion_bits([still], [used], like)
    assert not moved.any()
    torch.testing.assert_close(bits, torch.full((1, 1, 2), 2 * 0.72))
    still[0, :, 2:] = torch.tensor([4, 0])
    more, moved = motion_bits([still], [used], like)
    assert moved.tolist() == [[[False, True]]]
    assert more[0, 0, 1] > bits[0, 0, 1]
    assert not motion_bits([still], [~used], like)[1].any()
