"""Cases of :mod:`diffcodec.ops.motion_search`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ..common.cases import Scene, case
from ..interpolate.reference import half_resolution, quarter_pel
from .reference import (
    choose_bipred,
    choose_reference,
    estimate_bipred,
    estimate_motion,
    full_search,
    median_predictor,
    refine_vectors,
    search_partitions,
)

# bits of vectors are logarithms: on a GPU, where two costs tie to the last bit the other one may win
TIES: dict[str, Any] = {"differ_cuda": 5e-3}


@case(median_predictor)
def vectors(scene: Scene) -> tuple[Any, ...]:
    return (scene.whole(-3, 4, scene.n, scene.h // 8, scene.w // 8, 2),)


@case(full_search, **TIES)
def moving(scene: Scene) -> tuple[Any, ...]:
    luma = scene.luma(2 * scene.n)
    return luma[: scene.n], luma[scene.n :], 8, 8


def _refine(scene: Scene, k: int, use_satd: bool, subpel: int, rounds: int) -> tuple[Any, ...]:
    n, luma = scene.n, scene.luma(2 * scene.n)
    shape = (n, scene.h // k, scene.w // k)
    start = torch.stack([scene.whole(-16, 17, *shape, 2) * i for i in range(3)])
    phases, slot, lam = quarter_pel(luma[n:]), scene.whole(0, n, *shape), 4 * scene.uniform(*shape)
    return phases, slot, luma[:n], start, start[1], lam, k, subpel, use_satd, rounds


for _k in (8, 16):
    for _name, (_satd, _subpel, _rounds) in {"satd_quarter": (True, 4, 1), "sad_half": (False, 2, 2), "sad_whole": (False, 1, 1)}.items():
        _of = partial(_refine, k=_k, use_satd=_satd, subpel=_subpel, rounds=_rounds)
        case(refine_vectors, f"{_name}_{_k}", close=1e-2, **TIES)(_of)


def _partitions(scene: Scene, subpel: int, use_satd: bool, partitions: bool) -> tuple[Any, ...]:
    n, luma = scene.n, scene.luma(2 * scene.n)
    shape = (n, scene.h // 16, scene.w // 16)
    coarse, slot, lam = (
        4 * scene.whole(-2, 3, *shape, 2),
        scene.whole(0, n, *shape),
        torch.full(shape, 0.5, dtype=torch.float32, device=scene.device),
    )
    return luma[:n], quarter_pel(luma[n:]), slot, coarse, lam, subpel, use_satd, partitions


case(search_partitions, "medium", **TIES)(lambda scene: _partitions(scene, 4, True, True))
case(search_partitions, "superfast", **TIES)(lambda scene: _partitions(scene, 4, False, True))
case(search_partitions, "ultrafast", **TIES)(lambda scene: _partitions(scene, 1, False, False))


def _estimate(scene: Scene, subpel: int, use_satd: bool, fractions: int = 16) -> tuple[Any, ...]:
    half, phases = half_resolution.reference(scene.luma(3), fractions)
    current, reference = (
        torch.tensor([1, 2, 1], dtype=torch.int64, device=scene.device),
        torch.tensor([0, 0, 2], dtype=torch.int64, device=scene.device),
    )
    return half[current], half[reference], phases, reference[:, None, None], 8, subpel, use_satd


case(estimate_motion, "satd", close=1e-2, **TIES)(lambda scene: _estimate(scene, 4, True))
case(estimate_motion, "sad", close=1e-2, **TIES)(lambda scene: _estimate(scene, 2, False))
case(estimate_motion, "half_pels", close=1e-2, **TIES)(lambda scene: _estimate(scene, 2, False, 4))


def _estimate_b(scene: Scene, use_satd: bool) -> tuple[Any, ...]:
    half, phases = half_resolution.reference(scene.luma(3), 16)
    frames = torch.tensor([[1, 0, 2], [2, 1, 0]], dtype=torch.int64, device=scene.device)
    shape = (2, half.shape[1] // 8, half.shape[2] // 8)
    vectors = [scene.whole(-20, 21, *shape, 2) for _ in range(2)]
    return half, phases, frames, *vectors, *(300 * scene.uniform(*shape) for _ in range(2)), use_satd


case(estimate_bipred, "satd", close=1e-2, **TIES)(lambda scene: _estimate_b(scene, True))
case(estimate_bipred, "sad", close=1e-2, **TIES)(lambda scene: _estimate_b(scene, False))


def _bipred(scene: Scene, use_satd: bool) -> tuple[Any, ...]:
    source = scene.luma()
    phases = quarter_pel(torch.cat([scene.near(source, 0.1) for _ in range(2)]))
    shape = (scene.n, scene.h // 8, scene.w // 8)
    slots = [scene.whole(0, 2 * scene.n, *shape) for _ in range(2)]
    return source, phases, slots, [scene.whole(-3, 4, *shape, 2) for _ in range(2)], scene.lam(1.0), use_satd


@case(choose_reference, **TIES)
def several_references(scene: Scene) -> tuple[Any, ...]:
    source, phases, _, vectors, *_ = _bipred(scene, True)
    return source, phases, scene.whole(0, 2 * scene.n, 3, scene.n, scene.h // 16, scene.w // 16), vectors[0]


case(choose_bipred, "satd", **TIES)(lambda scene: _bipred(scene, True))
case(choose_bipred, "sad", **TIES)(lambda scene: _bipred(scene, False))
