"""Configuration of a model and its training, with the paper's values and their sources. Everything here can be written to JSON and read back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffcodec.checks import require
from diffcodec.strength import Ramp

MAPPINGS = ("linear", "spread", "waves")
MOTIONS = ("block", "spynet", "none")
DISTORTIONS = ("none", "jpeg", "compnet", "revmark", "x264", "exact")


def described(name: str) -> bool:
    """Whether the name of a distortion is a description for :func:`diffcodec.build` (``name:option=value``, ``package.module:Class`` or a file)."""
    return ":" in name or name.lower().endswith((".json", ".yaml", ".yml"))


@dataclass(frozen=True)
class Model:
    """Architecture of encoder and decoder. Defaults are the paper's (section 4.1; widths and sizes of layers from its public code).

    Attributes:
        bits: payload L (section 4.1: 96).
        frames, height, width: size of the clip that carries one message (section 4.1: 8 x 128 x 128).
        mapping: how the message is mapped to a volume: "linear" (section 3.2: one linear layer, upsampled), "spread" (every bit over the whole
            clip, following DVMark; :class:`revmark_ref.mapping.Spread`), or "waves" (no network: one wave per bit and a perceptual mask;
            :mod:`revmark_ref.waves`; of the fields below only ``tile`` is used).
        widths: channels of each level of the encoder's U-Net; each level after the first halves time, height and width.
        decoder_widths: channels of the decoder's strided convolutions.
        hidden: width of the decoder's first linear layer.
        convs: convolutions per level of encoder and decoder.
        patch: factor of the pixel unshuffle before the first convolution (1: none), to save computation.
        tas: use TAsBlock in encoder and decoder (section 3.1).
        motion: motion estimator of TAsBlock: "block" (block matching), "spynet" (the paper's; its weights are not included) or "none".
        target: index of TAsBlock's target frame (code: 4).
        tile: side in pixels of the patterns of "spread", and spatial period of "waves".
        sigma: the residual is clipped at this many standard deviations, twice (code: 7).
    """

    bits: int = 96
    frames: int = 8
    height: int = 128
    width: int = 128
    mapping: str = "linear"
    widths: tuple[int, ...] = (16, 32, 64, 128)
    decoder_widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    hidden: int = 512
    convs: int = 2
    patch: int = 1
    tas: bool = True
    motion: str = "block"
    target: int = 4
    tile: int = 16
    sigma: float = 7.0

    def __post_init__(self) -> None:
        require("mapping", self.mapping, MAPPINGS)
        require("motion", self.motion, MOTIONS)
        for name in ("bits", "frames", "height", "width", "hidden", "convs", "patch", "tile"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} expected a whole number >= 1, got {value!r}")
        for name in ("widths", "decoder_widths"):
            value = tuple(getattr(self, name))
            if not value or not all(isinstance(v, int) and v >= 1 for v in value):
                raise ValueError(f"{name} expected whole numbers >= 1, got {value!r}")
            object.__setattr__(self, name, value)
        side = self.side
        if self.height % side or self.width % side:
            raise ValueError(f"height and width expected multiples of {side}, got {self.height} x {self.width}")
        if not 0 <= self.target < self.frames:
            raise ValueError(f"target expected a frame of 0..{self.frames - 1}, got {self.target}")
        if not self.sigma > 0:
            raise ValueError(f"sigma expected a number above 0, got {self.sigma!r}")

        least = 2 ** (len(self.widths) - 1)
        if self.frames % least:
            raise ValueError(f"frames expected a multiple of {least}, got {self.frames}")

    @property
    def side(self) -> int:
        """Height and width must be multiples of this."""
        least = self.patch * 2 ** (len(self.widths) - 1)
        return math.lcm(least, 8 if self.mapping == "linear" else self.tile)

    def alpha(self, alpha: float) -> float:
        """Strength at this clip size for the PSNR that the paper's ``alpha``, the residual's norm per frame, gives at 3 x 128 x 128."""
        return alpha * math.sqrt(self.height * self.width / (128 * 128))


@dataclass(frozen=True)
class Training:
    """How a model is trained. Defaults are the paper's (sections 3.3, 3.6, 4.1); the steps of the ramps are those of its public code.

    Attributes:
        steps: optimiser steps (60 K).
        batch: clips per step and process (16).
        accumulate: micro-batches per step (gradient accumulation).
        lr, discriminator_lr: learning rates of Adam (1e-4, 1e-5).
        halve_every: both learning rates are halved after every so many steps (30 K).
        warmup: steps over which the learning rates rise from 0.
        alpha: strength of eq. (2), on the [-1, 1] scale at 128 x 128: 20 -> 6.2 over steps 1500..2000.
        message_weight: lambda_1 of eq. (20).
        adversarial_weight: lambda_2: 0 -> 5e-4 over steps 3000..10000.
        mask_weight: lambda_3: 0 -> 10 over steps 2000..4000.
        spatial_mask, temporal_mask: lambda_MS = 200, lambda_MT = 5 of eq. (19).
        distortion: (step, name) pairs: the compression layer used from that step on. Names are those in ``DISTORTIONS`` or descriptions for
            :func:`diffcodec.build`: with a colon, such as ``package.module:Class``, or a file. Before the first pair, and for the name "none",
            nothing is distorted. Paper: the simulator from step 3000 on.
        attacks_in_none: keep the other attacks of the mixture for "none" as well.
        codec_share: probability of compression in the mixture (.86); six attacks share the rest.
        attack_weights: relative weights of these attacks: average, drop, swap, crop, noise, blur (equal).
        crf: range of CRF that "x264", "exact" and "compnet" draw from, per clip.
        codec_preset: preset of libx264 and its simulator.
        quality: range of quality that "jpeg" draws from.
        exact_gradient: gradient of "exact": "best" (the guided simulator) or "identity".
        restart_below, restart_at: a run whose bit accuracy is below ``restart_below`` at step ``restart_at`` is restarted with another seed (code:
            .8, 1500); a ``restart_below`` of 0 disables this.
        seed: of weights, order, messages and distortions.
        validate_every, save_every: in steps.
        clip_gradient: maximum norm of the gradient of encoder and decoder.
    """

    steps: int = 60000
    batch: int = 16
    accumulate: int = 1
    lr: float = 1e-4
    discriminator_lr: float = 1e-5
    halve_every: int = 30000
    warmup: int = 0
    alpha: Ramp = field(default_factory=lambda: Ramp(20.0, 6.2, 1500, 2000))
    message_weight: float = 1.0
    adversarial_weight: Ramp = field(default_factory=lambda: Ramp(0.0, 5e-4, 3000, 10000))
    mask_weight: Ramp = field(default_factory=lambda: Ramp(0.0, 10.0, 2000, 4000))
    spatial_mask: float = 200.0
    temporal_mask: float = 5.0
    distortion: tuple[tuple[int, str], ...] = ((3000, "revmark"),)
    attacks_in_none: bool = False
    codec_share: float = 0.86
    attack_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    crf: tuple[float, float] = (18.0, 28.0)
    codec_preset: str = "medium"
    quality: tuple[float, float] = (40.0, 90.0)
    exact_gradient: str = "best"
    restart_below: float = 0.8
    restart_at: int = 1500
    seed: int = 0
    validate_every: int = 1000
    save_every: int = 500
    clip_gradient: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "halve_every", "validate_every", "save_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} expected a whole number >= 1, got {value!r}")
        for name in ("lr", "discriminator_lr", "clip_gradient"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} expected a number above 0, got {getattr(self, name)!r}")
        if not 0 <= self.codec_share <= 1:
            raise ValueError(f"codec_share expected to lie in [0, 1], got {self.codec_share!r}")
        if len(self.attack_weights) != 6 or min(self.attack_weights) < 0 or sum(self.attack_weights) <= 0:
            raise ValueError(f"attack_weights expected six numbers >= 0, not all 0, got {self.attack_weights!r}")
        require("exact_gradient", self.exact_gradient, ["best", "identity"])
        stages = tuple((int(step), str(name)) for step, name in self.distortion)
        for step, name in stages:
            if not described(name):
                require("distortion", name, DISTORTIONS)
            if step < 0:
                raise ValueError(f"distortion expected steps >= 0, got {step} for {name!r}")
        if [s for s, _ in stages] != sorted({s for s, _ in stages}):
            raise ValueError(f"distortion expected stages in the order of their steps, got {stages}")
        object.__setattr__(self, "distortion", stages)
        object.__setattr__(self, "crf", tuple(self.crf))
        object.__setattr__(self, "quality", tuple(self.quality))

    def at(self, name: str, step: int) -> float:
        """Value of "alpha", "adversarial_weight" or "mask_weight" at a step."""
        return float(getattr(self, name)(step))

    def stage(self, step: int) -> str | None:
        """Name of the compression layer at a step; None before the first stage."""
        names = [name for start, name in self.distortion if start <= step]
        return names[-1] if names else None


@dataclass(frozen=True)
class Config:
    """A preset: model and training."""

    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: not JSON, unknown fields, or values out of range.
        """
        try:
            data = json.loads(text)
            return cls(_make(Model, data["model"]), _make(Training, data["training"]))
        except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(f"not a configuration of revmark: {error}") from error

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """A copy with some fields replaced; names are those of :class:`Model` and :class:`Training`.

        Raises:
            ValueError: unknown field, or a value out of range.
        """
        parts: dict[str, dict[str, Any]] = {"model": {}, "training": {}}
        for name, value in values.items():
            for part in parts:
                if name in {f.name for f in dataclasses.fields(getattr(self, part))}:
                    try:
                        parts[part][name] = _as(value, getattr(getattr(self, part), name))
                    except ValueError as error:
                        raise ValueError(f"{name}: {error}") from error
                    break
            else:
                known = ", ".join(sorted(f.name for p in (self.model, self.training) for f in dataclasses.fields(p)))
                raise ValueError(f"no field {name!r}; expected one of {known}")
        return Config(dataclasses.replace(self.model, **parts["model"]), dataclasses.replace(self.training, **parts["training"]))


def _as(value: Any, like: Any) -> Any:
    """A value from JSON or a command line, converted to the type of the value it replaces."""
    if isinstance(like, Ramp):
        if isinstance(value, Ramp):
            return value
        if isinstance(value, Mapping):
            return Ramp(**value)
        if isinstance(value, (tuple, list)) and len(value) == 4:
            return Ramp(float(value[0]), float(value[1]), int(value[2]), int(value[3]))
        if isinstance(value, (int, float)):
            return Ramp(float(value), float(value), 0, 0)
        raise ValueError(f"expected a number or (first, last, start, stop), got {value!r}")
    if isinstance(like, tuple) and isinstance(value, list):
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    if isinstance(like, bool):
        if str(value).lower() not in ("true", "false"):  # as Python, JSON and shells spell it
            raise ValueError(f"expected True or False, got {value!r}")
        return str(value).lower() == "true"
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(like) is not type(value):
        raise ValueError(f"expected a value like {like!r}, got {value!r}")
    return value


def _make(kind: Any, data: Mapping[str, Any]) -> Any:
    blank = kind()
    unknown = set(data) - {f.name for f in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {sorted(unknown)[0]!r}")
    return kind(**{name: _as(value, getattr(blank, name)) for name, value in data.items()})


PRESETS: dict[str, Config] = {
    "paper": Config(),
    # Trains on two CPU cores in an hour. Bits start as patterns that the decoder already reads (mapping "spread"), so training has no plateau.
    "small": Config(
        Model(
            bits=32, height=64, width=64, mapping="spread", widths=(16, 32, 64), decoder_widths=(16, 32, 64, 128), hidden=128, convs=1,
            patch=2, tas=False, motion="none",
        ),
        Training(
            steps=700, batch=8, lr=3e-4, discriminator_lr=1e-4, halve_every=300, warmup=100,
            alpha=Ramp(6.5, 6.5, 0, 0), adversarial_weight=Ramp(0.0, 5e-4, 200, 500), mask_weight=Ramp(0.0, 1.0, 200, 500),
            distortion=((0, "x264"), (500, "exact")), crf=(18.0, 32.0), codec_share=0.6,
            attack_weights=(0.5, 1.5, 0.5, 2.0, 0.5, 1.0),
            restart_below=0.0, validate_every=100, save_every=50,
        ),
    ),
    # The paper's own mapping on a task that trains on two CPU cores in half an hour: the message is learnt at the paper's initial strength, which is
    # then reduced over steps 400..800; compression starts only after that.
    "linear-small": Config(
        Model(
            bits=32, height=64, width=64, widths=(16, 32, 64), decoder_widths=(16, 32, 64, 128), hidden=128, convs=1, patch=2, tas=False,
            motion="none",
        ),
        Training(
            steps=1400, batch=8, lr=1e-3, halve_every=900, warmup=20, alpha=Ramp(20.0, 6.5, 400, 800),
            adversarial_weight=Ramp(0.0, 0.0, 0, 0), mask_weight=Ramp(0.0, 0.0, 0, 0),
            distortion=((0, "none"), (900, "x264")), crf=(18.0, 36.0), codec_share=0.9, restart_below=0.0, validate_every=100, save_every=100,
        ),
    ),
    # The mark of revmark_ref.waves at the paper's size: about two hundred parameters, initialised near their final values.
    "base": Config(
        Model(mapping="waves", tile=32, tas=False, motion="none"),
        Training(
            steps=300, batch=8, lr=1e-2, halve_every=150, warmup=10, alpha=Ramp(6.2, 6.2, 0, 0), adversarial_weight=Ramp(0.0, 0.0, 0, 0),
            mask_weight=Ramp(0.0, 0.0, 0, 0), distortion=((0, "x264"), (200, "exact")), crf=(18.0, 34.0), codec_share=0.6,
            attack_weights=(0.5, 1.5, 0.5, 2.0, 0.5, 1.0), restart_below=0.0, validate_every=100, save_every=50,
        ),
    ),
}  # fmt: skip
