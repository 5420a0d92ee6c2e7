"""Small constant tensors (transform bases, tables), kept once per device and dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import traced


class Constant:
    """A constant that is needed on the device and in the dtype of the input.

    The copies are cached, so that a step on CUDA does not copy constants again. While torch traces or fakes tensors nothing is cached:
    a traced tensor must not outlive its trace.
    """

    def __init__(self, values: np.ndarray[Any, Any] | Sequence[Any] | float) -> None:
        self.value = torch.as_tensor(
            np.asarray(values, dtype=np.float64), dtype=torch.float64, device="cpu"
        ).contiguous()  # kernels read it by address
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """The constant on the device and in the dtype of ``x``."""
        if traced(x):
            return self.value.to(device=x.device, dtype=x.dtype)
        key = (x.device, x.dtype)
        if key not in self._copies:
            with torch.inference_mode(False):  # an inference tensor could not be used in a graph later
                self._copies[key] = self.value.to(device=x.device, dtype=x.dtype)
        return self._copies[key]


def number(value: float, like: Tensor) -> Tensor:
    """A number in the dtype and on the device of ``like``, ``[]``: for :func:`torch.where`, which gives plain numbers the default dtype."""
    return like.new_full((), value)


def listed(values: Sequence[Any], device: torch.device) -> Tensor:
    """Python numbers as a tensor on a device (floats: float32), without the synchronisation of ``torch.tensor(values, device=...)``."""
    return torch.tensor(values, dtype=torch.float32 if isinstance(values[0], float) else None, device="cpu").to(device, non_blocking=True)
