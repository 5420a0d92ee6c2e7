"""The result of a codec's ``encode``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from .h264.guide import Guide


@dataclass
class Coded:
    """A coded batch.

    Attributes:
        video: decoded video, layout of the input, values in [0, 1].
        bits: size of each sample in bits, ``[B]`` float32: of real codecs that of the coded pictures, without stream headers; of simulators a
            differentiable estimate.
        frame_types: one string per sample, one letter per frame in display order (``"IPBBP"``); images are ``"I"``.
        frame_bits: bits of each frame in display order, ``[B, T]`` float32 (images: ``[B, 1]``).
        streams: encoded bytes of each sample, from real codecs; empty for simulators.
        guide: decisions of a real H.264 encoder for each sample (:class:`~diffcodec.h264.Guide`); empty for other codecs.

    Example:
        >>> import torch, diffcodec as dc
        >>> coded = dc.DiffJPEG(50).encode(torch.rand(2, 3, 16, 16))
        >>> coded.bits.shape, coded.frame_types
        (torch.Size([2]), ['I', 'I'])
    """

    video: Tensor
    bits: Tensor
    frame_types: list[str]
    frame_bits: Tensor
    streams: list[bytes] = field(default_factory=list, repr=False)
    guide: list[Guide] = field(default_factory=list, repr=False)
