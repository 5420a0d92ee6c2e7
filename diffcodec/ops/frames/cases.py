"""Cases of :mod:`diffcodec.ops.frames`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..common.cases import Scene, case
from .reference import add_noise, average_frames, blur, take_frames

TYPES = {"float32": (torch.float32, 1e-6), "float16": (torch.float16, 2e-3), "bfloat16": (torch.bfloat16, 1e-2)}
SHAPES = {"float32": (3, 2, 3), "float16": (1, 1, 2), "bfloat16": (2, 1, 360)}  # frames, height, width


def _video(scene: Scene, name: str) -> Tensor:
    t, h, w = SHAPES[name]
    return (scene.uniform(scene.n, t, 3, h, w) * 1.2 - 0.1).to(TYPES[name][0])


def _take(scene: Scene, name: str) -> tuple[Any, ...]:
    t = SHAPES[name][0]
    return _video(scene, name), scene.whole(0, t, scene.n, t + 2)


def _average(scene: Scene, name: str) -> tuple[Any, ...]:
    return _video(scene, name), scene.whole(1, 6, scene.n).float()


def _noise(scene: Scene, name: str) -> tuple[Any, ...]:
    video = _video(scene, name)
    return video, scene.normal(*video.shape), 0.1 * scene.uniform(scene.n)


def _blur(scene: Scene, name: str, side: int) -> tuple[Any, ...]:
    return _video(scene, name), _symmetric(scene, side)


def _symmetric(scene: Scene, side: int) -> Tensor:
    """Weights ``[n, side]``."""
    half = scene.uniform(scene.n, side // 2 + 1)
    weights = torch.cat([half, half[:, :-1].flip(1)], 1)
    return weights / weights.sum(1, keepdim=True)


for _name, (_, _last) in TYPES.items():
    _close: dict[str, Any] = {"close": _last, "gradient": 4 * _last, "fixed": True}
    case(take_frames, f"repeated_{_name}", **_close)(partial(_take, name=_name))
    case(average_frames, f"windows_{_name}", **_close)(partial(_average, name=_name))
    case(add_noise, f"noise_{_name}", **_close)(partial(_noise, name=_name))
    for _side in (3, 5)[: 2 if _name == "float32" else 1]:
        case(blur, f"windows_of_{_side}_{_name}", **_close)(partial(_blur, name=_name, side=_side))


@case(blur, close=1e-6, gradient=4e-6, fixed=True)
def images(scene: Scene) -> tuple[Any, ...]:
    return _video(scene, "float32")[:, 0], _symmetric(scene, 3)
