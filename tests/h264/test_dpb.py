"""The decoded picture buffer."""

from __future__ import annotations

import torch

from diffcodec.blocks import repeat_blocks
from diffcodec.h264.dpb import DecodedPictureBuffer
from diffcodec.h264.gop import Gop
from diffcodec.h264.plan import CodingPlan
from diffcodec.ops.interpolate.reference import quarter_pel


def test_what_is_stored_is_fetched_by_reference() -> None:
    plan = CodingPlan.of([Gop("IPPP", references=2)], 4)
    luma, chroma = torch.randint(0, 256, (4, 32, 32)).float(), torch.randint(0, 256, (4, 2, 16, 16)).float()
    dpb = DecodedPictureBuffer(plan, luma)
    dpb.store([0, 1], luma[:2], chroma[:2])
    choice = torch.tensor([[[0, 1], [1, 0]]])  # of the candidates, for each macroblock
    slot, refs = dpb.references([1, 0], 2, choice)
    assert refs.frames == [1, 0]
    assert refs.ref_id[0, ::2, ::2].tolist() == [[1, 0], [0, 1]]
    assert refs.first[0, ::2, ::2].tolist() == [[True, False], [False, True]]
    assert torch.equal(dpb.phases[slot[0, 0, 1]], quarter_pel(luma[:1])[0])
    y, c = dpb.compensate([refs], [torch.zeros(1, 4, 4, 2, dtype=torch.long)], None)
    of_samples = repeat_blocks(refs.ref_id, 8)
    assert torch.equal(y[0], torch.where(of_samples[0] == 1, luma[1], luma[0]))
    assert torch.equal(c[0, 0, :4, 8:12], chroma[0, 0, :4, 8:12])


def test_b_frames_take_both_lists() -> None:
    plan = CodingPlan.of([Gop("IbP")], 3)
    luma, chroma = torch.randint(0, 256, (3, 16, 16)).float(), torch.randint(0, 256, (3, 2, 8, 8)).float()
    dpb = DecodedPictureBuffer(plan, luma)
    dpb.store([0, 2], luma[[0, 2]], chroma[[0, 2]])
    lists = [dpb.references([i], 1, torch.zeros(1, 1, 1, dtype=torch.long))[1] for i in (0, 2)]
    y, c = dpb.compensate(lists, [torch.zeros(1, 2, 2, 2, dtype=torch.long)] * 2, torch.tensor([[[0, 1], [2, 2]]]))
    assert torch.equal(y[0, :8], torch.cat([luma[0, :8, :8], luma[2, :8, 8:]], 1))
    assert torch.equal(y[0, 8:], ((luma[0] + luma[2] + 1) / 2).floor()[8:])
    assert torch.equal(c[0, :, 4:], ((chroma[0] + chroma[2] + 1) / 2).floor()[:, 4:])


def test_planes_are_interpolated_once() -> None:
    plan = CodingPlan.of([Gop("IPP")], 3)
    luma = torch.randint(0, 256, (3, 16, 16)).float()
    dpb = DecodedPictureBuffer(plan, luma)
    dpb.store([0], luma[:1], torch.zeros(1, 2, 8, 8))
    dpb.references([0], 1, torch.zeros(1, 1, 1, dtype=torch.long))
    before = dpb.phases.clone()
    dpb.luma[0] = torch.zeros(16, 16)
    dpb.references([0], 1, torch.zeros(1, 1, 1, dtype=torch.long))
    assert torch.equal(dpb.phases[0], before[0])


def test_what_stands_still_is_kept_for_direct_macroblocks() -> None:
    plan = CodingPlan.of([Gop("IbP")], 3)
    dpb = DecodedPictureBuffer(plan, torch.zeros(3, 32, 32))
    motion = torch.zeros(1, 4, 4, 6)  # from frame 0 of list 0, at rest
    motion[..., 5] = -1
    motion[0, 0, 0, :2] = torch.tensor([1.0, -1.0])
    motion[0, 0, 1, :2] = torch.tensor([0.0, 2.0])
    intra = torch.zeros(1, 2, 2, dtype=torch.bool)
    intra[0, 1, 1] = True
    dpb.store_motion([2], motion, intra)
    expected = torch.ones(4, 4, dtype=torch.bool)
    expected[0, 1], expected[2:, 2:] = False, False
    assert torch.equal(dpb.still([1])[0], expected)


def test_output_is_in_display_order_without_what_lies_outside() -> None:
    plan = CodingPlan.of([Gop("IbPbP", before=2)], 3)
    luma, chroma = torch.rand(5, 16, 16), torch.rand(5, 2, 8, 8)
    dpb = DecodedPictureBuffer(plan, luma)
    dpb.store([0, 2, 4, 3], luma[[0, 2, 4, 3]], chroma[[0, 2, 4, 3]])
    y, c = dpb.output()
    assert torch.equal(y, luma[2:])
    assert torch.equal(c, chroma[2:])
