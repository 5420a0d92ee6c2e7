"""Frame types, references and coding order as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Gop:
    """How the frames of a clip are coded.

    Attributes:
        types: frame types, one letter per frame in display order: I, P, B (a B frame used as reference) or b (one that is not); or I followed by
            "?" only, for types decided by the clip's content.
        before, after: number of these frames before and after the clip: references that a window inside a stream has. They are coded and
            discarded.
        references: number of past anchors (I and P frames) that a P frame may refer to, >= 1.

    Raises:
        ValueError: unknown letters, a first frame that is not I, a last one that is B or b, no frames left between ``before`` and ``after``,
            references < 1.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.h264.Gop("IbBbP").past(3)  # the reference B frame before it
        (2,)
    """

    types: str
    before: int = 0
    after: int = 0
    references: int = 1
    _plan: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        if not self.types or set(self.types) - set("IPBb?"):
            raise ValueError(f"a GOP is a string of I, P, B and b, got {self.types!r}")
        if self.types[0] != "I":
            raise ValueError(f"the first coded frame has nothing to refer to and must be I, got {self.types!r}")
        if self.types[-1] in "Bb":
            raise ValueError(f"the last frame of {self.types!r} has nothing after it to refer to: it must be I or P")
        if self.before < 0 or self.after < 0 or self.before + self.after >= len(self.types):
            raise ValueError(f"before={self.before} and after={self.after} leave nothing of {self.types!r}")
        if self.references < 1:
            raise ValueError(f"references expected to be at least 1, got {self.references}")
        if "?" in self.types:
            if set(self.types[1:]) != {"?"}:
                raise ValueError(f"'?' is for all frames but the first, or for none, got {self.types!r}")
            return
        object.__setattr__(self, "_plan", tuple(self._references(i) for i in range(len(self.types))))

    def __len__(self) -> int:
        """Frames of the clip, without those outside it."""
        return len(self.types) - self.before - self.after

    @property
    def letters(self) -> str:
        """Types of the clip's own frames."""
        return self.types[self.before : len(self.types) - self.after]

    def _references(self, i: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        kind = self.types[i]
        anchors = [j for j, c in enumerate(self.types) if c in "IP"]
        if kind == "I":
            return (), ()
        if kind == "P":
            past = [j for j in anchors if j < i]
            last_intra = max((j for j in past if self.types[j] == "I"), default=0)
            return tuple(j for j in reversed(past) if j >= last_intra)[: self.references], ()
        middle = [j for j, c in enumerate(self.types) if c == "B"] if kind == "b" else []
        usable = sorted(anchors + middle)
        return (max(j for j in usable if j < i),), (min(j for j in usable if j > i),)

    def past(self, i: int) -> tuple[int, ...]:
        """List 0 of a frame: frames before it, the nearest first."""
        return self._plan[i][0]

    def future(self, i: int) -> tuple[int, ...]:
        """List 1: frames after it."""
        return self._plan[i][1]

    def steps(self) -> Iterator[list[int]]:
        """Coding order: frames of a step refer to earlier steps only. Frames outside the clip are coded only if others refer to them."""
        done: set[int] = set()
        inside = range(self.before, len(self.types) - self.after)
        needed = set(inside)
        while more := {j for i in needed for j in (*self.past(i), *self.future(i))} - needed:
            needed |= more
        left = sorted(needed)
        while left:
            now = [i for i in left if all(j in done for j in (*self.past(i), *self.future(i)))]
            done.update(now)
            left = [i for i in left if i not in done]
            yield now


def pattern(frames: int, bframes: int, pyramid: bool = True) -> str:
    """A fixed GOP pattern: I, then mini-GOPs of ``bframes`` B frames and a P frame; the last frame is P.

    Args:
        frames: number of frames, >= 1.
        bframes: B frames between anchors, >= 0.
        pyramid: whether two or more B frames in a row have one that is used as reference.

    Returns:
        Types for :class:`Gop`.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.h264.pattern(8, bframes=3)
        'IbBbPBbP'
    """
    out = "I"
    while len(out) < frames:
        n = min(bframes, frames - len(out) - 1)
        out += group(n, pyramid) + "P"
    return out[:frames]


def group(n: int, pyramid: bool = True) -> str:
    """The n B frames between two anchors; with a pyramid and n >= 2, the one at index (n - 1) // 2 is a reference."""
    return "".join("B" if pyramid and n >= 2 and i == (n - 1) // 2 else "b" for i in range(n))


def middle(frames: int, bframes: int, phase: int, pyramid: bool = True) -> tuple[str, int, int]:
    """A window inside a stream with a fixed GOP pattern.

    Args:
        frames: number of frames of the window, >= 1.
        bframes: B frames between anchors, >= 0.
        phase: index of the window's first anchor, 0..bframes.
        pyramid: as for :func:`pattern`.

    Returns:
        Types, with an I frame in place of the anchor before the window, and the numbers of frames before and after it: arguments of :class:`Gop`.
    """
    distance = bframes + 1
    before = distance - phase
    types = "I"
    while len(types) < before + frames:
        types += group(bframes, pyramid) + "P"
    return types, before, len(types) - before - frames
