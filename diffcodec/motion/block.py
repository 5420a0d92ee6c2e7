"""Block motion search: what an encoder does, batched over frames and blocks, without weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import pad_to_multiple
from ..checks import check_tensor
from ..color import luma

_CHUNK = 1 << 24  # elements of the largest temporary of the coarse search: bounds memory on large frames


class BlockMotion(nn.Module):
    """Block motion: one vector per block, found by sum of absolute luma differences.

    A full search at half resolution gives each block its candidates (its own best, that of the block twice as large, zero, those of its
    neighbours); the best one is refined by whole, then half and quarter pixels with the bilinear interpolation of :func:`~diffcodec.motion.warp`.
    Found vectors are decisions: no gradient flows into them.

    Args:
        block: block side in pixels at full resolution, 4, 8 or 16.
        search: largest displacement of the coarse search in pixels, each way.
        subpel: finest step as a fraction of a pixel: 1 (whole), 2 (half) or 4 (quarter).
        smoothness: cost in luma levels (0..255) per pixel of block and per log2 of displacement against zero motion; breaks ties in flat areas.
    """

    def __init__(self, block: int = 8, search: int = 16, subpel: int = 4, smoothness: float = 0.05) -> None:
        super().__init__()
        if block not in (4, 8, 16):
            raise ValueError(f"block expected to be 4, 8 or 16, got {block!r}")
        if subpel not in (1, 2, 4):
            raise ValueError(f"subpel expected to be 1, 2 or 4, got {subpel!r}")
        if not (isinstance(search, int) and search >= 0):
            raise ValueError(f"search expected to be a whole number of pixels >= 0, got {search!r}")
        if not smoothness >= 0:
            raise ValueError(f"smoothness expected to be >= 0, got {smoothness!r}")
        self.block, self.search, self.subpel, self.smoothness = block, search, subpel, smoothness

    def extra_repr(self) -> str:
        return f"block={self.block}, search={self.search}, subpel={self.subpel}, smoothness={self.smoothness}"

    @torch.no_grad()
    def forward(self, current: Tensor, reference: Tensor) -> Tensor:
        """Motion that predicts ``current`` from ``reference``.

        Args:
            current, reference: ``[N, C, H, W]`` with C = 3 (RGB; luma is used) or 1, values in [0, 1].

        Returns:
            Flow ``[N, 2, H, W]`` in pixels (x, y), constant inside a block, for :func:`~diffcodec.motion.warp`.
        """
        cur, ref = _plane(current, "BlockMotion"), _plane(reference, "BlockMotion")
        if cur.shape != ref.shape:
            raise ValueError(f"BlockMotion expected two frames of one size, got {tuple(current.shape)} and {tuple(reference.shape)}")
        h, w = cur.shape[-2:]
        cur, ref = pad_to_multiple(cur, 2 * self.block), pad_to_multiple(ref, 2 * self.block)
        vectors = self.refine(cur, ref, self.candidates(cur, ref))  # [N, bh, bw, 2]
        flow = vectors.permute(0, 3, 1, 2).repeat_interleave(self.block, 2).repeat_interleave(self.block, 3)
        return flow[:, :, :h, :w].to(current.dtype)

    def candidates(self, cur: Tensor, ref: Tensor) -> Tensor:
        """Whole-pel vectors worth a closer look, ``[N, K, bh, bw, 2]`` (y, x), from a full search at half resolution."""
        n, h, w = cur.shape
        k = self.block // 2  # the block at half resolution
        small, small_ref = (F.avg_pool2d(p[:, None], 2)[:, 0] for p in (cur, ref))
        reach = -(-self.search // 2)
        per_frame = max(1, _CHUNK // (small[0].numel() * (2 * reach + 1)))
        found = [
            _full_search(c, r, reach, k, self.smoothness) for c, r in zip(small.split(per_frame), small_ref.split(per_frame))
        ]
        fine = torch.cat([f[0] for f in found]) * 2  # [N, bh, bw, 2]
        coarse = torch.cat([f[1] for f in found]) * 2  # [N, bh/2, bw/2, 2]
        coarse = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
        neighbours = [fine.roll(s, d) for d in (1, 2) for s in (1, -1)]
        return torch.stack([torch.zeros_like(fine), coarse, fine, *neighbours], 1)

    def refine(self, cur: Tensor, ref: Tensor, candidates: Tensor) -> Tensor:
        """The best candidate of each block, moved to its best position nearby: ``[N, bh, bw, 2]`` (x, y) in pixels."""
        k = self.block
        n, h, w = cur.shape
        blocks = cur.view(n, h // k, k, w // k, k).transpose(2, 3)  # [N, bh, bw, k, k]
        best, cost = candidates[:, 0], None
        for v in candidates.unbind(1):
            c = (_windows(ref, v, k, 0) - blocks).abs().mean((-2, -1)) + self._bias(v)
            best = v if cost is None else torch.where((c < cost)[..., None], v, best)
            cost = c if cost is None else torch.minimum(cost, c)

        best = best + self._around(ref, blocks, best, torch.zeros_like(best, dtype=cur.dtype), step=1.0, radius=2).to(best)
        shift = torch.zeros_like(best, dtype=cur.dtype)
        step = 0.5
        while step >= 1 / self.subpel:
            shift = self._around(ref, blocks, best, shift, step=step, radius=1)
            step /= 2
        return (best + shift).flip(-1)

    def _bias(self, vector: Tensor) -> Tensor:
        return self.smoothness / 255 * torch.log2(1 + vector.abs().sum(-1).float())

    def _around(self, ref: Tensor, blocks: Tensor, best: Tensor, shift: Tensor, step: float, radius: int) -> Tensor:
        """The best of (2 radius + 1)^2 positions ``step`` apart around ``best + shift``; returns the new shift.

        ``best`` is whole, ``shift`` is 0 for the whole-pel step and a fraction below 1 after it.
        """
        k = self.block
        margin = radius if step == 1 else 1
        window = _windows(ref, best, k, margin)  # [N, bh, bw, k + 2 margin, k + 2 margin]
        out, cost = shift, None
        offsets = [i * step for i in range(-radius, radius + 1)]
        centre_first = sorted(offsets, key=abs)
        for dy in centre_first:
            rows = _slide(window, dy if step == 1 else shift[..., 0] + dy, k, margin, -2)
            for dx in centre_first:
                patch = _slide(rows, dx if step == 1 else shift[..., 1] + dx, k, margin, -1)
                moved = shift + shift.new_tensor([dy, dx])
                c = (patch - blocks).abs().mean((-2, -1)) + self._bias(best + moved)
                out = moved if cost is None else torch.where((c < cost)[..., None], moved, out)
                cost = c if cost is None else torch.minimum(cost, c)
        return out


def _plane(frame: Tensor, who: str) -> Tensor:
    check_tensor(frame, who)
    if frame.dim() != 4 or frame.shape[1] not in (1, 3):
        raise ValueError(f"{who} expected frames [N, 3, H, W] or [N, 1, H, W], got shape {tuple(frame.shape)}")
    frame = frame.detach().float()
    return luma(frame) if frame.shape[1] == 3 else frame[:, 0]


def _full_search(cur: Tensor, ref: Tensor, reach: int, k: int, smoothness: float) -> tuple[Tensor, Tensor]:
    """Best whole-pel vectors (y, x) for blocks of side k and of side 2k: ``[N, h/k, w/k, 2]``, ``[N, h/2k, w/2k, 2]``."""
    n, h, w = cur.shape
    padded = F.pad(ref[:, None], [reach] * 4, mode="replicate")[:, 0] if reach else ref
    costs, larger = [], []
    span = torch.arange(-reach, reach + 1, device=cur.device)
    for dy in range(2 * reach + 1):
        shifted = padded[:, dy : dy + h].unfold(2, w, 1).permute(0, 2, 1, 3)  # [N, D, h, w], D shifts in x, a view
        bias = smoothness / 255 * torch.log2(1 + 2 * (span.abs() + abs(dy - reach)).float())[:, None, None]
        d = (shifted - cur[:, None]).abs_()
        cost = F.avg_pool2d(d, k)  # [N, D, h/k, w/k]
        costs.append((cost + bias).min(1))
        larger.append((F.avg_pool2d(cost, 2) + bias).min(1))
    return _pick(costs, reach), _pick(larger, reach)


def _pick(costs: list, reach: int) -> Tensor:  # type: ignore[type-arg]
    dy = torch.stack([c.values for c in costs], 1).argmin(1, keepdim=True)  # [N, 1, bh, bw]
    dx = torch.stack([c.indices for c in costs], 1).gather(1, dy)
    return torch.cat([dy, dx], 1).permute(0, 2, 3, 1) - reach


def _windows(ref: Tensor, vectors: Tensor, k: int, margin: int) -> Tensor:
    """The part of ``ref`` that each block's vector points at, with a margin: ``[N, bh, bw, k + 2 margin, k + 2 margin]``."""
    n, h, w = ref.shape
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
