"""Motion search (x264's me.c, and what analyse.c makes of it): the vectors of macroblocks and their partitions, by distortion + lambda bits.

Vectors are whole numbers of quarter pixels, (y, x). They are decisions: nothing here carries a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backend import operation
from ...blocks import flat_blocks, from_flat_blocks, repeat_blocks, repeat_edges, sum_macroblocks
from ...checks import half_up
from ...constants import number
from ..common.distortion import sad, satd
from ..interpolate.reference import fetch_luma

# Bits of a component of a vector difference as x264 counts them: if it is 0; else a constant, and two more per octave
MVD_EQUAL, MVD_OTHER, MVD_OCTAVE = 0.72, 1.72, 2.0
PARTITION_BITS = 1.0, 3.0, 3.0, 6.0  # that name the macroblock's type: 16x16, 16x8, 8x16, 8x8
PARTITIONS = [[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0], [1], [2], [3]]  # 8x8 blocks of each part
INTER_COST, MOTION_COST = 4, 5  # what x264's lookahead adds to the cost of an inter block, and to one that moves
BIPRED_COST, STILL_COST = INTER_COST + MOTION_COST, INTER_COST  # the same to the mean of both references, and to it without motion
DISTANCE_COST = 0.1  # of the full search, an octave of displacement: nearer vectors first where costs are alike
DIRECTION_BITS = 2.0, 2.0, 3.0  # of an 8x8 block of a B frame: past, future, both
SPLIT_BITS = 6.0  # of a B macroblock whose blocks have directions of their own


def mvd_bits(vectors: Tensor, predictor: Tensor) -> Tensor:
    """Bits of vector differences. Shape: ``[..., 2] -> [...]``."""
    d = (vectors - predictor).abs().float()
    return torch.where(d == 0, number(MVD_EQUAL, d), MVD_OTHER + MVD_OCTAVE * torch.log2(d + 1)).sum(-1)


@operation
def median_predictor(vectors: Tensor) -> Tensor:
    """Median of the left, upper and upper right neighbours' vectors (8.4.1.3), all blocks at once. Shape: ``[N, bh, bw, 2]`` -> same."""
    p = F.pad(vectors, (0, 0, 1, 1, 1, 0))  # zeros to the left, to the right and above
    left, up, right = p[:, 1:, :-2], p[:, :-1, 1:-1], p[:, :-1, 2:]
    return torch.maximum(torch.minimum(left, up), torch.minimum(torch.maximum(left, up), right))


@median_predictor.outputs
def _(vectors: Tensor) -> Tensor:
    return vectors.new_empty(vectors.shape)


@operation
@torch.no_grad()
def full_search(current: Tensor, reference: Tensor, reach: int, k: int) -> Tensor:
    """The best whole-pel vector of every block by a full search at half the resolution of what comes in.

    Args:
        current, reference: planes ``[N, H, W]`` 0..255, multiples of k.
        reach: largest displacement in samples.
        k: block side.

    Returns:
        Quarter samples ``[N, H/k, W/k, 2]``.
    """
    small, small_ref = (F.avg_pool2d(p[:, None], 2)[:, 0] for p in (current, reference))
    _n, h, w = small.shape
    r = -(-reach // 2)
    padded = repeat_edges(small_ref, r)
    span = torch.arange(-r, r + 1, device=small.device)
    best = []  # of every displacement in y
    for dy in range(2 * r + 1):
        shifted = padded[:, dy : dy + h].unfold(2, w, 1).permute(0, 2, 1, 3)  # [N, D, h, w], D shifts in x, a view
        cost = F.avg_pool2d((shifted - small[:, None]).abs_(), k // 2)
        bias = DISTANCE_COST * torch.log2(1 + 2 * (span.abs() + abs(dy - r)).float())[:, None, None]
        best.append((cost + bias).min(1))
    rows = torch.stack([b.values for b in best], 1).argmin(1, keepdim=True)  # [N, 1, bh, bw]
    columns = torch.stack([b.indices for b in best], 1).gather(1, rows)
    return 8 * (torch.cat([rows, columns], 1).permute(0, 2, 3, 1) - r)


@full_search.outputs
def _(current: Tensor, reference: Tensor, reach: int, k: int) -> Tensor:
    n, h, w = current.shape
    return current.new_empty(n, h // k, w // k, 2, dtype=torch.int64)


def inter_costs(phases: Tensor, slot: Tensor, target: Tensor, vectors: Tensor, k: int, use_satd: bool) -> Tensor:
    """SATD (or SAD) of blocks against what several vectors each point at. Shape: ``[C, N, bh, bw, 2] -> [C, N, bh, bw]``."""
    if use_satd and k == 16:  # as four blocks of 8: their Hadamard transforms are one product
        vectors = repeat_blocks(vectors.flatten(0, 1), 2).unflatten(0, vectors.shape[:2])
        target = flat_blocks(from_flat_blocks(target, 16), 8)
        slot = repeat_blocks(slot.expand(target.shape[0], target.shape[1] // 2, target.shape[2] // 2), 2)
    window = 8 if use_satd else k
    difference = fetch_luma.reference(phases, slot, vectors, window).sub_(target)
    if not use_satd:
        return difference.abs_().sum(-1)
    cost = satd(difference, 8)
    return sum_macroblocks(cost) if k == 16 else cost


_RING = torch.tensor([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)], dtype=torch.int64, device="cpu")


@operation
@torch.no_grad()
def refine_vectors(
    phases: Tensor,
    slot: Tensor,
    source: Tensor,
    start: Tensor,
    predictor: Tensor,
    lam: Tensor,
    k: int,
    subpel: int,
    use_satd: bool,
    rounds: int,
) -> tuple[Tensor, Tensor]:
    """Refine the best of several start vectors to whole, half and quarter pixels.

    Args:
        phases: :func:`~diffcodec.ops.interpolate.reference.quarter_pel` of the reference planes.
        slot: which of them each block uses, broadcastable to ``[N, bh, bw]``.
        source: ``[N, H, W]``, of bh x bw blocks.
        start: vectors ``[C, N, bh, bw, 2]``.
        predictor: for the bits of a vector, ``[N, bh, bw, 2]``.
        lam: ``[N, bh, bw]``.
        k: block side, 8 or 16.
        subpel: finest step as a fraction of a pixel, 1, 2 or 4.
        use_satd: SATD instead of SAD for fractions.
        rounds: of moving by one whole pixel.

    Returns:
        Vectors ``[N, bh, bw, 2]`` and their cost (distortion + lambda bits) ``[N, bh, bw]``.
    """
    target = flat_blocks(source, k)
    ring = _RING.to(source.device)[:, None, None, None]  # [8, 1, 1, 1, 2]

    def rd_cost(vectors: Tensor, use_satd: bool) -> Tensor:
        """Shape: ``[C, N, bh, bw, 2] -> [C, N, bh, bw]``."""
        return inter_costs(phases, slot, target, vectors, k, use_satd) + lam * mvd_bits(vectors, predictor)

    def best_of(vectors: Tensor, best: Tensor | None, cost: Tensor | None, use_satd: bool) -> tuple[Tensor, Tensor]:
        c, index = rd_cost(vectors, use_satd).min(0)
        v = vectors.gather(0, index[None, ..., None].expand(1, *index.shape, 2))[0]
        if best is None or cost is None:
            return v, c
        better = c < cost
        return torch.where(better[..., None], v, best), torch.where(better, c, cost)

    best, cost = best_of(start, None, None, False)
    for _ in range(rounds):
        best, cost = best_of(best + 4 * ring, best, cost, False)
    if subpel > 1:
        if use_satd:
            cost = rd_cost(best[None], True)[0]
        for stride in (2, 1)[: 1 if subpel == 2 else 2]:
            best, cost = best_of(best + stride * ring, best, cost, use_satd)
    return best, cost


@refine_vectors.outputs
def _(
    phases: Tensor,
    slot: Tensor,
    source: Tensor,
    start: Tensor,
    predictor: Tensor,
    lam: Tensor,
    k: int,
    subpel: int,
    use_satd: bool,
    rounds: int,
) -> tuple[Tensor, Tensor]:
    return predictor.new_empty(predictor.shape), source.new_empty(predictor.shape[:-1])


@operation
@torch.no_grad()
def search_partitions(
    source: Tensor, phases: Tensor, slot: Tensor, coarse: Tensor, lam: Tensor, subpel: int, use_satd: bool, partitions: bool
) -> Tensor:
    """Vectors of macroblocks and, where asked for, their partitions of 16x16 to 8x8.

    Args:
        source: ``[N, H, W]``.
        phases: :func:`~diffcodec.ops.interpolate.reference.quarter_pel` of all references.
        slot: which of them each macroblock uses ``[N, H/16, W/16]``.
        coarse: vectors to start from ``[N, H/16, W/16, 2]``.
        lam: ``[N, H/16, W/16]``.
        subpel, use_satd: as for :func:`refine_vectors`.
        partitions: whether macroblocks are divided.

    Returns:
        Of 8x8 blocks, ``[N, H/8, W/8, 2]``.
    """
    n, bh, bw = lam.shape
    predictor = median_predictor.reference(coarse)
    start = torch.stack([predictor, torch.zeros_like(coarse), coarse])
    v16, _ = refine_vectors.reference(phases, slot, source, start, predictor, lam, 16, subpel, use_satd, 1)
    if not partitions:
        return repeat_blocks(v16, 2)
    predictor = median_predictor.reference(v16)
    slot, whole = repeat_blocks(slot, 2), repeat_blocks(v16, 2)
    start = torch.stack([whole, *_neighbour_vectors(v16)])
    v8, _ = refine_vectors.reference(phases, slot, source, start, whole, repeat_blocks(lam, 2), 8, subpel, use_satd, 0)
    # each of five vectors on each of the four blocks of a macroblock
    four = v8.view(n, bh, 2, bw, 2, 2).permute(0, 1, 3, 2, 4, 5).reshape(n, bh, bw, 4, 2)
    candidates = torch.cat([v16[..., None, :], four], 3)  # [N, bh, bw, 5, 2]
    every = repeat_blocks(candidates.movedim(3, 0).flatten(0, 1), 2).unflatten(0, (5, n))  # [5, N, H/8, W/8, 2]
    cost = inter_costs(phases, slot, flat_blocks(source, 8), every, 8, use_satd)
    cost = cost.view(5, n, bh, 2, bw, 2).permute(1, 2, 4, 0, 3, 5).reshape(n, bh, bw, 5, 4)  # vectors, blocks
    bits = mvd_bits(candidates, predictor[..., None, :]) * lam[..., None]  # [N, bh, bw, 5]
    totals, picks = [], []
    for parts, type_bits in zip(PARTITIONS, PARTITION_BITS):
        total = type_bits * lam
        pick = torch.zeros(n, bh, bw, 4, dtype=torch.long, device=source.device)
        for part in parts:
            value, index = (cost[..., part].sum(-1) + bits).min(-1)
            total = total + value
            pick[..., part] = index[..., None]
        totals.append(total)
        picks.append(pick)
    best = torch.stack(totals).argmin(0)  # [N, bh, bw]
    pick = torch.stack(picks, -2).gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]  # [N, bh, bw, 4]
    chosen = candidates.gather(3, pick[..., None].expand(*pick.shape, 2))  # [N, bh, bw, 4, 2]
    return chosen.view(n, bh, bw, 2, 2, 2).permute(0, 1, 3, 2, 4, 5).reshape(n, bh * 2, bw * 2, 2)


@search_partitions.outputs
def _(source: Tensor, phases: Tensor, slot: Tensor, coarse: Tensor, lam: Tensor, subpel: int, use_satd: bool, partitions: bool) -> Tensor:
    n, bh, bw = lam.shape
    return coarse.new_empty(n, 2 * bh, 2 * bw, 2)


def _neighbour_vectors(v: Tensor) -> list[Tensor]:
    """Vectors of the four neighbours of each macroblock, for its 8x8 blocks. Shape: ``[N, bh, bw, 2] -> 4 x [N, 2 bh, 2 bw, 2]``."""
    p = F.pad(v.permute(0, 3, 1, 2).float(), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1).to(v.dtype)
    return [repeat_blocks(c, 2) for c in (p[:, 1:-1, :-2], p[:, 1:-1, 2:], p[:, :-2, 1:-1], p[:, 2:, 1:-1])]


@operation
@torch.no_grad()
def estimate_motion(
    current: Tensor, reference: Tensor, phases: Tensor, slot: Tensor, reach: int, subpel: int, use_satd: bool
) -> tuple[Tensor, Tensor]:
    """The lookahead's motion estimation between half-resolution planes, and its cost (x264's slicetype.c).

    Args:
        current, reference: ``[P, H, W]``.
        phases: quarter-pel phases of all planes. slot: which of them are those of ``reference``, ``[P, 1, 1]``.
        reach: largest displacement in samples.
        subpel, use_satd: as for :func:`refine_vectors`.

    Returns:
        Vectors of 8x8 blocks ``[P, H/8, W/8, 2]``; costs ``[P, H/8, W/8]``.
    """
    coarse = full_search.reference(current, reference, reach, 8)
    predictor = median_predictor.reference(coarse)
    start = torch.stack([torch.zeros_like(coarse), predictor, coarse])
    lam = current.new_ones(coarse.shape[:3])
    v, _ = refine_vectors.reference(phases, slot, current, start, predictor, lam, 8, subpel, use_satd, 2)
    bits = INTER_COST + MOTION_COST * (v != 0).any(-1) + mvd_bits(v, median_predictor.reference(v))
    difference = flat_blocks(current, 8) - fetch_luma.reference(phases, slot, v, 8)
    return v, (satd(difference, 8) if use_satd else sad(difference)) + bits


@estimate_motion.outputs
def _(current: Tensor, reference: Tensor, phases: Tensor, slot: Tensor, reach: int, subpel: int, use_satd: bool) -> tuple[Tensor, Tensor]:
    vectors = full_search.allocate(current, reference, reach, 8)
    return vectors, current.new_empty(vectors.shape[:3])


@operation
@torch.no_grad()
def estimate_bipred(
    half: Tensor,
    phases: Tensor,
    frames: Tensor,
    mv0: Tensor,
    mv1: Tensor,
    cost0: Tensor,
    cost1: Tensor,
    use_satd: bool,
) -> tuple[Tensor, Tensor]:
    """The lookahead's cost of B frames: the least of past, future, their mean, and their mean without motion.

    Args:
        half: half-resolution planes ``[S, H, W]``. phases: their quarter-pel phases.
        frames: which of them are the B frame, the past and the future ``[P, 3]``.
        mv0, mv1: vectors of 8x8 blocks from past and future, ``[P, H/8, W/8, 2]``. cost0, cost1: what they cost ``[P, H/8, W/8]``.
        use_satd: SATD instead of SAD.

    Returns:
        The least cost ``[P, H/8, W/8]``, and the share that comes from the past, same shape.
    """
    blocks = [fetch_luma.reference(phases, frames[:, k, None, None], v, 8) for k, v in ((1, mv0), (2, mv1))]
    return bipred_cost(half, blocks, frames, cost0, cost1, use_satd)


def bipred_cost(
    half: Tensor, blocks: Sequence[Tensor], frames: Tensor, cost0: Tensor, cost1: Tensor, use_satd: bool
) -> tuple[Tensor, Tensor]:
    """:func:`estimate_bipred` by what past and future predict, ``[P, H/8, W/8, 64]`` each."""
    frame, past, future = frames.unbind(1)
    target = flat_blocks(half, 8)
    own = target[frame]
    differences = own - (blocks[0] + blocks[1]) / 2, own - (target[past] + target[future]) / 2
    mean, still = (satd(d, 8) if use_satd else sad(d) for d in differences)
    best, index = torch.stack([cost0, cost1, mean + BIPRED_COST, still + STILL_COST]).min(0)
    return best, (index == 0).to(best) + 0.5 * (index >= 2).to(best)


@estimate_bipred.outputs
def _(
    half: Tensor,
    phases: Tensor,
    frames: Tensor,
    mv0: Tensor,
    mv1: Tensor,
    cost0: Tensor,
    cost1: Tensor,
    use_satd: bool,
) -> tuple[Tensor, Tensor]:
    return cost0.new_empty(cost0.shape), cost0.new_empty(cost0.shape)


@operation
@torch.no_grad()
def choose_bipred(source: Tensor, phases: Tensor, slots: list[Tensor], vectors: list[Tensor], lam: Tensor, use_satd: bool) -> Tensor:
    """Which of past, future and their mean each 8x8 block of a B frame takes: 0, 1, 2; one choice for a macroblock or one for each block.

    Args:
        source: ``[N, H, W]``.
        phases: of all references. slots: which of them each block's past and future reference are, ``[N, H/8, W/8]`` each.
        vectors: from both ``[N, H/8, W/8, 2]``.
        lam: ``[N, H/16, W/16]``.
        use_satd: SATD instead of SAD.

    Returns:
        ``[N, H/8, W/8]``.
    """
    past, future = (fetch_luma.reference(phases, slot, v, 8) for slot, v in zip(slots, vectors))
    return cheapest_direction(source, past, future, vectors, lam, use_satd)


def cheapest_direction(source: Tensor, past: Tensor, future: Tensor, vectors: list[Tensor], lam: Tensor, use_satd: bool) -> Tensor:
    """:func:`choose_bipred` by the predictions ``[N, H/8, W/8, 64]``."""
    target = flat_blocks(source, 8)
    predictions = [past, future, half_up((past + future) / 2)]
    costs = torch.stack([satd(target - p, 8) if use_satd else sad(target - p) for p in predictions])
    bits = [mvd_bits(v, median_predictor.reference(v)) for v in vectors]
    only0, only1, both = DIRECTION_BITS
    costs = costs + repeat_blocks(lam, 2) / 4 * torch.stack([bits[0] + only0, bits[1] + only1, bits[0] + bits[1] + both])
    whole, direction = torch.stack([sum_macroblocks(c) for c in costs]).min(0)
    divided, block_direction = costs.min(0)
    split = sum_macroblocks(divided) + SPLIT_BITS * lam < whole
    return torch.where(repeat_blocks(split, 2), block_direction, repeat_blocks(direction, 2))


@choose_bipred.outputs
def _(source: Tensor, phases: Tensor, slots: list[Tensor], vectors: list[Tensor], lam: Tensor, use_satd: bool) -> Tensor:
    return vectors[0].new_empty(vectors[0].shape[:-1])


@operation
@torch.no_grad()
def choose_reference(source: Tensor, phases: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
    """Which of several references predicts each macroblock best by given vectors, by SATD.

    Args:
        source: ``[N, H, W]``.
        phases: of all references. slots: which of them each macroblock may use ``[C, N, H/16, W/16]``.
        vectors: of 8x8 blocks ``[N, H/8, W/8, 2]``.

    Returns:
        ``[N, H/16, W/16]``, 0..C - 1.
    """
    of_blocks = repeat_blocks(slots.flatten(0, 1), 2).unflatten(0, slots.shape[:2])
    blocks = fetch_luma.reference(phases, of_blocks, vectors.expand(len(slots), *vectors.shape), 8)
    return best_reference(source, blocks)


def best_reference(source: Tensor, blocks: Tensor) -> Tensor:
    """:func:`choose_reference` by what each predicts, ``[C, N, H/8, W/8, 64]``."""
    return sum_macroblocks(satd(flat_blocks(source, 8) - blocks, 8)).argmin(0)


@choose_reference.outputs
def _(source: Tensor, phases: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
    return slots.new_empty(slots.shape[1:])
