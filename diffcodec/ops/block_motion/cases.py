"""Cases of :mod:`diffcodec.ops.block_motion`."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..common.cases import Scene, case
from .reference import block_motion


def _moved(scene: Scene, h: int, w: int, block: int, search: int, subpel: int) -> tuple[Any, ...]:
    luma = scene.picture(2, 1, h, w)[:, 0]
    return luma[:1], luma[1:].roll((1, -2), (1, 2)), block, search, subpel, 0.05


for (_h, _w), (_block, _search, _subpel) in {(20, 36): (8, 2, 4), (33, 16): (16, 4, 2), (13, 9): (4, 2, 1)}.items():
    _of = partial(_moved, h=_h, w=_w, block=_block, search=_search, subpel=_subpel)
    case(block_motion, f"blocks_of_{_block}", differ=0.1, fixed=True)(_of)  # sums in another order: a tie may fall the other way
