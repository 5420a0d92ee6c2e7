"""Motion compensation by bilinear interpolation."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import validate_backend
from ..ops.warp import reference as op


def warp(reference: Tensor, flow: Tensor, backend: str = "auto") -> Tensor:
    """Predict a frame: ``out[y, x] = reference[y + flow_y, x + flow_x]``, bilinear, edges repeated.

    Exact for zero and whole-pel flow (``grid_sample`` is not: its normalised coordinates round). Differentiable in both arguments;
    in the flow between pixels only, as bilinear interpolation has kinks at whole-pel positions.

    Args:
        reference: ``[N, C, H, W]``.
        flow: ``[N, 2, H, W]`` in pixels, (x, y).
        backend: "auto", "reference" or "triton" (:mod:`diffcodec.backend`).

    Returns:
        ``[N, C, H, W]``.

    Raises:
        ValueError: shapes that do not fit, or NaN or infinity in a flow on the CPU.
        RuntimeError: the backend that was named cannot run.

    Example:
        >>> import torch, diffcodec as dc
        >>> frame, flow = torch.rand(1, 3, 8, 8), torch.zeros(1, 2, 8, 8)
        >>> torch.equal(dc.motion.warp(frame, flow), frame)
        True
    """
    if reference.dim() != 4 or not reference.is_floating_point() or not flow.is_floating_point():
        raise ValueError(
            f"warp expected a floating point reference [N, C, H, W] and flow, got {reference.dtype} {tuple(reference.shape)} and {flow.dtype}"
        )
    n, _c, h, w = reference.shape
    if flow.shape != (n, 2, h, w):
        raise ValueError(f"warp expected flow [{n}, 2, {h}, {w}] for reference {tuple(reference.shape)}, got {tuple(flow.shape)}")
    if flow.device.type == "cpu" and not torch.compiler.is_compiling() and not flow.detach().isfinite().all():
        raise ValueError("warp expected finite flow, got NaN or infinity")
    return op.warp.on(validate_backend(backend), reference, flow)
