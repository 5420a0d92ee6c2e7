"""Residual coding in native code."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...constants import Constant
from ...implement import backward_of, implements
from ..common.native import call
from ..common.tables import STEPS
from . import cabac, rate, reference, trellis

PLACES = torch.tensor(
    [row + [0] * (64 - len(row)) for kind in cabac.KINDS for row in (kind.significant, kind.last)], dtype=torch.int64, device="cpu"
)
# as cabac.h reads them: what is kept of a state, bits of probabilities, first states of levels and of flags
_FIRST = [kind.first.value for kind in cabac.KINDS] + [flags.value for flags in cabac.FLAGS]
TABLES = Constant(torch.cat([x.flatten() for x in (cabac.KEPT.value, cabac.ENTROPY.value, *_FIRST)]).numpy())


@lru_cache(maxsize=64)
def numbers(quant: tuple[float, ...]) -> Tensor:
    """Settings of a quantiser as native code reads them: thresholds of dead zones, lambdas with their weights, each rounded once."""
    q = reference.QuantSettings.of(quant)
    t = q.trellis or trellis.Trellis()
    lambdas = [of_kind * weight for of_kind, weight in zip(trellis.LAMBDA, (t.intra, t.inter))]
    with torch.inference_mode(False):
        return torch.tensor(
            [
                1 - q.intra,
                1 - q.inter,
                q.noise_width,
                q.decimate,
                q.trellis is not None,
                *lambdas,
                t.small,
                trellis.FURTHER_LAMBDA,
            ],
            dtype=torch.float32,
            device="cpu",
        )


def constants(quant: list[float], like: Tensor, eights: bool = True) -> list[Any]:
    """What every function gets last: the quantiser, steps, contexts."""
    steps = [STEPS[k].like(like) for k in ((4, 8) if eights else (4,))]
    return [numbers(tuple(quant)), *steps, PLACES, TABLES.like(like)]


def _levels(x: Tensor) -> Tensor | None:
    return x if x.numel() else None


@implements(reference.code_luma)
def code_luma(
    source: Tensor,
    predicted: Tensor,
    qp: Tensor,
    intra: Tensor,
    transform_8x8: Tensor,
    intra16x16: Tensor,
    quant: list[float],
    levels: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = source, predicted, qp, intra, transform_8x8, intra16x16
    out, levels4, levels8, coded = reference.code_luma.allocate(*inputs, quant, levels)
    call("code_luma", *inputs, out, _levels(levels4), _levels(levels8), coded, *qp.shape, *constants(quant, source))
    return out, levels4, levels8, coded


@backward_of(reference.code_luma, of=["source", "predicted", "qp"])
def code_luma_backward(
    grad: Tensor,
    grad_levels4: Tensor | None,
    grad_levels8: Tensor | None,
    source: Tensor,
    predicted: Tensor,
    qp: Tensor,
    intra: Tensor,
    transform_8x8: Tensor,
    intra16x16: Tensor,
    quant: list[float],
    needs_qp: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    to_source, to_predicted = source.new_empty(source.shape), source.new_empty(source.shape)
    to_qp = qp.new_empty(qp.shape if needs_qp else (0,))
    if grad_levels4 is None or grad_levels8 is None:
        grad_levels4, grad_levels8 = (torch.zeros_like(source) if g is None and (grad_levels4 is not None or grad_levels8 is not None) else g
                                      for g in (grad_levels4, grad_levels8))  # fmt: skip
    call(
        "code_luma_backward", grad, grad_levels4, grad_levels8, source, predicted, qp, intra, transform_8x8, intra16x16, to_source, to_predicted,
        _levels(to_qp), *qp.shape, *constants(quant, source),
    )  # fmt: skip
    return to_source, to_predicted, to_qp


@implements(reference.code_chroma)
def code_chroma(source: Tensor, predicted: Tensor, qpc: Tensor, intra: Tensor, quant: list[float], levels: bool) -> tuple[Tensor, Tensor]:
    out, of_levels = reference.code_chroma.allocate(source, predicted, qpc, intra, quant, levels)
    call("code_chroma", source, predicted, qpc, intra, out, _levels(of_levels), *qpc.shape, *constants(quant, source, False))
    return out, of_levels


@backward_of(reference.code_chroma, of=["source", "predicted", "qpc"])
def code_chroma_backward(
    grad: Tensor,
    grad_levels: Tensor | None,
    source: Tensor,
    predicted: Tensor,
    qpc: Tensor,
    intra: Tensor,
    quant: list[float],
    needs_qpc: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    to_source, to_predicted = source.new_empty(source.shape), source.new_empty(source.shape)
    n, bh, bw = qpc.shape
    to_qp = qpc.new_empty((n, 2, bh, bw) if needs_qpc else (0,))
    call(
        "code_chroma_backward", grad, grad_levels, source, predicted, qpc, intra, to_source, to_predicted, _levels(to_qp), n, bh, bw,
        *constants(quant, source, False),
    )  # fmt: skip
    return to_source, to_predicted, to_qp.sum(1) if needs_qpc else to_qp


WEIGHTS = Constant([rate.TEXTURE_WEIGHT, rate.RATE_WEIGHT, reference.CODED_BITS])


@implements(
    reference.choose_coding,
    lacks=lambda source, chroma, predicted, *more: None if len(predicted) < 3 else "native code compares two candidates",
)
def choose_coding(
    source: Tensor,
    chroma: Tensor,
    predicted: list[Tensor],
    predicted_chroma: list[Tensor],
    side_bits: list[Tensor],
    may_skip: Tensor | None,
    qp: Tensor,
    qpc: Tensor,
    lam: Tensor,
    quant: list[float],
    psy: float,
    transform_8x8: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    out = reference.choose_coding.allocate(
        source, chroma, predicted, predicted_chroma, side_bits, may_skip, qp, qpc, lam, quant, psy, transform_8x8
    )
    both = [x for xs in (predicted, predicted_chroma, side_bits) for x in (xs[0], xs[1] if len(xs) > 1 else None)]
    call(
        "choose_coding", source, chroma, *both, may_skip, qp, qpc, lam, *out, *qp.shape, psy, transform_8x8, WEIGHTS.like(lam),
        *constants(quant, source),
    )  # fmt: skip
    return out


@implements(reference.choose_transform_8x8)
def choose_transform_8x8(source: Tensor, predicted: Tensor, use_satd: bool, allowed: bool) -> tuple[Tensor, Tensor]:
    cost, eight = reference.choose_transform_8x8.allocate(source, predicted, use_satd, allowed)
    call("choose_transform_8x8", source, predicted, cost, eight, *cost.shape, use_satd, allowed)
    return cost, eight


@implements(reference.merge_qp_delta)
def merge_qp_delta(qp: Tensor, frame_qp: Tensor) -> Tensor:
    out = reference.merge_qp_delta.allocate(qp, frame_qp)
    call("merge_qp_delta", qp, frame_qp, out, len(frame_qp), qp[0].numel())
    return out
