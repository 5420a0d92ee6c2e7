"""Size of coded frames: a few sums over levels, vectors and modes, weighed to fit the real encoder's slices. Differentiable in the levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from ..blocks import any_of_blocks
from ..rate import terms


@dataclass(frozen=True)
class Weights:
    """Bits of each feature.

    Attributes:
        octave: of ``log2(1 + |level|)``, summed.
        nonzero: of a level that is not 0 (soft: ``1 - exp(-level^2)``).
        block: of a 4x4 block that has levels.
        side: of a bit of vectors and modes as the decisions count it.
        macroblock: of a macroblock that is not skipped.
        frame: of a frame.
    """

    octave: float = 1.5
    nonzero: float = 3.0
    block: float = 1.0
    side: float = 0.8
    macroblock: float = 2.0
    frame: float = 50.0


def features(levels: Sequence[Tensor], coded: Tensor, side_bits: Tensor, not_skipped: Tensor) -> Tensor:
    """What bits are counted from.

    Args:
        levels: each ``[N, ...]``.
        coded: 4x4 luma blocks that have levels ``[N, H/4, W/4]`` bool.
        side_bits: of vectors and modes of each macroblock ``[N, H/16, W/16]``.
        not_skipped: macroblocks that are more than a copy even without residual, bool, same shape.

    Returns:
        ``[N, 6]`` in the order of :class:`Weights`.
    """
    octaves, nonzero = (sum(t) for t in zip(*(terms(v) for v in levels)))
    blocks = coded.flatten(1).sum(1).to(side_bits)
    residual = any_of_blocks(coded, 4)
    busy = residual | not_skipped
    return torch.stack(
        [octaves, nonzero, blocks, (side_bits * busy).flatten(1).sum(1), busy.flatten(1).sum(1).to(side_bits), torch.ones_like(blocks)], 1
    )


def count(of_frames: Tensor, weights: Weights) -> Tensor:
    """Bits of frames from their :func:`features`. Shape: ``[..., 6] -> [...]``."""
    return of_frames @ of_frames.new_tensor(astuple(weights))
