"""Inter prediction (ITU-T H.264, 8.4; x264's mc.c): quarter-pel samples with the standard's filters, fetched block by block.

Vectors are whole numbers of quarter pixels, (y, x), one for each 8x8 block; a larger partition repeats its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backend import operation, writing_operation
from ...blocks import from_flat_blocks, repeat_edges
from ...checks import first_order, half_up
from ...constants import Constant

MARGIN = 24  # samples of edge padding around a reference: a block further outside consists of repeated edge samples only


def _six_taps(x: Tensor, dim: int) -> Tensor:
    """Taps (1, -5, 20, 20, -5, 1) between sample i and i + 1; 5 samples shorter. Not divided by 32."""
    n = x.shape[dim] - 5
    s = [x.narrow(dim, i, n) for i in range(6)]
    return (s[0] + s[5]) - 5 * (s[1] + s[4]) + 20 * (s[2] + s[3])


def quarter_pel(luma: Tensor) -> Tensor:
    """All sixteen quarter-pel phases of reference planes (8.4.2.2.1).

    Shape: ``[N, H, W]`` whole numbers -> ``[N, 16, H + 2 MARGIN, W + 2 MARGIN]`` bytes; phase ``4 y + x`` at a place is the sample (y, x)
    quarters below and to the right of it. No gradient.
    """
    return torch.stack([_sixteen(*_eight(plane[None]))[0].to(torch.uint8) for plane in luma])  # floats of all at once would be large


def allocate_phases(luma: Tensor, phases: int = 16) -> Tensor:
    """Memory for the phases of planes ``[N, H, W]``."""
    n, h, w = luma.shape
    return luma.new_empty(n, phases, h + 2 * MARGIN, w + 2 * MARGIN, dtype=torch.uint8)


@writing_operation("phases")
def interpolate_planes(phases: Tensor, slots: Tensor, luma: Tensor) -> None:
    """Make the quarter-pel phases of reference planes, or only the whole-pel one if all vectors are whole-pel.

    Args:
        phases: :func:`quarter_pel` of many planes ``[S, 16, Hp, Wp]``, or only their whole samples ``[S, 1, Hp, Wp]``; written to.
        slots: indices in ``phases`` of these planes ``[N]``.
        luma: ``[N, H, W]`` whole numbers.
    """
    planes = quarter_pel(luma) if phases.shape[1] == 16 else repeat_edges(luma, MARGIN)[:, None].to(torch.uint8)
    phases.index_copy_(0, slots, planes)


@interpolate_planes.outputs
def _(phases: Tensor, slots: Tensor, luma: Tensor) -> None:
    pass


def _eight(luma: Tensor) -> tuple[Tensor, ...]:
    """Whole and half samples that the sixteen phases are means of, named as in 8.4.2.2.1: G b h j, and their neighbours H M s m."""
    x = repeat_edges(luma, MARGIN + 3)  # 2 samples before and 3 after for the taps
    m = 3
    h, w = x.shape[-2] - 2 * m, x.shape[-1] - 2 * m

    def cut(p: Tensor, dy: int, dx: int) -> Tensor:
        return p[:, dy : dy + h, dx : dx + w]

    g = cut(x, m, m)
    right, below = cut(x, m, m + 1), cut(x, m + 1, m)
    raw_b = _six_taps(x, -1)  # place i is between samples i + 2 and i + 3
    raw_h = _six_taps(x, -2)
    half_b, half_h = (half_up(v / 32).clamp(0, 255) for v in (raw_b, raw_h))
    b = half_b[:, m : m + h, m - 2 : m - 2 + w]
    s = half_b[:, m + 1 : m + 1 + h, m - 2 : m - 2 + w]  # b one row below
    hh = half_h[:, m - 2 : m - 2 + h, m : m + w]
    mm = half_h[:, m - 2 : m - 2 + h, m + 1 : m + 1 + w]  # h one column to the right
    j = half_up(_six_taps(raw_b, -2) / 1024).clamp(0, 255)[:, m - 2 : m - 2 + h, m - 2 : m - 2 + w]
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


@operation
def half_resolution(luma: Tensor, phases: int) -> tuple[Tensor, Tensor]:
    """Half-resolution planes and their fractional phases; half-pel samples are 2x2 means at odd positions of the full plane.

    Args:
        luma: ``[N, H, W]`` whole numbers.
        phases: 16, or 4 where vectors are multiples of half a sample.

    Returns:
        ``[N, H/2, W/2]``, ``[N, phases, H/2 + 2 MARGIN, W/2 + 2 MARGIN]`` bytes as :func:`quarter_pel`.
    """
    x = F.pad(luma[:, None], [0, 1, 0, 1], mode="replicate")
    box = half_up(F.avg_pool2d(x, 2, 1)[:, 0])  # [N, H, W]: mean of the 2x2 samples from each place
    parts = [repeat_edges(box[:, y::2, x::2], MARGIN + 1) for y in (0, 1) for x in (0, 1)]
    cut = lambda p, dy=0, dx=0: p[:, 1 + dy : p.shape[1] - 1 + dy, 1 + dx : p.shape[2] - 1 + dx]  # noqa: E731
    g, b, hh, j = (cut(p) for p in parts)
    if phases == 4:
        return box[:, ::2, ::2], torch.stack([g, b, hh, j], 1).to(torch.uint8)
    sixteen = _sixteen(g, b, hh, j, cut(parts[0], 0, 1), cut(parts[0], 1, 0), cut(parts[1], 1, 0), cut(parts[2], 0, 1))
    return box[:, ::2, ::2], sixteen.to(torch.uint8)


@half_resolution.outputs
def _(luma: Tensor, phases: int) -> tuple[Tensor, Tensor]:
    half = luma.new_empty(len(luma), luma.shape[1] // 2, luma.shape[2] // 2)
    return half, allocate_phases(half, phases)


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
        return _windows_adjoint(grad, start, ctx.k, ctx.width, ctx.size), None, None, None


def _rows(start: Tensor, k: tuple[int, int], width: int) -> Tensor:
    """First sample of each row of windows. Shape: ``[...] -> [..., k0]``."""
    return start[..., None] + width * torch.arange(k[0], device=start.device)


def _windows(flat: Tensor, start: Tensor, k: tuple[int, int], width: int) -> Tensor:
    """Shape: ``[...] -> [..., k0*k1]``."""
    # a view of all possible rows: index_select copies whole rows, 10 times as fast as indexing samples
    samples = flat.unfold(0, k[1], 1).index_select(0, _rows(start, k, width).flatten()).view(*start.shape, k[0] * k[1])
    return samples.float() if samples.dtype == torch.uint8 else samples


def _windows_adjoint(grad: Tensor, start: Tensor, k: tuple[int, int], width: int, size: int) -> Tensor:
    """Adjoint of :func:`_windows`."""
    places = _rows(start, k, width)[..., None] + torch.arange(k[1], device=grad.device)
    return grad.new_zeros(size).index_add_(0, places.flatten(), grad.flatten())


def _fetch(flat: Tensor, start: Tensor, k: tuple[int, int], width: int) -> Tensor:
    if not (torch.is_grad_enabled() and flat.requires_grad):
        return _windows(flat, start, k, width)
    return _Fetch.apply(flat, start, k, width)  # type: ignore[no-any-return]


def _starts(size: torch.Size, slot: Tensor, vectors: Tensor, k: int) -> Tensor:
    """First sample of the blocks that vectors point at, in :func:`quarter_pel` planes of this size laid out flat."""
    hp, wp = size[-2:]
    bh, bw = vectors.shape[-3:-1]
    y, x = vectors.unbind(-1)
    top = (k * torch.arange(bh, device=vectors.device) + MARGIN)[:, None]
    left = k * torch.arange(bw, device=vectors.device) + MARGIN
    phase = 4 * (y & 3) + (x & 3) if size[1] == 16 else (y & 2) + ((x & 2) >> 1) if size[1] == 4 else 0
    return ((slot * size[1] + phase) * hp + ((y >> 2) + top).clamp_(0, hp - k)) * wp + ((x >> 2) + left).clamp_(0, wp - k)


@operation
def fetch_luma(phases: Tensor, slot: Tensor, vectors: Tensor, k: int) -> Tensor:
    """Blocks that vectors point at; no gradient.

    Args:
        phases: of the reference planes, ``[R, 16, Hp, Wp]``, or ``[R, 1, Hp, Wp]`` for whole vectors: :func:`interpolate_planes`.
        slot: which plane, broadcastable to ``[..., bh, bw]``.
        vectors: ``[..., bh, bw, 2]`` quarter pixels (y, x), whole numbers.
        k: block side.

    Returns:
        ``[..., bh, bw, k*k]`` float.
    """
    return _windows(phases.view(-1), _starts(phases.shape, slot, vectors, k), (k, k), phases.shape[-1])


@fetch_luma.outputs
def _(phases: Tensor, slot: Tensor, vectors: Tensor, k: int) -> Tensor:
    return vectors.new_empty(*vectors.shape[:-1], k * k, dtype=torch.float32)


class _Predict(torch.autograd.Function):
    """Blocks from phases made before; the gradient goes to the planes, whose phases are made again in the backward pass."""

    @staticmethod
    def forward(ctx, planes, phases, start, start_in_planes, k):  # type: ignore[no-untyped-def]
        ctx.k, ctx.size = (k, k), phases.shape[1:]
        ctx.save_for_backward(planes, start_in_planes)
        return _windows(phases.view(-1), start, ctx.k, phases.shape[-1])

    @staticmethod
    @first_order
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        planes, start_in_planes = ctx.saved_tensors
        samples = ctx.size.numel() * len(planes)
        of_phases = _windows_adjoint(grad, start_in_planes, ctx.k, ctx.size[-1], samples).view(-1, *ctx.size)  # [R, 16, Hp, Wp]
        with torch.enable_grad():
            x = planes.detach().requires_grad_()
            eight = _eight(x) if ctx.size[0] == 16 else (repeat_edges(x, MARGIN),)
        of_eight = of_phases
        if ctx.size[0] == 16:
            of_eight = ((SHARES.like(grad) / 2) @ of_phases.flatten(2)).view(len(planes), 8, *ctx.size[1:])
        (out,) = torch.autograd.grad(eight, x, of_eight.unbind(1))
        return out, None, None, None, None


def predict_luma(planes: Tensor, phases: Tensor, slot: Tensor, ref_idx: Tensor, vectors: Tensor, k: int) -> Tensor:
    """Luma blocks that vectors point at, differentiable in the reference planes.

    Args:
        planes: the references ``[R, H, W]``.
        phases: :func:`quarter_pel` of many planes, including the references, ``[S, 16, Hp, Wp]``.
        slot: index in ``phases`` of each block's reference, broadcastable to ``[N, bh, bw]``.
        ref_idx: which of ``planes`` each block uses, shape of ``slot``.
        vectors, k: as for :func:`fetch_luma`.

    Returns:
        ``[N, bh, bw, k*k]``.
    """
    if not (torch.is_grad_enabled() and planes.requires_grad):
        return fetch_luma.reference(phases, slot, vectors, k)
    start, own = (_starts(phases.shape, index, vectors, k) for index in (slot, ref_idx))
    return _Predict.apply(planes, phases, start, own, k)  # type: ignore[no-any-return]


def predict_chroma(planes: Tensor, ref_idx: Tensor, vectors: Tensor, k: int) -> Tensor:
    """Chroma blocks, bilinear in eighths of a sample (8.4.2.2.2).

    Args:
        planes: Cb and Cr ``[R, 2, H/2, W/2]``.
        ref_idx: which of ``planes`` each block uses, ``[N, bh, bw]``. vectors: as for luma.
        k: block side in chroma samples.

    Returns:
        ``[N, bh, bw, 2, k*k]``.
    """
    planes = repeat_edges(planes.flatten(0, 1), MARGIN)  # [2 R, hp, wp]
    hp, wp = planes.shape[-2:]
    bh, bw = vectors.shape[1:3]
    whole = vectors >> 3
    f = (vectors & 7).to(planes)[..., None, None] / 8  # [N, bh, bw, 2, 1, 1]
    y = (torch.arange(bh, device=vectors.device) * k + MARGIN)[:, None] + whole[..., 0]
    x = torch.arange(bw, device=vectors.device) * k + MARGIN + whole[..., 1]
    y, x = y.clamp(0, hp - k - 1), x.clamp(0, wp - k - 1)
    start = ((ref_idx * 2) * hp + y) * wp + x  # [N, bh, bw]
    start = torch.stack([start, start + hp * wp], -1)  # Cb, Cr
    window = _fetch(planes.reshape(-1), start, (k + 1, k + 1), wp).unflatten(-1, (k + 1, k + 1))
    fy, fx = f[..., 0, :, :][..., None, :, :], f[..., 1, :, :][..., None, :, :]
    rows = window[..., :k, :] * (1 - fy) + window[..., 1:, :] * fy
    out = rows[..., :k] * (1 - fx) + rows[..., 1:] * fx
    return half_up(out).flatten(-2)


def bipred(past: Tensor, future: Tensor, direction: Tensor) -> Tensor:
    """Predictions from the past where ``direction`` is 0, from the future where it is 1, and the mean of both where it is 2 (8.4.2.3.1).

    Shape: ``[N, bh, bw, ...]`` twice, ``[N, bh, bw] -> [N, bh, bw, ...]``.
    """
    direction = direction.view(*direction.shape, *[1] * (past.dim() - direction.dim()))
    return torch.where(direction == 2, half_up((past + future) / 2), torch.where(direction == 1, future, past))


@operation
def compensate_motion(
    luma: Tensor,
    chroma: Tensor,
    phases: Tensor,
    slots: list[Tensor],
    ref_idx: list[Tensor],
    vectors: list[Tensor],
    direction: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Inter prediction of frames, differentiable in the references.

    Args:
        luma, chroma: the references ``[R, H, W]``, ``[R, 2, H/2, W/2]``.
        phases: of many planes, including the references: :func:`interpolate_planes`.
        slots: index in ``phases`` of each 8x8 block's reference, for one list or both, ``[N, H/8, W/8]`` each.
        ref_idx: its index in ``luma`` and ``chroma``, same shape.
        vectors: quarter pixels (y, x) ``[N, H/8, W/8, 2]`` each.
        direction: of blocks of two lists, as :func:`bipred` takes it, ``[N, H/8, W/8]``; None for one list.

    Returns:
        Predictions ``[N, H, W]``, ``[N, 2, H/2, W/2]``, whole numbers.
    """
    y = [predict_luma(luma, phases, *where, 8) for where in zip(slots, ref_idx, vectors)]
    c = [predict_chroma(chroma, *where, 4) for where in zip(ref_idx, vectors)]
    if direction is None:
        return planes_of(y[0], c[0])
    return planes_of(bipred(y[0], y[1], direction), bipred(c[0], c[1], direction))


@compensate_motion.outputs
def _(
    luma: Tensor,
    chroma: Tensor,
    phases: Tensor,
    slots: list[Tensor],
    ref_idx: list[Tensor],
    vectors: list[Tensor],
    direction: Tensor | None,
) -> tuple[Tensor, Tensor]:
    n = len(vectors[0])
    return luma.new_empty(n, *luma.shape[1:]), chroma.new_empty(n, *chroma.shape[1:])


def planes_of(luma: Tensor, chroma: Tensor) -> tuple[Tensor, Tensor]:
    """Planes of 8x8 blocks of luma ``[N, bh, bw, 64]`` and their chroma ``[N, bh, bw, 2, 16]``."""
    y = from_flat_blocks(luma, 8)
    return y, from_flat_blocks(chroma.movedim(3, 1).flatten(0, 1), 4).view(-1, 2, y.shape[1] // 2, y.shape[2] // 2)
