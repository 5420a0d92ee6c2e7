"""Which frames are coded, from which references and in which order: GOPs of a batch laid out as one list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..blocks import pad_to, pad_to_multiple, stacked
from ..constants import listed
from ..ops.color.reference import rgb_to_yuv420
from ..ops.residual.reference import chroma_qp
from .gop import Gop


@dataclass(frozen=True)
class SourceFrames:
    """Video as the encoder sees it: all frames of all clips, multiples of 16, luma ``[S, H, W]`` and chroma ``[S, 2, H/2, W/2]``, 0..255."""

    luma: Tensor
    chroma: Tensor

    @staticmethod
    def of(video: Tensor) -> SourceFrames:
        """From RGB ``[B, T, 3, H, W]`` in [0, 1]."""
        h, w = video.shape[-2:]
        luma, chroma = rgb_to_yuv420(pad_to_multiple(video.flatten(0, 1).float(), 2))
        hb, wb = -(-h // 16) * 16, -(-w // 16) * 16
        return SourceFrames(pad_to(luma, hb, wb), pad_to(chroma, hb // 2, wb // 2))


@dataclass(frozen=True)
class CodingPlan:
    """All frames to be coded, of all clips one after the other.

    Attributes:
        source: which of the source's frames each is.
        clip, display, types: of each frame: its clip, its display index (below 0: before the clip), its letter (see :class:`Gop`).
        past, future: references of each frame, list 0 and list 1, as indices into the plan.
        steps: coding order; frames of a step do not refer to each other.
        shown: the frames that are returned.
        spans: first frame and last frame + 1 of each clip.
    """

    source: list[int]
    clip: list[int]
    display: list[int]
    types: list[str]
    past: list[tuple[int, ...]]
    future: list[tuple[int, ...]]
    steps: list[list[int]]
    shown: list[int]
    spans: list[tuple[int, int]]

    @staticmethod
    def of(gops: Sequence[Gop], frames: int) -> CodingPlan:
        """For clips of ``frames`` frames each."""
        plan = CodingPlan([], [], [], [], [], [], [], [], [])
        for b, gop in enumerate(gops):
            base = len(plan.source)
            for i, letter in enumerate(gop.types):
                display = i - gop.before
                plan.source.append(b * frames + reflected(display, frames))
                plan.clip.append(b)
                plan.display.append(display)
                plan.types.append(letter)
                plan.past.append(tuple(base + j for j in gop.past(i)))
                plan.future.append(tuple(base + j for j in gop.future(i)))
                if 0 <= display < frames:
                    plan.shown.append(base + i)
            for s, step in enumerate(gop.steps()):
                if s == len(plan.steps):
                    plan.steps.append([])
                plan.steps[s].extend(base + i for i in step)
            plan.spans.append((base, len(plan.source)))
        return plan

    def references(self) -> list[int]:
        """Frames that others refer to, in order."""
        return sorted({r for refs in (*self.past, *self.future) for r in refs})

    def groups(self, source: SourceFrames, qp: Tensor, chroma_qp_offset: int) -> list[FrameGroup]:
        """The groups of frames that are coded together, in coding order.

        Args:
            source: the frames.
            qp: of the plan's frames ``[F, H/16, W/16]``.
            chroma_qp_offset: of the preset.
        """
        every = ([i for i in step if self.types[i] in kind] for step in self.steps for kind in ("I", "P", "Bb"))
        frames = [group for group in every if group]
        order = [i for group in frames for i in group]
        qp = qp[listed(order, qp.device)]
        lam = torch.exp2((qp.detach() - 12) / 6).clamp(min=1)
        sizes = [len(group) for group in frames]
        parts = zip(*(x.split(sizes) for x in (qp, chroma_qp(qp, chroma_qp_offset), lam)))
        luma, chroma = source.luma.unbind(), source.chroma.unbind()
        return [
            FrameGroup(group, self.types[group[0]].upper(), *(stacked([x[self.source[i]] for i in group]) for x in (luma, chroma)), *qps)
            for group, qps in zip(frames, parts)
        ]


class FrameGroup(NamedTuple):
    """Frames of one type that are coded together.

    Attributes:
        frames: their numbers in the plan. type: their letter, B for both kinds of B frames.
        luma, chroma: source ``[N, H, W]``, ``[N, 2, H/2, W/2]``.
        qp, qpc, lam: QP of luma and chroma, lambda of decisions (x264's lambda_tab, 2^((QP - 12) / 6)), ``[N, H/16, W/16]``.
    """

    frames: list[int]
    type: str
    luma: Tensor
    chroma: Tensor
    qp: Tensor
    qpc: Tensor
    lam: Tensor


def reflected(i: int, frames: int) -> int:
    """Index of a frame beyond the ends of a clip, mirrored into it."""
    if frames == 1:
        return 0
    i %= 2 * (frames - 1)
    return i if i < frames else 2 * (frames - 1) - i
