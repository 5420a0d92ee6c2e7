"""Configurations of other libraries, converted to descriptions for :func:`diffcodec.build`.

VideoSeal's training takes ``augs`` (name: share) and ``augs_params`` (name: arguments); OmniSealBench's evaluation takes a list of attacks, each
with a function name and lists of values. Differences: a resize is undone, so that sizes stay; one scale applies to both axes; a crop is scaled up
to the full frame; H.264 is simulated; hue is rotated in the CbCr plane. An attack without a layer here is an error, unless its share is 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

Description = dict[str, Any]


def _span(low: float, high: float) -> Any:
    """A range, or a number if both ends are equal."""
    return low if low == high else [low, high]


def _range(options: Mapping[str, Any], key: str, low: float, high: float) -> Any:
    return _span(options.get(f"min_{key}", low), options.get(f"max_{key}", high))


def _sigma(kernel: float) -> float:
    """Standard deviation that torchvision and OpenCV use for a window of this size."""
    return round(0.3 * ((kernel - 1) * 0.5 - 1) + 0.8, 4)


def _odd(kernel: float) -> int:
    return int(kernel) | 1


def _blur(options: Mapping[str, Any]) -> Description:
    low, high = (_odd(options.get(f"{end}_kernel_size", k)) for end, k in (("min", 3), ("max", 17)))
    return {"name": "GaussianBlur", "sigma": _span(_sigma(low), _sigma(high)), "kernel": high, "over": "space"}


def _median(options: Mapping[str, Any]) -> Description:
    low, high = (_odd(options.get(f"{end}_kernel_size", 3)) for end in ("min", "max"))
    each: list[Description] = [{"name": "MedianFilter", "kernel": k} for k in range(low, high + 1, 2)]
    return each[0] if len(each) == 1 else {"name": "RandomDistortion", "layers": each}


def _rotate(options: Mapping[str, Any]) -> Description:
    low, high = options.get("min_angle", -10), options.get("max_angle", 10)
    plain, *turned = ({"name": "Rotate", "degrees": _span(low + a, high + a)} for a in (0, -90, 90))
    return {"name": "RandomDistortion", "layers": [plain, *turned], "weights": [2, 1, 1]} if options.get("do90") else plain


def _crf(options: Mapping[str, Any]) -> Any:
    if "crf_values" in options:
        return {"choice": list(options["crf_values"])}
    return _range(options, "crf", 28, 40)


def _rgb(options: Mapping[str, Any]) -> Description:
    warnings.warn("h264rgb has no simulator: DiffH264, which codes Y'CbCr 4:2:0, is used instead", stacklevel=2)
    return {"name": "x264", "crf": _crf(options), "fps": 24}


def _video(options: Mapping[str, Any]) -> Description:
    options = {"codec": "libx264", "fps": 24, "crf_values": [28, 34, 40, 46], **options}
    if options["codec"] == "libx264rgb":
        return _rgb(options)
    return {"name": "x264" if options["codec"] == "libx264" else options["codec"], "crf": _crf(options), "fps": options["fps"]}


def _range_of(name: str, argument: str, key: str, low: float, high: float, **more: Any) -> Callable[[Mapping[str, Any]], Description]:
    return lambda o: {"name": name, argument: _range(o, key, low, high), **more}


_QUIET = ("passthrough",)  # selects VideoSeal's straight-through gradient; ignored, as these layers have their own
# by VideoSeal's name: names of its arguments, and the description made from them
VIDEOSEAL: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Description]]] = {
    "identity": ((), lambda o: {"name": "Identity"}),
    "jpeg": (("min_quality", "max_quality", *_QUIET), _range_of("DiffJPEG", "quality", "quality", 40, 80)),
    "resize": (("min_size", "max_size"), _range_of("Resize", "scale", "size", 0.7, 1.5)),
    "crop": (("min_size", "max_size"), _range_of("RandomCrop", "p", "size", 0.5, 1.0, mode="resize")),
    "rotate": (("min_angle", "max_angle", "do90"), _rotate),
    "hflip": ((), lambda o: {"name": "Flip", "p": 1.0}),
    "perspective": (
        ("min_distortion_scale", "max_distortion_scale"), _range_of("Perspective", "distortion", "distortion_scale", 0.1, 0.5),
    ),
    "gaussian_blur": (("min_kernel_size", "max_kernel_size"), _blur),
    "median_filter": (("min_kernel_size", "max_kernel_size", *_QUIET), _median),
    "brightness": (("min_factor", "max_factor"), _range_of("Brightness", "factor", "factor", 0.5, 2.0)),
    "contrast": (("min_factor", "max_factor"), _range_of("Contrast", "factor", "factor", 0.5, 2.0)),
    "saturation": (("min_factor", "max_factor"), _range_of("Saturation", "factor", "factor", 0.5, 2.0)),
    "hue": (("min_factor", "max_factor"), _range_of("Hue", "turn", "factor", -0.1, 0.1)),
    "gaussian_noise": (("min_std", "max_std"), _range_of("GaussianNoise", "sigma", "std", 0.05, 0.2)),
    "grayscale": ((), lambda o: {"name": "Saturation", "factor": 0.0}),
    "video_compression": (("codec", "fps", "crf_values"), _video),
    "h264": (("min_crf", "max_crf"), lambda o: {"name": "x264", "crf": _crf(o), "fps": 24}),
    "h264rgb": (("min_crf", "max_crf"), _rgb),
    "h265": (("min_crf", "max_crf"), lambda o: {"name": "libx265", "crf": _crf(o), "fps": 24}),
    "drop_frame": (("drop_frame_prob",), lambda o: {"name": "FrameDrop", "p": o.get("drop_frame_prob", 0.125)}),
}  # fmt: skip

# OmniSealBench's functions: (name here, the argument that its values go to, further arguments)
_OMNISEAL: dict[str, tuple[str, str, Description]] = {
    "horizontalflip": ("Flip", "", {"p": 1.0}),
    "hflip": ("Flip", "", {"p": 1.0}),
    "rotate": ("Rotate", "degrees", {}),
    "resize": ("Resize", "scale", {}),
    "crop": ("RandomCrop", "p", {"mode": "resize"}),
    "perspective": ("Perspective", "distortion", {}),
    "brightness": ("Brightness", "factor", {}),
    "contrast": ("Contrast", "factor", {}),
    "saturation": ("Saturation", "factor", {}),
    "hue": ("Hue", "turn", {}),
    "grayscale": ("Saturation", "", {"factor": 0.0}),
    "jpeg": ("DiffJPEG", "quality", {}),
    "gaussianblur": ("GaussianBlur", "kernel", {"over": "space"}),
    "medianfilter": ("MedianFilter", "kernel", {}),
    "h264": ("x264", "crf", {"fps": 24}),
    "h264rgb": ("x264", "crf", {"fps": 24}),
    "h265": ("libx265", "crf", {"fps": 24}),
    "vp9": ("libvpx-vp9", "crf", {"fps": 24}),
}


def videoseal(spec: Mapping[str, Any]) -> dict[str, tuple[Description, float]]:
    """Descriptions of VideoSeal's augmentations.

    Args:
        spec: a mapping with ``augs`` and, optionally, ``augs_params``, ``num_augs`` and ``masks``.

    Returns:
        By name the description and the share of each augmentation; those with share 0 are left out.

    Raises:
        ValueError: an augmentation or argument that is not supported, no share above 0, or masks of a kind other than "none" or "full".
    """
    masks = (spec.get("masks") or {}).get("kind")
    if masks not in (None, "none", "full"):
        raise ValueError(f"masks of kind {masks!r}: no layer here restores the unmarked picture outside a mask")
    augs, parameters = spec["augs"], spec.get("augs_params") or {}
    for name, value in (("augs", augs), ("augs_params", parameters)):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} expected a mapping of names, got {value!r}")
    if stray := [key for key in spec if key.startswith("aug") and key not in ("augs", "augs_params")]:
        raise ValueError(f"{stray[0]!r} is no key of VideoSeal's configuration: expected augs, augs_params, num_augs, masks")
    if stray := [name for name in parameters if name not in augs and name not in VIDEOSEAL]:
        raise ValueError(f"augs_params: {stray[0]!r} is not in augs: {', '.join(augs)}")
    out = {}
    for name, share in augs.items():
        if not share:
            continue
        if name not in VIDEOSEAL:
            raise ValueError(f"augs: {name!r} has no layer here; there are {', '.join(VIDEOSEAL)}")
        known, describe = VIDEOSEAL[name]
        options = parameters.get(name) or {}
        if stray := [key for key in options if key not in known]:
            raise ValueError(f"augs_params: {name} has no {stray[0]!r}; it takes {', '.join(known) or 'nothing'}")
        out[name] = (describe(options), float(share))
    if not out:
        raise ValueError("augs: every share is 0")
    return out


def is_omniseal(spec: Mapping[str, Any]) -> bool:
    """Whether a mapping is a list of attacks in OmniSealBench's format."""
    return bool(spec) and all(isinstance(v, Mapping) and "func" in v for v in spec.values())


def omniseal(spec: Mapping[str, Any]) -> dict[str, Description]:
    """Descriptions of OmniSealBench's attacks.

    Args:
        spec: by title a mapping with ``func``, a dotted function name, and ``args``, lists of values by argument.

    Returns:
        One description per value, under names such as "JPEG quality=40".

    Raises:
        ValueError: an attack without a layer here, or arguments of another form.
    """
    out: dict[str, Description] = {}
    for title, entry in spec.items():
        function = str(entry["func"]).rpartition(".")[2]
        arguments = entry.get("args") or {}
        if not isinstance(arguments, Mapping):
            raise ValueError(f"{title}: args expected a mapping, got {arguments!r}")
        combined = function.split("_")
        if len(combined) > 1 and "xargs" in arguments:
            for values in arguments["xargs"]:
                if len(values) != len(combined):
                    raise ValueError(f"{title}: {function} expected {len(combined)} values, got {values!r}")
                layers = [_one(title, part, value) for part, value in zip(combined, values)]
                out[f"{title} {values}"] = {"name": "Compose", "layers": layers}
            continue
        if len(arguments) > 1:
            raise ValueError(f"{title}: {function} expected values of one argument, got {', '.join(map(repr, arguments))}")
        values = next(iter(arguments.values()), [None])
        label = next(iter(arguments), "")
        for value in values if isinstance(values, list) else [values]:
            out[title if value is None else f"{title} {label}={value}"] = _one(title, function, value)
    return out


def _one(title: str, function: str, value: Any) -> Description:
    key = function.lower().removeprefix("adjust_").replace("_", "")
    if key not in _OMNISEAL:
        raise ValueError(f"{title}: {function!r} has no layer here; there are {', '.join(_OMNISEAL)}")
    name, argument, more = _OMNISEAL[key]
    if key == "h264rgb":
        return _rgb({"crf_values": [value]})
    if key == "vp9" and value == -1:  # the encoder's own choice
        value = 32
    if key == "gaussianblur":
        return {"name": name, "sigma": _sigma(_odd(value)), argument: _odd(value), **more}
    if key == "medianfilter":
        value = _odd(value)
    return {"name": name, **({argument: value} if argument and value is not None else {}), **more}
