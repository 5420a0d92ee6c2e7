"""A training run and its folder: plan, set-up, saving and resuming."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from diffcodec.layer import Draw

from . import checkpoint, weights
from .blocks import channels_last
from .config import Config
from .data import Order, TrainingClips, gather
from .distortion import Distortion, fit_compnet
from .heldout import Split, continued, hold_out, recorded
from .model import Discriminator, REVMark


class System(nn.Module):
    """Encoder, distortion, decoder as one module, so that data parallelism wraps one."""

    def __init__(self, net: REVMark, distortion: Distortion) -> None:
        super().__init__()
        self.net, self.distortion = net, distortion

    def forward(self, clip: Tensor, message: Tensor, alpha: float, draw: Draw | None, step: int) -> tuple[Tensor, Tensor]:
        """Marked clip and logits. Shape: ``[B, T, 3, H, W], [B, L] -> [B, T, 3, H, W], [B, L]``."""
        marked = self.net.embed(clip, message, alpha)
        return marked, self.net.extract(self.distortion(marked, draw, step))


@dataclasses.dataclass
class Plan:
    """Settings of a run: configuration, data, output and limits.

    Attributes:
        config: configuration of model and training.
        data: folder of videos, packed file, or "synthetic".
        out: folder of the run.
        resume: resume from the newest intact checkpoint in ``out``.
        start: weights file or run to initialise from (step 0, new optimiser state), for runs with a common first stage.
        workers: data loader processes; 0 loads in the main process, on a GPU from videos held in its memory.
        mixed_precision: "no" or "bf16".
        compile: compile encoder and decoder.
        budget: maximum size of a checkpoint in MiB: weights only, so that Adam's state restarts and the learning rate warms up again after a resume.
            None saves everything.
        until: save and stop after this step, for machines that are available for a limited time.
        minutes: save and stop after this many minutes.
        tensorboard: also write a TensorBoard log.
        spynet: file of SPyNet weights, for ``motion="spynet"``, in TAsBlock and in the distortion "revmark"; None for ``REVMARK_SPYNET``.
        quiet: no progress bar.
        validation: folder of videos or packed file to validate on; copies of them in ``data`` are not trained on.
        validation_share: share of the videos of ``data``, by hash, that is held out and validated on instead, at least one; None for 5 %, 0 for
            none. A resumed run keeps its split, which its ``data.json`` records.
    """

    config: Config
    data: str | os.PathLike[str]
    out: Path
    resume: bool = False
    start: Path | None = None
    workers: int = 0
    mixed_precision: str = "no"
    compile: bool = False
    budget: float | None = None
    until: int | None = None
    minutes: float | None = None
    tensorboard: bool = False
    spynet: Path | None = None
    quiet: bool = False
    validation: str | os.PathLike[str] | None = None
    validation_share: float | None = None


class Run:
    """Networks, optimisers, data and step of a run, from its plan or its newest checkpoint.

    Raises:
        ValueError: ``out`` already holds a run and ``resume`` is False, SPyNet's weights are missing, or the videos cannot be split as
            requested.
        CheckpointError: the checkpoints are damaged or of another model.
        VideoError: no usable data.
    """

    def __init__(self, plan: Plan) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        self.plan, self.config = plan, plan.config
        training = self.config.training
        self.folder = plan.out / "checkpoints"
        found = self._found()
        if found is not None:
            # a run that was restarted continues with its current seed
            seed = found[0].get("seed", training.seed)
            training = dataclasses.replace(training, seed=seed)
            self.config = Config(self.config.model, training)
        self.accelerator = Accelerator(
            mixed_precision=plan.mixed_precision,
            gradient_accumulation_steps=training.accumulate,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.main = self.accelerator.is_main_process
        torch.manual_seed(training.seed)
        net = REVMark(self.config.model)
        discriminator = Discriminator(patch=self.config.model.patch)
        weights.load_spynet(net, plan.spynet)
        if plan.start is not None and found is None:
            weights.fill(net, start_weights(plan.start), plan.start)
        model = self.config.model
        self.split = self._split(old=found is not None)
        self.data = TrainingClips(self.split.training, model.frames, (model.height, model.width), training.seed)
        # clips that are measured on: of videos that are not trained on, if there are any
        self.others = (
            TrainingClips(self.split.validation, model.frames, (model.height, model.width), training.seed)
            if self.split.validation
            else self.data
        )
        distortion = Distortion(training, net.motion if model.motion == "spynet" else None)
        if "compnet" in distortion.codecs:
            self._fit(distortion)
        device = self.accelerator.device
        for network in (net, discriminator):
            channels_last(network.to(device))
        self.net, self.discriminator = net, discriminator
        self.net_optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=training.lr)
        self.discriminator_optimiser = torch.optim.Adam(discriminator.parameters(), lr=training.discriminator_lr)
        self.step, self.rewarm = 0, -1
        if found is not None:
            self._restore(*found)
        if plan.compile:
            net.encoder.compile()
            net.decoder.compile()
        world = self.accelerator.num_processes
        per_step = training.accumulate * world  # local batches
        order = Order(training.batch, self.step * per_step, training.steps * per_step)
        if device.type == "cuda" and plan.workers == 0:
            self.data.videos = [v.to(device) for v in self.data.videos]
        loader: Any = DataLoader(self.data, batch_sampler=order, num_workers=plan.workers)
        self.system: Any = System(self.net, distortion)
        prepared = self.accelerator.prepare(self.system, self.discriminator, self.net_optimiser, self.discriminator_optimiser, loader)
        self.system, self.wrapped, self.optimiser, self.other, self.loader = prepared

    # --- checkpoints --------------------------------------------------------------------------------------------------------------

    def _found(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
        if self.plan.resume:
            return checkpoint.newest(self.folder)
        if checkpoint.every(self.folder):
            raise ValueError(f"{self.plan.out} holds a run already: --resume continues it, another --out starts a new one")
        return None

    def _split(self, old: bool) -> Split:
        """Read the videos and hold some out, or those that a resumed run has held out."""
        plan, model, seed = self.plan, self.config.model, self.config.training.seed
        size, quiet = (model.height, model.width), plan.quiet or not self.main
        given = None if plan.validation is None else gather(plan.validation, model.frames, size, seed, quiet)
        videos = gather(plan.data, model.frames, size, seed, quiet)
        wanted = (plan.validation_share, given)
        split = continued(videos, recorded(plan.out), *wanted) if old else hold_out(videos, *wanted)
        if self.main:
            if split.how == "none" and plan.validation_share != 0:
                why = "it was begun so" if old else "there is only one"
                warnings.warn(f"{plan.data}: {split.told()} ({why}); --validation DIR measures on other videos", stacklevel=2)
            elif not plan.quiet:
                print(split.told(), flush=True)
        return split

    def _save(self) -> None:
        self.accelerator.wait_for_everyone()
        if not self.main:
            return
        model, discriminator = self.net.state_dict(), self.discriminator.state_dict()
        if self.config.model.motion == "spynet":  # SPyNet's weights must not be redistributed
            model = {k: v for k, v in model.items() if "motion." not in k}
        state = {"seed": self.config.training.seed, "rewarm": self.rewarm, "config": json.loads(self.config.to_json())}
        if self.plan.budget is not None:
            joined = {f"model/{k}": v for k, v in model.items()} | {f"discriminator/{k}": v for k, v in discriminator.items()}
            fitted = checkpoint.small(joined, self.plan.budget)
            groups: dict[str, dict[str, Tensor]] = {
                part: {k.split("/", 1)[1]: v for k, v in fitted.items() if k.startswith(part + "/")} for part in ("model", "discriminator")
            }
            checkpoint.save(self.folder, self.step, groups, state, keep=1)
        else:
            groups = {"model": model, "discriminator": discriminator}
            groups["moments"] = checkpoint.moments(self.net, self.net_optimiser) | {
                f"discriminator/{k}": v for k, v in checkpoint.moments(self.discriminator, self.discriminator_optimiser).items()
            }
            checkpoint.save(self.folder, self.step, groups, state)

    def _restore(self, state: Mapping[str, Any], groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        if Config.from_json(json.dumps(state["config"])).model != self.config.model:
            raise checkpoint.CheckpointError(f"{self.folder} holds a run of another model: its config.json differs from what is requested")
        weights.fill(self.net, groups["model"], self.folder)
        weights.fill(self.discriminator, groups["discriminator"], self.folder)
        self.step, self.rewarm = state["step"], state["rewarm"]
        if "moments" not in groups:
            self.rewarm = self.step
            return
        moments = groups["moments"]
        checkpoint.set_moments(self.net, self.net_optimiser, {k: v for k, v in moments.items() if not k.startswith("discriminator/")})
        checkpoint.set_moments(
            self.discriminator,
            self.discriminator_optimiser,
            {k.split("/", 1)[1]: v for k, v in moments.items() if k.startswith("discriminator/")},
        )

    def _fit(self, distortion: Distortion) -> None:
        """Fit CompNet once and keep it in the run's folder."""
        net = distortion.codecs["compnet"]
        path = self.plan.out / "compnet"
        found = checkpoint.newest(path) if path.is_dir() else None
        if found is not None:
            net.load_state_dict(found[1]["model"])
            net.requires_grad_(False)
            return
        clips = [torch.stack([self.data[2**60 + 8 * i + j][0] for j in range(8)]) for i in range(32)]
        fit_compnet(net, clips, self.config.training)  # type: ignore[arg-type]
        if self.main:
            checkpoint.save(path, 0, {"model": net.state_dict()}, {})


def start_weights(path: Path) -> dict[str, Tensor]:
    """Initial weights from a safetensors file, a checkpoint, or the newest checkpoint of a run."""
    if path.is_dir():
        if (path / checkpoint.STATE).is_file():
            return checkpoint.read(path)[1]["model"]
        found = checkpoint.newest(path / "checkpoints")
        if found is None:
            raise checkpoint.CheckpointError(f"{path} holds no checkpoint")
        return found[1]["model"]
    return weights.read(weights.find(path))[0]
