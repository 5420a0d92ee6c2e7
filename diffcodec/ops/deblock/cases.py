"""Cases of :mod:`diffcodec.ops.deblock`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.cases import Scene, case
from .reference import boundary_strengths, deblock, motion_info


def _strengths(scene: Scene) -> list[Tensor]:
    """As they come: 4 at macroblocks' edges only, 0 at the picture's."""
    out = []
    for dim in (2, 1):
        bs = scene.whole(0, 5, scene.n, scene.h // 4, scene.w // 4).float()
        index = torch.arange(bs.shape[dim], device=scene.device)
        index = index if dim == 2 else index[:, None]
        out.append(torch.where(index % 4 == 0, bs, bs.clamp(max=3)) * (index > 0))
    return out


@case(deblock)
def smooth_frames(scene: Scene) -> tuple[Any, ...]:
    qp = scene.qp(22, 50)
    return scene.luma(grain=3), scene.chroma(grain=3), *_strengths(scene), qp, qp - 3


@case(boundary_strengths)
def all_kinds(scene: Scene) -> tuple[Any, ...]:
    motion = scene.whole(-3, 3, scene.n, scene.h // 8, scene.w // 8, 6).float()
    motion[..., [2, 5]] = (motion[..., [2, 5]] > 0).float()
    return scene.macroblocks(0.3), scene.mask(0.2, scene.n, scene.h // 4, scene.w // 4), motion, scene.macroblocks(0.4)


def _lists(scene: Scene, lists: int) -> tuple[Any, ...]:
    shape = (scene.n, scene.h // 8, scene.w // 8)
    vectors, ref_id = [scene.whole(-9, 9, *shape, 2) for _ in range(lists)], [scene.whole(0, 5, *shape) for _ in range(lists)]
    return vectors, [scene.mask(0.5, *shape) for _ in range(lists)], ref_id


case(motion_info, "one_list")(lambda scene: _lists(scene, 1))
case(motion_info, "two_lists")(lambda scene: _lists(scene, 2))
