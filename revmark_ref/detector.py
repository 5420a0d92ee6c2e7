"""Training of the detector of marked frames (appendix A.2): fixed encoder, real attacks, binary cross-entropy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import diffcodec as dc
from diffcodec.files import replacing

from . import checkpoint
from .config import Config
from .data import TrainingClips, gather
from .distortion import ATTACKS
from .keys import generator, messages
from .model import Detector, REVMark


@dataclasses.dataclass
class DetectorPlan:
    """How a detector is trained.

    Attributes:
        data: folder of videos, packed file, or "synthetic".
        out: folder of the run.
        resume: resume from the newest intact checkpoint in ``out``.
        steps, batch: optimiser steps; clips per step.
        looks: frames used per clip, of the marked and the unmarked version each.
        lr: initial learning rate of Adam, with cosine decay.
        crf: range of the CRF of libx264.
        alpha: strength of the marks; None for the final one of the model's training.
        width: channels of the detector.
        seed: of everything drawn.
        minutes: save and stop after this many minutes.
        save_every: steps between checkpoints.
    """

    data: str | Path
    out: Path
    resume: bool = False
    steps: int = 2000
    batch: int = 8
    looks: int = 4
    lr: float = 1e-3
    crf: tuple[float, float] = (18.0, 28.0)
    alpha: float | None = None
    width: int = 32
    seed: int = 0
    minutes: float | None = None
    save_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "looks", "width", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} expected a whole number of at least 1, got {getattr(self, name)!r}")


def pairs(net: REVMark, clips: Tensor, samples: list[int], plan: DetectorPlan, alpha: float) -> tuple[Tensor, Tensor]:
    """Frames with their labels: each clip marked and unmarked, both under the same real attack.

    Shape: ``[B, T, 3, H, W] -> [2 B looks, 3, H, W], [2 B looks]``.
    """
    with torch.no_grad():
        marked = net.embed(clips, messages(plan.seed, samples, net.model.bits), alpha).clamp(0, 1)
        both = torch.stack([clips, (marked * 255).round() / 255])  # [2, B, T, 3, H, W]
        out = []
        names = [*ATTACKS, "x264", "none"]
        for i, k in enumerate(samples):
            g = generator(plan.seed, "detector", k)
            compressed = bool(torch.rand((), generator=g, dtype=torch.float32, device="cpu") < 0.5)
            kind = "x264" if compressed else names[int(torch.randint(len(names), (1,), generator=g, device="cpu"))]
            chosen = torch.randperm(clips.shape[1], generator=g, device="cpu")[: plan.looks]
            out.append(attacked(kind, both[:, i], g, plan.crf)[:, chosen])
    frames = torch.stack(out, 1)  # [2, B, looks, 3, H, W]
    labels = torch.zeros(frames.shape[:3], dtype=torch.float32, device="cpu")
    labels[1] = 1
    return frames.flatten(0, 2), labels.flatten()


def attacked(kind: str, pair: Tensor, g: torch.Generator, crf: tuple[float, float]) -> Tensor:
    """One attack, with one draw, on a marked and an unmarked clip. Shape: ``[2, T, 3, H, W]`` -> same."""
    if kind == "none":
        return pair
    layer = dc.RealCodec("libx264", crf=crf, gradient=None) if kind == "x264" else ATTACKS[kind]
    draw = layer.sample((1, *pair.shape[1:]), g)
    return torch.cat([layer(v[None], draw) for v in pair])


def train_detector(net: REVMark, config: Config, plan: DetectorPlan, report: Callable[[int, float, float], None] | None = None) -> Path:
    """Train a detector for a model.

    Returns:
        The weights file, ``out/detector.safetensors``.

    Raises:
        VideoError: no usable data.
        CheckpointError: a checkpoint cannot be read or written.
        ValueError: ``plan.out`` already holds a run, and ``plan.resume`` is False.
    """
    import time

    from safetensors.torch import save_file

    model = net.model
    alpha = config.training.at("alpha", config.training.steps) if plan.alpha is None else plan.alpha
    torch.manual_seed(plan.seed)
    detector = Detector.of(net, plan.width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(detector.parameters(), lr=plan.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.steps)
    step = 0
    folder = plan.out / "checkpoints"
    found = checkpoint.newest(folder) if plan.resume else None
    if found is None and checkpoint.every(folder):
        raise ValueError(f"{plan.out} holds a run already: --resume continues it, another --out starts a new one")
    if found is not None:
        state, groups = found
        step = state["step"]
        detector.load_state_dict(groups["model"])
        checkpoint.set_moments(detector, optimiser, groups["moments"])
        schedule.last_epoch = step
        for group, lr in zip(optimiser.param_groups, state["lr"]):
            group["lr"] = lr
    videos = gather(plan.data, model.frames, (model.height, model.width), plan.seed, quiet=report is None)
    data = TrainingClips(videos, model.frames, (model.height, model.width), plan.seed)
    began = time.monotonic()

    def keep() -> None:
        rates: Any = {"lr": [g["lr"] for g in optimiser.param_groups]}
        checkpoint.save(folder, step, {"model": detector.state_dict(), "moments": checkpoint.moments(detector, optimiser)}, rates)

    while step < plan.steps:
        samples = list(range(step * plan.batch, (step + 1) * plan.batch))
        clips = torch.stack([data[k][0] for k in samples])
        frames, labels = pairs(net, clips, samples, plan, alpha)
        logits = detector(frames)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        step += 1
        if report is not None:
            report(step, float(loss.detach()), float(((logits > 0) == (labels > 0.5)).float().mean()))
        late = plan.minutes is not None and time.monotonic() - began > 60 * plan.minutes
        if step % plan.save_every == 0 or step == plan.steps or late:
            keep()
        if late:
            break
    out = plan.out / "detector.safetensors"
    told = {
        "width": plan.width,
        "folded": detector.folded and list(detector.folded.shape),
        "frame": [model.height, model.width],
        "steps": step,
    }
    with replacing(out) as temporary:
        save_file({k: v.half().contiguous() for k, v in detector.state_dict().items()}, temporary, metadata={"detector": json.dumps(told)})
    return out
