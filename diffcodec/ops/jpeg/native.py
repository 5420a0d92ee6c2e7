"""JPEG in native code: libjpeg's arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from ...implement import backward_of, implements
from ..common.native import call
from . import reference

MODES = {"cubic": 0, "straight_through": 1, "soft": 2, "laplacian": 3, "gaussian": 4, "uniform": 5}


def _lacks(x: Tensor, tables: Tensor, v: int, u: int, exact: bool, mode: str, width: float) -> str | None:
    if not exact:
        return "native code has libjpeg's arithmetic alone, no rounding that is soft"
    return None if mode in MODES else f"native code has no slope {mode!r}"


def _coefficients(x: Tensor, tables: Tensor, v: int, u: int, exact: bool, mode: str, width: float) -> Tensor:
    """What the gradient needs: coefficients of all planes, in whole blocks and rows of multiples of 32."""
    n, c, h, w = x.shape
    planes = [(1, h, w)] + ([(2, -(-h // v), -(-w // u))] if c == 3 else [])
    return x.new_empty((n, sum(k * -(-h // 8) * 8 * -(-w // 32) * 32 for k, h, w in planes)), dtype=torch.int16)


@implements(reference.code_jpeg, kept=_coefficients, lacks=_lacks)
def code_jpeg(x: Tensor, tables: Tensor, v: int, u: int, exact: bool, mode: str, width: float) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    kept = _coefficients(x, tables, v, u, exact, mode, width)
    call("code_jpeg", x, tables, len(tables) > 1, out, kept, *x.shape, v, u)
    return out, kept


@backward_of(reference.code_jpeg, of=["x", "tables"])
def code_jpeg_backward(
    grad: Tensor,
    kept: Tensor,
    tables: Tensor,
    v: int,
    u: int,
    mode: str,
    width: float,
    x_shape: list[int],
    needs_tables: bool,
) -> tuple[Tensor, Tensor]:
    n, c, h, w = x_shape
    out = grad.new_empty(x_shape)
    bands = -(-h // (8 * v if c == 3 else 8))
    by_tables = grad.new_empty((n, bands, 2, 8, 8)) if needs_tables else None
    call("code_jpeg_backward", grad, kept, tables, len(tables) > 1, out, by_tables, n, c, h, w, v, u, MODES[mode], width)
    if by_tables is None:
        return out, grad.new_empty(0)
    total = by_tables.sum(1)
    return out, total if len(tables) > 1 else total.sum(0, keepdim=True)
