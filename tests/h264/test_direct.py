"""Direct and skipped macroblocks."""

from __future__ import annotations

import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from diffcodec import report
from diffcodec.blocks import repeat_blocks
from diffcodec.h264.direct import neighbours, skip_vectors, spatial_direct


def field(vectors: list[list[tuple[int, int]]]) -> Tensor:
    """Vectors of macroblocks as those of their 8x8 blocks ``[1, H/8, W/8, 2]``."""
    return repeat_blocks(torch.tensor(vectors)[None], 2)


def test_neighbours_are_the_standards() -> None:
    """A: left, B: above, C: above right, D in its place at the right edge (6.4.11.7)."""
    x = torch.arange(24).view(1, 4, 6)  # two rows of three macroblocks
    a, b, c = neighbours(x + 1)
    assert a[0].tolist() == [[0, 2, 4], [0, 14, 16]]
    assert b[0].tolist() == [[0, 0, 0], [7, 9, 11]]
    assert c[0].tolist() == [[0, 0, 0], [9, 11, 10]]


def walked(vectors: Tensor, uses: Tensor, still: Tensor, y: int, x: int, quarter: tuple[int, int]) -> tuple[tuple[int, int] | None, ...]:
    """Clause 8.4.1.2.2 read word by word for an 8x8 block: of both lists its vector, None where the list is not used."""
    places = [(2 * y, 2 * x - 1), (2 * y - 1, 2 * x), (2 * y - 1, 2 * x + 2)]
    if 2 * x + 2 >= vectors.shape[3]:
        places[2] = (2 * y - 1, 2 * x - 1)
    out: list[tuple[int, int] | None] = []
    for j in range(2):
        found = []
        for py, px in places:
            inside = py >= 0 and px >= 0
            found.append(tuple(vectors[j, 0, py, px].tolist()) if inside and uses[j, 0, py, px] else None)
        having = [f for f in found if f is not None]
        if not having:
            out.append(None)
        elif len(having) == 1:
            out.append(having[0])
        else:
            zero = [f or (0, 0) for f in found]
            out.append((sorted(z[0] for z in zero)[1], sorted(z[1] for z in zero)[1]))
    if out == [None, None]:
        return (0, 0), (0, 0)
    if still[0, 2 * y + quarter[0], 2 * x + quarter[1]]:
        out = [None if v is None else (0, 0) for v in out]
    return tuple(out)


def test_spatial_direct_is_the_standards() -> None:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randint(-9, 10, (2, 1, 8, 10, 2), generator=generator)
    uses = torch.rand(2, 1, 8, 10, generator=generator) < 0.4
    still = torch.rand(1, 8, 10, generator=generator) < 0.3
    out, direction = spatial_direct(list(vectors), list(uses), still)
    for y in range(4):
        for x in range(5):
            for quarter in ((0, 0), (0, 1), (1, 0), (1, 1)):
                expected = walked(vectors, uses, still, y, x, quarter)
                at = (0, 2 * y + quarter[0], 2 * x + quarter[1])
                assert direction[at] == (2 if None not in expected else 0 if expected[1] is None else 1)
                for j, v in enumerate(expected):
                    assert v is None or tuple(out[j][at].tolist()) == v


def test_vectors_of_skipped_macroblocks() -> None:
    """8.4.1.1: zero at the edges and beside what stands still, the median elsewhere."""
    v = field([[(1, 1), (2, 2), (3, 3)], [(4, 4), (5, 5), (9, 9)], [(4, 4), (0, 0), (1, 1)]])
    first = torch.ones(1, 6, 6, dtype=torch.bool)
    found = skip_vectors(v, first)[0]
    assert not found[0].any()
    assert not found[:, 0].any()
    assert found[1, 1].tolist() == [3, 3]  # of 4, 2, 3
    assert found[2, 2].tolist() == [0, 0]  # its left neighbour does not move
    first[0, 0:2] = False  # the row above refers to another frame: only the left neighbour has the first reference
    assert skip_vectors(v, first)[0, 1, 1].tolist() == [4, 4]


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return report.load_clip(report.demo_clips()[0], 8, 128).video[None]


def test_direct_macroblocks_save_bits(clip: Tensor) -> None:
    """As in libx264, of which the demo clip costs less with them."""
    for preset in ("veryfast", "medium"):
        gop = dc.h264.Gop("IbBbPbBP")
        sizes = [dc.DiffH264(30, preset, gop=gop, options={"direct": d}).encode(clip).frame_bits for d in ("spatial", "none")]
        b_frames = [i for i, letter in enumerate(gop.types) if letter in "Bb"]
        assert sizes[0][0, b_frames].sum() < sizes[1][0, b_frames].sum()


def test_what_is_skipped_passes_its_gradient_on() -> None:
    """A still clip: B frames are copies, and most of what flows back goes to their references."""
    still = natural(1, 1, 48, 64).expand(1, 4, 3, 48, 64).clone().requires_grad_()
    out = dc.DiffH264(34, "medium", gop=dc.h264.Gop("IbbP"))(still)
    (grad,) = torch.autograd.grad((out[:, 1:3] * torch.randn(1, 2, 3, 48, 64)).sum(), still)
    assert (out[:, 1:3] - out[:, [0, 0]]).abs().mean() < 2 / 255
    assert grad[:, 0].abs().sum() > 2 * grad[:, 1:3].abs().sum()
    assert grad[:, 1].any()
