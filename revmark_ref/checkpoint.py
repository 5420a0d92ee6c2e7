"""Checkpoints: safetensors and JSON in a folder that is written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.files import sync_folder
from diffcodec.media import NO_SPACE

STATE, STATE_HASH = "state.json", "state.sha256"
BROKEN = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
    MemoryError,
)  # what reading damaged JSON can raise


class CheckpointError(ValueError):
    """A checkpoint or weights file that is missing, damaged, or of another model; the message names it."""


def save(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write ``folder/step-00001000`` with one safetensors file for each group of tensors and a JSON file that holds their hashes.

    Args:
        folder: where checkpoints lie; made if missing.
        step: number of steps done.
        tensors: groups by file name without ending.
        state: further state that JSON can hold.
        keep: number of newest checkpoints to keep; older ones are deleted.

    Returns:
        The folder of the checkpoint.

    Raises:
        CheckpointError: it could not be written; no partial checkpoint is left behind.
    """
    from safetensors.torch import save as to_bytes

    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".writing-*"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    final = folder / f"step-{step:08d}"
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        hashes = {}
        for name, group in tensors.items():
            data = to_bytes({k: v.detach().cpu().contiguous() for k, v in group.items()})
            hashes[name] = hashlib.sha256(data).hexdigest()
            _write(temporary / f"{name}.safetensors", data)
        text = json.dumps({"step": step, "sha256": hashes, **state}, indent=1).encode()
        _write(temporary / STATE, text)
        _write(temporary / STATE_HASH, hashlib.sha256(text).hexdigest().encode())
        sync_folder(temporary)
        if final.exists():  # a run resumed from an earlier step has reached this one again
            shutil.rmtree(final)
        os.replace(temporary, final)
        sync_folder(folder)
    except OSError as error:
        what = "no space left" if error.errno in NO_SPACE else (error.strerror or str(error))
        raise CheckpointError(f"{final}: cannot be written ({what}); older checkpoints are untouched") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in every(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def every(folder: Path) -> list[Path]:
    """Checkpoints of a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir())


def read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """State and groups of tensors of one checkpoint.

    Raises:
        CheckpointError: files are missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        text = (path / STATE).read_bytes()
        if (path / STATE_HASH).read_text().strip() != hashlib.sha256(text).hexdigest():
            raise CheckpointError(f"{path}: {STATE} is damaged (its hash is not the one that was written)")
        state = json.loads(text)
        groups = {}
        for name, digest in state["sha256"].items():
            data = (path / f"{name}.safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                raise CheckpointError(f"{path}: {name}.safetensors is damaged (its hash is not the one that was written)")
            groups[name] = from_bytes(data)
    except CheckpointError:
        raise
    except (OSError, SafetensorError, *BROKEN) as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({error})") from error
    return state, groups


def newest(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """The newest intact checkpoint of a folder; damaged ones are skipped with a warning. None if the folder has no checkpoints.

    Raises:
        CheckpointError: all checkpoints are damaged.
    """
    found = every(folder)
    for path in found[::-1]:
        try:
            return read(path)
        except CheckpointError as error:
            warnings.warn(f"{error}; skipped", stacklevel=2)
    if found:
        raise CheckpointError(f"{folder}: all {len(found)} checkpoints are damaged")
    return None


def small(weights: Mapping[str, Tensor], budget: float) -> dict[str, Tensor]:
    """Weights in float32 if that fits a budget, else in float16.

    Args:
        weights: tensors by name.
        budget: in MiB.

    Raises:
        CheckpointError: not even float16 fits.
    """
    for dtype in (torch.float32, torch.float16):
        out = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
        size = sum(v.numel() * v.element_size() for v in out.values())
        if size + 65536 <= budget * 2**20:  # names and state come to less than 64 KiB
            return out
    raise CheckpointError(f"a checkpoint budget of {budget:g} MiB is too small: the weights alone take {size / 2**20:.1f} MiB in float16")


def moments(net: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser for each parameter, keyed by ``kind/name of the parameter``."""
    return {f"{kind}/{name}": v for name, p in net.named_parameters() for kind, v in optimiser.state.get(p, {}).items()}


def set_moments(net: nn.Module, optimiser: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`moments`."""
    parameters = dict(net.named_parameters())
    for key, value in moments.items():
        kind, name = key.split("/", 1)
        p = parameters[name]
        if kind == "step":
            optimiser.state[p][kind] = value.clone()
        else:
            optimiser.state[p][kind] = torch.empty_like(p, memory_format=torch.preserve_format).copy_(value)
