"""Block motion by sums of absolute differences: the search of :class:`diffcodec.motion.BlockMotion`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backend import opaque_operation
from ...blocks import pad_to_multiple

_SCALES = (1, 2, 4)  # a vector is sought for the block and for squares of 2 x 2 and 4 x 4 blocks around it
_CHUNK = 1 << 24  # elements of the largest temporary of the coarse search: bounds memory on large frames


@opaque_operation  # a search that has no gradient: compilers need not unroll it
def block_motion(current: Tensor, reference: Tensor, block: int, search: int, subpel: int, smoothness: float) -> Tensor:
    """Vectors ``[N, bh, bw, 2]`` (x, y) in pixels for luma planes ``[N, H, W]`` in [0, 1].

    Args:
        current, reference: the planes.
        block, search, subpel, smoothness: as for :class:`~diffcodec.motion.BlockMotion`.
    """
    cur, ref = pad_to_multiple(current, 2 * block), pad_to_multiple(reference, 2 * block)
    return _refine(cur, ref, _candidates(cur, ref, block, search, smoothness), block, subpel, smoothness)


@block_motion.outputs
def _(current: Tensor, reference: Tensor, block: int, search: int, subpel: int, smoothness: float) -> Tensor:
    n, h, w = current.shape
    side = 2 * block
    return current.new_empty(n, -(-h // side) * 2, -(-w // side) * 2, 2)


def _candidates(cur: Tensor, ref: Tensor, block: int, search: int, smoothness: float) -> Tensor:
    """Whole-pel vectors worth a closer look, ``[N, K, bh, bw, 2]`` (y, x), from a full search at half resolution."""
    small, small_ref = (F.avg_pool2d(p[:, None], 2)[:, 0] for p in (cur, ref))
    reach = -(-search // 2)
    per_frame = max(1, _CHUNK // (small[0].numel() * (2 * reach + 1)))
    found = [_full_search(c, r, reach, block // 2, smoothness) for c, r in zip(small.split(per_frame), small_ref.split(per_frame))]
    bh, bw = cur.shape[1] // block, cur.shape[2] // block
    out = [torch.zeros(len(cur), bh, bw, 2, dtype=torch.long, device=cur.device)]
    for i, times in enumerate(_SCALES):
        vectors = 2 * torch.cat([f[i] for f in found])  # [N, ceil(bh/times), ceil(bw/times), 2]
        out.append(vectors.repeat_interleave(times, 1).repeat_interleave(times, 2)[:, :bh, :bw])
    return torch.stack(out, 1)


def _refine(cur: Tensor, ref: Tensor, candidates: Tensor, k: int, subpel: int, smoothness: float) -> Tensor:
    """The best candidate of each block, moved to its best position nearby: ``[N, bh, bw, 2]`` (x, y) in pixels."""
    n, h, w = cur.shape
    blocks = cur.reshape(n, h // k, k, w // k, k).transpose(2, 3)  # [N, bh, bw, k, k]
    best = _best(ref, blocks, candidates.unbind(1), smoothness)
    zero = torch.zeros_like(best, dtype=cur.dtype)
    for _ in range(2):  # the neighbours of a block often move with it: what one has found serves the next
        best = best + _around(ref, blocks, best, zero, 1.0, 2, smoothness).to(best)
        best = _best(ref, blocks, [best, *(best.roll(s, d) for d in (1, 2) for s in (1, -1))], smoothness)
    shift, step = zero, 0.5
    while step >= 1 / subpel:
        shift = _around(ref, blocks, best, shift, step, 1, smoothness)
        step /= 2
    return (best + shift).flip(-1)


def _best(ref: Tensor, blocks: Tensor, candidates: Sequence[Tensor], smoothness: float) -> Tensor:
    """The cheapest of several whole-pel vectors ``[N, bh, bw, 2]`` of each block, the earlier one where two cost the same."""
    best, cost = candidates[0], None
    for v in candidates:
        c = (_windows(ref, v, blocks.shape[-1], 0) - blocks).abs().mean((-2, -1)) + _bias(v, smoothness)
        best = v if cost is None else torch.where((c < cost)[..., None], v, best)
        cost = c if cost is None else torch.minimum(cost, c)
    return best


def _bias(vector: Tensor, smoothness: float) -> Tensor:
    return smoothness / 255 * torch.log2(1 + vector.abs().sum(-1).float())


def _around(ref: Tensor, blocks: Tensor, best: Tensor, shift: Tensor, step: float, radius: int, smoothness: float) -> Tensor:
    """The best of (2 radius + 1)^2 positions ``step`` apart around ``best + shift``; returns the new shift.

    ``best`` is whole, ``shift`` is 0 for the whole-pel step and a fraction below 1 after it.
    """
    k = blocks.shape[-1]
    margin = radius if step == 1 else 1
    window = _windows(ref, best, k, margin)  # [N, bh, bw, k + 2 margin, k + 2 margin]
    out, cost = shift, None
    centre_first = sorted((i * step for i in range(-radius, radius + 1)), key=abs)
    for dy in centre_first:
        rows = _slide(window, dy if step == 1 else shift[..., 0] + dy, k, margin, -2)
        for dx in centre_first:
            patch = _slide(rows, dx if step == 1 else shift[..., 1] + dx, k, margin, -1)
            moved = shift + shift.new_tensor([dy, dx])
            c = (patch - blocks).abs().mean((-2, -1)) + _bias(best + moved, smoothness)
            out = moved if cost is None else torch.where((c < cost)[..., None], moved, out)
            cost = c if cost is None else torch.minimum(cost, c)
    return out


def _full_search(cur: Tensor, ref: Tensor, reach: int, k: int, smoothness: float) -> list[Tensor]:
    """Best whole-pel vectors (y, x) for blocks of side k and of its multiples in ``_SCALES``: ``[N, ceil(h/sk), ceil(w/sk), 2]`` each."""
    _n, h, w = cur.shape
    padded = F.pad(ref[:, None], [reach] * 4, mode="replicate")[:, 0] if reach else ref
    found: list[list[Any]] = [[] for _ in _SCALES]
    span = torch.arange(-reach, reach + 1, device=cur.device)
    for dy in range(2 * reach + 1):
        shifted = padded[:, dy : dy + h].unfold(2, w, 1).permute(0, 2, 1, 3)  # [N, D, h, w], D shifts in x, a view
        bias = smoothness / 255 * torch.log2(1 + 2 * (span.abs() + abs(dy - reach)).float())[:, None, None]
        cost = F.avg_pool2d((shifted - cur[:, None]).abs_(), k)  # [N, D, h/k, w/k]
        for times, out in zip(_SCALES, found):
            pooled = cost if times == 1 else F.avg_pool2d(cost, times, ceil_mode=True)
            out.append((pooled + bias).min(1))
    return [_pick(costs, reach) for costs in found]


def _pick(costs: list[Any], reach: int) -> Tensor:
    """From the best shift in x of every shift in y to the best vector."""
    dy = torch.stack([c.values for c in costs], 1).argmin(1, keepdim=True)  # [N, 1, bh, bw]
    dx = torch.stack([c.indices for c in costs], 1).gather(1, dy)
    return torch.cat([dy, dx], 1).permute(0, 2, 3, 1) - reach


def _windows(ref: Tensor, vectors: Tensor, k: int, margin: int) -> Tensor:
    """The part of ``ref`` that each block's vector points at, with a margin: ``[N, bh, bw, k + 2 margin, k + 2 margin]``."""
    _n, h, w = ref.shape
    bh, bw = h // k, w // k
    side = torch.arange(-margin, k + margin, device=ref.device)
    y = (torch.arange(bh, device=ref.device) * k)[:, None] + vectors[..., 0]  # [N, bh, bw]
    x = torch.arange(bw, device=ref.device) * k + vectors[..., 1]
    rows = (y[..., None] + side).clamp(0, h - 1)  # [N, bh, bw, S]
    columns = (x[..., None] + side).clamp(0, w - 1)
    at = rows[..., :, None] * w + columns[..., None, :]  # [N, bh, bw, S, S]
    return ref.flatten(1).gather(1, at.flatten(1)).view(at.shape)


def _slide(window: Tensor, shift: float | Tensor, k: int, margin: int, dim: int) -> Tensor:
    """Samples ``shift`` away from the middle of the window along one axis, linear between pixels.

    A number is a whole-pel shift common to all blocks, a tensor ``[N, bh, bw]`` a fraction for each.
    """
    if not isinstance(shift, Tensor):
        return window.narrow(dim, margin + int(shift), k)
    # |shift| < 1: weights of the pixels before, at and after
    f = shift[..., None, None]
    before, at, after = (window.narrow(dim, margin + i, k) for i in (-1, 0, 1))
    return at + f.clamp(min=0) * (after - at) + (-f).clamp(min=0) * (before - at)
