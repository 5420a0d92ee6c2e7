"""Inter prediction (ITU-T H.264, 8.4): quarter-pel samples with the standard's filters, fetched block by block, and the search for vectors.

Vectors are whole numbers of quarter pixels, (y, x), one for each 8x8 block; a larger partition repeats its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import kernels
from ..blocks import spread
from ..checks import first_order, half_up
from ..constants import Constant
from .intra import satd

MARGIN = 24  # samples by which a reference is continued beyond its edges: a block further out sees nothing but edge


def _six(x: Tensor, dim: int) -> Tensor:
    """Taps (1, -5, 20, 20, -5, 1) between sample i and i + 1; 5 samples shorter. Not divided by 32."""
    n = x.shape[dim] - 5
    s = [x.narrow(dim, i, n) for i in range(6)]
    return (s[0] + s[5]) - 5 * (s[1] + s[4]) + 20 * (s[2] + s[3])


def edges(planes: Tensor, margin: int) -> Tensor:
    """Repeat the edges. Shape: ``[N, H, W] -> [N, H + 2 margin, W + 2 margin]``."""
    return F.pad(planes[:, None], [margin] * 4, mode="replicate")[:, 0]


def quarter_pel(luma: Tensor) -> Tensor:
    """All sixteen quarter-pel phases of reference planes (8.4.2.2.1).

    Shape: ``[N, H, W]`` whole numbers -> ``[N, 16, H + 2 MARGIN, W + 2 MARGIN]`` bytes; phase ``4 y + x`` at a place is the sample (y, x)
    quarters below and to the right of it. No gradient.
    """
    if kernels.here(luma):
        return kernels.ops.quarter_pel(luma)  # type: ignore[no-any-return]
    return torch.stack([_sixteen(*_eight(plane[None]))[0].to(torch.uint8) for plane in luma])  # floats of all at once would be large


def _eight(luma: Tensor) -> tuple[Tensor, ...]:
    """Whole and half samples that the sixteen phases are means of, named as in 8.4.2.2.1: G b h j, and their neighbours H M s m."""
    x = edges(luma, MARGIN + 3)  # 2 samples before and 3 after for the taps
    m = 3
    h, w = x.shape[-2] - 2 * m, x.shape[-1] - 2 * m

    def cut(p: Tensor, dy: int, dx: int) -> Tensor:
        return p[:, dy : dy + h, dx : dx + w]

    g = cut(x, m, m)
    right, below = cut(x, m, m + 1), cut(x, m + 1, m)
    raw_b = _six(x, -1)  # place i is between samples i + 2 and i + 3
    raw_h = _six(x, -2)
    half_b, half_h = (half_up(v / 32).clamp(0, 255) for v in (raw_b, raw_h))
    b = half_b[:, m : m + h, m - 2 : m - 2 + w]
    s = half_b[:, m + 1 : m + 1 + h, m - 2 : m - 2 + w]  # b one row below
    hh = half_h[:, m - 2 : m - 2 + h, m : m + w]
    mm = half_h[:, m - 2 : m - 2 + h, m + 1 : m + 1 + w]  # h one column to the right
    j = half_up(_six(raw_b, -2) / 1024).clamp(0, 255)[:, m - 2 : m - 2 + h, m - 2 : m - 2 + w]
    return g, b, hh, j, right, below, s, mm


# What each of the sixteen phases gets of each of the eight: adjoint of _sixteen
SHARES = Constant(
    [
        [2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 2, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0, 2, 1, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 1, 0, 0, 1, 0],
        [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1],
    ]
)


def _sixteen(g: Tensor, b: Tensor, h: Tensor, j: Tensor, right: Tensor, below: Tensor, s: Tensor, m: Tensor) -> Tensor:
    """Quarter-pel phases as rounded means of whole and half ones, named as in 8.4.2.2.1: ``[N, H, W] -> [N, 16, H, W]``."""

    def mean(p: Tensor, q: Tensor) -> Tensor:
        return half_up((p + q) / 2)

    rows = [
        [g, mean(g, b), b, mean(b, right)],
        [mean(g, h), mean(b, h), mean(b, j), mean(b, m)],
        [h, mean(h, j), j, mean(j, m)],
        [mean(h, below), mean(h, s), mean(j, s), mean(m, s)],
    ]
    return torch.stack([p for row in rows for p in row], 1)


def half_resolution(luma: Tensor) -> tuple[Tensor, Tensor]:
    """Planes of half the size, and their sixteen quarter-pel phases: half-pel samples are those of the full plane, one sample further.

    Shape: ``[N, H, W]`` -> ``[N, H/2, W/2]``, ``[N, 16, H/2 + 2 MARGIN, W/2 + 2 MARGIN]`` bytes as :func:`quarter_pel`.
    """
    if kernels.here(luma):
        return kernels.ops.half_resolution(luma)  # type: ignore[no-any-return]
    x = F.pad(luma[:, None], [0, 1, 0, 1], mode="replicate")
    box = half_up(F.avg_pool2d(x, 2, 1)[:, 0])  # [N, H, W]: mean of the 2x2 samples from each place
    parts = [edges(box[:, y::2, x::2], MARGIN + 1) for y in (0, 1) for x in (0, 1)]
    cut = lambda p, dy=0, dx=0: p[:, 1 + dy : p.shape[1] - 1 + dy, 1 + dx : p.shape[2] - 1 + dx]  # noqa: E731
    g, b, hh, j = (cut(p) for p in parts)
    phases = _sixteen(g, b, hh, j, cut(parts[0], 0, 1), cut(parts[0], 1, 0), cut(parts[1], 1, 0), cut(parts[2], 0, 1))
    return box[:, ::2, ::2], phases.to(torch.uint8)


class _Fetch(torch.autograd.Function):
    """Windows of k0 x k1 samples from a flat buffer, row by row. Shape: ``[...] -> [..., k0*k1]``."""

    @staticmethod
    def forward(ctx, flat, start, k, width):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(start)
        ctx.k, ctx.width, ctx.size = k, width, flat.numel()
        return _windows(flat, start, k, width)

    @staticmethod
    @first_order
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (start,) = ctx.saved_tensors
        return _added(grad, start, ctx.k, ctx.width, ctx.size), None, None, None


def _rows(start: Tensor, k: tuple[int, int], width: int) -> Tensor:
    """First sample of each row of windows. Shape: ``[...] -> [..., k0]``."""
    return start[..., None] + width * torch.arange(k[0], device=start.device)


def _windows(flat: Tensor, start: Tensor, k: tuple[int, int], width: int) -> Tensor:
    # a view of all rows there are: its index_select copies whole rows, 10 times as fast as an index a sample
    found = flat.unfold(0, k[1], 1).index_select(0, _rows(start, k, width).flatten()).view(*start.shape, k[0] * k[1])
    return found.float() if found.dtype == torch.uint8 else found


def _added(grad: Tensor, start: Tensor, k: tuple[int, int], width: int, size: int) -> Tensor:
    """Adjoint of :func:`_windows`."""
    places = _rows(start, k, width)[..., None] + torch.arange(k[1], device=grad.device)
    return grad.new_zeros(size).index_add_(0, places.flatten(), grad.flatten())


def _fetch(flat: Tensor, start: Tensor, k: tuple[int, int], width: int) -> Tensor:
    if not (torch.is_grad_enabled() and flat.requires_grad):
        return _windows(flat, start, k, width)
    return _Fetch.apply(flat, start, k, width)  # type: ignore[no-any-return]


def pick(options: Tensor, which: Tensor) -> Tensor:
    """One row of each set. Shape: ``[..., options, n], [...] -> [..., n]``."""
    n, most = options.shape[-1], options.shape[-2]
    rows = which.flatten() + most * torch.arange(which.numel(), device=which.device)
    return options.reshape(-1, n).index_select(0, rows).view(*which.shape, n)


def _starts(size: torch.Size, reference: Tensor, vectors: Tensor, k: int) -> Tensor:
    """First sample of the blocks that vectors point at, in :func:`quarter_pel` planes of this size laid out flat."""
    hp, wp = size[-2:]
    bh, bw = vectors.shape[-3:-1]
    y, x = vectors.unbind(-1)
    top = (k * torch.arange(bh, device=vectors.device) + MARGIN)[:, None]
    left = k * torch.arange(bw, device=vectors.device) + MARGIN
    phase = 4 * (y & 3) + (x & 3)
    return ((reference * 16 + phase) * hp + ((y >> 2) + top).clamp_(0, hp - k)) * wp + ((x >> 2) + left).clamp_(0, wp - k)


def fetch_luma(phases: Tensor, reference: Tensor, vectors: Tensor, k: int) -> Tensor:
    """Blocks that vectors point at; no gradient.

    Args:
        phases: :func:`quarter_pel` of the reference planes, ``[R, 16, Hp, Wp]``, also as bytes.
        reference: which plane, broadcastable to ``[..., bh, bw]``.
        vectors: ``[..., bh, bw, 2]`` quarter pixels (y, x), whole numbers.
        k: block side.

    Returns:
        ``[..., bh, bw, k*k]`` float.
    """
    if kernels.here(phases):
        return kernels.ops.fetch_luma(phases, reference, vectors, k)  # type: ignore[no-any-return]
    return _windows(phases.view(-1), _starts(phases.shape, reference, vectors, k), (k, k), phases.shape[-1])


class _Predict(torch.autograd.Function):
    """Blocks from phases that are at hand; the gradient goes to the planes that they were made of, whose phases are made again for it."""

    @staticmethod
    def forward(ctx, phases, start, own, k, *planes):  # type: ignore[no-untyped-def]
        ctx.k, ctx.size = (k, k), phases.shape[1:]
        ctx.save_for_backward(own, *planes)
        return _windows(phases.view(-1), start, ctx.k, phases.shape[-1])

    @staticmethod
    @first_order
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        own, *planes = ctx.saved_tensors
        one = ctx.size.numel()
        found = _added(grad, own, ctx.k, ctx.size[-1], one * len(planes)).view(-1, *ctx.size)  # [R, 16, Hp, Wp]
        with torch.enable_grad():
            x = torch.stack(planes).requires_grad_()
            eight = _eight(x)
        of_eight = ((SHARES.like(grad) / 2) @ found.flatten(2)).view(len(planes), 8, *ctx.size[1:])
        (out,) = torch.autograd.grad(eight, x, of_eight.unbind(1))
        return None, None, None, None, *out


def predict_luma(phases: Tensor, place: Tensor, planes: Sequence[Tensor], which: Tensor, vectors: Tensor, k: int) -> Tensor:
    """Blocks that vectors point at, differentiable in the reference planes.

    Args:
        phases: :func:`quarter_pel` of many planes, as bytes, ``[S, 16, Hp, Wp]``.
        place: where the phases of each block's reference lie there, broadcastable to ``[N, bh, bw]``.
        planes: the references ``[H, W]``. which: of them each block uses, shape of ``place``.
        vectors, k: as for :func:`fetch_luma`.

    Returns:
        ``[N, bh, bw, k*k]``.
    """
    if not (torch.is_grad_enabled() and any(p.requires_grad for p in planes)):
        return fetch_luma(phases, place, vectors, k)
    if kernels.here(phases):
        return kernels.ops.predict_luma(torch.stack(list(planes)), phases, place, which, vectors, k)  # type: ignore[no-any-return]
    start, own = (_starts(phases.shape, w, vectors, k) for w in (place, which))
    return _Predict.apply(phases, start, own, k, *planes)  # type: ignore[no-any-return]


def fetch_chroma(planes: Tensor, reference: Tensor, vectors: Tensor, k: int) -> Tensor:
    """Chroma blocks, bilinear in eighths of a sample (8.4.2.2.2).

    Args:
        planes: Cb and Cr ``[R, 2, H/2, W/2]``.
        reference, vectors: as for luma.
        k: block side in chroma samples.

    Returns:
        ``[N, bh, bw, 2, k*k]``.
    """
    if kernels.here(planes):
        return kernels.ops.fetch_chroma(planes, reference, vectors, k)  # type: ignore[no-any-return]
    planes = edges(planes.flatten(0, 1), MARGIN)  # [2 R, hp, wp]
    hp, wp = planes.shape[-2:]
    bh, bw = vectors.shape[1:3]
    whole = vectors >> 3
    f = (vectors & 7).to(planes)[..., None, None] / 8  # [N, bh, bw, 2, 1, 1]
    y = (torch.arange(bh, device=vectors.device) * k + MARGIN)[:, None] + whole[..., 0]
    x = torch.arange(bw, device=vectors.device) * k + MARGIN + whole[..., 1]
    y, x = y.clamp(0, hp - k - 1), x.clamp(0, wp - k - 1)
    start = ((reference * 2) * hp + y) * wp + x  # [N, bh, bw]
    start = torch.stack([start, start + hp * wp], -1)  # Cb, Cr
    window = _fetch(planes.reshape(-1), start, (k + 1, k + 1), wp).unflatten(-1, (k + 1, k + 1))
    fy, fx = f[..., 0, :, :][..., None, :, :], f[..., 1, :, :][..., None, :, :]
    rows = window[..., :k, :] * (1 - fy) + window[..., 1:, :] * fy
    out = rows[..., :k] * (1 - fx) + rows[..., 1:] * fx
    return half_up(out).flatten(-2)


def mix(past: Tensor, future: Tensor, which: Tensor) -> Tensor:
    """Predictions from the past where ``which`` is 0, from the future where it is 1, and the mean of both where it is 2 (8.4.2.3.1).

    Shape: ``[N, bh, bw, ...]`` twice, ``[N, bh, bw] -> [N, bh, bw, ...]``.
    """
    if kernels.here(past):
        return kernels.ops.mix(past, future, which)  # type: ignore[no-any-return]
    which = which.view(*which.shape, *[1] * (past.dim() - which.dim()))
    return torch.where(which == 2, half_up((past + future) / 2), torch.where(which == 1, future, past))


def motion(fields: Sequence[Tensor], uses: Sequence[Tensor], names: Sequence[Tensor]) -> Tensor:
    """What predicts each block, as the loop filter compares it: of both lists vector and name of the reference, 0 and -1 where it is not in use.

    Args:
        fields: of one or two lists ``[N, bh, bw, 2]``. uses: blocks that use it, bool ``[N, bh, bw]``. names: of references, same shape.

    Returns:
        ``[N, bh, bw, 6]``.
    """
    if kernels.here(fields[0]):
        return kernels.ops.motion(list(fields), list(uses), list(names))  # type: ignore[no-any-return]
    out = fields[0].new_zeros(*fields[0].shape[:3], 6, dtype=torch.float32)
    out[..., 2::3] = -1
    for j, (field, used, name) in enumerate(zip(fields, uses, names)):
        out[..., 3 * j : 3 * j + 2] = field * used[..., None]
        out[..., 3 * j + 2] = torch.where(used, name, -1)
    return out


def blocks(planes: Tensor, k: int) -> Tensor:
    """Shape: ``[N, H, W] -> [N, H/k, W/k, k*k]``."""
    n, h, w = planes.shape
    return planes.reshape(n, h // k, k, w // k, k).transpose(2, 3).reshape(n, h // k, w // k, k * k)


def unblocks(x: Tensor, k: int) -> Tensor:
    """Inverse of :func:`blocks`."""
    n, bh, bw = x.shape[:3]
    return x.view(n, bh, bw, k, k).transpose(2, 3).reshape(n, bh * k, bw * k)


def macroblocks(x: Tensor) -> Tensor:
    """Sum over the four 8x8 blocks of each macroblock. Shape: ``[..., H/8, W/8] -> [..., H/16, W/16]``."""
    return x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).sum((-3, -1))


def vector_bits(vectors: Tensor, predictor: Tensor) -> Tensor:
    """Bits of a vector difference as x264 counts them: 0.72 a component equal to its predictor, else 1.72 + 2 log2(|d| + 1).

    Shape: ``[..., 2] -> [...]``.
    """
    d = (vectors - predictor).abs().float()
    return torch.where(d == 0, 0.72, 1.72 + 2 * torch.log2(d + 1)).sum(-1)


def whole_search(current: Tensor, reference: Tensor, reach: int, k: int) -> Tensor:
    """The best whole-pel vector of every block by a full search at half the resolution of what comes in.

    Args:
        current, reference: planes ``[N, H, W]`` 0..255, multiples of k.
        reach: largest displacement in samples.

    Returns:
        Quarter samples ``[N, H/k, W/k, 2]``.
    """
    if kernels.here(current):
        return kernels.ops.whole_search(current, reference, reach, k)  # type: ignore[no-any-return]
    small, small_ref = (F.avg_pool2d(p[:, None], 2)[:, 0] for p in (current, reference))
    _n, h, w = small.shape
    r = -(-reach // 2)
    padded = edges(small_ref, r)
    span = torch.arange(-r, r + 1, device=small.device)
    found = []
    for dy in range(2 * r + 1):
        shifted = padded[:, dy : dy + h].unfold(2, w, 1).permute(0, 2, 1, 3)  # [N, D, h, w], D shifts in x, a view
        cost = F.avg_pool2d((shifted - small[:, None]).abs_(), k // 2)
        bias = 0.1 * torch.log2(1 + 2 * (span.abs() + abs(dy - r)).float())[:, None, None]
        found.append((cost + bias).min(1))
    rows = torch.stack([f.values for f in found], 1).argmin(1, keepdim=True)  # [N, 1, bh, bw]
    columns = torch.stack([f.indices for f in found], 1).gather(1, rows)
    return 8 * (torch.cat([rows, columns], 1).permute(0, 2, 3, 1) - r)


def costs(phases: Tensor, reference: Tensor, target: Tensor, vectors: Tensor, k: int, fine: bool) -> Tensor:
    """SATD (or SAD) of blocks against what several vectors each point at. Shape: ``[C, N, bh, bw, 2] -> [C, N, bh, bw]``."""
    if fine and k == 16:  # as four blocks of 8: their Hadamard transforms are one product
        vectors = spread(vectors.flatten(0, 1), 2).unflatten(0, vectors.shape[:2])
        target = blocks(unblocks(target, 16), 8)
        reference = spread(reference.expand(target.shape[0], target.shape[1] // 2, target.shape[2] // 2), 2)
    window = 8 if fine else k
    difference = fetch_luma(phases, reference, vectors, window).sub_(target)
    if not fine:
        return difference.abs_().sum(-1)
    cost = satd(difference, 8)
    return macroblocks(cost) if k == 16 else cost


_RING = torch.tensor([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])


def refine(
    phases: Tensor,
    reference: Tensor,
    source: Tensor,
    start: list[Tensor],
    predictor: Tensor,
    lam: Tensor,
    k: int,
    subpel: int,
    fine: bool,
    rounds: int = 2,
) -> tuple[Tensor, Tensor]:
    """The best of some vectors, moved to the best place nearby: whole, half, quarter pixels.

    Args:
        phases: :func:`quarter_pel` of the reference planes. reference: which of them, broadcastable to ``[N, bh, bw]``.
        source: ``[N, H, W]``, of bh x bw blocks.
        start: vectors ``[N, bh, bw, 2]``.
        predictor: for the bits of a vector.
        lam: ``[N, bh, bw]``.
        subpel: 1, 2 or 4.
        fine: SATD instead of SAD for fractions.
        rounds: of moving by one whole pixel.

    Returns:
        Vectors and their cost (distortion + lambda bits).
    """
    if kernels.here(source):
        return kernels.ops.refine(  # type: ignore[no-any-return]
            phases, reference, source, torch.stack(start), predictor, lam, k, subpel, fine, rounds
        )
    target = blocks(source, k)
    ring = _RING.to(source.device)[:, None, None, None]  # [8, 1, 1, 1, 2]

    def price(vectors: Tensor, metric: bool) -> Tensor:
        """Shape: ``[C, N, bh, bw, 2] -> [C, N, bh, bw]``."""
        return costs(phases, reference, target, vectors, k, metric) + lam * vector_bits(vectors, predictor)

    def best_of(vectors: Tensor, best: Tensor | None, cost: Tensor | None, metric: bool) -> tuple[Tensor, Tensor]:
        c, which = price(vectors, metric).min(0)
        v = vectors.gather(0, which[None, ..., None].expand(1, *which.shape, 2))[0]
        if best is None or cost is None:
            return v, c
        better = c < cost
        return torch.where(better[..., None], v, best), torch.where(better, c, cost)

    best, cost = best_of(torch.stack(start), None, None, False)
    for _ in range(rounds):
        best, cost = best_of(best + 4 * ring, best, cost, False)
    if subpel > 1:
        if fine:
            cost = price(best[None], True)[0]
        for stride in (2, 1)[: 1 if subpel == 2 else 2]:
            best, cost = best_of(best + stride * ring, best, cost, fine)
    return best, cost


def median_predictor(vectors: Tensor) -> Tensor:
    """Median of the left, upper and upper right neighbours' vectors (8.4.1.3), all blocks at once. Shape: ``[N, bh, bw, 2]`` -> same."""
    if kernels.here(vectors):
        return kernels.ops.median_predictor(vectors)  # type: ignore[no-any-return]
    p = F.pad(vectors, (0, 0, 1, 1, 1, 0))  # zeros to the left, to the right and above
    left, up, right = p[:, 1:, :-2], p[:, :-1, 1:-1], p[:, :-1, 2:]
    return torch.maximum(torch.minimum(left, up), torch.minimum(torch.maximum(left, up), right))
