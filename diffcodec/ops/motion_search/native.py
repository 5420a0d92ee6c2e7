"""Motion search in native code."""

from __future__ import annotations

from torch import Tensor

from ...constants import Constant
from ...implement import implements
from ..common.native import call
from . import reference
from .reference import DISTANCE_COST, INTER_COST, MOTION_COST, MVD_EQUAL, MVD_OCTAVE, MVD_OTHER, SPLIT_BITS

_MVD = MVD_EQUAL, MVD_OTHER, MVD_OCTAVE
_PARTITION_BITS, _DIRECTION_BITS = Constant(reference.PARTITION_BITS), Constant(reference.DIRECTION_BITS)
_MOST = 16  # vectors that a search begins with


def _lacking(phases: Tensor, slot: Tensor, source: Tensor, start: Tensor, predictor: Tensor, lam: Tensor, k: int, *_: object) -> str | None:
    if k not in (8, 16):
        return f"native code searches for blocks of 8 x 8 and 16 x 16, not {k} x {k}"
    return f"native code begins with {_MOST} vectors at most, got {len(start)}" if len(start) > _MOST else None


@implements(reference.median_predictor)
def median_predictor(vectors: Tensor) -> Tensor:
    out = reference.median_predictor.allocate(vectors)
    call("median_predictor", vectors, out, *vectors.shape[:3])
    return out


@implements(reference.full_search, lacks=lambda *args: None if args[-1] in (4, 8, 16) else "native code searches for blocks of 4, 8 and 16")
def full_search(current: Tensor, reference: Tensor, reach: int, k: int) -> Tensor:
    out = _full_search_output(current, reference, reach, k)
    call("full_search", current, reference, out, *current.shape, reach, k, DISTANCE_COST)
    return out


_full_search_output = reference.full_search.allocate  # an argument bears the module's name


@implements(reference.refine_vectors, lacks=_lacking)
def refine_vectors(
    phases: Tensor,
    slot: Tensor,
    source: Tensor,
    start: Tensor,
    predictor: Tensor,
    lam: Tensor,
    k: int,
    subpel: int,
    use_satd: bool,
    rounds: int,
) -> tuple[Tensor, Tensor]:
    out, cost = reference.refine_vectors.allocate(phases, slot, source, start, predictor, lam, k, subpel, use_satd, rounds)
    call(
        "refine_vectors", phases, *phases.shape[1:], slot.expand(lam.shape), source, start, predictor, lam, out, cost, *start.shape[:4], k, subpel,
        use_satd, rounds, *_MVD,
    )  # fmt: skip
    return out, cost


@implements(reference.search_partitions)
def search_partitions(
    source: Tensor, phases: Tensor, slot: Tensor, coarse: Tensor, lam: Tensor, subpel: int, use_satd: bool, partitions: bool
) -> Tensor:
    out = reference.search_partitions.allocate(source, phases, slot, coarse, lam, subpel, use_satd, partitions)
    call(
        "search_partitions", source, phases, *phases.shape[1:], slot.expand(lam.shape), coarse, lam, out, *lam.shape, subpel, use_satd,
        partitions, *_MVD, _PARTITION_BITS.like(source),
    )  # fmt: skip
    return out


@implements(reference.estimate_motion)
def estimate_motion(
    current: Tensor, reference: Tensor, phases: Tensor, slot: Tensor, reach: int, subpel: int, use_satd: bool
) -> tuple[Tensor, Tensor]:
    out, cost = _estimate_motion_outputs(current, reference, phases, slot, reach, subpel, use_satd)
    call(
        "estimate_motion", current, reference, phases, *phases.shape[1:], slot, out, cost, *current.shape, reach, subpel, use_satd,
        DISTANCE_COST, INTER_COST, MOTION_COST, *_MVD,
    )  # fmt: skip
    return out, cost


_estimate_motion_outputs = reference.estimate_motion.allocate


@implements(reference.estimate_bipred)
def estimate_bipred(
    half: Tensor,
    phases: Tensor,
    frames: Tensor,
    mv0: Tensor,
    mv1: Tensor,
    cost0: Tensor,
    cost1: Tensor,
    use_satd: bool,
) -> tuple[Tensor, Tensor]:
    cost, share = reference.estimate_bipred.allocate(half, phases, frames, mv0, mv1, cost0, cost1, use_satd)
    call(
        "estimate_bipred", half, phases, *phases.shape[1:], frames, mv0, mv1, cost0, cost1, cost, share, *cost.shape, use_satd,
        reference.BIPRED_COST, reference.STILL_COST,
    )  # fmt: skip
    return cost, share


@implements(reference.choose_bipred)
def choose_bipred(source: Tensor, phases: Tensor, slots: list[Tensor], vectors: list[Tensor], lam: Tensor, use_satd: bool) -> Tensor:
    out = reference.choose_bipred.allocate(source, phases, slots, vectors, lam, use_satd)
    call(
        "choose_bipred", source, phases, *phases.shape[1:], *slots, *vectors, lam, out, *lam.shape, use_satd, *_MVD, _DIRECTION_BITS.like(source),
        SPLIT_BITS,
    )  # fmt: skip
    return out


@implements(reference.choose_reference)
def choose_reference(source: Tensor, phases: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
    out = reference.choose_reference.allocate(source, phases, slots, vectors)
    call("choose_reference", source, phases, *phases.shape[1:], slots, vectors, out, *slots.shape)
    return out
