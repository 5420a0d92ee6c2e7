"""Cases of :mod:`diffcodec.ops.residual`."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..common.cases import Scene, case
from .reference import QuantSettings, choose_coding, choose_transform_8x8, code_chroma, code_luma, merge_qp_delta
from .trellis import Trellis

QUANT = {"dead_zone": QuantSettings(), "trellis": QuantSettings(trellis=Trellis(0.95, 0.92)), "keep_all": QuantSettings(decimate=False)}
# a decision of the trellis that two costs nearly tie for may fall the other way, and the gradient sees it; so it sees a coefficient of exactly 3/4 of
# a step, which the contexts of the whole block's frame count or do not count
DEAD_ZONE: dict[str, Any] = {"gradient": 2e-5, "gradient_cuda": 1e-4}
TRELLIS: dict[str, Any] = {"differ": 1e-3, "gradient": 2e-2, "differ_cuda": 5e-3}


def _luma(scene: Scene, quant: QuantSettings, levels: bool) -> tuple[Any, ...]:
    source = scene.luma()
    intra, transform_8x8 = scene.macroblocks(0.6), scene.macroblocks(0.3)
    intra[0, 0, 0], transform_8x8[0, 0, 0] = True, False
    intra16x16 = intra & ~transform_8x8 & scene.macroblocks(0.5)
    intra16x16[0, 0, 0] = True
    return source, scene.near(source), scene.qp(), intra, transform_8x8, intra16x16, quant.numbers(), levels


def _chroma(scene: Scene, quant: QuantSettings, levels: bool) -> tuple[Any, ...]:
    source = scene.chroma()
    return source, scene.near(source), scene.qp(), scene.macroblocks(0.6), quant.numbers(), levels


for _name, _quant in QUANT.items():
    for _levels in (False, True):
        _more = TRELLIS if _quant.trellis else DEAD_ZONE
        _end = "_levels" if _levels else ""
        case(code_luma, _name + _end, **_more)(partial(_luma, quant=_quant, levels=_levels))
        case(code_chroma, _name + _end, **_more)(partial(_chroma, quant=_quant, levels=_levels))


def _transform(scene: Scene, use_satd: bool, allowed: bool) -> tuple[Any, ...]:
    source = scene.luma()
    return source, scene.near(source, 0.3), use_satd, allowed


case(choose_transform_8x8, "satd")(lambda scene: _transform(scene, True, True))
case(choose_transform_8x8, "sad")(lambda scene: _transform(scene, False, True))
case(choose_transform_8x8, "4x4_only")(lambda scene: _transform(scene, True, False))
case(choose_transform_8x8, "sad_4x4_only")(lambda scene: _transform(scene, False, False))


@case(merge_qp_delta)
def nearly_alike(scene: Scene) -> tuple[Any, ...]:
    return scene.qp(22, 26), scene.whole(22, 26, scene.n).float()


def _coding(
    scene: Scene, quant: QuantSettings, candidates: int, may_skip: bool, psy: float = 1.0, transform_8x8: bool = True
) -> tuple[Any, ...]:
    source, chroma, qp, lam = scene.luma(), scene.chroma(), scene.qp(20, 36), scene.lam()
    predicted = [scene.near(source, 0.03 * (i + 1)) for i in range(candidates)]
    predicted_chroma = [scene.near(chroma, 0.03 * (i + 1)) for i in range(candidates)]
    side_bits = [10 * scene.uniform(*qp.shape) for _ in range(candidates)]
    flags = scene.macroblocks(0.7) if may_skip else None
    return source, chroma, predicted, predicted_chroma, side_bits, flags, qp, qp - 2, lam, quant.numbers(), psy, transform_8x8


DECIDED: dict[str, Any] = {"differ": 2e-2, "differ_cuda": 5e-2}  # bits are logarithms: costs that nearly tie fall either way
case(choose_coding, "b_frame", **DECIDED)(lambda scene: _coding(scene, QUANT["dead_zone"], 2, True))
case(choose_coding, "b_frame_trellis", **DECIDED)(lambda scene: _coding(scene, QUANT["trellis"], 2, True))
case(choose_coding, "p_frame", **DECIDED)(lambda scene: _coding(scene, QUANT["dead_zone"], 1, False))
case(choose_coding, "4x4_without_psy", **DECIDED)(lambda scene: _coding(scene, QUANT["dead_zone"], 2, True, 0.0, False))
