"""What an encoder learns from the source frames at half resolution before it codes them: costs, motion, frame types.

A macroblock is an 8x8 block here. Costs are SATD (or SAD) plus a few bits, as x264's lookahead counts them; nothing carries a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .. import kernels
from ..constants import Constant, listed
from .gop import Gop, group
from .inter import blocks, fetch_luma, half_resolution, median_predictor, refine, vector_bits, whole_search
from .intra import predict_all, satd
from .tables import HADAMARD4_OF_8

B_SHARE = 100 / 120  # what the cost of a B frame counts against that of a P frame
INTER, MOVING = 4, 5  # what x264 adds to the cost of an inter block, and to one that moves
_ALL, _FIRST_THREE = Constant([0.0] * 9), Constant([0.0] * 3 + [1e9] * 6)  # intra modes that are looked at
_CHUNK = 2**20  # samples fetched at a time
_T = TypeVar("_T")
_K = TypeVar("_K", bound=Hashable)


class Bank(Generic[_K]):
    """Sets of tensors of the same shapes by key; many are read in one go."""

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

    def of(self, keys: Sequence[_K]) -> tuple[Tensor, ...]:
        """Shape: ``[len(keys), ...]`` each; at least one key."""
        if len(self._parts) > 1:
            self._parts = [tuple(torch.cat(parts) for parts in zip(*self._parts))]
        rows = listed([self._rows[k] for k in keys], self._parts[0][0].device)
        return tuple(part[rows] for part in self._parts[0])


class Lookahead:
    """Costs of coding frames from each other.

    Args:
        luma: source frames ``[S, H, W]``, 0..255, multiples of 16.
        quick: costs are SAD, intra prediction has DC, horizontal and vertical only (x264's subme 0 and 1).
        reach: largest displacement in pixels at full resolution.

    Attributes:
        intra: intra cost ``[S, H/16, W/16]``.
        one: of coding frame i from frame j, by (i, j): cost without the choice of intra; vectors in quarter pixels at full resolution
            ``[H/16, W/16, 2]``.
        two: of coding B frame i from past j and future k, by (i, j, k): cost; the share of each macroblock that comes from the past.
    """

    @torch.no_grad()
    def __init__(self, luma: Tensor, quick: bool = False, reach: int = 16) -> None:
        self.quick, self.reach = quick, reach
        self.small, self.phases = half_resolution(luma)
        n, h, w = self.small.shape
        self.target = blocks(self.small, 8)  # [S, bh, bw, 64]
        self.intra = self._intra().view(n, h // 8, w // 8) + 9
        self.one: Bank[tuple[int, int]] = Bank()
        self.two: Bank[tuple[int, int, int]] = Bank()

    def _intra(self) -> Tensor:
        """Distance of every macroblock from its best intra prediction. Shape: ``[S, M]``."""
        if kernels.here(self.small):
            bits = (_FIRST_THREE if self.quick else _ALL).like(self.small)
            weight = self.small.new_ones(self.target.shape[:-1])
            transform = None if self.quick else HADAMARD4_OF_8.like(self.small)
            return kernels.ops.cheapest_intra(self.small, self.small, weight, bits, None, transform, 8)[0]  # type: ignore[no-any-return]
        p, usable = predict_all(self.small, 8)  # [S, M, 9, 64]
        if self.quick:
            p, usable = p[:, :, :3], usable[:, :3]
        cost = self._distance(self.target.flatten(1, 2)[:, :, None] - p).masked_fill(~usable, math.inf)
        return cost.min(-1).values

    def _distance(self, difference: Tensor) -> Tensor:
        return difference.abs().sum(-1) if self.quick else satd(difference, 8)

    def _in_parts(self, work: list[_T]) -> Iterator[list[_T]]:
        """As many at a time as memory should hold."""
        step = max(1, _CHUNK // (8 * self.small[0].numel()))
        return (work[i : i + step] for i in range(0, len(work), step))

    @torch.no_grad()
    def search(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Find the motion of pairs (frame, reference) that are not known yet."""
        new = [p for p in dict.fromkeys(pairs) if p not in self.one]
        for some in self._in_parts(new):
            both = listed(some, self.small.device)  # [P, 2]
            current, reference = both[:, 0], both[:, 1, None, None]
            small = self.small[current]
            found, cost = self._found(small, self.small[both[:, 1]], reference)
            self.one.add(some, cost, 2 * found)

    def _found(self, small: Tensor, other: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Motion of P planes from others, and its cost.

        Args:
            small, other: ``[P, H/2, W/2]``. reference: numbers of the others ``[P, 1, 1]``.

        Returns:
            Quarter pixels ``[P, H/16, W/16, 2]``; ``[P, H/16, W/16]``.
        """
        reach, subpel = self.reach // 2, 2 if self.quick else 4
        if kernels.here(small):
            return kernels.ops.look(small, other, self.phases, reference, reach, subpel, not self.quick)  # type: ignore[no-any-return]
        coarse = whole_search(small, other, reach, 8)
        predictor = median_predictor(coarse)
        start = [torch.zeros_like(coarse), predictor, coarse]
        lam = small.new_ones(coarse.shape[:3])
        v, _ = refine(self.phases, reference, small, start, predictor, lam, 8, subpel, not self.quick, 2)
        bits = INTER + MOVING * (v != 0).any(-1) + vector_bits(v, median_predictor(v))
        return v, self._distance(blocks(small, 8) - fetch_luma(self.phases, reference, v, 8)) + bits

    @torch.no_grad()
    def both(self, triples: Iterable[tuple[int, int, int]]) -> None:
        """Cost of B frames (frame, past, future) that are not known yet."""
        new = [t for t in dict.fromkeys(triples) if t not in self.two]
        if not new:
            return
        self.search([p for b, past, future in new for p in ((b, past), (b, future))])
        for some in self._in_parts(new):
            frame, *references = listed(some, self.small.device).unbind(1)
            predictions, costs = [], []
            for k, reference in enumerate(references, 1):
                cost, vectors = self.one.of([(t[0], t[k]) for t in some])
                predictions.append(fetch_luma(self.phases, reference[:, None, None], vectors >> 1, 8))
                costs.append(cost)
            target = self.target[frame]
            mean = self._distance(target - (predictions[0] + predictions[1]) / 2) + 9
            still = (self.target[references[0]] + self.target[references[1]]) / 2
            best, which = torch.stack([*costs, mean, self._distance(target - still) + 4]).min(0)
            self.two.add(some, best, (which == 0).to(best) + 0.5 * (which >= 2).to(best))

    def inner(self, cost: Tensor) -> Tensor:
        """Sum over the macroblocks inside the frame's border, as x264 sums. Shape: ``[..., H/16, W/16] -> [...]``."""
        return interior(cost).sum((-2, -1))

    def types(self, frames: Sequence[Sequence[int]], bframes: int) -> list[str]:
        """Frame types by cost, one mini-GOP after the other (x264's ``b-adapt 1``, scene cuts included).

        Args:
            frames: source frames of each clip in display order; they may repeat.
            bframes: most B frames in a row.

        Returns:
            A string a clip.
        """
        if not frames:  # nothing to wait for
            return []
        spans = range(1, bframes + 2)
        pairs = [(c[j], c[j - d]) for c in frames for j in range(len(c)) for d in spans if j >= d]
        self.search(pairs)
        triples = []
        for c in frames:
            for i in range(len(c)):
                for d in spans[1:]:
                    if i + d < len(c):
                        middle = i + d // 2
                        triples.append((c[middle], c[i], c[i + d]))
        self.both(triples)
        pairs = list(dict.fromkeys(pairs))
        triples = list(dict.fromkeys(triples))
        intra = self.inner(self.intra).tolist()
        p_cost: dict[tuple[int, int], float] = {}
        b_cost: dict[tuple[int, int, int], float] = {}
        if pairs:
            own = self.intra[listed([p[0] for p in pairs], self.intra.device)]
            p_cost = dict(zip(pairs, self.inner(torch.minimum(self.one.of(pairs)[0], own)).tolist()))
        if triples:
            b_cost = dict(zip(triples, (B_SHARE * self.inner(self.two.of(triples)[0])).tolist()))
        return [_MiniGops(c, p_cost, b_cost, intra).types(bframes) for c in frames]


@dataclass(frozen=True)
class _MiniGops:
    """The search for one clip's frame types.

    Attributes:
        frames: source frames in display order.
        p_cost: by (frame, reference). b_cost: by (frame, past, future). intra: by frame.
    """

    frames: Sequence[int]
    p_cost: dict[tuple[int, int], float]
    b_cost: dict[tuple[int, int, int], float]
    intra: list[float]

    def span(self, first: int, last: int) -> float:
        """Cost of a mini-GOP: the P frame at its end and the B frames between."""
        c = self.frames
        total = self.p_cost[c[last], c[first]]
        if last - first < 2:
            return total
        middle = first + (last - first) // 2
        total += self.b_cost[c[middle], c[first], c[last]]
        for b in range(first + 1, last):
            if b < middle:
                total += self.b_cost[c[b], c[first], c[middle]]
            elif b > middle:
                total += self.b_cost[c[b], c[middle], c[last]]
        return total

    def cut(self, j: int, since: int) -> bool:
        """Whether a scene begins with frame j, ``since`` frames after the last I frame."""
        c = self.frames
        return self.p_cost[c[j], c[j - 1]] >= (1 - _cut_bias(since)) * self.intra[c[j]]

    def types(self, bframes: int) -> str:
        letters = "I"
        anchor = intra_at = 0
        for j in range(1, len(self.frames)):
            between = j - anchor - 1
            if self.cut(j, j - intra_at):
                letters += "I"
                anchor = intra_at = j
            elif (
                j == len(self.frames) - 1
                or between == bframes
                or self.cut(j + 1, j + 1 - intra_at)
                or self.span(anchor, j) + self.span(j, j + 1) <= self.span(anchor, j + 1)
            ):
                letters += "P"
                anchor = j
            else:
                letters += "b"
        return _pyramid(letters)


def _pyramid(letters: str) -> str:
    """Name the B frames that others refer to."""
    out, run = "", 0
    for letter in letters:
        if letter == "b":
            run += 1
        else:
            out += group(run) + letter
            run = 0
    return out


def _cut_bias(since: int) -> float:
    """How much cheaper than intra a P frame must be, by the distance to the last I frame: x264's scenecut 40."""
    if since <= 6:
        return 0.025
    if since <= 25:
        return 0.025 + 0.075 * (since - 6) / 19
    return 0.1 + 0.3 * min(1.0, (since - 25) / 225)


def interior(cost: Tensor) -> Tensor:
    """Macroblocks inside the border; all of them where the frame is at most two wide or high."""
    return cost[..., 1:-1, 1:-1] if cost.shape[-1] > 2 and cost.shape[-2] > 2 else cost


def undecided(frames: int, before: int = 0, after: int = 0, references: int = 1) -> Gop:
    """A GOP whose types depend on the clip's content."""
    return Gop("I" + "?" * (before + frames + after - 1), before, after, references)
