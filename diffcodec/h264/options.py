"""Tunes, profiles and options of libx264, applied to the settings of a preset (x264's common/base.c)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..checks import require
from .presets import PRESETS, Preset

# Changes that a tune makes. Psy-trellis and weighted prediction, which some of them change as well, are not modelled.
TUNES: dict[str, Callable[[Preset], dict[str, Any]]] = {
    "film": lambda p: {"deblock_offset": -1, "psy_trellis": 0.15},
    "animation": lambda p: {
        "deblock_offset": 1, "psy": 0.4, "aq_strength": 0.6, "bframes": p.bframes + 2, "references": p.references * (1 + (p.references > 1)),
    },
    "grain": lambda p: {
        "deblock_offset": -2, "psy_trellis": 0.25, "decimate": False, "deadzone": (6, 6), "aq_strength": 0.5, "qcomp": 0.8, "ip_ratio": 1.1,
        "pb_ratio": 1.1,
    },
    "stillimage": lambda p: {"deblock_offset": -3, "psy": 2.0, "psy_trellis": 0.7, "aq_strength": 1.2},
    "psnr": lambda p: {"aq_strength": 0.0, "psy": 0.0},
    "fastdecode": lambda p: {"deblock": False, "cabac": False},
    "zerolatency": lambda p: {"bframes": 0, "tree": False},
}  # fmt: skip
PSY_TUNES = ("film", "animation", "grain", "stillimage", "psnr")  # of which x264 takes at most one
PROFILES: dict[str, dict[str, Any]] = {
    "baseline": {"transform8": False, "bframes": 0, "cabac": False},
    "main": {"transform8": False},
    "high": {},
}


def _flag(field: str) -> Callable[[Preset, str], dict[str, Any]]:
    return lambda p, v: {field: _number(v, 0, 1) == 1}


def _whole(field: str, low: int, high: int) -> Callable[[Preset, str], dict[str, Any]]:
    return lambda p, v: {field: int(_number(v, low, high))}


def _real(field: str, low: float, high: float) -> Callable[[Preset, str], dict[str, Any]]:
    return lambda p, v: {field: _number(v, low, high, whole=False)}


def _number(value: str, low: float, high: float, whole: bool = True) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not low <= number <= high or (whole and number != int(number)):
        raise ValueError(f"expected a {'whole ' if whole else ''}number {low:g}..{high:g}")
    return number


def _psy(preset: Preset, value: str) -> dict[str, Any]:
    rd, _, trellis = value.replace(":", ",").partition(",")
    return {"psy": _number(rd, 0, 10, whole=False), "psy_trellis": _number(trellis or "0", 0, 10, whole=False)}


def _deblock(preset: Preset, value: str) -> dict[str, Any]:
    alpha, _, beta = value.replace(":", ",").partition(",")
    if beta and beta != alpha:
        raise ValueError("expected two equal offsets: the model has one for both")
    return {"deblock": True, "deblock_offset": int(_number(alpha, -6, 6))}


def _aq_mode(preset: Preset, value: str) -> dict[str, Any]:
    on = _number(value, 0, 1) == 1  # modes 2 and 3 are not modelled
    if preset.tree and not on:  # the macroblock tree needs adaptive quantisation: x264 leaves it on without strength
        return {"aq_strength": 0.0}
    return {"adaptive": on}


def _direct(preset: Preset, value: str) -> dict[str, Any]:
    if value not in ("none", "spatial", "auto"):  # "auto" is nearly always spatial
        raise ValueError("expected none, spatial or auto: temporal prediction is not modelled")
    return {"direct": value != "none"}


def _partitions(preset: Preset, value: str) -> dict[str, Any]:
    if value not in ("none", "all"):
        raise ValueError("expected none or all")
    return {"partitions": value == "all", "small_intra": value == "all"}


#: Options that the model supports, by x264's names (ffmpeg's are accepted too): a function from preset and value to the fields that change.
OPTIONS: dict[str, Callable[[Preset, str], dict[str, Any]]] = {
    "bframes": _whole("bframes", 0, 16),
    "ref": _whole("references", 1, 16),
    "keyint": _whole("keyint", 1, 2**30),
    "min-keyint": _whole("min_keyint", 0, 2**30),
    "scenecut": _whole("scenecut", 0, 100),
    "subme": lambda p, v: {"subme": int(_number(v, 0, 9)), "subpel": 4 if _number(v, 0, 9) else 1},
    "trellis": _whole("trellis", 0, 2),
    "psy": lambda p, v: {} if _number(v, 0, 1) else {"psy": 0.0, "psy_trellis": 0.0},
    "psy-rd": _psy,
    "aq-mode": _aq_mode,
    "aq-strength": _real("aq_strength", 0, 3),
    "mbtree": lambda p, v: {"tree": p.tree and _number(v, 0, 1) == 1},  # presets without lookahead cannot have it
    "8x8dct": _flag("transform8"),
    "cabac": _flag("cabac"),
    "partitions": _partitions,
    "direct": _direct,
    "deblock": _deblock,
    "no-deblock": lambda p, v: {"deblock": _number(v, 0, 1) == 0},
    "dct-decimate": _flag("decimate"),
    "deadzone-inter": lambda p, v: {"deadzone": (int(_number(v, 0, 32)), p.deadzone[1])},
    "deadzone-intra": lambda p, v: {"deadzone": (p.deadzone[0], int(_number(v, 0, 32)))},
    "qcomp": _real("qcomp", 0, 1),
    "ipratio": _real("ip_ratio", 0.01, 10),
    "pbratio": _real("pb_ratio", 0.01, 10),
}
ALIASES = {
    "bf": "bframes", "g": "keyint", "refs": "ref", "sc_threshold": "scenecut", "subq": "subme", "keyint_min": "min-keyint", "frameref": "ref",
    "direct-pred": "direct", "me_range": "merange", "filter": "deblock", "nf": "no-deblock", "qcompress": "qcomp", "ip-factor": "ipratio",
    "pb-factor": "pbratio",
}  # fmt: skip
# Options that are accepted without effect: they change the speed, the bitstream syntax, or the picture by less than the model resolves
WITHOUT_EFFECT = frozenset(
    {
        "asm", "threads", "me", "merange", "chroma-me", "mixed-refs", "fast-pskip", "weightp", "weightb", "sliced-threads",
        "sync-lookahead", "force-cfr", "annexb", "repeat-headers", "aud",
    }
)  # fmt: skip
_INNER = ("x264-params", "x264opts")


def habits(
    preset: str | Preset, tune: str | None = None, profile: str | None = None, bframes: int | None = None, keyint: int | None = None,
    options: Mapping[str, object] | None = None, strict: bool = True,
) -> Preset:  # fmt: skip
    """The settings of a preset after tune, options and profile, in x264's order.

    Args:
        preset: name, or a :class:`Preset`.
        tune: names, separated by commas.
        profile: "baseline", "main" or "high".
        bframes, keyint: as the options of these names.
        options: options by ffmpeg's or x264's names, also inside ``x264-params``, as for :class:`~diffcodec.RealCodec`.
        strict: whether options and values that the model does not support are errors; else they are ignored.

    Returns:
        A :class:`Preset`.

    Raises:
        ValueError: unknown names, values out of range, an option that is set twice.
        TypeError: options that are not a mapping.
    """
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options expected a mapping of names to values, got {options!r}")
    given = {str(k): str(int(v)) if isinstance(v, bool) else str(v) for k, v in (options or {}).items()}
    asked = [(k, v) for k, v in given.items() if k not in _INNER]
    for key in _INNER:
        asked += [
            (name, value if eq else "1") for name, eq, value in (p.partition("=") for p in str(given.get(key, "")).split(":")) if name
        ]
    named = {"tune": tune, "profile": profile}
    for name, value in [(n, v) for n, v in asked if n in named]:
        if named[name] not in (None, value):
            raise ValueError(f"{name}={named[name]!r} and options hold {name}={value!r}: one of them sets it")
        named[name] = value
    tune, profile = named["tune"], named["profile"]
    asked = [(n, v) for n, v in asked if n not in named]
    for name, number in (("bframes", bframes), ("keyint", keyint)):
        if number is not None:
            if any(ALIASES.get(n, n) == name for n, _ in asked):
                raise ValueError(f"{name}={number!r} and options {given!r} set the same: give one of them")
            asked.append((name, str(number)))
    if not isinstance(preset, Preset):
        require("preset", preset, list(PRESETS))
    out = preset if isinstance(preset, Preset) else PRESETS[preset]
    for name in _tunes(tune, strict):
        out = replace(out, **TUNES[name](out))
    for name, value in sorted(asked, key=lambda a: a[0].removeprefix("no-") in ("psy", "aq-mode")):  # these override the others
        out = _changed(out, name, value, strict)
    if profile is not None:
        require("profile", profile, list(PROFILES))
        out = replace(out, **PROFILES[profile])
    return out


def _tunes(tune: str | None, strict: bool) -> list[str]:
    names = [n for n in (tune or "").replace("+", ",").split(",") if n]
    for name in names:
        if strict:
            require("tune", name, list(TUNES))
    if not strict:  # as x264 does
        first = next((n for n in names if n in PSY_TUNES), None)
        names = [n for n in names if n not in PSY_TUNES or n == first]
    if sum(n in PSY_TUNES for n in names) > 1:
        raise ValueError(f"tune={tune!r} names more than one of {', '.join(PSY_TUNES)}: x264 takes one of them")
    return [n for n in names if n in TUNES]


def _changed(preset: Preset, name: str, value: str, strict: bool) -> Preset:
    key = ALIASES.get(name, name).replace("_", "-")
    if key in WITHOUT_EFFECT or key.removeprefix("no-") in WITHOUT_EFFECT:
        return preset
    if key not in OPTIONS and key.startswith("no-") and key[3:] in OPTIONS:
        key, value = key[3:], "0" if value in ("1", "", "true") else "1"
    if key not in OPTIONS:
        if not strict:
            return preset
        raise ValueError(f"the model has no option {name}={value!r}; it knows {', '.join(OPTIONS)}")
    try:
        return replace(preset, **OPTIONS[key](preset, value))
    except ValueError as error:
        if not strict:
            return preset
        raise ValueError(f"option {name}={value!r}: {error}") from None
