"""CABAC (ITU-T H.264, 9.3): first states of the contexts that levels and block flags are coded with, how they adapt, and the bits that follow.

An encoder decides a macroblock with the states that the macroblocks before it left behind. Here those states come from a first guess of all levels
of a frame, so that all macroblocks are decided at once; the states still differ from macroblock to macroblock.

A kind of block has forty contexts: fifteen of the significance map, fifteen of last flags, five of a magnitude above 1, five of its continuation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...constants import Constant

SIG, LAST, ABOVE, MORE, CONTEXTS = 0, 15, 30, 35, 40  # where each sort begins, and how many there are
# (m, n) of tables 9-12 to 9-33 for I slices / for others (cabac_init_idc 0): significance, last flags, magnitudes
_FIRST = {
    "LUMA": [
        "-13,108/9,53 -15,100/2,53 -13,101/5,53 -13,91/-2,61 -12,94/0,56 -10,88/0,56 -16,84/-13,63 -10,86/-5,60 "
        "-7,83/-1,62 -13,87/4,57 -19,94/-6,69 1,70/4,57 0,72/14,39 -5,74/4,51 18,59/13,68",
        "26,-19/25,7 22,-17/30,-7 26,-17/28,3 30,-25/28,4 28,-20/32,0 33,-23/34,-1 37,-27/30,6 33,-23/30,6 40,-28/32,9 "
        "38,-17/31,19 33,-11/26,27 40,-15/26,30 41,-6/37,20 38,1/28,34 41,17/17,70",
        "-12,92/1,58 -15,55/-3,29 -10,60/-1,36 -6,62/1,38 -4,65/2,43 -12,73/-6,55 -8,76/0,58 -7,80/0,64 -9,88/-3,74 -17,110/-10,90",
    ],
    "DC": [
        "-7,93/-2,85 -11,87/-6,78 -3,77/-1,75 -5,71/-7,77 -4,63/2,54 -4,68/5,50 -12,84/-3,68 -7,62/1,50 -7,65/6,42 "
        "8,61/-4,81 5,56/1,63 -2,66/-4,70 1,64/0,67 0,61/2,57 -2,78/-2,76",
        "24,0/11,28 15,9/2,40 8,25/3,44 13,18/0,49 15,9/0,46 13,19/2,44 10,37/2,51 12,18/0,47 6,29/4,39 20,33/2,62 "
        "15,30/6,46 4,45/0,54 1,58/3,54 0,62/2,58 7,61/4,63",
        "-3,71/-6,76 -6,42/-2,44 -5,50/0,45 -3,54/0,52 -2,62/-3,64 0,58/-2,59 1,63/-4,70 -2,72/-4,75 -1,74/-8,82 -9,91/-17,102",
    ],
    "EIGHT": [
        "-17,120/-4,79 -20,112/-7,71 -18,114/-5,69 -11,85/-9,70 -15,92/-8,66 -14,89/-10,68 -26,71/-19,73 -15,81/-12,69 "
        "-14,80/-16,70 0,68/-15,67 -14,70/-20,62 -24,56/-19,70 -23,68/-16,66 -24,50/-22,65 -11,74/-20,63",
        "23,-13/9,-2 26,-13/26,-9 40,-15/33,-9 49,-14/39,-7 44,3/41,-2 45,6/45,3 44,34/49,9 33,54/45,27 19,82/36,59",
        "-3,75/-6,66 -1,23/-7,35 1,34/-7,42 1,43/-8,45 0,54/-5,48 -2,55/-12,56 0,61/-6,60 1,64/-5,62 0,68/-8,66 -9,92/-8,76",
    ],
    "CHROMA_DC": [
        "-8,102/3,64 -15,100/1,61 0,95/9,63",
        "30,-6/1,67 27,3/5,59 26,22/9,67",
        "-11,97/0,70 -20,84/-4,29 -11,79/5,31 -6,73/7,42 -4,74/1,59 -13,86/-2,58 -13,96/-3,72 -11,97/-3,81 -19,117/-11,97",
    ],
    "CHROMA_AC": [
        "-4,75/7,50 2,72/16,39 -11,75/5,44 -3,71/4,52 15,46/11,48 -13,69/-5,60 0,62/-1,59 0,65/0,59 21,37/22,33 "
        "-15,72/5,44 9,57/14,43 16,54/-1,78 0,62/0,60 12,72/9,69",
        "37,-16/16,30 35,-4/18,32 38,-8/18,35 38,-3/22,29 37,3/24,31 38,5/23,38 42,0/18,43 35,16/20,41 39,22/11,63 "
        "14,48/9,59 27,37/9,64 21,60/-1,94 12,68/-2,89 2,97/-9,108",
        "-8,78/0,58 -5,33/8,5 -4,48/10,14 -2,53/14,18 -3,62/13,27 -13,71/2,40 -10,79/0,58 -12,86/-3,70 -13,90/-6,79 -14,97/-8,85",
    ],
}
_FLAGS = (
    "-17,127/-27,126 -13,102/-28,98 0,82/-25,101 -7,74/-23,67",  # coded_block_pattern
    "-12,63/-3,46 -2,68/-1,65 -15,84/-1,57 -13,104/-9,93",  # coded_block_flag of intra 16x16 AC
    "-3,70/-3,74 -8,93/-9,92 -10,90/-8,87 -30,127/-23,126",  # coded_block_flag of 4x4 luma
)
# Contexts of the significance map and of last flags of 8x8 blocks by place in the scan (Table 9-43, frames)
_SIGNIFICANT8 = [
    0, 1, 2, 3, 4, 5, 5, 4, 4, 3, 3, 4, 4, 4, 5, 5, 4, 4, 4, 4, 3, 3, 6, 7, 7, 7, 8, 9, 10, 9, 8, 7,
    7, 6, 11, 12, 13, 11, 6, 7, 8, 9, 14, 10, 9, 8, 6, 11, 12, 13, 11, 6, 9, 14, 10, 9, 11, 12, 13, 11, 14, 10, 12,
]  # fmt: skip
_LAST8 = [0] + [1] * 15 + [2] * 16 + [3] * 8 + [4] * 8 + [5] * 4 + [6] * 4 + [7] * 4 + [8] * 3

RATE = 1 - (0.01875 / 0.5) ** (1 / 63)  # by which a state moves towards what it sees (Table 9-44)
LEAST = 0.01875  # probability that a state can hold
MOST_SEEN = 256  # decisions per macroblock that are counted, at most
KEPT = Constant((1 - RATE) ** np.arange(MOST_SEEN + 1))  # of a state after so many decisions
STEPS = 2048  # resolution of probabilities in the table of their bits
ENTROPY = Constant(-np.log2((np.arange(STEPS) + 0.5) / STEPS))


def _probabilities(text: str) -> np.ndarray:
    """P(bin = 1) of first states (9.3.1.1). Returns ``[2, 52, contexts]``: I slices and others, by QP."""
    mn = np.array([[[int(v) for v in pair.split(",")] for pair in re.split("/", of)] for of in text.split()])  # [contexts, 2, 2]
    m, n = mn.transpose(2, 1, 0)[:, :, None]  # [2, 1, contexts]
    state = np.clip((m * np.arange(52)[:, None] >> 4) + n, 1, 126)
    low = 0.5 * (1 - RATE) ** np.where(state < 64, 63 - state, state - 64)
    return np.where(state < 64, low, 1 - low)


@dataclass(frozen=True)
class Kind:
    """A kind of block.

    Attributes:
        n: coefficients. first: first states ``[2, 52, 40]``.
        significant, last: contexts of each place but the last, among the forty.
        maps: the same as matrices ``[2, n - 1, 15]``.
    """

    n: int
    first: Constant
    significant: list[int]
    last: list[int]
    maps: Constant

    @staticmethod
    def of(name: str, n: int) -> Kind:
        parts = [_probabilities(text) for text in _FIRST[name]]
        wide = (15, 15, 10)
        padded = [np.pad(p, ((0, 0), (0, 0), (0, w - p.shape[2])), mode="edge") for p, w in zip(parts, wide)]
        places = [min(i, 2) for i in range(3)] if n == 4 else list(range(n - 1))
        of_places = (_SIGNIFICANT8, _LAST8) if n == 64 else (places, places)
        maps = np.array([[[float(c == k) for k in range(15)] for c in own] for own in of_places])
        return Kind(
            n, Constant(np.concatenate(padded, 2)), [SIG + c for c in of_places[0]], [LAST + c for c in of_places[1]], Constant(maps)
        )


LUMA, DC, EIGHT, CHROMA_DC, CHROMA_AC = KINDS = tuple(
    Kind.of(name, n) for name, n in (("LUMA", 16), ("DC", 16), ("EIGHT", 64), ("CHROMA_DC", 4), ("CHROMA_AC", 15))
)
FLAGS = tuple(Constant(_probabilities(text)) for text in _FLAGS)  # 3 x [2, 52, 4]
PATTERN, FLAG_16X16, FLAG_4X4 = range(3)

_AFTER = {n: Constant([[float(i > j) for j in range(n)] for i in range(n)]) for n in (4, 15, 16, 64)}  # x @ this: sum over what follows


def after(x: Tensor) -> Tensor:
    """Sum over what follows in the scan. Shape: ``[..., n]`` -> same."""
    return x @ _AFTER[x.shape[-1]].like(x)


def slice_states(first: Constant, qp: Tensor, intra: Tensor) -> Tensor:
    """First states of the slices of frames.

    Args:
        first: ``[2, 52, contexts]``.
        qp, intra: of macroblocks ``[N, ...]``; a slice whose macroblocks are all intra is an I slice.

    Returns:
        ``[N, contexts]``.
    """
    of_slice = (qp.detach().flatten(1).mean(1) + 0.5).floor().clamp(0, 51).long()
    other = (~intra.flatten(1).all(1)).long()
    return first.like(qp)[other, of_slice]


def magnitude_contexts(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Context of being above 1, and of going on, of each magnitude (9.3.3.1.3): by the ones and the larger ones that are coded before it."""
    larger = after((levels > 1).to(levels))
    ones = after((levels == 1).to(levels))
    above = torch.where(larger > 0, 0.0, (1 + ones).clamp(max=4))
    return ABOVE + above.long(), MORE + larger.clamp(max=4).long()


def count(levels: Tensor, kind: Kind, used: Tensor) -> tuple[Tensor, Tensor]:
    """Number of decisions coded with each context, per macroblock.

    Args:
        levels: magnitudes ``[N, MB, blocks, n]``.
        used: macroblocks that are coded ``[N, MB]``, 0 or 1 as floats.

    Returns:
        Number of decisions that are 1, and of all: ``[N, MB, 40]`` each.
    """
    v = levels * used[..., None, None]
    hit = v.clamp(max=1)
    behind = after(hit).clamp(max=1)
    significant, last = kind.maps.like(v)
    of_places = torch.stack([hit, hit + (1 - hit) * behind, hit * (1 - behind)]).sum(3)[..., :-1]  # [3, N, MB, n - 1]: found, coded, last
    found, coded, ended = of_places
    above, more = magnitude_contexts(v)
    larger = (v > 1).to(v)
    five = torch.arange(5, device=v.device)
    of_above, of_more = ((c[..., None] - base == five).to(v) for c, base in ((above, ABOVE), (more, MORE)))  # [N, MB, blocks, n, 5]
    sums = [
        (x[..., None] * y).sum((2, 3))
        for x, y in ((larger, of_above), ((v - 2).clamp(min=0), of_more), (hit, of_above), ((v - 1).clamp(min=0), of_more))
    ]
    hits = torch.cat([found @ significant, ended @ last, sums[0], sums[1]], -1)
    return hits, torch.cat([coded @ significant, found @ last, sums[2], sums[3]], -1)


def adapt(hits: Tensor, seen: Tensor, first: Tensor) -> Tensor:
    """States before each macroblock. Shape: ``[N, MB, C]`` twice, ``[N, C] -> [N, MB, C]``."""
    seen = seen.clamp(max=MOST_SEEN)
    keep = KEPT.like(hits)[seen.long()]
    push = torch.minimum(hits, seen) / seen.clamp(min=1) * (1 - keep)
    apart = 1
    while apart < hits.shape[1]:  # x -> keep x + push, composed over ever longer runs
        earlier = F.pad(push[:, :-apart], (0, 0, apart, 0))
        push = keep * earlier + push
        keep = keep * F.pad(keep[:, :-apart], (0, 0, apart, 0), value=1.0)
        apart *= 2
    states = torch.cat([first[:, None], (keep * first[:, None] + push)[:, :-1]], 1)
    return states.clamp(LEAST, 1 - LEAST)


def bits_of(states: Tensor) -> Tensor:
    """Bits of a decision that is 0 and of one that is 1. Shape: ``[...] -> [2, ...]``."""
    table = ENTROPY.like(states)
    index = (states * STEPS).long()
    return torch.stack([table[STEPS - 1 - index], table[index]])


def level_bits(levels: Tensor, kind: Kind, bits: Tensor) -> Tensor:
    """Bits of levels.

    Args:
        levels: magnitudes ``[N, MB, blocks, n]``.
        bits: of the contexts ``[2, N, MB, 40]``.

    Returns:
        ``[N, MB, blocks]``.
    """
    v = levels
    hit = v.clamp(max=1)
    behind = after(hit).clamp(max=1)
    s0, s1, l0, l1 = of_places(kind, bits)
    above, more = magnitude_contexts(v)
    size = (
        torch.where(v > 1, pick(bits[1], above) + pick(bits[0], more) + (v - 2).clamp(min=0) * pick(bits[1], more), pick(bits[0], above))
        + 1
    )
    return (hit * (s1 + torch.where(behind > 0, l0, l1) + size) + (1 - hit) * behind * s0).sum(-1)


def of_places(kind: Kind, bits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bits by place, none at the last one: not significant, significant, not last, last. Shape: ``[2, N, MB, 40] -> 4 x [N, MB, 1, n]``."""
    s, e = (F.pad(bits[..., own], (0, 1))[..., None, :] for own in (kind.significant, kind.last))
    return s[0], s[1], e[0], e[1]


def pick(bits: Tensor, contexts: Tensor) -> Tensor:
    """Shape: ``[N, MB, 40], [N, MB, blocks, n] -> [N, MB, blocks, n]``."""
    return bits.gather(-1, contexts.flatten(2)).view(contexts.shape)


def neighbour_contexts(flags: Tensor, outside: float) -> Tensor:
    """Left neighbour's flag + 2 x upper one's; ``outside`` the frame. Shape: ``[N, h, w] bool -> [N, h, w]``."""
    x = flags.float()
    left, up = F.pad(x, (1, 0), value=outside)[..., :-1], F.pad(x, (0, 0, 1, 0), value=outside)[:, :-1]
    return (left + 2 * up).long()
