"""Size of coded frames: a few sums over levels, vectors and modes, weighted to fit the real encoder's slices. Differentiable in the levels."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from ..blocks import any_of_blocks


@dataclass(frozen=True)
class Weights:
    """Bits per unit of each rate feature.

    Attributes:
        octave: per unit of ``log2(1 + |level|)``, summed over levels.
        nonzero: per nonzero level (counted softly: ``1 - exp(-level^2)``).
        block: per 4x4 block that has levels.
        side: per bit of vectors and modes as counted in decisions.
        macroblock: per macroblock that is not skipped.
        frame: per frame.
    """

    octave: float = 1.5
    nonzero: float = 3.0
    block: float = 1.0
    side: float = 0.8
    macroblock: float = 2.0
    frame: float = 50.0


def features(sums: Tensor, coded: Tensor, side_bits: Tensor, not_skipped: Tensor) -> Tensor:
    """Rate features of frames: sums from which bits are counted.

    Args:
        sums: of octaves, nonzero levels and coded blocks ``[N, 3]`` (:func:`diffcodec.h264.rate_slopes.sums`).
        coded: 4x4 luma blocks that have levels ``[N, H/4, W/4]`` bool.
        side_bits: bits of vectors and modes of each macroblock ``[N, H/16, W/16]``.
        not_skipped: macroblocks that are not skipped even without residual, bool, same shape.

    Returns:
        ``[N, 6]`` in the order of :class:`Weights`.
    """
    busy = any_of_blocks(coded, 4) | not_skipped
    side = torch.stack([(side_bits * busy).flatten(1).sum(1), busy.flatten(1).sum(1).to(side_bits)], 1)
    return torch.cat([sums, side, torch.ones_like(side[:, :1])], 1)


def count(of_frames: Tensor, weights: Weights) -> Tensor:
    """Bits of frames from their :func:`features`. Shape: ``[..., 6] -> [...]``."""
    return of_frames @ of_frames.new_tensor(astuple(weights))
