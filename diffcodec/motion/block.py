"""Block motion search as in an encoder, batched over frames and blocks; no trained weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..backend import validate_backend
from ..buildable import Buildable
from ..checks import check_tensor
from ..color import luma
from ..ops.block_motion.reference import block_motion


class NoMotion(Buildable, nn.Module):
    """Zero flow: prediction from the same position, a baseline without motion compensation.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.motion.NoMotion()(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)).abs().sum()
        tensor(0.)
    """

    def forward(self, current: Tensor, reference: Tensor) -> Tensor:
        """Zeros ``[N, 2, H, W]`` for frames ``[N, C, H, W]``."""
        return current.new_zeros(current.shape[0], 2, *current.shape[-2:])


class BlockMotion(Buildable, nn.Module):
    """Block motion: one vector per block, found by sum of absolute luma differences.

    A full search at half resolution gives each block its candidates (its own best vector, those of the squares of 2 x 2 and 4 x 4 blocks around
    it, and zero). The best one is refined to whole pixels, compared with the neighbours' vectors, and refined to half and quarter pixels with the
    bilinear interpolation of :func:`~diffcodec.motion.warp`. Vectors are decisions: they carry no gradient.

    Args:
        block: block side in pixels at full resolution, 4, 8 or 16.
        search: largest displacement of the coarse search in pixels in each direction, >= 0.
        subpel: finest step: 1 (whole pixels), 2 (half) or 4 (quarter).
        smoothness: penalty per pixel, in luma levels (0..255), on log2(1 + abs(x) + abs(y)) of a vector, >= 0; breaks ties in flat areas.
        backend: "auto", "reference" or "triton" (:mod:`diffcodec.backend`).

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import torch, diffcodec as dc
        >>> frame = torch.rand(1, 3, 32, 32)
        >>> flow = dc.motion.BlockMotion(search=4)(frame.roll(2, -1), frame)
        >>> flow[0, :, 16, 16]  # (x, y): from where it came
        tensor([-2.,  0.])
    """

    def __init__(self, block: int = 8, search: int = 16, subpel: int = 4, smoothness: float = 0.05, backend: str = "auto") -> None:
        super().__init__()
        self.backend = validate_backend(backend)
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

        Raises:
            ValueError: frames of another layout, or of different sizes.
        """
        cur, ref = _plane(current, "BlockMotion"), _plane(reference, "BlockMotion")
        if cur.shape != ref.shape:
            raise ValueError(f"BlockMotion expected two frames of one size, got {tuple(current.shape)} and {tuple(reference.shape)}")
        options = (self.block, self.search, self.subpel, self.smoothness)
        vectors = block_motion.on(self.backend, cur, ref, *options)  # [N, bh, bw, 2]
        flow = vectors.permute(0, 3, 1, 2).repeat_interleave(self.block, 2).repeat_interleave(self.block, 3)
        return flow[:, :, : cur.shape[-2], : cur.shape[-1]].to(current.dtype)


def _plane(frame: Tensor, who: str) -> Tensor:
    check_tensor(frame, who)
    if frame.dim() != 4 or frame.shape[1] not in (1, 3):
        raise ValueError(f"{who} expected frames [N, 3, H, W] or [N, 1, H, W], got shape {tuple(frame.shape)}")
    frame = frame.detach().float()
    return luma(frame) if frame.shape[1] == 3 else frame[:, 0]
