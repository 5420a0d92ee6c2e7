"""Cases of :mod:`diffcodec.ops.jpeg`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ...rounding import ROUNDINGS
from ...slopes import NOISES
from ..common.cases import Scene, case
from .reference import code_jpeg

# on a GPU torch divides by a number as it multiplies with its inverse: the reference's samples are a bit off the 255ths there
ON_A_GPU: dict[str, Any] = {"close_cuda": 1e-7}
SIZES: dict[str, tuple[int | None, int | None]] = {"": (None, None), "_odd": (21, 37), "_small": (5, 3), "_one": (1, 1)}


def _pictures(scene: Scene, channels: int, size: tuple[int | None, int | None], v: int, u: int, exact: bool, mode: str) -> tuple[Any, ...]:
    """Some samples lie outside [0, 1]; each picture has tables of its own."""
    h, w = size[0] or scene.h, size[1] or scene.w
    x = scene.picture(scene.n, channels, h, w) * 1.1 - 0.05
    grain = (torch.arange(64, device=scene.device).view(8, 8) % 8 + torch.arange(64, device=scene.device).view(8, 8) // 8).float()
    tables = ((1 + grain) * (0.5 + 4 * scene.uniform(scene.n, 2, 1, 1))).round().clamp(1, 255)
    return x, tables, v, u, exact, mode, 9.0 if mode == "laplacian" else 6.0


for _v, _u in ((1, 1), (1, 2), (2, 2)):
    for _end, _size in SIZES.items():
        case(code_jpeg, f"exact_{_v}x{_u}{_end}", gradient=1e-5, absolute=1e-4, **ON_A_GPU, fixed=bool(_end))(
            partial(_pictures, channels=3, size=_size, v=_v, u=_u, exact=True, mode="laplacian")
        )
case(code_jpeg, "exact_grey", gradient=1e-5, absolute=1e-4, **ON_A_GPU, fixed=True)(
    lambda scene: _pictures(scene, 1, (9, 17), 1, 1, True, "laplacian")
)
for _mode in ("cubic", "straight_through", "soft", *(n for n in NOISES if n != "laplacian")):
    case(code_jpeg, f"exact_{_mode}", gradient=1e-4, absolute=1e-4, fixed=True, **ON_A_GPU)(
        partial(_pictures, channels=3, size=SIZES[""], v=2, u=2, exact=True, mode=_mode)
    )
for _mode in (r for r in ROUNDINGS if r != "noise"):
    for _v, _u in ((1, 1), (2, 2)):
        for _end in ("", "_odd") if _mode == "cubic" else ("",):
            # cuts at halves: a sample in a million rounds the other way
            case(
                code_jpeg, f"soft_{_mode}_{_v}x{_u}{_end}", close=4e-6, gradient=3e-4, absolute=1e-4, fixed=bool(_end) or _mode != "cubic"
            )(partial(_pictures, channels=3, size=SIZES[_end], v=_v, u=_u, exact=False, mode=_mode))
