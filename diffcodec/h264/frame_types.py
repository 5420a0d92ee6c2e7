"""Frame types by cost, one mini-GOP after the other: x264's ``b-adapt 1``, scene cuts included (slicetype.c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .gop import Gop, group

B_SHARE = 100 / 120  # weight of the cost of a B frame, relative to a P frame


def decide_frame_types(
    frames: Sequence[int],
    bframes: int,
    p_cost: Mapping[tuple[int, int], float],
    b_cost: Mapping[tuple[int, int, int], float],
    intra: Sequence[float],
    keyint: int = 250,
    min_keyint: int = 25,
    scenecut: int = 40,
) -> str:
    """Frame types of a clip, one letter per frame.

    Args:
        frames: source frames of a clip in display order; they may repeat.
        bframes: maximum number of consecutive B frames.
        p_cost: cost of P frames by (frame, reference).
        b_cost: cost of B frames by (frame, past, future).
        intra: cost of intra frames.
        keyint: maximum distance between I frames.
        min_keyint: minimum distance, within which scene cuts have to be clearer.
        scenecut: x264's ``--scenecut``.
    """
    return _MiniGops(frames, p_cost, b_cost, intra, keyint, min_keyint, scenecut / 100).types(bframes)


def b_frames(first: int, last: int) -> list[tuple[int, int, int]]:
    """The B frames between two anchors with what each refers to, the one in the middle first."""
    if last - first < 2:
        return []
    middle = first + (last - first) // 2
    return [
        (middle, first, last),
        *((b, *((first, middle) if b < middle else (middle, last))) for b in range(first + 1, last) if b != middle),
    ]


@dataclass(frozen=True)
class _MiniGops:
    """The search for one clip's frame types: arguments of :func:`decide_frame_types`."""

    frames: Sequence[int]
    p_cost: Mapping[tuple[int, int], float]
    b_cost: Mapping[tuple[int, int, int], float]
    intra: Sequence[float]
    keyint: int
    min_keyint: int
    threshold: float

    def span_cost(self, first: int, last: int) -> float:
        """Cost of a mini-GOP: the P frame at its end and the B frames between."""
        c = self.frames
        total = self.p_cost[c[last], c[first]]
        return total + sum(self.b_cost[c[b], c[past], c[future]] for b, past, future in b_frames(first, last))

    def scenecut(self, j: int, since: int) -> bool:
        """Whether a scene begins with frame j, ``since`` frames after the last I frame."""
        c = self.frames
        if not self.threshold:
            return False
        return self.p_cost[c[j], c[j - 1]] >= (1 - scenecut_bias(since, self.threshold, self.min_keyint, self.keyint)) * self.intra[c[j]]

    def intra_begins(self, j: int, since: int) -> bool:
        """Whether frame j, ``since`` frames after the last I frame, is an I frame: by a scene cut or by keyint."""
        return since >= self.keyint or self.scenecut(j, since)

    def types(self, bframes: int) -> str:
        letters = "I"
        anchor = last_intra = 0
        for j in range(1, len(self.frames)):
            between = j - anchor - 1
            if self.intra_begins(j, j - last_intra):
                letters += "I"
                anchor = last_intra = j
            elif (
                j == len(self.frames) - 1
                or between == bframes
                or self.intra_begins(j + 1, j + 1 - last_intra)
                or self.span_cost(anchor, j) + self.span_cost(j, j + 1) <= self.span_cost(anchor, j + 1)
            ):
                letters += "P"
                anchor = j
            else:
                letters += "b"
        return _with_pyramid(letters)


def _with_pyramid(letters: str) -> str:
    """Mark the B frames that are used as references."""
    out, run = "", 0
    for letter in letters:
        if letter == "b":
            run += 1
        else:
            out += group(run) + letter
            run = 0
    return out


def scenecut_bias(since: int, threshold: float = 0.4, min_keyint: int = 25, keyint: int = 250) -> float:
    """How much cheaper than intra a P frame must be, by the distance to the last I frame: it grows from a sixteenth of the threshold to all of it."""
    low = threshold / 4
    if keyint == min_keyint:
        low = threshold
    if since <= min_keyint // 4:
        return low / 4
    if since <= min_keyint:
        return low / 4 + (low - low / 4) * (since - min_keyint // 4) / max(1, min_keyint - min_keyint // 4)
    return low + (threshold - low) * min(1.0, (since - min_keyint) / max(1, keyint - min_keyint))


def interior(cost: Tensor) -> Tensor:
    """Macroblocks inside the border, over which x264 sums; all of them where the frame is at most two wide or high."""
    return cost[..., 1:-1, 1:-1] if cost.shape[-1] > 2 and cost.shape[-2] > 2 else cost


def undecided(frames: int, before: int = 0, after: int = 0, references: int = 1) -> Gop:
    """A GOP whose types depend on the clip's content."""
    return Gop("I" + "?" * (before + frames + after - 1), before, after, references)
