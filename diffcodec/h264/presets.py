"""x264's presets (common/base.c), and the constants fitted to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from ..checks import require
from ..ops.residual.reference import QuantSettings
from ..ops.residual.trellis import Trellis
from .bits import Weights


@dataclass(frozen=True)
class Preset:
    """The settings of an x264 preset that affect the decoded picture, with x264's options.

    Attributes:
        bframes: maximum number of consecutive B frames (``--bframes``).
        references: number of past anchors that a P frame may refer to (``--ref``).
        adaptive: whether quantisation is adaptive (``--aq-mode 1``).
        aq_strength: strength of adaptive quantisation (``--aq-strength``).
        tree: whether there is a macroblock tree (``--mbtree``).
        subpel: resolution of motion vectors: 1 (whole pixels), 2 (half) or 4 (quarter).
        subme: effort of decisions (``--subme``): costs are SATD from 2; macroblock types are chosen by rate and distortion from 6 (B frames: 7),
            intra modes from 8 (B frames: 9); psy-RD acts from 6.
        trellis: rate-distortion optimised quantisation (``--trellis``): 0: none (dead zones); 1: in the final coding; 2: in mode decisions as well.
        psy: strength of psy-RD (``--psy-rd``).
        psy_trellis: strength of psy-trellis, of which only the effect on the chroma QP is modelled.
        direct: whether B macroblocks may be spatial direct (``--direct spatial``) and skipped.
        partitions: whether inter macroblocks are partitioned (16x8, 8x16, 8x8).
        small_intra: whether there are intra 8x8 and 4x4 macroblocks.
        transform8: whether there is an 8x8 transform (``--8x8dct``).
        deblock: whether there is a loop filter.
        deblock_offset: both offsets of its strength (``--deblock o:o``).
        cabac: whether entropy coding is CABAC (``--cabac``); CAVLC is modelled by a constant factor on the bits.
        decimate: whether blocks with few small levels are dropped (off: ``--no-dct-decimate``).
        deadzone: dead zones of inter and intra luma in 1/64 of a step (``--deadzone-inter``, ``--deadzone-intra``).
        qcomp, ip_ratio, pb_ratio: rate control (``--qcomp``, ``--ipratio``, ``--pbratio``).
        keyint: maximum distance between I frames (``--keyint``).
        min_keyint: minimum distance (``--min-keyint``), 0 for x264's default.
        scenecut: threshold of scene cuts (``--scenecut``), 0 for none.
        family: preset family whose calibration is used: "ultrafast", "veryfast", "medium" or "slow".
    """

    bframes: int = 3
    references: int = 1
    adaptive: bool = True
    aq_strength: float = 1.0
    tree: bool = True
    subpel: int = 4
    subme: int = 2
    trellis: int = 0
    psy: float = 1.0
    psy_trellis: float = 0.0
    direct: bool = True
    partitions: bool = True
    small_intra: bool = True
    transform8: bool = True
    deblock: bool = True
    deblock_offset: int = 0
    cabac: bool = True
    decimate: bool = True
    deadzone: tuple[int, int] = (21, 11)
    qcomp: float = 0.6
    ip_ratio: float = 1.4
    pb_ratio: float = 1.3
    keyint: int = 250
    min_keyint: int = 0
    scenecut: int = 40
    family: str = "veryfast"

    @property
    def satd(self) -> bool:
        """Whether costs are SATD rather than SAD."""
        return self.subme > 1

    @property
    def psy_rd(self) -> float:
        """Strength of psy-RD where it acts, else 0."""
        return self.psy if self.subme >= 6 else 0.0

    @property
    def chroma_offset(self) -> int:
        """Offset of the chroma QP, 0 or below: psy-RD and psy-trellis lower it, as they make luma coarser."""
        return -sum(bool(v) + (v >= 0.25) for v in (self.psy_rd, self.psy_trellis if self.trellis else 0.0))

    def least_keyint(self, fps: float) -> int:
        """Minimum distance between I frames, within which a scene cut has to be clearer (x264's ``--min-keyint``)."""
        asked = self.min_keyint or min(self.keyint // 10, int(fps))
        return max(1, min(asked, self.keyint // 2 + 1))

    def rate_distortion(self, frame_type: str) -> int:
        """Which decisions in frames of a type (I, P, B) are made by rate and distortion: 0: none; 1: macroblock types; 2: intra modes as well."""
        subme = self.subme - (frame_type == "B")
        return (subme >= 6) + (subme >= 8)


#: libx264's presets by name, ultrafast to slower, each a :class:`Preset`.
PRESETS = {
    "ultrafast": Preset(
        bframes=0, adaptive=False, tree=False, subpel=1, subme=0, partitions=False, small_intra=False, transform8=False, deblock=False, scenecut=0,
        cabac=False, family="ultrafast",
    ),
    "superfast": Preset(tree=False, subme=1, partitions=False),
    "veryfast": Preset(),
    "faster": Preset(references=2, subme=4, trellis=1, family="medium"),
    "fast": Preset(references=2, subme=6, trellis=1, family="medium"),
    "medium": Preset(references=3, subme=7, trellis=1, family="medium"),
    "slow": Preset(references=5, subme=8, trellis=2, family="slow"),
    "slower": Preset(references=8, subme=9, trellis=2, family="slow"),
}  # fmt: skip


@dataclass(frozen=True)
class FittedTo:
    """The encoder and its settings whose coding constants were fitted to.

    Attributes:
        encoder: as :class:`~diffcodec.RealCodec` names it.
        preset: its preset.
        options: its options (tune and profile among them), by ffmpeg's or x264's names.
    """

    encoder: str
    preset: str
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", {str(k): str(v) for k, v in self.options.items()})

    def __str__(self) -> str:
        return ", ".join([self.encoder, f"preset={self.preset}", *(f"{k}={v}" for k, v in self.options.items())])


@dataclass(frozen=True)
class Constants:
    """Constants fitted to a real encoder, one set per preset family (``benchmarks/calibrate.py``).

    Attributes:
        quant: rounding offsets, and weights of the trellis.
        intra_bias: factor on the intra cost in P frames.
        qp: offset added to every QP.
        rate: bits per unit of each rate feature.
        fitted_to: encoder and settings; a layer with other settings refuses them. None for constants of any settings: those made by hand.
    """

    quant: QuantSettings = field(default_factory=lambda: QuantSettings(trellis=Trellis()))
    intra_bias: float = 1.1
    qp: float = 0.0
    rate: Weights = field(default_factory=Weights)
    fitted_to: FittedTo | None = None

    def __str__(self) -> str:
        return f"Constants({self.fitted_to or 'custom'})"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "fitted_to" or value is not None}

    @staticmethod
    def load(path: str | PathLike[str]) -> Constants:
        """Read a file that ``benchmarks/calibrate.py`` wrote.

        The encoder's settings that it records belong to the constants. A file without them is as constants made by hand, of any settings.

        Raises:
            ValueError: it is no such file.
        """
        try:
            data = json.loads(Path(path).read_text())
            return Constants.from_dict({"fitted_to": _fitted_to(data), **data["constants"]})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no file of constants as benchmarks.calibrate writes them: {error!r}") from error

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Constants:
        """Inverse of :meth:`to_dict`.

        Raises:
            TypeError: unknown names.
            KeyError: ``quant`` or ``rate`` is missing.
        """
        quant, fitted_to = dict(data["quant"]), data.get("fitted_to")
        if quant.get("trellis") is not None:
            quant["trellis"] = Trellis(**quant["trellis"])
        parts = {
            "quant": QuantSettings(**quant),
            "rate": Weights(**data["rate"]),
            "fitted_to": FittedTo(**fitted_to) if fitted_to else None,
        }
        return Constants(**(data | parts))


def _fitted_to(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of :class:`FittedTo` from what ``benchmarks/calibrate.py`` records."""
    encoder = record.get("encoder")
    return {"encoder": encoder["name"], "preset": encoder["preset"], "options": encoder["options"]} if encoder else None


FAMILIES = ("ultrafast", "veryfast", "medium", "slow")


@lru_cache
def calibration(family: str) -> dict[str, Any]:
    """The stored calibration of a preset family.

    Args:
        family: "ultrafast", "veryfast", "medium" or "slow".

    Returns:
        ``constants``, as :meth:`Constants.from_dict` takes them, and a record of the fit: clips, CRFs, versions, command.

    Raises:
        ValueError: unknown family.
    """
    require("family", family, list(FAMILIES))
    text = (resources.files(__package__) / "calibration" / f"{family}.json").read_text()
    data: dict[str, Any] = json.loads(text)
    data["constants"]["fitted_to"] = _fitted_to(data)
    return data


def constants_of(preset: Preset) -> Constants:
    """Constants of a preset's family, for each of its presets, tunes and options."""
    return replace(Constants.from_dict(calibration(preset.family)["constants"]), fitted_to=None)


CAVLC_BITS = 1.15  # factor on CABAC's bits: CABAC saves 10 to 15 %


def quantiser(preset: Preset, constants: Constants, decisions: bool = False) -> QuantSettings:
    """Settings of the quantiser in the final coding, or in mode decisions (``decisions``)."""
    quant = constants.quant
    inter, intra = (q + (d - own) / 64 for q, d, own in ((quant.inter, 21, preset.deadzone[0]), (quant.intra, 11, preset.deadzone[1])))
    weights = quant.trellis or Trellis()
    if not preset.cabac:
        weights = replace(weights, intra=CAVLC_BITS * weights.intra, inter=CAVLC_BITS * weights.inter)
    trellis = weights if preset.trellis > decisions else None
    return replace(quant, inter=inter, intra=intra, trellis=trellis, decimate=quant.decimate and preset.decimate)
