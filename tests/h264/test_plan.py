"""What is coded, from what, in which order."""

from __future__ import annotations

import torch
from helpers import natural

from diffcodec.h264.gop import Gop
from diffcodec.h264.plan import CodingPlan, SourceFrames, reflected


def test_time_runs_backwards_beyond_the_ends() -> None:
    assert [reflected(i, 4) for i in range(-3, 8)] == [3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
    assert reflected(7, 1) == 0


def test_clips_lie_one_after_the_other() -> None:
    plan = CodingPlan.of([Gop("IbBbP"), Gop("IPbPP", before=0, references=2)], 5)
    assert plan.source == list(range(10))
    assert plan.clip == [0] * 5 + [1] * 5
    assert plan.types == list("IbBbPIPbPP")
    assert (plan.past[2], plan.future[2]) == ((0,), (4,))
    assert plan.past[9] == (8, 6)  # of its own clip, the nearest first
    assert plan.spans == [(0, 5), (5, 10)]
    assert plan.references() == [0, 2, 4, 5, 6, 8]
    assert all(set(plan.past[i] + plan.future[i]).isdisjoint(step) for step in plan.steps for i in step)


def test_a_window_from_inside_a_stream_shows_its_own_frames_alone() -> None:
    plan = CodingPlan.of([Gop("IbPbP", before=2)], 3)
    assert plan.display == [-2, -1, 0, 1, 2]
    assert plan.source == [2, 1, 0, 1, 2]
    assert plan.shown == [2, 3, 4]


def test_groups_are_of_one_type_and_in_coding_order() -> None:
    source = SourceFrames.of(natural(2, 5, 20, 36))
    assert source.luma.shape == (10, 32, 48)
    assert source.chroma.shape == (10, 2, 16, 24)
    plan = CodingPlan.of([Gop("IbBbP"), Gop("IPIPP")], 5)
    qp = torch.arange(10.0)[:, None, None].expand(10, 2, 3) + 20
    done: set[int] = set()
    for group in plan.groups(source, qp, -2):
        assert {plan.types[i].upper() for i in group.frames} == {group.type}
        assert all(r in done for i in group.frames for r in plan.past[i] + plan.future[i])
        assert torch.equal(group.luma, source.luma[group.frames])
        assert group.qp[:, 0, 0].tolist() == [i + 20 for i in group.frames]
        assert torch.equal(group.lam, 2 ** ((group.qp - 12) / 6))
        done |= set(group.frames)
    assert done == set(range(10))
