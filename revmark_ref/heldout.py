"""Which videos of a training are held out for its validation, and the record of it, ``data.json`` of the run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from diffcodec.files import replacing

from .checkpoint import BROKEN, CheckpointError

SHARE = 0.05  # of the videos, by default
RECORD = "data.json"


class Video(NamedTuple):
    """A video in memory."""

    name: str
    digest: str  # SHA-256 of the file (packed: of its pictures)
    frames: Tensor  # uint8 [T, 3, H, W]


@dataclasses.dataclass
class Split:
    """Videos that are trained on and others that are measured on.

    Attributes:
        training: never in ``validation``, nor a copy of one that is.
        validation: empty if there is none: then validation measures on the training videos.
        how: "share" (held out of the data), "given" (a folder of its own) or "none".
        share: of the videos that was to be held out, for "share".
    """

    training: list[Video]
    validation: list[Video]
    how: str
    share: float | None = None

    @property
    def measured(self) -> str:
        """Prefix of the figures of a validation: what they were measured on."""
        return "validation" if self.validation else "training"

    def told(self) -> str:
        """The split in words."""
        if not self.validation:
            return f"none of {len(self.training)} videos is held out; what validation measures on those that are trained on is named training/..."
        names = ", ".join(v.name for v in self.validation[:5]) + ", ..." * (len(self.validation) > 5)
        return f"training on {len(self.training)} videos, validation on {len(self.validation)} others: {names}"

    def record(self) -> dict[str, Any]:
        """Plain data for JSON: names and hashes of both parts."""
        return {
            "how": self.how,
            "share": self.share,
            **{
                part: [{"name": v.name, "sha256": v.digest} for v in videos]
                for part, videos in (("training", self.training), ("validation", self.validation))
            },
        }

    def write(self, run: Path) -> None:
        with replacing(run / RECORD) as path:
            path.write_text(json.dumps(self.record(), indent=1))


def recorded(run: Path) -> dict[str, Any] | None:
    """The record of a run; None for a run from before there was one.

    Raises:
        CheckpointError: it is damaged.
    """
    path = run / RECORD
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        if found["how"] not in ("share", "given", "none") or not all(isinstance(v["sha256"], str) for v in found["validation"]):
            raise ValueError("unknown content")
    except BROKEN as error:
        raise CheckpointError(f"{path}: damaged ({error}); without it the run cannot know which videos it holds out") from error
    return dict(found)


def hold_out(videos: Sequence[Video], share: float | None = None, given: Sequence[Video] | None = None) -> Split:
    """Split the videos of a new run.

    A video is held out if its hash, as a fraction of the largest hash, is below the share; so adding videos moves no other from one part to
    the other. If there is none, the one with the smallest hash is held out, and at least one is trained on. Copies of a video stay together.

    Args:
        videos: all that there are.
        share: in [0, 1); None for :data:`SHARE`, 0 for none.
        given: other videos to validate on; copies of them are not trained on.

    Raises:
        ValueError: a share out of range or beside ``given``, or nothing left to train on.
    """
    if given is not None:
        if share is not None:
            raise ValueError(f"--validation DIR and --validation-share {share:g} exclude each other: give one of them")
        taken = {v.digest for v in given}
        rest = [v for v in videos if v.digest not in taken]
        if not rest:
            raise ValueError(f"all {len(videos)} training videos are among those of --validation: nothing is left to train on")
        return Split(rest, list(given), "given")
    share = SHARE if share is None else share
    if not 0 <= share < 1:
        raise ValueError(f"--validation-share expected a number in [0, 1), got {share:g}")
    hashes = sorted({v.digest for v in videos})
    if share == 0 or len(hashes) < 2:
        return Split(list(videos), [], "none")
    held = {h for h in hashes if int(h[:16], 16) < share * 2**64} or {hashes[0]}
    held -= set() if len(held) < len(hashes) else {hashes[-1]}
    return Split([v for v in videos if v.digest not in held], [v for v in videos if v.digest in held], "share", share)


def continued(
    videos: Sequence[Video], record: dict[str, Any] | None, share: float | None = None, given: Sequence[Video] | None = None
) -> Split:
    """The split of a run that is resumed: that of its record.

    Args:
        videos, share, given: as in :func:`hold_out`.
        record: of :func:`recorded`.

    Raises:
        ValueError: something else is requested, or the videos that the run is validated on are not there.
    """
    how = "none" if record is None else record["how"]
    if how == "none":
        if share:
            raise ValueError(f"--validation-share {share:g}: this run has trained on all of its videos; --validation DIR takes others")
        if given is not None and (both := sorted({v.digest for v in given} & {v.digest for v in videos})):
            name = next(v.name for v in given if v.digest == both[0])
            raise ValueError(f"--validation: this run has trained on {len(both)} of these videos ({name}): give others")
        return Split(list(videos), list(given or []), "none" if given is None else "given")
    assert record is not None
    held = {v["sha256"]: v["name"] for v in record["validation"]}
    if how == "share":
        if given is not None:
            raise ValueError(
                f"--validation: this run holds out {len(held)} of its own videos; leave it out, or start a new run with another --out"
            )
        if share is not None and share != record["share"]:
            raise ValueError(f"--validation-share {share:g}: this run holds out {record['share']:g}; leave it out, or choose another --out")
    elif given is None:
        raise ValueError(f"this run is validated on {len(held)} videos given by --validation: give it again")
    found = list(videos) if given is None else list(given)
    missing = [name for digest, name in held.items() if digest not in {v.digest for v in found}]
    if missing or (given is not None and len({v.digest for v in given}) != len(held)):
        what = f"{missing[0]} is not among them" if missing else "there are others"
        raise ValueError(f"this run is validated on {len(held)} videos, and {what}: give it the same ones, or choose another --out")
    return Split([v for v in videos if v.digest not in held], [v for v in found if v.digest in held], how, record["share"])
