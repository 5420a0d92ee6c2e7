"""Cases of :mod:`diffcodec.ops.interpolate`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.cases import Scene, case
from .reference import (
    allocate_phases,
    compensate_motion,
    fetch_luma,
    half_resolution,
    interpolate_planes,
    quarter_pel,
)

ATOMICS: dict[str, Any] = {"gradient_cuda": 2e-5}  # gradients that threads add up in any order


def references(scene: Scene) -> Tensor:
    """Two planes, the second of which makes filters clip."""
    return torch.cat([scene.luma(1), scene.black_and_white(1, scene.h, scene.w)])


def motion(scene: Scene) -> tuple[Tensor, Tensor]:
    """Vectors of 8x8 blocks, some far outside, and which of two references they point at."""
    shape = (scene.n, scene.h // 8, scene.w // 8)
    vectors = scene.whole(-150, 150, *shape, 2)
    vectors[0, 0, :2] = 0
    return vectors, scene.whole(0, 2, *shape)


@case(interpolate_planes)
def planes(scene: Scene) -> tuple[Any, ...]:
    luma = references(scene)
    return allocate_phases(torch.cat([luma, luma])).zero_(), torch.tensor([3, 1], dtype=torch.int64, device=scene.device), luma


@case(interpolate_planes)
def whole_samples(scene: Scene) -> tuple[Any, ...]:
    phases, slots, luma = planes(scene)
    return phases[:, :1].contiguous(), slots, luma


@case(half_resolution)
def planes_to_halve(scene: Scene) -> tuple[Any, ...]:
    return references(scene), 16


@case(half_resolution)
def planes_to_halve_of_half_pels(scene: Scene) -> tuple[Any, ...]:
    return references(scene), 4


@case(fetch_luma)
def several_vectors(scene: Scene) -> tuple[Any, ...]:
    vectors, ref_idx = motion(scene)
    return quarter_pel(references(scene)), ref_idx, vectors.expand(3, -1, -1, -1, -1), 8


@case(fetch_luma)
def whole_macroblocks(scene: Scene) -> tuple[Any, ...]:
    vectors = scene.whole(-40, 40, scene.n, scene.h // 16, scene.w // 16, 2)
    return quarter_pel(references(scene)), torch.zeros(1, 1, 1, dtype=torch.long, device=scene.device), vectors, 16


def _compensated(scene: Scene, lists: int, whole: bool) -> tuple[Any, ...]:
    planes, found = references(scene), [motion(scene) for _ in range(lists)]
    phases = quarter_pel(planes).flip(0)
    if whole:
        phases = phases[:, :1].contiguous()
    ref_idx = [r for _, r in found]
    vectors = [4 * (v >> 2) if whole else v for v, _ in found]
    direction = scene.whole(0, 3, *ref_idx[0].shape) if lists == 2 else None
    return planes, scene.chroma(2), phases, [1 - r for r in ref_idx], ref_idx, vectors, direction


case(compensate_motion, "from_the_past", **ATOMICS)(lambda scene: _compensated(scene, 1, False))
case(compensate_motion, "both_ways", **ATOMICS)(lambda scene: _compensated(scene, 2, False))
case(compensate_motion, "whole_vectors", **ATOMICS)(lambda scene: _compensated(scene, 1, True))
