"""Layers from descriptions and back: names, mappings, files, and the configurations of other libraries.

:func:`build` makes a layer from a string, a mapping or a file; ``layer.config()`` is its inverse.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.metadata
import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import attacks, foreign, motion
from .adapt import Adapted
from .buildable import Buildable
from .checks import require
from .h264 import DiffH264
from .jpeg import DiffJPEG, JPEGDrop, JPEGMask
from .layer import Layer
from .motion import BlockMotion, NoMotion
from .proxy import CompNet
from .real import ENCODERS, RealCodec, RealJPEG
from .strength import Choice, Ramp, Steps, Strength

GROUP = "diffcodec.layers"  # entry point group in which other packages register layers

MOTIONS: dict[str, Callable[[], Any]] = {
    "block": BlockMotion,
    "block16": partial(BlockMotion, block=16, search=8, subpel=1),
    "none": NoMotion,
}


def _revmark(motion: Any = "block", **options: Any) -> Layer:
    if isinstance(motion, str):
        require("motion", motion, list(MOTIONS))
        motion = MOTIONS[motion]()
    return DiffH264(model="revmark", motion=motion, **options)


SIMULATORS: dict[str, Callable[..., Any]] = {"x264": DiffH264, "revmark": _revmark, "jpeg": DiffJPEG, "none": attacks.Identity}
REAL: dict[str, Callable[..., Any]] = {"libjpeg": RealJPEG} | {name: partial(RealCodec, name) for name in ENCODERS}
CLASSES: dict[str, Callable[..., Any]] = {
    name: getattr(attacks, name) for name in attacks.__all__ if inspect.isclass(getattr(attacks, name))
} | {
    c.__name__: c
    for c in (Adapted, BlockMotion, CompNet, DiffH264, DiffJPEG, JPEGDrop, JPEGMask, NoMotion, RealCodec, RealJPEG, motion.SPyNet)
}  # fmt: skip
NAMES = SIMULATORS | REAL | CLASSES
# names used elsewhere; the error suggests ours
ELSEWHERE = {
    "h264": "x264", "avc": "x264", "diffh264": "x264", "h265": "libx265", "x265": "libx265", "hevc": "libx265", "vp9": "libvpx-vp9",
    "av1": "libsvtav1", "svtav1": "libsvtav1", "diffjpeg": "jpeg", "jpg": "jpeg", "identity": "none", "drop": "FrameDrop", "noise": "GaussianNoise",
    "blur": "GaussianBlur", "crop": "RandomCrop", "mixture": "RandomDistortion", "sequential": "Compose",
}  # fmt: skip
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})-({_NUMBER})")
_FILES = (".json", ".yaml", ".yml")


def build(spec: Layer | Adapted | str | os.PathLike[str] | Mapping[str, Any], **defaults: Any) -> Any:
    """Make a layer from its description.

    Args:
        spec: one of

            - ``"name:option=value,option=value"``; a value is a number, a range ``18-34``, a choice ``28|34|40``, a Python literal, or a word;
            - a mapping of ``name`` and arguments, as ``layer.config()`` returns it. A list of two numbers is a range, ``[18, 34]``, a longer one
              an error; choices are ``{"choice": [28, 34], "weights": [2, 1]}``, schedules ``{"ramp": [0, 0.1], "start": 0, "stop": 1000}`` and
              ``{"steps": {"0": 0.0, "3000": 0.1}}``, one value per sample ``{"values": [20, 30]}``; nested layers (``layers`` of a
              "RandomDistortion" or "Compose", ``gradient`` of a real codec) are descriptions too;
            - VideoSeal's ``augs`` and ``augs_params``, or OmniSealBench's list of attacks, unchanged (:mod:`diffcodec.foreign`);
            - the path of a JSON or YAML file that holds one of these (YAML needs the package pyyaml);
            - a layer, which is returned unchanged.

            Names are those of diffcodec's classes, short names (x264, revmark, jpeg, none, libx264, libx265, libvpx-vp9, libsvtav1, libjpeg),
            entry points in the group "diffcodec.layers", and ``package.module:Class`` for any other class. A description can name any class
            that can be imported: build only descriptions that you trust.
        **defaults: arguments that the description does not give; for a mapping or string that names one layer.

    Returns:
        A :class:`Layer`, or the wrapper that :func:`adapt` makes ("Adapted", with the argument ``layer``).

    Raises:
        ValueError: unknown name, an unknown or invalid argument, a file that is not JSON or YAML; the message names the place.
        FileNotFoundError: no such file.
        ImportError: a YAML file without the package pyyaml.

    Example:
        >>> import diffcodec as dc
        >>> dc.build("x264:crf=18-34,preset=veryfast").config()["crf"]
        [18, 34]
        >>> mixture = {"name": "RandomDistortion", "layers": ["x264:crf=18-34", "FrameDrop:p=0.2|0.5|0.8"], "weights": [3, 1]}
        >>> dc.build(dc.build(mixture).config()).config() == dc.build(mixture).config()
        True
    """
    if isinstance(spec, (Layer, Adapted)):
        return spec
    made = built(spec, defaults)
    if not isinstance(made, (Layer, Adapted)):
        raise ValueError(f"{_shown(spec)} is a {type(made).__name__}, not a layer")
    return made


def build_all(spec: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Layer]:
    """Make several layers, by name.

    Args:
        spec: a mapping of names to descriptions (:func:`build`), VideoSeal's ``augs``, OmniSealBench's list of attacks (one layer per value), or
            the path of a JSON or YAML file with one of these.

    Raises:
        ValueError, FileNotFoundError, ImportError: as for :func:`build`.

    Example:
        >>> import diffcodec as dc
        >>> list(dc.build_all({"JPEG": {"func": "omnisealbench.attacks.valuemetric.JPEG", "args": {"quality": [40, 80]}}}))
        ['JPEG quality=40', 'JPEG quality=80']
    """
    if isinstance(spec, str) and not spec.lower().endswith(_FILES):
        raise ValueError(f"expected a mapping of names and descriptions, or a file of them ({', '.join(_FILES)}), got {spec!r}")
    data = _read(spec) if isinstance(spec, (str, os.PathLike)) else spec
    if not isinstance(data, Mapping):
        raise ValueError(f"expected a mapping of names and descriptions, got {_shown(data)}")
    try:
        if foreign.is_omniseal(data):
            data = foreign.omniseal(data)
        elif "augs" in data:
            data = {name: d for name, (d, _) in foreign.videoseal(data).items()}
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{_shown(data)}: {error}") from error
    return {str(name): build(one) for name, one in data.items()}


def built(spec: Any, defaults: Mapping[str, Any]) -> Any:
    """:func:`build` for anything that can be described, layers or not."""
    try:
        return _built(spec, defaults)
    except (TypeError, AttributeError) as error:  # a value of the wrong type
        raise ValueError(f"{_shown(spec)}: {error}") from error


def _built(spec: Any, defaults: Mapping[str, Any]) -> Any:
    if isinstance(spec, os.PathLike) or (isinstance(spec, str) and spec.lower().endswith(_FILES)):
        try:
            return built(_read(spec), defaults)
        except ValueError as error:
            raise ValueError(f"{os.fspath(spec)}: {error}") from error
    if isinstance(spec, str):
        name, options = parse(spec)
        return _make(name, options, defaults, repr(spec))
    if not isinstance(spec, Mapping):
        raise ValueError(f"expected a name, a mapping or a file, got {_shown(spec)}; several layers are a RandomDistortion or a Compose")
    if foreign.is_omniseal(spec):
        return attacks.RandomDistortion(list(build_all(spec).values()))
    if "augs" in spec:
        described = foreign.videoseal(spec).values()
        layers = [build(one) for one, _ in described]
        mixtures = [attacks.RandomDistortion(layers, [share for _, share in described]) for _ in range(int(spec.get("num_augs", 1)))]
        return mixtures[0] if len(mixtures) == 1 else attacks.Compose(mixtures)
    options = dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"expected a mapping with 'name', got one with {', '.join(map(repr, spec)) or 'nothing'}")
    return _make(name, {str(k): _decoded(v, f"{name}.{k}", k) for k, v in options.items()}, defaults, repr(name))


def _make(name: str, described: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> Any:
    maker, options = find(name), {**defaults, **described}
    if isinstance(inside := options.get("layers"), list):
        options = {**options, "layers": [one if isinstance(one, nn.Module) else built(one, {}) for one in inside]}
    if isinstance(inside := options.get("layer"), str):
        options = {**options, "layer": built(inside, {})}
    try:
        made = maker(**options)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: {error}") from error
    if isinstance(made, Layer):
        for key in made.strengths():
            if isinstance(values := described.get(key), list):
                raise ValueError(
                    f"{where}: {key}={values!r}: a range is a list of two numbers; values to choose from are {{'choice': {values!r}}}, one value per"
                    f" sample {{'values': {values!r}}}"
                )
    return made


def find(name: str, among: Mapping[str, Callable[..., Any]] | None = None) -> Callable[..., Any]:
    """The class or function behind a name: one of ``among`` (default: ours), ``package.module:Class``, or an entry point.

    Raises:
        ValueError: unknown name; the message suggests the nearest one.
    """
    table = NAMES if among is None else among
    if name in table:
        return table[name]
    if ":" in name:
        return _imported(name)
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.name == name:
            return point.load()  # type: ignore[no-any-return]
    lower = {known.lower(): known for known in table}
    near = ELSEWHERE.get(name.lower()) or next(iter(difflib.get_close_matches(name.lower(), lower, 1)), None)
    near = lower.get(near.lower()) if near else None
    hint = f"; did you mean {near!r}?" if near else ";"
    raise ValueError(f"unknown layer {name!r}{hint} expected one of {', '.join(map(repr, table))}, or package.module:Class")


def _imported(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be imported: {error}") from error
    return found


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """Split ``name:option=value,option=value`` into name and options. A name may be ``package.module:Class``.

    Raises:
        ValueError: an option without a value.
    """
    name = spec.partition(":")[0]
    if name not in NAMES and (path := re.match(r"[\w.]+:[A-Za-z_][\w.]*(?=:|$)", spec)):
        name = path.group()
    options: dict[str, Any] = {}
    for part in split_commas(spec[len(name) + 1 :]):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"{spec!r}: expected name:option=value,option=value; {part!r} is not one")
        options[key.strip()] = _value(value.strip())
    return name, options


def split_commas(text: str) -> list[str]:
    """Split at the commas that are neither in brackets nor in quotes; empty parts are left out."""
    out, depth, quote = [""], 0, ""
    for c in text:
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        depth += (c in "([{") - (c in ")]}") if not quote else 0
        if c == "," and depth == 0 and not quote:
            out.append("")
        else:
            out[-1] += c
    return [part for part in out if part]


def _value(text: str) -> Any:
    """``18-34`` is a range, ``28|34`` a choice, the rest a Python literal or a word."""
    if pair := _RANGE.fullmatch(text):
        return tuple(_number(v) for v in pair.groups())
    if "|" in text and all(re.fullmatch(_NUMBER, v.strip()) for v in text.split("|")):
        return Choice([_number(v.strip()) for v in text.split("|")])
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return _range_or_list(value) if isinstance(value, list) else value


def _range_or_list(value: Sequence[Any]) -> Any:
    """Two numbers as a range: in a description, which knows no batch and, in JSON, no tuples, a list of two is none of values by sample."""
    pair = len(value) == 2 and all(isinstance(v, Real) and not isinstance(v, bool) for v in value)
    return tuple(value) if pair else list(value)


def _number(text: str) -> float:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def _read(path: Any) -> Any:
    text = Path(path).read_text()
    if str(path).lower().endswith(".json"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"no JSON: {error}") from error
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"{path}: YAML needs pip install pyyaml") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {error}") from error


def _decoded(value: Any, where: str, key: str = "") -> Any:
    """An argument from its description."""
    if isinstance(value, str):
        return _value(value) if _RANGE.fullmatch(value) or "|" in value else value
    if isinstance(value, (list, tuple)):
        value = _range_or_list(value)
        return (
            value
            if isinstance(value, tuple)
            else [v if key == "layers" and isinstance(v, (str, Mapping)) else _decoded(v, f"{where}[{i}]") for i, v in enumerate(value)]
        )
    if not isinstance(value, Mapping):
        return value
    if "choice" in value:
        return _strict(Choice, where, value, ("weights",), values=value["choice"], weights=value.get("weights"))
    if "ramp" in value:
        if not isinstance(value["ramp"], (list, tuple)) or len(value["ramp"]) != 2:
            raise ValueError(f"{where}: ramp expected [first, last], got {value['ramp']!r}")
        first, last = (tuple(v) if isinstance(v, list) else v for v in value["ramp"])
        return _strict(
            Ramp, where, value, ("start", "stop"), first=first, last=last, start=value.get("start", 0), stop=value.get("stop", 0)
        )
    if "steps" in value:
        if not isinstance(value["steps"], Mapping):
            raise ValueError(f"{where}: steps expected a mapping of steps and values, got {value['steps']!r}")
        if wrong := [k for k in value["steps"] if not re.fullmatch(r"\d+", str(k))]:
            raise ValueError(f"{where}: steps expected whole numbers, got {wrong[0]!r}")
        return _strict(Steps, where, value, (), values={int(k): _decoded(v, where) for k, v in value["steps"].items()})
    if "values" in value and len(value) == 1:
        try:
            return torch.tensor(value["values"], dtype=torch.float32, device="cpu")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: values expected a list of numbers, got {value['values']!r}") from error
    if "object" in value and len(value) == 1:
        return _imported(value["object"])
    if "name" in value:
        return built(value, {})
    return {k: _decoded(v, f"{where}.{k}") for k, v in value.items()}


def _strict(kind: Callable[..., Any], where: str, value: Mapping[str, Any], others: tuple[str, ...], **arguments: Any) -> Any:
    """A choice or schedule; ``others`` are the further keys that it may have."""
    named = kind.__name__.lower()
    if extra := [k for k in value if k not in (named, *others)]:
        raise ValueError(f"{where}: {extra[0]!r} cannot be combined with {named!r}")
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def describe_arguments(made: Buildable) -> dict[str, Any]:
    """Implementation of :meth:`diffcodec.buildable.Buildable.config`."""
    given, options = made.arguments
    signature = inspect.signature(type(made).__init__)
    bound = signature.bind(made, *given, **options)
    bound.apply_defaults()
    arguments = dict(list(bound.arguments.items())[1:])
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL and arguments.pop(name, ()):
            raise TypeError(f"{type(made).__name__} got positional *args, which a description by name cannot hold")
    now: dict[str, Any] = {}  # strengths and members of a view differ from the constructor's arguments
    if isinstance(made, Layer):
        now = {k: v.value for k, v in made.strengths().items()}
    if isinstance(made, nn.Module):
        # a child module may have the name of a numeric argument
        now |= {k: v for k, v in made.named_children() if k in arguments and not isinstance(arguments[k], Real)}
    name = _name(type(made))
    usual = {key: p.default for key, p in signature.parameters.items()}
    values = {key: now.get(key, value) for key, value in arguments.items()}
    return {"name": name} | {
        key: _encoded(value, f"{name}.{key}") for key, value in values.items() if value is not None or usual.get(key) is not None
    }  # fmt: skip


def _name(kind: type) -> str:
    if issubclass(kind, DiffH264) and kind.model in DiffH264.models and DiffH264.models[kind.model] is kind:
        return "DiffH264"
    return kind.__name__ if CLASSES.get(kind.__name__) is kind else _path(kind, kind.__name__)


def _path(found: Any, where: str) -> str:
    """``module:name`` of a class or function.

    Raises:
        TypeError: it cannot be imported by that path.
    """
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", "")
    path = f"{module}:{name}"
    try:
        same = "<" not in name and module not in (None, "__main__") and _imported(path) is found
    except ValueError:
        same = False
    if not same:
        raise TypeError(f"{where}: {found!r} has no name that it can be imported by, so it cannot be written down; define it in a module")
    return path


def _encoded(value: Any, where: str) -> Any:
    """An argument as plain data."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Fraction, os.PathLike)):
        return str(value)
    if isinstance(value, Strength):
        return _encoded(value.value, where)
    if isinstance(value, Buildable):
        return value.config()
    if isinstance(value, Choice):
        return {"choice": [_encoded(v, where) for v in value.values]} | ({} if value.weights is None else {"weights": list(value.weights)})
    if isinstance(value, Ramp):
        return {"ramp": [_encoded(value.first, where), _encoded(value.last, where)], "start": value.start, "stop": value.stop}
    if isinstance(value, Steps):
        return {"steps": {str(k): _encoded(v, where) for k, v in value.values.items()}}
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        plain = value.tolist()
        return {"values": plain} if isinstance(plain, list) else plain
    if isinstance(value, Mapping):
        return {str(k): _encoded(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, nn.ModuleList) or (isinstance(value, Iterable) and not isinstance(value, nn.Module)):
        return [_encoded(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return {"name": _path(type(value), where)} | {k: _encoded(v, f"{where}.{k}") for k, v in fields.items() if v is not None}
    if isinstance(value, nn.Module):
        if value.state_dict():
            raise TypeError(f"{where}: {type(value).__name__} has weights of its own: a description cannot hold them")
        try:
            plain = repr(type(value)()) == repr(value) and not list(value.children())
        except TypeError:
            plain = False
        if not plain:
            raise TypeError(f"{where}: {value!r} does not keep its arguments: make it a diffcodec.Layer to describe it")
        return {"name": _path(type(value), where)}
    return {"object": _path(value, where)}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
