"""Cases of :mod:`diffcodec.ops.color`."""

from __future__ import annotations

from typing import Any

from ..common.cases import Scene, case
from .reference import rgb_to_yuv420, yuv420_to_rgb


@case(rgb_to_yuv420)
def rgb(scene: Scene) -> tuple[Any, ...]:
    return (scene.uniform(scene.n, 3, scene.h, scene.w) * 1.2 - 0.1,)


@case(rgb_to_yuv420)
def rgb_of_two_samples(scene: Scene) -> tuple[Any, ...]:
    return (scene.uniform(scene.n, 3, 2, 2) * 1.2 - 0.1,)


@case(
    yuv420_to_rgb, close_cuda=1e-7
)  # on a GPU torch divides by a number as it multiplies with its inverse: the reference is a bit off there
def planes(scene: Scene) -> tuple[Any, ...]:
    n, h, w = scene.n, scene.h, scene.w
    return scene.whole(0, 256, n, h, w).float(), scene.whole(0, 256, n, 2, h // 2, w // 2).float()
