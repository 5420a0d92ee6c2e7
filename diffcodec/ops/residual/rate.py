"""Rate and distortion of macroblocks as mode decisions weigh them (x264's rdo.c): squared error, lost texture (psy-RD), bits of levels and flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...blocks import any_of_blocks, flat_blocks, repeat_blocks, sum_macroblocks
from ..common.distortion import sa8d, satd
from . import cabac
from .cabac import CHROMA_AC, CHROMA_DC, EIGHT, FLAG_4X4, FLAG_16X16, FLAGS, LUMA, PATTERN

TEXTURE_WEIGHT, RATE_WEIGHT = 0.5, 0.9  # of lost texture by lambda (psy-RD), and of bits by its square


def texture(planes: Tensor) -> Tensor:
    """:func:`block_texture` of each macroblock. Shape: ``[N, H, W] -> [2, N, H/16, W/16]``."""
    return sum_macroblocks(block_texture(flat_blocks(planes, 8), 8))


def block_texture(blocks: Tensor, k: int) -> Tensor:
    """Sums of absolute Hadamard coefficients without DCs, by 4x4 and by 8x8 blocks, the latter 0 where k is 4. Shape: ``[..., k*k] -> [2, ...]``."""
    if k == 4:
        four = satd(blocks, 4) - blocks.sum(-1).abs() / 2
        return torch.stack([four, torch.zeros_like(four)])
    dc4 = blocks.unflatten(-1, (2, 4, 2, 4)).sum((-3, -1)).abs().sum((-2, -1)) / 2
    return torch.stack([satd(blocks, 8) - dc4, sa8d(blocks) - blocks.sum(-1).abs() / 4])


def distortion(source: Tensor, decoded: Tensor, lam: Tensor, psy: float, of_source: Tensor | None = None) -> Tensor:
    """Squared error of luma plus psy-RD: psy x lambda x half of the lost texture. Shape: ``[N, H, W]`` twice, ``[N, H/16, W/16]`` -> same."""
    error = flat_blocks((source - decoded).square(), 16).sum(-1)
    if not psy:
        return error
    lost = ((texture(source) if of_source is None else of_source) - texture(decoded)).abs().sum(0)
    return error + psy * TEXTURE_WEIGHT * lam * lost


@dataclass(frozen=True)
class Coded:
    """A frame's luma, coded in one way.

    Attributes:
        kind: of its blocks.
        levels: magnitudes ``[N, MB, blocks, n]``.
        flags: 4x4 blocks that have levels ``[N, H/4, W/4]`` bool.
        mb_type: 0: intra 16x16, 1: 8x8 blocks, 2: 4x4 blocks.
    """

    levels: Tensor
    flags: Tensor
    mb_type: int

    @property
    def kind(self) -> cabac.Kind:
        return EIGHT if self.mb_type == 1 else LUMA


class States:
    """CABAC states if each macroblock is coded in a given way, and the bits of every way under these states.

    Args:
        ways: luma, coded in different ways.
        choice: the way of each macroblock ``[N, H/16, W/16]``, 0..len(ways) - 1.
        qp: ``[N, H/16, W/16]``.
        intra: intra macroblocks, bool, same shape; all of them in an I slice.
    """

    def __init__(self, ways: Sequence[Coded], choice: Tensor, qp: Tensor, intra: Tensor) -> None:
        self.ways, self.shape = ways, qp.shape
        self.outside = intra.flatten(1).all(1).float()[:, None, None]  # coded_block_flag beyond the frame
        taken = [(choice == i) for i in range(len(ways))]
        self.levels: dict[int, Tensor] = {}
        for kind in {id(w.kind): w.kind for w in ways}.values():
            sums = [cabac.count(w.levels, kind, t.flatten(1).float()) for w, t in zip(ways, taken) if w.kind is kind]
            hits, seen = (torch.stack(s).sum(0) for s in zip(*sums))
            self.levels[id(kind)] = cabac.bits_of(cabac.adapt(hits, seen, cabac.slice_states(kind.first, qp, intra)))
        self.flags: dict[int, Tensor] = {}
        for which in (PATTERN, FLAG_4X4, FLAG_16X16):
            sums = [_count_flags(*flags, t) for w, t in zip(ways, taken) for flags in [self.flags_of(w).get(which)] if flags is not None]
            if sums:
                hits, seen = (torch.stack(s).sum(0) for s in zip(*sums))
                states = cabac.adapt(hits, seen, cabac.slice_states(FLAGS[which], qp, intra))
                self.flags[which] = cabac.bits_of(states)

    def flags_of(self, way: Coded) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """Flags that a way of coding has, their contexts, and which of them are coded; ``[N, h, w]`` each."""
        blocks8 = any_of_blocks(way.flags, 2)
        if way.mb_type == 0:
            coded = repeat_blocks(any_of_blocks(way.flags, 4), 4)
            return {FLAG_16X16: (way.flags, _flag_contexts(way.flags, self.outside), coded)}
        out = {PATTERN: (blocks8, cabac.neighbour_contexts(~blocks8, 0.0), torch.ones_like(blocks8))}
        if way.mb_type == 2:
            out[FLAG_4X4] = (way.flags, _flag_contexts(way.flags, self.outside), repeat_blocks(blocks8, 2))
        return out

    def bits(self, way: Coded) -> Tensor:
        """Bits of luma's levels and flags. Shape: ``[N, H/16, W/16]``."""
        n, bh, bw = self.shape
        total = cabac.level_bits(way.levels, way.kind, self.levels[id(way.kind)]).sum(-1).view(n, bh, bw)
        for which, (flags, contexts, coded) in self.flags_of(way).items():
            k = flags.shape[1] // bh
            table = self.flags[which].view(2, n, bh, 1, bw, 1, 4).expand(2, n, bh, k, bw, k, 4).reshape(2, *flags.shape, 4)
            zero, one = table.gather(-1, contexts.expand(2, *contexts.shape)[..., None])[..., 0]
            own = torch.where(flags, one, zero) * coded
            total = total + own.view(n, bh, k, bw, k).sum((2, 4))
        return total


def chroma_bits(levels: Tensor, qpc: Tensor, intra: Tensor) -> Tensor:
    """Bits of chroma's levels ``[N, 2, H/16, W/16, 64]`` by the contexts that they leave behind themselves. Returns ``[N, H/16, W/16]``."""
    n, _, bh, bw, _ = levels.shape
    blocks = levels.abs().unflatten(-1, (4, 16)).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)  # [N, MB, 2, 4, 16]
    every = torch.ones_like(blocks[..., 0, 0, 0])
    total = qpc.new_zeros(n, bh * bw)
    for own, kind in ((blocks[..., 0], CHROMA_DC), (blocks[..., 1:].flatten(2, 3), CHROMA_AC)):
        bits = cabac.bits_of(cabac.adapt(*cabac.count(own, kind, every), cabac.slice_states(kind.first, qpc, intra)))
        total = total + cabac.level_bits(own, kind, bits).sum(-1)
    return total.view(n, bh, bw)


def _flag_contexts(flags: Tensor, outside: Tensor) -> Tensor:
    inside, beyond = (cabac.neighbour_contexts(flags, v) for v in (0.0, 1.0))
    return torch.where(outside > 0, beyond, inside)


def _count_flags(flags: Tensor, contexts: Tensor, coded: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """What contexts see in each macroblock. Shape: ``[N, h, w]`` three times, ``[N, H/16, W/16] -> 2 x [N, MB, 4]``."""
    n, bh, bw = taken.shape
    k = flags.shape[1] // bh
    coded = coded & repeat_blocks(taken, k)
    of_contexts = (contexts[..., None] == torch.arange(4, device=flags.device)) & coded[..., None]
    seen, hits = (x.view(n, bh, k, bw, k, 4).float().sum((2, 4)).flatten(1, 2) for x in (of_contexts, of_contexts & flags[..., None]))
    return hits, seen
