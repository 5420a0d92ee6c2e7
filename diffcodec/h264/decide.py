"""Decisions of an encoder, by costs that x264 would recognise: intra modes, vectors and partitions, transform size.

Choices are made on values and carry no gradient; predictions do.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import kernels
from ..blocks import spread
from ..checks import half_up
from ..constants import Constant
from . import inter, intra, residual
from .habits import Preset
from .residual import Preference
from .tables import HADAMARD4, HADAMARD4_OF_8, HADAMARD8
from .trellis import count

_LARGE_BITS = Constant([1.0, 3.0, 3.0, 5.0])  # of the mode of an intra 16x16 macroblock, and of chroma's
UNKNOWN = 2.5  # bits of a mode of a small block whose neighbours' modes are not known
NAMED, UNNAMED = 0.7, 4.1  # of one that its neighbours predict, and of another one, once contexts have adapted
LARGE, SMALL = 3.0, 4.0  # further bits of a 16x16 macroblock, and of one of small blocks
SMALL_COST = 4.0, 40.0  # what the choice adds to macroblocks of 8x8 and of 4x4 blocks, in lambdas
_SMALL_BITS = Constant([UNKNOWN] * 9)


@dataclass(frozen=True)
class Intra:
    """Intra prediction of all macroblocks.

    Attributes:
        kind: 0: 16x16, 1: 8x8, 2: 4x4, ``[N, H/16, W/16]``.
        cost: SATD + lambda bits of that kind, same shape.
        bits: of its modes, same shape.
        modes: of 16x16, 8x8 and 4x4 blocks as if all macroblocks were of that kind, ``[N, H/k * W/k]``; small ones may be missing.
    """

    kind: Tensor
    cost: Tensor
    bits: Tensor
    modes: tuple[Tensor, ...]


@torch.no_grad()
def distance(difference: Tensor, k: int, habits: Preset) -> Tensor:
    """What decisions compare: SATD, SA8D of 8x8 blocks, or SAD where the preset is in a hurry. Shape: ``[..., k*k] -> [...]``."""
    transform = transform_of(k, habits)
    if transform is None:
        return difference.abs().sum(-1)
    return intra.sa8d(difference) if transform is HADAMARD8 else intra.satd(difference, k)


def transform_of(k: int, habits: Preset) -> Constant | None:
    """What differences are transformed by before their absolute values are added up; of 16 x 16 samples the four blocks of 8 x 8."""
    if not habits.satd:
        return None
    if k == 4:
        return HADAMARD4
    return HADAMARD8 if k == 8 and habits.transform8 else HADAMARD4_OF_8


@torch.no_grad()
def choose_intra(
    source: Tensor,
    around: Tensor,
    lam: Tensor,
    habits: Preset,
    before: Intra | None = None,
    prefer: Preference | None = None,
    qp: Tensor | None = None,
) -> Intra:
    """Modes by distance + lambda bits, and the kind of each macroblock by the same, or by rate and distortion where ``qp`` is given.

    Args:
        source: ``[N, H, W]``. around: plane whose samples blocks are predicted from.
        lam: ``[N, H/16, W/16]``.
        before: what this returned the last time: the modes that neighbours predict come from it.
        prefer, qp: how residuals are coded.
    """
    found, bits = _by_distance(source, around, lam, habits, before)
    if qp is None or not (habits.rate_distortion and habits.small_intra):
        return found
    assert prefer is not None
    prefer = dataclasses.replace(prefer, trellis=None)  # x264 prices without it
    if kernels.here(source):
        kind, chosen = kernels.ops.price_intra(source, around, list(found.modes), qp, lam, bits, prefer.numbers())
        return dataclasses.replace(found, kind=kind, bits=chosen)
    priced = []
    for i in range(3):
        every = dataclasses.replace(found, kind=torch.full_like(found.kind, i))
        priced.append(price(source, predict_intra(around, every), qp, lam, every.kind, bits[i], prefer))
    kind = torch.stack(priced).argmin(0)
    return dataclasses.replace(found, kind=kind, bits=bits.gather(0, kind[None])[0])


def _by_distance(source: Tensor, around: Tensor, lam: Tensor, habits: Preset, before: Intra | None) -> tuple[Intra, Tensor]:
    """Modes and kinds by distance + lambda bits, and the bits of the modes of each kind ``[kinds, N, H/16, W/16]``."""
    n, h, w = source.shape
    bh, bw = h // 16, w // 16
    known = before if habits.small_intra else None
    if kernels.here(source):
        likely = [] if known is None else [known.kind, *known.modes[1:]]
        transforms = [t.like(source) for k in (16, 8, 4) if (t := transform_of(k, habits)) is not None]
        of_bits = _LARGE_BITS.like(lam), _SMALL_BITS.like(lam)
        kind, cost, bits, of_kinds, *modes = kernels.ops.choose_intra(source, around, lam, *of_bits, likely, transforms, habits.small_intra)
        return Intra(kind, cost, bits, tuple(modes if habits.small_intra else modes[:1])), of_kinds
    best, mode = _cheapest(source, around, lam, 16, habits, None)
    costs, modes, named = [best.view(n, bh, bw)], [mode], [_LARGE_BITS.like(lam)[mode].view(n, bh, bw) + LARGE]
    if habits.small_intra:
        predicted = (None, None) if known is None else intra.predicted_modes(known.kind, known.modes[1:])
        for k, extra, expected in zip((8, 4), SMALL_COST, predicted):
            m = 16 // k
            best, mode = _cheapest(source, around, lam, k, habits, expected)
            bits = torch.full_like(best, UNKNOWN) if expected is None else torch.where(mode == expected, NAMED, UNNAMED)
            costs.append(best.view(n, bh, m, bw, m).sum((2, 4)) + extra * lam)
            modes.append(mode)
            named.append(bits.view(n, bh, m, bw, m).sum((2, 4)) + SMALL)
    total, kind = torch.stack(costs).min(0)
    of_kinds = torch.stack(named)
    return Intra(kind, total, of_kinds.gather(0, kind[None])[0], tuple(modes)), of_kinds


def _cheapest(source: Tensor, around: Tensor, lam: Tensor, k: int, habits: Preset, expected: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cost and number of the mode of least distance + lambda bits, for all blocks of k x k samples (of chroma: Cb and Cr together).

    Args:
        source, around: ``[N, H, W]`` or ``[N, 2, H/2, W/2]``.
        expected: modes that cost nothing ``[N, M]``.

    Returns:
        Both ``[N, M]``.
    """
    chroma = source.dim() == 4
    bits = _LARGE_BITS if k == 16 or chroma else _SMALL_BITS
    if kernels.here(source):
        transform = transform_of(k, habits)
        kind = 0 if chroma else k
        return kernels.ops.cheapest_intra(  # type: ignore[no-any-return]
            source, around, lam, bits.like(lam), expected, None if transform is None else transform.like(source), kind
        )
    flat, near = (x.flatten(0, 1) if chroma else x for x in (source, around))
    predict = intra.predict_chroma if chroma else intra.predict_large if k == 16 else lambda x: intra.predict_all(x, k)
    p, usable = predict(near)
    cost = distance(inter.blocks(flat, k).flatten(1, 2)[:, :, None] - p, k, habits)
    if chroma:
        cost = cost.unflatten(0, (-1, 2)).sum(1)
    cost = cost + _forbidden(usable)
    m = 1 if chroma else 16 // k
    wide = spread(lam, m).flatten(1)[..., None]
    found = cost + wide * bits.like(lam) if expected is None else cost + 3 * wide * (1 - F.one_hot(expected, 9))
    best, mode = found.min(-1)
    return best, mode


def _forbidden(usable: Tensor) -> Tensor:
    """A cost for modes whose neighbours do not exist."""
    return 1e9 * (~usable).float()


def predict_intra(around: Tensor, found: Intra) -> Tensor:
    """Prediction of frames as decided; differentiable in the samples around. Shape: ``[N, H, W]`` -> same."""
    if kernels.here(around):
        return kernels.ops.predict_intra(around, list(found.modes), found.kind)  # type: ignore[no-any-return]
    _n, h, w = around.shape
    p, _ = intra.predict_large(around)
    out = inter.unblocks(inter.pick(p, found.modes[0]).unflatten(1, (h // 16, w // 16)), 16)
    if len(found.modes) > 1:
        wide = spread(found.kind, 16)
        for which, k in ((1, 8), (2, 4)):
            p, _ = intra.predict_all(around, k)
            out = torch.where(wide == which, inter.unblocks(inter.pick(p, found.modes[which]).unflatten(1, (h // k, w // k)), k), out)
    return out


@torch.no_grad()
def choose_chroma(chroma: Tensor, around: Tensor, lam: Tensor, habits: Preset) -> Tensor:
    """Intra modes of chroma, Cb and Cr together. Shape: ``[N, 2, h, w] -> [N, H/16 * W/16]``."""
    return _cheapest(chroma, around, lam, 8, habits, None)[1]


def predict_chroma(around: Tensor, mode: Tensor) -> Tensor:
    """Prediction of chroma as decided; differentiable. Shape: ``[N, 2, h, w]`` -> same."""
    if kernels.here(around):
        return kernels.ops.predict_intra(around, [mode], None)  # type: ignore[no-any-return]
    n, _, h, w = around.shape
    p, _ = intra.predict_chroma(around.flatten(0, 1))
    chosen = inter.pick(p.unflatten(0, (n, 2)), mode[:, None].expand(-1, 2, -1))
    return inter.unblocks(chosen.flatten(0, 1).unflatten(1, (h // 8, w // 8)), 8).view(around.shape)


TEXTURE, RATE = 0.5, 0.9  # weights of lost texture by lambda, and of bits by its square


@torch.no_grad()
def price(source: Tensor, predicted: Tensor, qp: Tensor, lam: Tensor, kind: Tensor, side: Tensor, prefer: Preference) -> Tensor:
    """Rate-distortion cost of intra macroblocks: squared error, lost texture (psy-RD) and bits.

    Args:
        source, predicted: ``[N, H, W]``.
        qp, lam, kind: ``[N, H/16, W/16]``. side: bits beside the levels, same shape.
    """
    n, bh, bw = qp.shape
    every = torch.ones_like(kind, dtype=torch.bool)
    found = residual.code_luma(source, predicted, qp, every, kind == 1, kind == 0, prefer)
    done = found.decoded
    bits = side
    for levels, k, used in ((found.four, 16, kind != 1), (found.eight, 64, kind == 1)):
        if used.any():
            bits = bits + count(levels.reshape(n, -1, k)).view(n, bh, bw, -1).sum(-1)
    error = inter.blocks((source - done).square(), 16).sum(-1)
    lost = [(a - b).abs() for a, b in zip(_texture(source), _texture(done))]
    return error + TEXTURE * lam * (lost[0] + lost[1]) + RATE * lam.square() * bits


def _texture(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of absolute Hadamard coefficients without the DCs, 4x4 and 8x8, of each macroblock. Shape: ``[N, H, W] -> 2 x [N, H/16, W/16]``."""
    x = inter.blocks(planes, 8)
    dc4 = x.unflatten(-1, (2, 4, 2, 4)).sum((-3, -1)).abs().sum((-2, -1)) / 2
    dc8 = x.sum(-1).abs() / 4
    return inter.macroblocks(intra.satd(x, 8) - dc4), inter.macroblocks(intra.sa8d(x) - dc8)


@torch.no_grad()
def weigh_residual(source: Tensor, predicted: Tensor, habits: Preset) -> tuple[Tensor, Tensor]:
    """What each macroblock's residual costs, and whether the 8x8 transform concentrates it more.

    Args:
        source, predicted: ``[N, H, W]``.

    Returns:
        :func:`distance` of 16x16 samples ``[N, H/16, W/16]``; bool, same shape.
    """
    if kernels.here(source):
        sad, by_four, by_eight = kernels.ops.weigh_residual(source, predicted)
    else:
        x = inter.blocks(source - predicted, 8)
        sad = None if habits.satd else inter.macroblocks(x.abs().sum(-1))
        by_four = inter.macroblocks(intra.satd(x, 8)) if habits.satd or habits.transform8 else None
        by_eight = inter.macroblocks(intra.sa8d(x)) if habits.transform8 else None
    cost = by_four if habits.satd else sad
    return cost, by_eight < by_four if habits.transform8 else torch.zeros_like(cost, dtype=torch.bool)


@torch.no_grad()
def vectors(source: Tensor, phases: Tensor, reference: Tensor, coarse: Tensor, lam: Tensor, habits: Preset) -> Tensor:
    """Vectors and partitions of 16x16 to 8x8 by distance + lambda bits.

    Args:
        source: ``[N, H, W]``.
        phases: of all references, :func:`~diffcodec.h264.inter.quarter_pel`.
        reference: which of them each macroblock uses ``[N, H/16, W/16]``.
        coarse: vectors to start from ``[N, H/16, W/16, 2]``.

    Returns:
        Quarter pixels ``[N, H/8, W/8, 2]``.
    """
    n, bh, bw = lam.shape
    fine, subpel = habits.satd, habits.subpel
    if kernels.here(source):
        return kernels.ops.vectors(source, phases, reference, coarse, lam, subpel, fine, habits.partitions)  # type: ignore[no-any-return]
    predictor = inter.median_predictor(coarse)
    start = [predictor, torch.zeros_like(coarse), coarse]
    v16, _ = inter.refine(phases, reference, source, start, predictor, lam, 16, subpel, fine, 1)
    if not habits.partitions:
        return spread(v16, 2)
    predictor = inter.median_predictor(v16)
    reference, whole = spread(reference, 2), spread(v16, 2)
    v8, _ = inter.refine(phases, reference, source, [whole, *_around(v16)], whole, spread(lam, 2), 8, subpel, fine, 0)
    # each of five vectors on each of the four blocks of a macroblock
    four = v8.view(n, bh, 2, bw, 2, 2).permute(0, 1, 3, 2, 4, 5).reshape(n, bh, bw, 4, 2)
    candidates = torch.cat([v16[..., None, :], four], 3)  # [N, bh, bw, 5, 2]
    every = spread(candidates.movedim(3, 0).flatten(0, 1), 2).unflatten(0, (5, n))  # [5, N, H/8, W/8, 2]
    cost = inter.costs(phases, reference, inter.blocks(source, 8), every, 8, fine)
    cost = cost.view(5, n, bh, 2, bw, 2).permute(1, 2, 4, 0, 3, 5).reshape(n, bh, bw, 5, 4)  # vectors, blocks
    bits = inter.vector_bits(candidates, predictor[..., None, :]) * lam[..., None]  # [N, bh, bw, 5]
    totals, picks = [], []
    for parts, named in _PARTITIONS:
        total = named * lam
        pick = torch.zeros(n, bh, bw, 4, dtype=torch.long, device=source.device)
        for part in parts:
            value, which = (cost[..., part].sum(-1) + bits).min(-1)
            total = total + value
            pick[..., part] = which[..., None]
        totals.append(total)
        picks.append(pick)
    best = torch.stack(totals).argmin(0)  # [N, bh, bw]
    pick = torch.stack(picks, -2).gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]  # [N, bh, bw, 4]
    chosen = candidates.gather(3, pick[..., None].expand(*pick.shape, 2))  # [N, bh, bw, 4, 2]
    return chosen.view(n, bh, bw, 2, 2, 2).permute(0, 1, 3, 2, 4, 5).reshape(n, bh * 2, bw * 2, 2)


# Blocks of each partition, and the bits that name the macroblock's type: 16x16, 16x8, 8x16, 8x8
_PARTITIONS = [([[0, 1, 2, 3]], 1.0), ([[0, 1], [2, 3]], 3.0), ([[0, 2], [1, 3]], 3.0), ([[0], [1], [2], [3]], 6.0)]


def _around(v: Tensor) -> list[Tensor]:
    """Vectors of the four neighbours of each macroblock, for its 8x8 blocks. Shape: ``[N, bh, bw, 2] -> 4 x [N, 2 bh, 2 bw, 2]``."""
    p = F.pad(v.permute(0, 3, 1, 2).float(), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1).to(v.dtype)
    return [spread(c, 2) for c in (p[:, 1:-1, :-2], p[:, 1:-1, 2:], p[:, :-2, 1:-1], p[:, 2:, 1:-1])]


@torch.no_grad()
def direction(source: Tensor, past: Tensor, future: Tensor, fields: list[Tensor], lam: Tensor, habits: Preset) -> Tensor:
    """Which of past, future and their mean each 8x8 block of a B frame takes: 0, 1, 2; one choice for a macroblock or one for each block.

    Args:
        source: ``[N, H, W]``. past, future: predictions ``[N, H/8, W/8, 64]``. fields: vectors of both ``[N, H/8, W/8, 2]``.

    Returns:
        ``[N, H/8, W/8]``.
    """
    if kernels.here(source):
        return kernels.ops.direction(source, past, future, *fields, lam, habits.satd)  # type: ignore[no-any-return]
    target = inter.blocks(source, 8)
    predictions = [past, future, half_up((past + future) / 2)]
    costs = torch.stack([intra.satd(target - p, 8) if habits.satd else (target - p).abs().sum(-1) for p in predictions])
    bits = [inter.vector_bits(v, inter.median_predictor(v)) for v in fields]
    costs = costs + spread(lam, 2) / 4 * torch.stack([bits[0] + 2, bits[1] + 2, bits[0] + bits[1] + 3])
    whole, of_whole = torch.stack([inter.macroblocks(c) for c in costs]).min(0)
    divided, of_block = costs.min(0)
    split = inter.macroblocks(divided) + 6 * lam < whole
    return torch.where(spread(split, 2), of_block, spread(of_whole, 2))


@torch.no_grad()
def motion_bits(fields: list[Tensor], uses: list[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Bits of each macroblock's vectors, and whether it moves otherwise than a skipped one would.

    Args:
        fields: vectors of each list ``[N, H/8, W/8, 2]``. uses: blocks that use it, bool ``[N, H/8, W/8]``.
        like: anything of shape ``[N, H/16, W/16]``.
    """
    total, moved = torch.zeros_like(like), torch.zeros_like(like, dtype=torch.bool)
    for v, used in zip(fields, uses):
        own = v[:, ::2, ::2]
        predictor = inter.median_predictor(own)
        four = v.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3)  # [N, bh, bw, 2, 2, 2]
        split = (four != own[:, :, :, None, None]).any(-1).flatten(3)  # [N, bh, bw, 4]
        active = used[:, ::2, ::2]
        total = total + (inter.vector_bits(own, predictor) + 4 * split.sum(-1)) * active
        moved = moved | (((own != predictor).any(-1) | split.any(-1)) & active)
    return total, moved
