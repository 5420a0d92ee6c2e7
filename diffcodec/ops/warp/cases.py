"""Cases of :mod:`diffcodec.ops.warp`."""

from __future__ import annotations

from typing import Any

import torch

from ..common.cases import Scene, case
from .reference import warp


def _warp(scene: Scene, n: int, c: int, h: int, w: int, dtype: torch.dtype) -> tuple[Any, ...]:
    flow = 6 * scene.normal(n, 2, h, w)
    flow[..., ::3] = flow[..., ::3].round()  # whole positions, too
    return scene.picture(n, c, h, w).to(dtype), flow


case(warp, "float32", close=2e-6, gradient=2e-5, fixed=True)(lambda scene: _warp(scene, scene.n, 3, 9, 13, torch.float32))
case(warp, "one_sample", close=2e-6, gradient=2e-5, fixed=True)(lambda scene: _warp(scene, 1, 1, 1, 1, torch.float32))
case(warp, "bfloat16", close=1e-2, gradient=3e-2, fixed=True)(lambda scene: _warp(scene, scene.n, 3, 9, 13, torch.bfloat16))
