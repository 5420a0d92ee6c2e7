"""Codecs by name, for the command line and for records of measurements: ``name`` or ``name:option=value,option=value``."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from .attacks import Identity
from .checks import require
from .h264 import DiffH264
from .jpeg import DiffJPEG
from .layer import Layer
from .motion import BlockMotion, NoMotion
from .real import ENCODERS, RealCodec, RealJPEG

MOTIONS: dict[str, Callable[[], Any]] = {
    "block": BlockMotion,
    "block16": partial(BlockMotion, block=16, search=8, subpel=1),
    "none": NoMotion,
}


def _revmark(motion: str = "block", **options: Any) -> Layer:
    require("motion", motion, list(MOTIONS))
    return DiffH264(model="revmark", motion=MOTIONS[motion](), **options)


SIMULATORS: dict[str, Callable[..., Layer]] = {"x264": DiffH264, "revmark": _revmark, "jpeg": DiffJPEG, "none": Identity}
FOLLOWS = {
    "x264": ("crf", "preset", "fps"),
    "jpeg": ("quality",),
}  # what a simulator takes over from the real codec that it is measured against, where its spec is silent
REAL: dict[str, Callable[..., Layer]] = {"libjpeg": RealJPEG}
REAL |= {name: partial(RealCodec, name) for name in ENCODERS}


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """Split a spec into name and options; values are Python literals where they parse as such, else strings.

    Raises:
        ValueError: an option without a value.
    """
    name, _, rest = spec.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, re.split(r",(?![^()\[\]{}]*[)\]}])", rest)):  # commas inside brackets belong to a value
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"{spec!r}: expected name:option=value,option=value; {part!r} is not one")
        try:
            options[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key.strip()] = value
    return name, options


def make(spec: str, among: dict[str, Callable[..., Layer]] | None = None, **defaults: Any) -> Layer:
    """The codec that a spec names.

    Args:
        spec: for example ``"libx264:crf=28,preset=slow"``, ``"jpeg:quality=50"``, ``"revmark"``.
        among: names to choose from; None for all.
        **defaults: options used where the spec does not name them.

    Raises:
        ValueError: unknown name, or options that the codec does not take.
    """
    table = SIMULATORS | REAL if among is None else among
    name, options = parse(spec)
    if name not in table:
        raise ValueError(f"unknown codec {name!r}; expected one of {', '.join(map(repr, table))}")
    try:
        return table[name](**(defaults | options))
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{spec!r}: {error}") from error


def knob(spec: str) -> str:
    """What sets the strength of a real codec: "crf", or "quality" for libjpeg."""
    return "quality" if parse(spec)[0] == "libjpeg" else "crf"


def adopted(spec: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the real codec's settings that a simulator knows and its spec does not name."""
    name, options = parse(spec)
    return {k: settings[k] for k in FOLLOWS.get(name, ()) if settings.get(k) is not None and k not in options}
