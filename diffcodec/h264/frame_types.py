"""Frame types by cost, one mini-GOP after the other: x264's ``b-adapt 1``, scene cuts included (slicetype.c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .gop import Gop, group

B_SHARE = 100 / 120  # what the cost of a B frame counts against that of a P frame
SCENECUT = 0.4  # x264's --scenecut 40: how much cheaper than intra a P frame must be in the end
MIN_KEYINT, KEYINT = 25, 250  # frames since the last I frame between which that grows from a quarter of it


def decide_frame_types(
    frames: Sequence[int],
    bframes: int,
    p_cost: Mapping[tuple[int, int], float],
    b_cost: Mapping[tuple[int, int, int], float],
    intra: Sequence[float],
) -> str:
    """A letter a frame.

    Args:
        frames: source frames of a clip in display order; they may repeat.
        bframes: most B frames in a row.
        p_cost: by (frame, reference). b_cost: by (frame, past, future). intra: by frame.
    """
    return _MiniGops(frames, p_cost, b_cost, intra).types(bframes)


@dataclass(frozen=True)
class _MiniGops:
    """The search for one clip's frame types: arguments of :func:`decide_frame_types`."""

    frames: Sequence[int]
    p_cost: Mapping[tuple[int, int], float]
    b_cost: Mapping[tuple[int, int, int], float]
    intra: Sequence[float]

    def span_cost(self, first: int, last: int) -> float:
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

    def scenecut(self, j: int, since: int) -> bool:
        """Whether a scene begins with frame j, ``since`` frames after the last I frame."""
        c = self.frames
        return self.p_cost[c[j], c[j - 1]] >= (1 - scenecut_bias(since)) * self.intra[c[j]]

    def types(self, bframes: int) -> str:
        letters = "I"
        anchor = last_intra = 0
        for j in range(1, len(self.frames)):
            between = j - anchor - 1
            if self.scenecut(j, j - last_intra):
                letters += "I"
                anchor = last_intra = j
            elif (
                j == len(self.frames) - 1
                or between == bframes
                or self.scenecut(j + 1, j + 1 - last_intra)
                or self.span_cost(anchor, j) + self.span_cost(j, j + 1) <= self.span_cost(anchor, j + 1)
            ):
                letters += "P"
                anchor = j
            else:
                letters += "b"
        return _with_pyramid(letters)


def _with_pyramid(letters: str) -> str:
    """Name the B frames that others refer to."""
    out, run = "", 0
    for letter in letters:
        if letter == "b":
            run += 1
        else:
            out += group(run) + letter
            run = 0
    return out


def scenecut_bias(since: int) -> float:
    """How much cheaper than intra a P frame must be, by the distance to the last I frame."""
    low = SCENECUT / 4
    if since <= MIN_KEYINT // 4:
        return low / 4
    if since <= MIN_KEYINT:
        return low / 4 + (low - low / 4) * (since - MIN_KEYINT // 4) / (MIN_KEYINT - MIN_KEYINT // 4)
    return low + (SCENECUT - low) * min(1.0, (since - MIN_KEYINT) / (KEYINT - MIN_KEYINT))


def interior(cost: Tensor) -> Tensor:
    """Macroblocks inside the border, over which x264 sums; all of them where the frame is at most two wide or high."""
    return cost[..., 1:-1, 1:-1] if cost.shape[-1] > 2 and cost.shape[-2] > 2 else cost


def undecided(frames: int, before: int = 0, after: int = 0, references: int = 1) -> Gop:
    """A GOP whose types depend on the clip's content."""
    return Gop("I" + "?" * (before + frames + after - 1), before, after, references)
