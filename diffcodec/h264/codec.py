"""DiffH264: a differentiable H.264, by model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..layer import Codec, Draw
from .revmark import REVMarkH264

MODELS: dict[str, type[Codec]] = {"revmark": REVMarkH264}


class DiffH264(Codec):
    """Differentiable H.264.

    Args:
        model: "revmark", the simulator of the REVMark paper (see :class:`~diffcodec.h264.REVMarkH264` for its options).
        **options: what the model takes. It has one fixed strength: ``crf`` is an error.

    Shape:
        ``[B, T, 3, H, W]``, any T, H, W >= 1.

    Raises:
        ValueError: unknown model. TypeError: an option that the model does not have.
    """

    def __init__(self, model: str = "revmark", **options: Any) -> None:
        super().__init__()
        if model not in MODELS:
            raise ValueError(f"unknown model {model!r}; expected one of {', '.join(map(repr, MODELS))}")
        allowed = list(inspect.signature(MODELS[model]).parameters)
        for name, value in options.items():
            if name in allowed:
                continue
            if name == "crf":
                raise TypeError(
                    f"DiffH264(model={model!r}) got crf={value!r}, but the paper's simulator knows no CRF: its strength is"
                    " fixed by intra_scale and inter_scale"
                )
            raise TypeError(f"DiffH264(model={model!r}) has no option {name}={value!r}; it takes {', '.join(allowed)}")
        self.model = model
        self.engine = MODELS[model](**options)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        return self.engine.draw(shape, generator, step, device)

    def simulate(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, Tensor | None]:
        return self.engine.simulate(video, draw, rate)

    def frame_types(self, shape: tuple[int, ...], draw: Mapping[str, Any]) -> list[str]:
        return self.engine.frame_types(shape, draw)

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        self.engine.check_draw(draw, shape)
