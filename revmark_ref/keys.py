"""Random generators keyed by (seed, purpose, number): the same on any machine, in any process and after a resume."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from diffcodec.files import key


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """An independent generator for a purpose and a number (of a sample or step)."""
    return torch.Generator().manual_seed(key(seed, zlib.crc32(purpose.encode()), number))


def messages(seed: int, samples: list[int], bits: int) -> Tensor:
    """Messages of samples by their numbers. Shape: ``[B, L]``, 0 or 1, float32."""
    return torch.stack([torch.randint(2, (bits,), generator=generator(seed, "message", k), device="cpu").float() for k in samples])
