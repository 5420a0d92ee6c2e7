"""Weights files: safetensors with the model's configuration in the metadata; shipped ones are found by name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffcodec.files import replacing, sha256

from . import checkpoint
from .blocks import channels_last
from .checkpoint import CheckpointError
from .config import Config
from .heldout import recorded
from .model import Detector, REVMark

FOLDER = Path(__file__).parent / "weights"
# of the files in the package: SHA-256
SHIPPED = {
    "base": "f636728c1057547d31f216788a9994dfcea25e5d35c4871ad98d667474c9a53f",
    "small": "b261475125f79ee95dc71f8a3da74f576e38a919c9e3992935fabf30794d9477",
    "small-detector": "c1625cd9dae2e8eef8dd1bffcfed4d047d4f920014a91d42d3b2a6d9c6d15c25",
}


def find(name: str | os.PathLike[str]) -> Path:
    """The file of shipped weights by name, or a file by path.

    Raises:
        CheckpointError: there is no such name or file.
    """
    path = Path(name)
    if path.suffix == "" and (FOLDER / f"{name}.safetensors").is_file():
        return FOLDER / f"{name}.safetensors"
    if path.is_file():
        return path
    raise CheckpointError(f"{name}: no such weights file; shipped ones are {', '.join(SHIPPED)}")


def export(run: Path, out: Path, notes: Mapping[str, object] | None = None) -> None:
    """Write the weights of a checkpoint (or of the newest one of a run) as float16.

    The metadata hold their configuration, the step, and names and hashes of the videos trained on and of those held out ("data").

    Raises:
        CheckpointError: there is no intact checkpoint.
        VideoError: the file cannot be written.
    """
    from safetensors.torch import save_file

    if not run.is_dir():
        raise CheckpointError(f"{run}: no such folder; expected the --out of a training, or a checkpoint in it")
    found = checkpoint.newest(run / "checkpoints") if (run / "checkpoints").is_dir() else checkpoint.read(run)
    if found is None:
        raise CheckpointError(f"{run}: no checkpoint found")
    state, groups = found
    weights = {k: v.half() if v.is_floating_point() else v for k, v in groups["model"].items()}
    meta = {"config": json.dumps(state["config"]), "step": str(state["step"]), "notes": json.dumps(dict(notes or {}))}
    whole = run if (run / "checkpoints").is_dir() else run.parent.parent
    if (told := recorded(whole)) is not None:
        meta["data"] = json.dumps(told)
    with replacing(out) as temporary:
        save_file(weights, temporary, metadata=meta)


def load(name: str | os.PathLike[str]) -> tuple[REVMark, Config]:
    """A model in evaluation mode, and the configuration that it was trained with.

    Args:
        name: "base", "small", or a file that :func:`export` wrote.

    Raises:
        CheckpointError: missing, damaged, not weights of revmark, or of a model with SPyNet and :func:`load_spynet` found none.
    """
    weights, meta = read(find(name))
    if "config" not in meta:
        raise CheckpointError(f"{name}: not a weights file of revmark (no configuration in its metadata)")
    try:
        config = Config.from_json(meta["config"])
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from error
    net = REVMark(config.model)
    fill(net, weights, name)
    load_spynet(net)
    channels_last(net)
    return net.eval(), config


def load_spynet(net: REVMark, path: str | os.PathLike[str] | None = None) -> None:
    """Load and freeze SPyNet, if it is the model's motion estimator: its published weights may not be shipped, and are in no file of ours.

    Args:
        net: any model.
        path: file that :meth:`diffcodec.motion.SPyNet.load` reads; None for that of the environment variable ``REVMARK_SPYNET``.

    Raises:
        CheckpointError: no file is named.
        FileNotFoundError, ValueError: it is missing, or holds no SPyNet.
    """
    if net.model.motion != "spynet":
        return
    path = path or os.environ.get("REVMARK_SPYNET")
    if not path:
        raise CheckpointError(
            "motion 'spynet' needs SPyNet's weights, which are for non-commercial research and not shipped:"
            " set REVMARK_SPYNET to their file (revmark train: --spynet FILE)"
        )
    net.motion.load(Path(path))  # type: ignore[attr-defined]
    net.motion.requires_grad_(False)  # type: ignore[attr-defined]


def is_detector(name: str | os.PathLike[str]) -> bool:
    """Whether weights are those of a detector of marked frames.

    Raises:
        CheckpointError: missing or damaged.
    """
    return "detector" in read(find(name))[1]


def load_detector(name: str | os.PathLike[str]) -> tuple[Detector, tuple[int, int]]:
    """A detector in evaluation mode, and the frame size (height, width) in pixels that it takes.

    Raises:
        CheckpointError: missing, damaged, or not a detector.
    """
    weights, meta = read(find(name))
    if "detector" not in meta:
        raise CheckpointError(f"{name}: not a weights file of a detector")
    try:
        told = json.loads(meta["detector"])
        net = Detector(told["width"], told["folded"] and tuple(told["folded"]))
        height, width = told["frame"]
    except checkpoint.BROKEN as error:
        raise CheckpointError(f"{name}: its metadata of a detector are damaged ({error!r})") from error
    fill(net, weights, name)
    return net.eval(), (int(height), int(width))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a weights file.

    Raises:
        CheckpointError: damaged, values not finite, or a shipped file that was changed.
    """
    from safetensors import SafetensorError, safe_open

    if path.parent == FOLDER and path.stem in SHIPPED and sha256(path) != SHIPPED[path.stem]:
        raise CheckpointError(f"{path}: damaged (its hash is not that of the shipped file); reinstall diffcodec")
    try:
        with safe_open(path, "pt") as file:
            tensors, meta = {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged, or not a safetensors file ({error})") from error
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity: damaged, or from a training that diverged")
    return tensors, meta


def fill(net: torch.nn.Module, weights: Mapping[str, Tensor], name: object) -> None:
    """Load weights into a network; SPyNet's, which are not distributed, may be missing.

    Raises:
        CheckpointError: tensors are missing or do not fit.
    """
    own = net.state_dict()
    missing = [k for k in own if k not in weights and "motion." not in k]
    wrong = [k for k in weights if k not in own or own[k].shape != weights[k].shape]
    if missing or wrong:
        raise CheckpointError(f"{name}: {len(missing)} tensors missing, {len(wrong)} do not fit: weights of another model or version")
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()}, strict=False)
