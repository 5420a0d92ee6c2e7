"""What x264's presets do (its common/base.c), and what was fitted to them."""

from __future__ import annotations

import json
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
    """The habits of a preset that change the picture (x264's ``--preset``), in x264's words where it has one.

    Attributes:
        bframes: most B frames in a row.
        references: past anchors of a P frame (``--ref``).
        adaptive: adaptive quantisation (``--aq-mode 1``). aq_strength: its ``--aq-strength``. tree: macroblock tree (``--mbtree``).
        subpel: finest vectors, as a fraction of a pixel.
        subme: ``--subme``: costs are SATD from 2, kinds of macroblocks are chosen by rate and distortion from 6 (B frames: 7), intra modes from 8,
            psy-RD acts from 6.
        trellis: 0: dead zones; 1: levels by rate and distortion in the end; 2: in mode decisions as well.
        psy: strength of psy-RD. psy_trellis: of psy-trellis, of which the model knows the chroma QP alone.
        direct: whether B macroblocks may take the vectors of their neighbours (``--direct spatial``) and be skipped.
        partitions: whether inter macroblocks are divided. small_intra: intra 8x8 and 4x4.
        transform8: the 8x8 transform (``--8x8dct``). deblock: the loop filter. deblock_offset: of its strength, both offsets (``--deblock o:o``).
        cabac: ``--cabac``: else bits are CAVLC's, which the model knows as so many more of CABAC's.
        decimate: whether blocks with few levels are dropped (``--no-dct-decimate``).
        deadzone: of inter and intra luma, 64ths of a step (``--deadzone-inter``, ``--deadzone-intra``).
        qcomp, ip_ratio, pb_ratio: rate control (``--qcomp``, ``--ipratio``, ``--pbratio``).
        keyint: most frames from one I frame to the next; min_keyint: fewest, 0 for x264's own. scenecut: ``--scenecut``.
        family: preset whose calibration serves.
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
        """Of the chroma QP: finer with psy-RD, which makes luma coarser."""
        return -sum(bool(v) + (v >= 0.25) for v in (self.psy_rd, self.psy_trellis if self.trellis else 0.0))

    def least_keyint(self, fps: float) -> int:
        """Fewest frames from one I frame to the next, below which a scene cut has to be clearer (x264's ``--min-keyint``)."""
        asked = self.min_keyint or min(self.keyint // 10, int(fps))
        return max(1, min(asked, self.keyint // 2 + 1))

    def rate_distortion(self, frame_type: str) -> int:
        """How far decisions in frames of a type (I, P, B) go by rate and distortion: 0: not at all; 1: kinds of macroblocks; 2: intra modes, too."""
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
class Constants:
    """What is fitted to a real encoder, per preset family: see ``benchmarks/calibrate.py``.

    Attributes:
        quant: dead zones, and weights of the trellis.
        intra_bias: factor on the intra cost in P frames.
        qp: added to every QP.
        rate: what features weigh in bits.
    """

    quant: QuantSettings = field(default_factory=lambda: QuantSettings(trellis=Trellis()))
    intra_bias: float = 1.1
    qp: float = 0.0
    rate: Weights = field(default_factory=Weights)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)

    @staticmethod
    def load(path: str | PathLike[str]) -> Constants:
        """Those that ``benchmarks/calibrate.py`` wrote."""
        return Constants.from_dict(json.loads(Path(path).read_text())["constants"])

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Constants:
        """Inverse of :meth:`to_dict`.

        Raises:
            TypeError: unknown names.
        """
        quant = dict(data["quant"])
        if quant.get("trellis") is not None:
            quant["trellis"] = Trellis(**quant["trellis"])
        return Constants(**(data | {"quant": QuantSettings(**quant), "rate": Weights(**data["rate"])}))


FAMILIES = ("ultrafast", "veryfast", "medium", "slow")


@lru_cache
def calibration(family: str) -> dict[str, Any]:
    """The stored fit of a preset family: constants, and how they were found."""
    require("family", family, list(FAMILIES))
    text = (resources.files(__package__) / "calibration" / f"{family}.json").read_text()
    return json.loads(text)  # type: ignore[no-any-return]


def constants_of(preset: Preset) -> Constants:
    """Constants of a preset's family."""
    return Constants.from_dict(calibration(preset.family)["constants"])


CAVLC_BITS = 1.15  # against CABAC's, which were made to save 10 to 15 % of them


def quantiser(preset: Preset, constants: Constants, decisions: bool = False) -> QuantSettings:
    """How residuals are coded, in the end or while mode decisions compare."""
    quant = constants.quant
    inter, intra = (q + (d - own) / 64 for q, d, own in ((quant.inter, 21, preset.deadzone[0]), (quant.intra, 11, preset.deadzone[1])))
    weights = quant.trellis or Trellis()
    if not preset.cabac:
        weights = replace(weights, intra=CAVLC_BITS * weights.intra, inter=CAVLC_BITS * weights.inter)
    trellis = weights if preset.trellis > decisions else None
    return replace(quant, inter=inter, intra=intra, trellis=trellis, decimate=quant.decimate and preset.decimate)
