"""Intra prediction and its decisions in native code."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...constants import Constant
from ...implement import backward_of, implements
from ..common.native import call
from ..residual import rate
from ..residual.native import constants
from . import reference

_CONSTANTS = Constant(
    [
        *(reference.BITS_UNKNOWN, reference.BITS_PREDICTED, reference.BITS_OTHER),
        *(reference.MB_BITS_16X16, reference.MB_BITS_SMALL),
        *reference.MB_COST_SMALL,
        reference.NOT_PREDICTED,
    ]
)


@implements(reference.cheapest_mode)
def cheapest_mode(
    source: Tensor,
    constructed: Tensor,
    lam: Tensor,
    mode_bits: Tensor,
    predicted: Tensor | None,
    k: int,
    use_satd: bool,
    transform_8x8: bool,
) -> tuple[Tensor, Tensor]:
    best, mode = reference.cheapest_mode.allocate(source, constructed, lam, mode_bits, predicted, k, use_satd, transform_8x8)
    n, h, w = source.shape[0], *source.shape[-2:]
    if source.dim() == 4:
        call("cheapest_chroma_mode", source, constructed, lam, mode_bits, best, mode, n, h, w, len(mode_bits), use_satd, transform_8x8)
    else:
        call(
            "cheapest_mode", source, constructed, lam, mode_bits, predicted, best, mode, n, h, w, k, len(mode_bits), use_satd, transform_8x8,
            reference.NOT_PREDICTED,
        )  # fmt: skip
    return best, mode


def _known(known: list[Tensor]) -> list[Any]:
    return [*known] or [None] * 3


@implements(reference.choose_modes)
def choose_modes(
    source: Tensor, constructed: Tensor, lam: Tensor, known: list[Tensor], use_satd: bool, transform_8x8: bool, small: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    out = reference.choose_modes.allocate(source, constructed, lam, known, use_satd, transform_8x8, small)
    mode16, mode8, mode4 = out[4:]
    call(
        "choose_modes", source, constructed, lam, *_known(known), *out[:4], mode16, *((mode8, mode4) if small else (None, None)),
        *lam.shape, use_satd, transform_8x8, small, reference.BITS_16X16.like(lam), reference.BITS_SMALL.like(lam), _CONSTANTS.like(lam),
    )  # fmt: skip
    return out


_WEIGHTS = Constant(
    [
        rate.TEXTURE_WEIGHT, rate.RATE_WEIGHT, 0.0, reference.TYPE_ROUNDS, reference.BITS_UNKNOWN, reference.BITS_PREDICTED, reference.BITS_OTHER,
    ]
)  # fmt: skip


@implements(reference.choose_mb_type)
def choose_mb_type(
    source: Tensor, constructed: Tensor, modes: list[Tensor], qp: Tensor, lam: Tensor, type_bits: Tensor, quant: list[float], psy: float
) -> tuple[Tensor, Tensor]:
    mb_type, bits = reference.choose_mb_type.allocate(source, constructed, modes, qp, lam, type_bits, quant, psy)
    call(
        "choose_mb_type", source, constructed, *modes, qp, lam, type_bits, mb_type, bits, *lam.shape, psy, _WEIGHTS.like(lam),
        *constants(quant, source),
    )  # fmt: skip
    return mb_type, bits


@implements(reference.refine_modes)
def refine_modes(
    source: Tensor,
    constructed: Tensor,
    modes: list[Tensor],
    mb_type: Tensor,
    known: list[Tensor],
    qp: Tensor,
    lam: Tensor,
    quant: list[float],
    psy: float,
) -> tuple[Tensor, Tensor]:
    out = reference.refine_modes.allocate(source, constructed, modes, mb_type, known, qp, lam, quant, psy)
    predicted = reference.predicted_modes(known[0], known[1], known[2]) if known else (None, None)
    call(
        "refine_modes", source, constructed, modes[1], modes[2], mb_type, *predicted, qp, lam, *out, *lam.shape, psy, _WEIGHTS.like(lam),
        *constants(quant, source),
    )  # fmt: skip
    return out


def _three(modes: list[Tensor]) -> list[Any]:
    return [*modes, *[None] * (3 - len(modes))]


@implements(reference.predict_intra)
def predict_intra(constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None) -> Tensor:
    out = reference.predict_intra.allocate(constructed, modes, mb_type)
    h, w = constructed.shape[-2:]
    if constructed.dim() == 4:
        call("predict_intra_chroma", None, None, constructed, modes[0], out, len(constructed), h // 8, w // 8)
    else:
        types = mb_type if len(modes) > 1 else None
        call("predict_intra", None, None, constructed, *_three(modes), types, out, len(constructed), h // 16, w // 16)
    return out


@backward_of(reference.predict_intra, of=["constructed"])
def predict_intra_backward(grad: Tensor, constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None) -> Tensor:
    out = constructed.new_empty(constructed.shape)
    h, w = constructed.shape[-2:]
    if constructed.dim() == 4:
        call("predict_intra_chroma_backward", grad, None, None, constructed, modes[0], out, len(constructed), h // 8, w // 8)
    else:
        types = mb_type if len(modes) > 1 else None
        call("predict_intra_backward", grad, None, None, constructed, *_three(modes), types, out, len(constructed), h // 16, w // 16)
    return out


@implements(reference.merge_intra)
def merge_intra(inter: Tensor, constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None, is_intra: Tensor) -> Tensor:
    out = reference.merge_intra.allocate(inter, constructed, modes, mb_type, is_intra)
    if inter.dim() == 4:
        call("predict_intra_chroma", inter, is_intra, constructed, modes[0], out, *is_intra.shape)
    else:
        call("predict_intra", inter, is_intra, constructed, *_three(modes), mb_type if len(modes) > 1 else None, out, *is_intra.shape)
    return out


@backward_of(reference.merge_intra, of=["inter", "constructed"])
def merge_intra_backward(
    grad: Tensor, constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None, is_intra: Tensor
) -> tuple[Tensor, Tensor]:
    inter, out = grad.new_empty(grad.shape), constructed.new_empty(constructed.shape)
    if grad.dim() == 4:
        call("predict_intra_chroma_backward", grad, is_intra, inter, constructed, modes[0], out, *is_intra.shape)
    else:
        types = mb_type if len(modes) > 1 else None
        call("predict_intra_backward", grad, is_intra, inter, constructed, *_three(modes), types, out, *is_intra.shape)
    return inter, out
