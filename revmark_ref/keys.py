"""Random numbers by what they are for: (seed, purpose, number) gives one generator, on any machine, process and after any resume."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from diffcodec.files import key


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """A generator of its own for one purpose and one number (a sample's, a step's)."""
    return torch.Generator().manual_seed(key(seed, zlib.crc32(purpose.encode()), number))


def messages(seed: int, samples: list[int], bits: int) -> Tensor:
    """Messages of samples by their numbers. Shape: ``[B, L]``, 0 or 1, float32."""
    return torch.stack([torch.randint(2, (bits,), generator=generator(seed, "message", k)).float() for k in samples])
