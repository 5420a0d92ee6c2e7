"""Temporal attacks: frames are averaged, dropped, swapped, inserted or resampled.

All but averaging select frames: the draw holds the indices ``[B, T']`` of the frames of the clip, and the attack gathers them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backend import validate_backend
from ..checks import check_frames
from ..layer import Draw, Layer
from ..ops.frames.reference import average_frames, take_frames
from ..strength import Strength, StrengthLike, uniform


class FrameAverage(Layer):
    """Frame averaging: each frame becomes the mean of a window of n frames around it, truncated at the ends of the clip.

    Args:
        n: window length in frames, 1..1000; a range draws whole numbers. Even windows reach one frame further back.
        backend: "auto", "reference" or "triton" (:mod:`diffcodec.backend`).

    Example:
        >>> import torch, diffcodec as dc
        >>> clip = torch.tensor([0.0, 0.3, 0.6]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 2, 2)
        >>> dc.FrameAverage(3)(clip)[0, :, 0, 0, 0]
        tensor([0.1500, 0.3000, 0.4500])
    """

    raw = True

    def __init__(self, n: StrengthLike = 3, backend: str = "auto") -> None:
        super().__init__()
        self.backend = validate_backend(backend)
        self.n = Strength(n, "n", 1, 1000, integer=True)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return average_frames.on(self.backend, video, draw["n"])


_TIE = 1e-4  # ratios such as 25/30 are float32: a time that is this close to a frame counts as that frame


class _FrameChoice(Layer):
    """An attack that selects frames by ``index`` ``[B, T']``."""

    raw = True
    geometric = True

    def __init__(self, keep_length: bool = True, backend: str = "auto") -> None:
        super().__init__()
        self.keep_length = keep_length
        self.backend = validate_backend(backend)

    def index(self, values: Draw, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        """The index ``[B, T']`` for drawn strengths, made on the CPU."""
        raise NotImplementedError

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        values = {k: v.cpu() for k, v in super().draw(shape, generator, step, None).items()}
        draw = {"index": self.index(values, shape[0], shape[1], generator), **values}
        return draw if device is None else {k: v.to(device) for k, v in draw.items()}

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return take_frames.on(self.backend, video, draw["index"])

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return super().draw_shapes(shape) | {"index": shape[:2]}

    def shape_after(self, shape: tuple[int, ...], draw: Mapping[str, Any]) -> tuple[int, ...]:
        return (*draw["index"].shape, *shape[2:])

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        who, index = type(self).__name__, draw.get("index")
        if self.keep_length or not isinstance(index, Tensor) or index.dim() != 2:
            super().check_draw(draw, shape)
        else:
            super().check_draw(draw, (shape[0], index.shape[1], *shape[2:]))  # the layer changes the length
        assert isinstance(index, Tensor)
        check_frames(who, index, shape[1])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, keep_length={self.keep_length}".lstrip(", ")


class FrameDrop(_FrameChoice):
    """Frame dropping: each frame is lost with probability p; at least one stays.

    Args:
        p: probability of loss, 0..1.
        keep_length: True replaces a lost frame by its nearest kept neighbour (the earlier one of two); False returns the shorter clip: then every
            clip of the batch loses round(p T) frames at random positions, and p must be the same for all of them (else a ValueError).
        backend: "auto", "reference" or "triton" (:mod:`diffcodec.backend`).

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.FrameDrop(0.5, keep_length=False)(torch.rand(2, 8, 3, 4, 4)).shape
        torch.Size([2, 4, 3, 4, 4])
    """

    def __init__(self, p: StrengthLike = 0.5, keep_length: bool = True, backend: str = "auto") -> None:
        super().__init__(keep_length, backend)
        self.p = Strength(p, "p", 0, 1)

    def index(self, values: Draw, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        u = uniform((batch, frames), generator).cpu()
        p = values["p"][:, None]
        if not self.keep_length:
            kept = max(1, frames - round(_common(p, "p", self) * frames))
            return u.topk(kept, dim=1).indices.sort(1).values
        lost = (u < p) & (u < u.amax(1, keepdim=True))  # the largest draw always stays
        i = torch.arange(frames, device="cpu")
        distance = (i[None, :] - i[:, None]).abs().float() + 0.1 * (i[None, :] > i[:, None])  # ties go to the past
        return (distance + lost[:, None, :] * 1e6).argmin(-1)  # [B, T]


class FrameSwap(_FrameChoice):
    """Frame swapping: in order, each frame is exchanged with the next one with probability p.

    A frame takes part in at most one swap, so it moves by at most one position.

    Args:
        p: probability of a swap, 0..1.
        backend: "auto", "reference" or "triton" (:mod:`diffcodec.backend`).

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.FrameSwap(1.0).sample((1, 4, 3, 8, 8))["index"]
        tensor([[1, 0, 3, 2]])
    """

    def __init__(self, p: StrengthLike = 0.5, backend: str = "auto") -> None:
        super().__init__(backend=backend)
        self.p = Strength(p, "p", 0, 1)

    def index(self, values: Draw, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        wish = uniform((batch, frames), generator).cpu() < values["p"][:, None]
        index = torch.arange(frames, device="cpu").repeat(batch, 1)
        busy = torch.zeros(batch, dtype=torch.bool, device="cpu")  # the frame at t was just swapped with t - 1
        for t in range(frames - 1):
            swap = wish[:, t] & ~busy
            index[swap, t], index[swap, t + 1] = t + 1, t
            busy = swap
        return index


class FrameInsert(_FrameChoice):
    """Frame insertion: after each frame, a copy of it is inserted with probability p.

    Args:
        p: probability of an insertion, 0..1.
        keep_length: True truncates the clip to T frames; False returns the longer clip: then every clip of the batch gains round(p T) frames
            at random positions, and p must be the same for all of them (else a ValueError).
        backend: "auto", "reference" or "triton" (:mod:`diffcodec.backend`).

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.FrameInsert(1.0).sample((1, 4, 3, 8, 8))["index"]
        tensor([[0, 0, 1, 1]])
    """

    def __init__(self, p: StrengthLike = 0.2, keep_length: bool = True, backend: str = "auto") -> None:
        super().__init__(keep_length, backend)
        self.p = Strength(p, "p", 0, 1)

    def index(self, values: Draw, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        u = uniform((batch, frames), generator).cpu()
        p = values["p"][:, None]
        if not self.keep_length:
            gained = round(_common(p, "p", self) * frames)
            again = u.topk(gained, dim=1).indices
            return torch.cat([torch.arange(frames, device="cpu").repeat(batch, 1), again], 1).sort(1).values
        start = torch.cumsum(1 + (u < p).long(), 1) - 1 - (u < p).long()  # where each frame first appears [B, T]
        i = torch.arange(frames, device="cpu")
        return (start[:, None, :] <= i[None, :, None]).sum(-1) - 1  # last frame that has appeared by i


class FrameRate(_FrameChoice):
    """Frame rate conversion by repeating or dropping frames: at each new frame time the latest frame is shown, as by a player.

    Args:
        ratio: new frame rate divided by the old one, 0.001..1000.
        keep_length: True converts to the new rate and back, so T stays; False returns the clip at the new rate, ``max(1, round(ratio T))``
            frames, and the ratio must be the same for all clips of a batch (else a ValueError).
        backend: "auto", "reference" or "triton" (:mod:`diffcodec.backend`).

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.FrameRate(0.5).sample((1, 4, 3, 8, 8))["index"]
        tensor([[0, 0, 2, 2]])
    """

    def __init__(self, ratio: StrengthLike = (0.5, 1.0), keep_length: bool = True, backend: str = "auto") -> None:
        super().__init__(keep_length, backend)
        self.ratio = Strength(ratio, "ratio", 1e-3, 1e3)

    def index(self, values: Draw, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        ratio = values["ratio"].double()[:, None]
        if not self.keep_length:
            r = _common(ratio, "ratio", self)
            new_time = torch.arange(max(1, round(r * frames)), device="cpu")[None].expand(batch, -1)
            return (new_time / r + _TIE).floor().long().clamp(0, frames - 1)
        frame = torch.arange(frames, device="cpu")[None]
        new_time = (frame * ratio + _TIE).floor()  # frame at the new rate that is on display at time of frame i
        return (new_time / ratio + 0.5 - _TIE).floor().long().clamp(0, frames - 1)


def _common(values: Tensor, name: str, layer: Layer) -> float:
    if (values != values.flatten()[0]).any():
        raise ValueError(
            f"{type(layer).__name__}(keep_length=False) needs one {name} for the whole batch: clips of different length do not stack"
        )
    return float(values.flatten()[0])
