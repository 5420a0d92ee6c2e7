"""Analysis of the source frames at half resolution before coding (x264's slicetype.c): costs, motion, frame types.

A macroblock is an 8x8 block here. Costs are SATD (or SAD) plus a few bits, as x264's lookahead counts them; nothing carries a gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .. import backend
from ..constants import Constant, listed
from ..ops.interpolate.reference import half_resolution
from ..ops.intra.reference import cheapest_mode
from ..ops.motion_search.reference import INTER_COST, MOTION_COST, estimate_bipred, estimate_motion
from .frame_types import B_SHARE, b_frames, decide_frame_types, interior
from .gop import Gop
from .plan import CodingPlan, reflected
from .presets import Preset

REACH = 16  # largest displacement in pixels at full resolution
INTRA_COST = INTER_COST + MOTION_COST  # what x264 adds to the cost of an intra block
_ALL_MODES, _FIRST_THREE = Constant([0.0] * 9), Constant([0.0] * 3)  # intra modes that are looked at, and their bits
_CHUNK = 2**20  # samples fetched at a time
_T = TypeVar("_T")
_K = TypeVar("_K", bound=Hashable)


class CostStore(Generic[_K]):
    """Tuples of tensors by key, written and read in batches."""

    def __init__(self) -> None:
        self._rows: dict[_K, int] = {}
        self._parts: list[tuple[Tensor, ...]] = []

    def __contains__(self, key: _K) -> bool:
        return key in self._rows

    def add(self, keys: Sequence[_K], *values: Tensor) -> None:
        """Shape: ``[len(keys), ...]`` each."""
        first = len(self._rows)
        self._rows.update((key, first + i) for i, key in enumerate(keys))
        self._parts.append(values)

    def get(self, keys: Sequence[_K]) -> tuple[Tensor, ...]:
        """Shape: ``[len(keys), ...]`` each; at least one key."""
        if len(self._parts) > 1:
            self._parts = [tuple(torch.cat(parts) for parts in zip(*self._parts))]
        rows = listed([self._rows[k] for k in keys], self._parts[0][0].device)
        return tuple(part[rows] for part in self._parts[0])


class CostEstimator:
    """Estimates what it costs to code frames from each other, each pair once.

    Args:
        luma: source frames ``[S, H, W]``, 0..255, multiples of 16.
        use_satd: costs are SATD; else SAD, half pixels, and intra prediction has DC, horizontal and vertical only (x264's subme 0 and 1).

    Attributes:
        intra: intra cost ``[S, H/16, W/16]``.
        p_costs: of coding frame i from frame j, by (i, j): cost without the choice of intra; vectors in quarter pixels at full resolution
            ``[H/16, W/16, 2]``.
        b_costs: of coding B frame i from past j and future k, by (i, j, k): cost; the share of each macroblock that comes from the past.
    """

    @torch.no_grad()
    def __init__(self, luma: Tensor, use_satd: bool = True) -> None:
        self.use_satd = use_satd
        half_pels = not use_satd and backend.active(luma) != "triton"  # kernels read sixteen phases
        self.half, self.phases = half_resolution(luma, 4 if half_pels else 16)
        n, h, w = self.half.shape
        mode_bits = (_ALL_MODES if use_satd else _FIRST_THREE).like(self.half)
        lam = self.half.new_zeros(n, h * w // 64)
        best, _ = cheapest_mode(self.half, self.half, lam, mode_bits, None, 8, use_satd, False)
        self.intra = best.view(n, h // 8, w // 8) + INTRA_COST
        self.p_costs: CostStore[tuple[int, int]] = CostStore()
        self.b_costs: CostStore[tuple[int, int, int]] = CostStore()

    def _in_parts(self, work: list[_T]) -> Iterator[list[_T]]:
        """Split work into parts that bound the memory."""
        step = max(1, _CHUNK // (8 * self.half[0].numel()))
        return (work[i : i + step] for i in range(0, len(work), step))

    @torch.no_grad()
    def estimate_p(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Find the motion of pairs (frame, reference) that are not known yet."""
        new = [p for p in dict.fromkeys(pairs) if p not in self.p_costs]
        for some in self._in_parts(new):
            both = listed(some, self.half.device)  # [P, 2]
            current, reference = both[:, 0], both[:, 1]
            vectors, cost = estimate_motion(
                self.half[current], self.half[reference], self.phases, reference[:, None, None], REACH // 2, 4 if self.use_satd else 2,
                self.use_satd,
            )  # fmt: skip
            self.p_costs.add(some, cost, 2 * vectors)

    @torch.no_grad()
    def estimate_b(self, triples: Iterable[tuple[int, int, int]]) -> None:
        """Cost of B frames (frame, past, future) that are not known yet."""
        new = [t for t in dict.fromkeys(triples) if t not in self.b_costs]
        if not new:
            return
        self.estimate_p([p for b, past, future in new for p in ((b, past), (b, future))])
        for some in self._in_parts(new):
            cost0, mv0 = self.p_costs.get([(frame, past) for frame, past, _ in some])
            cost1, mv1 = self.p_costs.get([(frame, future) for frame, _, future in some])
            frames = listed(some, self.half.device)
            cost, share = estimate_bipred(self.half, self.phases, frames, mv0 >> 1, mv1 >> 1, cost0, cost1, self.use_satd)
            self.b_costs.add(some, cost, share)

    def frame_types(self, clips: Sequence[Sequence[int]], bframes: int, *limits: int) -> list[str]:
        """Types of the frames of each clip, by cost.

        Args:
            clips: source frames in display order; they may repeat.
            bframes: most B frames in a row.
            *limits: keyint, min_keyint, scenecut, as for :func:`decide_frame_types`.
        """
        if not clips:  # nothing to wait for
            return []
        spans = range(1, bframes + 2)
        pairs = [(c[j], c[j - d]) for c in clips for j in range(len(c)) for d in spans if j >= d]
        triples = [
            (c[b], c[past], c[future])
            for c in clips
            for i in range(len(c))
            for d in spans[1:]
            if i + d < len(c)
            for b, past, future in b_frames(i, i + d)
        ]
        self.estimate_p(pairs)
        self.estimate_b(triples)
        pairs, triples = list(dict.fromkeys(pairs)), list(dict.fromkeys(triples))
        intra = _total(self.intra)
        p_cost: dict[tuple[int, int], float] = {}
        b_cost: dict[tuple[int, int, int], float] = {}
        if pairs:
            own = self.intra[listed([p[0] for p in pairs], self.intra.device)]
            p_cost = dict(zip(pairs, _total(torch.minimum(self.p_costs.get(pairs)[0], own))))
        if triples:
            b_cost = dict(zip(triples, _total(self.b_costs.get(triples)[0], B_SHARE)))
        return [decide_frame_types(c, bframes, p_cost, b_cost, intra, *limits) for c in clips]


def _total(cost: Tensor, factor: float = 1.0) -> list[float]:
    """Of the macroblocks inside the border, as x264 sums. Shape: ``[N, H/16, W/16] -> N``."""
    total = interior(cost).sum((-2, -1))
    return (total if factor == 1 else factor * total).tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LookaheadCosts:
    """The lookahead's costs and motion of the frames of a plan.

    Attributes:
        intra: intra cost of each macroblock ``[F, H/16, W/16]``.
        inter: cost as the frame is coded: the intra cost where that is lower, and in I frames.
        frame, reference: which frame each use is of, and what it refers to.
        vectors: of each use, quarter pixels ``[U, H/16, W/16, 2]``. share: of each macroblock that comes from it ``[U, H/16, W/16]``.
        pairs: row of ``pair_cost`` ``[P, H/16, W/16]`` and ``pair_vectors`` ``[P, H/16, W/16, 2]`` for each (frame, reference) of the plan.
    """

    intra: Tensor
    inter: Tensor
    frame: list[int]
    reference: list[int]
    vectors: Tensor
    share: Tensor
    pairs: dict[tuple[int, int], int]
    pair_cost: Tensor
    pair_vectors: Tensor

    @staticmethod
    def of(estimator: CostEstimator, plan: CodingPlan) -> LookaheadCosts:
        """Of a plan whose types are decided."""
        source, intra = plan.source, estimator.intra[listed(plan.source, estimator.intra.device)]
        refs = [(i, r) for i in range(len(source)) for r in (*plan.past[i], *plan.future[i])]
        empty = intra.new_zeros(0, *intra.shape[1:])
        no_vectors = empty[..., None].expand(-1, -1, -1, 2).long()
        if not refs:
            return LookaheadCosts(intra, intra, [], [], no_vectors, empty, {}, empty, no_vectors)
        estimator.estimate_p([(source[i], source[r]) for i, r in refs])
        pair_cost, pair_vectors = estimator.p_costs.get([(source[i], source[r]) for i, r in refs])
        pairs = {pair: row for row, pair in enumerate(refs)}
        p_frames = [i for i in range(len(source)) if plan.past[i] and not plan.future[i]]
        b_frames = [i for i in range(len(source)) if plan.future[i]]
        triples = [(source[i], source[plan.past[i][0]], source[plan.future[i][0]]) for i in b_frames]
        estimator.estimate_b(triples)
        inter, share = intra.clone(), []
        frame = p_frames + b_frames + b_frames
        reference = [plan.past[i][0] for i in p_frames + b_frames] + [plan.future[i][0] for i in b_frames]
        rows = listed([pairs[use] for use in zip(frame, reference)], intra.device)
        cost, vectors = pair_cost[rows], pair_vectors[rows]
        if p_frames:
            index = listed(p_frames, intra.device)
            inter.index_copy_(0, index, torch.minimum(cost[: len(p_frames)], intra[index]))
            share.append(torch.ones_like(cost[: len(p_frames)]))
        if b_frames:
            b_cost, from_past = estimator.b_costs.get(triples)
            inter.index_copy_(0, listed(b_frames, intra.device), b_cost)
            share += [from_past, 1 - from_past]
        return LookaheadCosts(intra, inter, frame, reference, vectors, torch.cat(share), pairs, pair_cost, pair_vectors)

    def cheapest(self, frames: Sequence[int], references: Sequence[int]) -> tuple[Tensor, Tensor]:
        """For each macroblock the index of the cheapest reference, and the vector from it: ``[N, H/16, W/16]``, ``[N, H/16, W/16, 2]``.

        Args:
            frames: N frames. references: frame by frame, as many for each.
        """
        most = len(references) // len(frames)
        rows = listed([self.pairs[frames[k // most], r] for k, r in enumerate(references)], self.pair_cost.device)
        cost, vectors = (x[rows].unflatten(0, (-1, most)) for x in (self.pair_cost, self.pair_vectors))
        if most == 1:
            return torch.zeros_like(cost[:, 0], dtype=torch.long), vectors[:, 0]
        further = listed([0.0] + [2.0] * (most - 1), cost.device)[:, None, None]
        best = (cost + further).argmin(1)
        return best, vectors.gather(1, best[:, None, ..., None].expand(-1, -1, -1, -1, 2))[:, 0]


@torch.no_grad()
def look_ahead(luma: Tensor, gops: Sequence[Gop], frames: int, preset: Preset, fps: float = 25) -> tuple[CodingPlan, LookaheadCosts]:
    """Decide open frame types, and estimate the costs of the resulting coding plan.

    Args:
        luma: source ``[S, H, W]``, clip after clip.
        gops: GOP of each clip.
        frames: number of frames of each clip.
        preset: settings.
        fps: frames per second.
    """
    estimator, gops = CostEstimator(luma, preset.satd), list(gops)
    undecided = [i for i, g in enumerate(gops) if "?" in g.types]
    clips = [[i * frames + reflected(j - gops[i].before, frames) for j in range(len(gops[i].types))] for i in undecided]
    if preset.bframes or preset.scenecut:
        types = estimator.frame_types(clips, preset.bframes, preset.keyint, preset.least_keyint(fps), preset.scenecut)
    else:
        types = ["".join("P" if i % preset.keyint else "I" for i in range(len(c))) for c in clips]
    for i, letters in zip(undecided, types):
        gops[i] = dataclasses.replace(gops[i], types=letters)
    plan = CodingPlan.of(gops, frames)
    return plan, LookaheadCosts.of(estimator, plan)
