"""Cases of :mod:`diffcodec.ops.interpolate`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...blocks import flat_blocks
from ..common.cases import Scene, case
from .reference import (
    allocate_phases,
    bipred,
    fetch_luma,
    half_resolution,
    interpolate_planes,
    predict_chroma,
    predict_luma,
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
    return allocate_phases(torch.cat([luma, luma])).zero_(), torch.tensor([3, 1], device=scene.device), luma


@case(interpolate_planes)
def whole_samples(scene: Scene) -> tuple[Any, ...]:
    phases, slots, luma = planes(scene)
    return phases[:, :1].contiguous(), slots, luma


@case(half_resolution)
def planes_to_halve(scene: Scene) -> tuple[Any, ...]:
    return (references(scene),)


@case(fetch_luma)
def several_vectors(scene: Scene) -> tuple[Any, ...]:
    vectors, ref_idx = motion(scene)
    return quarter_pel(references(scene)), ref_idx, vectors.expand(3, -1, -1, -1, -1), 8


@case(fetch_luma)
def whole_macroblocks(scene: Scene) -> tuple[Any, ...]:
    vectors = scene.whole(-40, 40, scene.n, scene.h // 16, scene.w // 16, 2)
    return quarter_pel(references(scene)), torch.zeros(1, 1, 1, dtype=torch.long, device=scene.device), vectors, 16


@case(predict_luma, **ATOMICS)
def far_and_near(scene: Scene) -> tuple[Any, ...]:
    (vectors, ref_idx), planes = motion(scene), references(scene)
    return planes, quarter_pel(planes).flip(0), 1 - ref_idx, ref_idx, vectors, 8


@case(predict_luma, **ATOMICS)
def whole_vectors(scene: Scene) -> tuple[Any, ...]:
    planes, phases, slot, ref_idx, vectors, k = far_and_near(scene)
    return planes, phases[:, :1].contiguous(), slot, ref_idx, 4 * (vectors >> 2), k


@case(predict_chroma, **ATOMICS)
def far_and_near_chroma(scene: Scene) -> tuple[Any, ...]:
    vectors, ref_idx = motion(scene)
    return scene.chroma(2), ref_idx, vectors, 4


@case(bipred)
def luma(scene: Scene) -> tuple[Any, ...]:
    past, future = (flat_blocks(scene.luma(), 8) for _ in range(2))
    return past, future, scene.whole(0, 3, scene.n, scene.h // 8, scene.w // 8)


@case(bipred)
def chroma(scene: Scene) -> tuple[Any, ...]:
    past, future, direction = luma(scene)
    return past.unflatten(-1, (2, 32)), future.unflatten(-1, (2, 32)), direction
