"""The operations that codecs and attacks are made of, one folder per family.

``reference.py`` defines them in torch, ``triton.py`` has the fused CUDA kernels, ``cases.py`` the inputs on which all implementations are
compared and timed. See :mod:`diffcodec.backend` for what runs when, and CONTRIBUTING.md for how to add one.
"""

from __future__ import annotations

import importlib
import pkgutil

from ..backend import OPERATIONS, Operation


def families() -> list[str]:
    """Names of all families."""
    return [m.name for m in pkgutil.iter_modules(__path__) if m.ispkg and m.name != "common"]


def operations() -> dict[str, Operation[..., object]]:
    """All operations by name; imports every family."""
    for family in families():
        importlib.import_module(f"{__name__}.{family}.reference")
    return dict(OPERATIONS)
