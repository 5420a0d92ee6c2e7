"""What x264's presets do (its common/base.c), and what was fitted to them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
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
    """The habits of a preset that change the picture (x264's ``--preset``).

    Attributes:
        bframes: most B frames in a row.
        references: past anchors of a P frame.
        adaptive: adaptive quantisation. tree: macroblock tree.
        subpel: finest vectors, as a fraction of a pixel.
        satd: whether costs are SATD rather than SAD.
        partitions: whether inter macroblocks are divided. small_intra: intra 8x8 and 4x4.
        transform8: the 8x8 transform. deblock: the loop filter.
        rate_distortion: whether kinds of macroblocks are chosen by rate and distortion.
        chroma_offset: of the chroma QP.
        family: preset whose calibration serves.
    """

    bframes: int = 3
    references: int = 1
    adaptive: bool = True
    tree: bool = True
    subpel: int = 4
    satd: bool = True
    partitions: bool = True
    small_intra: bool = True
    transform8: bool = True
    deblock: bool = True
    rate_distortion: bool = False
    chroma_offset: int = 0
    family: str = "veryfast"


PRESETS = {
    "ultrafast": Preset(
        bframes=0, adaptive=False, tree=False, subpel=1, satd=False, partitions=False, small_intra=False, transform8=False, deblock=False,
        family="ultrafast",
    ),
    "superfast": Preset(tree=False, satd=False, partitions=False),
    "veryfast": Preset(),
    "faster": Preset(references=2, family="medium"),
    "fast": Preset(references=2, rate_distortion=True, chroma_offset=-2, family="medium"),
    "medium": Preset(references=3, rate_distortion=True, chroma_offset=-2, family="medium"),
    "slow": Preset(references=5, rate_distortion=True, chroma_offset=-2, family="slow"),
    "slower": Preset(references=8, rate_distortion=True, chroma_offset=-2, family="slow"),
}  # fmt: skip


@dataclass(frozen=True)
class Constants:
    """What is fitted to a real encoder, per preset family: see ``benchmarks/calibrate.py``.

    Attributes:
        quant: dead zones, or weights of the trellis.
        intra_bias: factor on the intra cost in P frames.
        qp: added to every QP.
        rate: what features weigh in bits.
    """

    quant: QuantSettings = field(default_factory=QuantSettings)
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
