"""Cases of :mod:`diffcodec.ops.intra`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..common.cases import Scene, case
from ..residual.reference import QuantSettings
from ..residual.trellis import Trellis
from .reference import (
    BITS_16X16,
    BITS_SMALL,
    cheapest_mode,
    choose_mb_type,
    choose_modes,
    merge_intra,
    predict_16x16_modes,
    predict_chroma_modes,
    predict_intra,
    predict_small_modes,
    refine_modes,
)

HOW = {"satd": (True, True), "sad": (False, True), "no_8x8_transform": (True, False)}


def _planes(scene: Scene) -> tuple[Tensor, Tensor]:
    source = scene.luma()
    return source, scene.near(source, 0.1)


def _blocks(scene: Scene, k: int, chroma: bool, how: tuple[bool, bool], modes: int | None = None) -> tuple[Any, ...]:
    source = scene.chroma() if chroma else scene.luma()
    lam = 5 * scene.uniform(scene.n, source.shape[-2] // k * (source.shape[-1] // k))
    bits = (BITS_16X16 if k == 16 or chroma else BITS_SMALL).like(source)[:modes]
    predicted = scene.whole(0, 9, *lam.shape) if k < 16 and not chroma and modes is None else None
    return source, scene.near(source, 0.1), lam, bits, predicted, k, *how


for _name, _how in HOW.items():
    for _k in (16, 8, 4):
        case(cheapest_mode, f"{_k}_{_name}", close=1e-2)(partial(_blocks, k=_k, chroma=False, how=_how))
    case(cheapest_mode, f"chroma_{_name}", close=1e-2)(partial(_blocks, k=8, chroma=True, how=_how))
case(cheapest_mode, "first_three", close=1e-2)(lambda scene: _blocks(scene, 8, False, (False, False), 3))


def _choose(scene: Scene, how: tuple[bool, bool], known: bool, small: bool = True) -> tuple[Any, ...]:
    (source, constructed), lam = _planes(scene), scene.lam()
    before = choose_modes.reference(source, constructed, lam, [], *how, True)
    return source, constructed, lam, [before[0], before[5], before[6]] if known else [], *how, small


for _name, _how in HOW.items():
    case(choose_modes, f"alone_{_name}", close=1e-2)(partial(_choose, how=_how, known=False))
    case(choose_modes, f"again_{_name}", close=1e-2)(partial(_choose, how=_how, known=True))
case(choose_modes, "16x16_only", close=1e-2)(lambda scene: _choose(scene, (False, False), False, False))


QUANT = {"": QuantSettings(), "_trellis": QuantSettings(trellis=Trellis())}


def _types(scene: Scene, quant: QuantSettings) -> tuple[Any, ...]:
    (source, constructed), lam = _planes(scene), scene.lam()
    *_, type_bits, m16, m8, m4 = choose_modes.reference(source, constructed, lam, [], True, True, True)
    return source, constructed, [m16, m8, m4], scene.qp(18, 34), lam, type_bits, quant.numbers(), 1.0


def _refined(scene: Scene, quant: QuantSettings, known: bool) -> tuple[Any, ...]:
    source, constructed, modes, qp, lam, _, numbers, psy = _types(scene, quant)
    mb_type = scene.whole(0, 3, *qp.shape)
    return source, constructed, modes, mb_type, [mb_type, modes[1], modes[2]] if known else [], qp, lam, numbers, psy


for _name, _quant in QUANT.items():  # bits are logarithms: costs that nearly tie fall either way
    case(choose_mb_type, "by_rate_and_distortion" + _name, close=1e-2, differ=2e-2, differ_cuda=5e-2)(partial(_types, quant=_quant))
    case(refine_modes, "known" + _name, differ=2e-2, differ_cuda=5e-2)(partial(_refined, quant=_quant, known=True))
case(refine_modes, "unknown", differ=2e-2, differ_cuda=5e-2)(partial(_refined, quant=QUANT[""], known=False))


def _allowed(scene: Scene, allowed: Tensor, n: int, otherwise: int) -> Tensor:
    """Modes at random, of those that may be used. Shape: ``[M, modes] -> [n, M]``."""
    mode = scene.whole(0, allowed.shape[1], n, len(allowed))
    return torch.where(allowed[torch.arange(len(allowed), device=scene.device), mode], mode, otherwise)


@case(predict_intra, gradient_cuda=2e-5)
def every_type(scene: Scene) -> tuple[Any, ...]:
    constructed = scene.luma()
    constructed[-1] = scene.black_and_white(scene.h, scene.w)  # makes the plane mode clip
    allowed = [predict_16x16_modes(constructed)[1], predict_small_modes(constructed, 8)[1], predict_small_modes(constructed, 4)[1]]
    mb_type = scene.whole(0, 3, scene.n, scene.h // 16, scene.w // 16)
    return constructed, [_allowed(scene, a, scene.n, 2) for a in allowed], mb_type


@case(merge_intra, gradient_cuda=2e-5)
def some_intra(scene: Scene) -> tuple[Any, ...]:
    return scene.luma(), *every_type(scene), scene.macroblocks(0.5)


@case(merge_intra, gradient_cuda=2e-5)
def some_intra_16x16(scene: Scene) -> tuple[Any, ...]:
    return scene.luma(), *only_16x16(scene), scene.macroblocks(0.5)


@case(merge_intra, gradient_cuda=2e-5)
def some_intra_chroma(scene: Scene) -> tuple[Any, ...]:
    return scene.chroma(), *chroma(scene), scene.macroblocks(0.5)


@case(predict_intra, gradient_cuda=2e-5)
def only_16x16(scene: Scene) -> tuple[Any, ...]:
    constructed, modes, _ = every_type(scene)
    return constructed, modes[:1], torch.zeros(scene.n, scene.h // 16, scene.w // 16, dtype=torch.long, device=scene.device)


@case(predict_intra, gradient_cuda=2e-5)
def chroma(scene: Scene) -> tuple[Any, ...]:
    constructed = scene.chroma()
    allowed = predict_chroma_modes(constructed.flatten(0, 1))[1]
    return constructed, [_allowed(scene, allowed, scene.n, 0)], None
