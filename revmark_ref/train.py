"""The training loop. Devices, precision, processes and gradient accumulation are handled by Hugging Face Accelerate."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import diffcodec as dc
from diffcodec.command import ENDING

from . import checkpoint, losses
from .config import PRESETS, Config
from .distortion import ATTACKS
from .keys import messages
from .model import inside
from .progress import Clock, Pace
from .run import Plan, Run

REWARM = 200  # steps over which the learning rate warms up again after a resume without Adam's state


@dataclasses.dataclass
class Outcome:
    """How a run ended: "done", "stopped" (Ctrl-C or a signal), "paused" (``until`` or ``minutes``); the step reached, and the last running means."""

    why: str
    step: int
    figures: dict[str, float]


def train(plan: Plan) -> Outcome:
    """Train a model, or resume its training.

    Raises:
        CheckpointError: the run cannot be resumed (another model, all checkpoints damaged), a checkpoint cannot be written.
        VideoError: no usable data.
        ValueError: ``out`` already holds a run and ``resume`` is False, another process trains there, or the loss is no longer finite.
    """
    with _alone(plan.out):
        return _train(plan)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lock a folder against a second run; of a distributed run, only the first process takes the lock."""
    from filelock import FileLock, Timeout

    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{out}: another process trains here; wait for it, or choose another --out") from None
    except OSError as error:
        raise ValueError(f"{out}: cannot be made or written to ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()
        if new and [p.name for p in out.iterdir()] in ([".lock"], []):  # it ended before anything was written
            shutil.rmtree(out, ignore_errors=True)


def _train(plan: Plan) -> Outcome:
    while True:
        try:
            return _Training(plan).go()
        except _Plateau as plateau:
            training = dataclasses.replace(plan.config.training, seed=plan.config.training.seed + 1)
            print(f"{plateau}; beginning again with seed {training.seed}", flush=True)
            plan = dataclasses.replace(plan, config=Config(plan.config.model, training), resume=False)
            for old in checkpoint.every(plan.out / "checkpoints"):
                shutil.rmtree(old)


class _Plateau(Exception):
    """The run has not left the plateau: it does not learn the message."""


class _Training(Run):
    """A run and its loop over the steps."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.stop: str | None = None
        self.interrupted = False

    # --- one step ---------------------------------------------------------------------------------------------------------------

    def go(self) -> Outcome:
        training = self.config.training
        if self.main:
            self.plan.out.mkdir(parents=True, exist_ok=True)
            with dc.video.replacing(self.plan.out / "config.json") as path:
                path.write_text(self.config.to_json())
            self.split.write(self.plan.out)
        self.began = time.monotonic()
        running, pace = _Running(), Pace(training.steps)
        with _signals(self), self._progress() as show, _Log(self.plan, self.main) as log:
            batches = iter(self.loader)
            while self.step < training.steps and self.stop is None:
                figures = self._one_step(batches)
                stop_vote = figures.pop("stop_vote")
                self.step += 1
                if not math.isfinite(figures["loss"]):
                    raise ValueError(
                        f"the loss is {figures['loss']} at step {self.step}: lower the learning rate, or resume from a checkpoint"
                    )
                running.add(figures)
                show(self.step, running.means)
                kind = (training.stage(self.step - 1), training.at("adversarial_weight", self.step - 1) > 0)
                if (estimate := pace.after(self.step, kind)) and self.main and not self.plan.quiet:
                    print(estimate + self._cure(), flush=True)
                log.write(self.step, figures)
                if training.restart_below > 0 and self.step == training.restart_at and running.means["accuracy"] < training.restart_below:
                    raise _Plateau(f"bit accuracy is {running.means['accuracy']:.3f} at step {self.step}, below {training.restart_below}")
                if self.step % training.validate_every == 0 or self.step == training.steps:
                    log.write(self.step, self._validate(), tell=True)
                if stop_vote and self.step < training.steps:  # from any process: all of them stop at the same step
                    self.stop = "stopped" if stop_vote >= 1 else "paused"
                if self.step % training.save_every == 0 or self.step == training.steps or self.stop is not None:
                    self._save()
        self.accelerator.wait_for_everyone()
        return Outcome(self.stop or "done", self.step, running.means)

    def _cure(self) -> str:
        """What to do about a training that takes weeks."""
        slow = self.accelerator.device.type == "cpu" and self.config.model == PRESETS["paper"].model
        return ": this preset is meant for a GPU; --preset small takes about an hour on two CPU cores" if slow else ""

    def _one_step(self, batches: Iterator[Any]) -> dict[str, float]:
        training = self.config.training
        self._set_rates()
        alpha = training.at("alpha", self.step)
        kept: list[dict[str, Tensor]] = []
        for _ in range(training.accumulate):
            clip, samples = next(batches)
            numbers = samples.tolist()
            message = messages(training.seed, numbers, self.config.model.bits).to(clip.device)
            draw = self.accelerator.unwrap_model(self.system).distortion.sample(clip.shape, numbers, self.step)
            with self.accelerator.accumulate(self.system, self.wrapped):
                with self.accelerator.autocast():
                    marked, logits = self.system(clip, message, alpha, draw, self.step)
                original, changed = inside(clip), inside(marked.float())  # [B, 3, T, H, W]
                message_loss = losses.message_loss(message, logits.float())
                mask = losses.mask_loss(changed - original, original, training, self.config.model.sigma)
                against = training.at("adversarial_weight", self.step) > 0
                adv_loss = self._judged(changed) if against else torch.zeros_like(message_loss)
                loss = losses.total_loss(message_loss, adv_loss, mask, training, self.step)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.net.parameters(), training.clip_gradient)
                self.optimiser.step()
                self.optimiser.zero_grad(set_to_none=True)
                d_loss = torch.zeros_like(message_loss)
                if against:
                    both = self.wrapped(torch.cat([original, changed.detach()]))
                    d_loss = losses.discriminator_loss(*both.chunk(2))
                    self.accelerator.backward(d_loss)
                    self.other.step()
                    self.other.zero_grad(set_to_none=True)
            with torch.no_grad():
                kept.append(
                    {
                        "loss": loss.detach(), "message": message_loss.detach(), "mask": mask.detach(),
                        "adversarial": adv_loss.detach(), "discriminator": d_loss.detach(),
                        "accuracy": dc.metrics.bit_accuracy(message, logits).mean(),
                        "psnr": dc.metrics.psnr(marked.clamp(0, 1), clip).mean(),
                    }
                )  # fmt: skip
        stacked = {k: torch.stack([f[k].float() for f in kept]).mean() for k in kept[0]}
        late = self.plan.minutes is not None and time.monotonic() - self.began > 60 * self.plan.minutes
        due = late or (self.plan.until is not None and self.step + 1 >= self.plan.until)
        stacked["stop_vote"] = torch.tensor(
            float(self.accelerator.num_processes * self.interrupted) + 1e-3 * due, dtype=torch.float32, device=stacked["loss"].device
        )
        reduced = self.accelerator.reduce(stacked, "mean")
        return {k: float(v) for k, v in reduced.items()} | {"alpha": alpha, "lr": self.net_optimiser.param_groups[0]["lr"]}

    def _judged(self, marked: Tensor) -> Tensor:
        """Eq. (12) with the discriminator held fixed."""
        fixed = {k: v.detach() for k, v in self.discriminator.named_parameters()}
        return losses.adversarial_loss(torch.func.functional_call(self.discriminator, fixed, (marked,)))

    def _set_rates(self) -> None:
        t = self.config.training
        factor = 0.5 ** (self.step // t.halve_every)
        if t.warmup:
            factor *= min(1.0, (self.step + 1) / t.warmup)
        if self.rewarm >= 0:
            factor *= min(1.0, (self.step - self.rewarm + 1) / REWARM)
        for optimiser, rate in ((self.net_optimiser, t.lr), (self.discriminator_optimiser, t.discriminator_lr)):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor

    # --- validation ---------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Bit accuracy after libx264 (after its simulator if PyAV is not installed) and under two attacks, on 16 fixed clips of the videos that
        are held out; of the training videos if there are none, which the names of the figures say."""
        if not self.main:
            return {}
        training, model = self.config.training, self.config.model
        alpha = training.at("alpha", self.step)
        numbers = list(range(2**61, 2**61 + 16))  # beyond all training samples
        clips = torch.stack([self.others[k][0] for k in numbers]).to(self.accelerator.device)
        message = messages(training.seed, numbers, model.bits).to(clips.device)
        marked = torch.cat([self.net.embed(c, m, alpha) for c, m in zip(clips.split(4), message.split(4))]).clamp(0, 1)
        marked = (marked * 255).round() / 255
        where = self.split.measured
        out = {f"{where}/psnr": float(dc.metrics.psnr(marked, clips).mean())}
        real = _has_av()
        for crf in (22, 27):
            codec = dc.RealCodec("libx264", crf=crf, gradient=None) if real else dc.DiffH264(crf=crf)
            out[f"{where}/{'x264' if real else 'simulated'}_{crf}"] = self._read(codec, marked, message)
        for name in ("crop", "noise"):
            out[f"{where}/{name}"] = self._read(ATTACKS[name], marked, message)
        return out

    def _read(self, layer: nn.Module, marked: Tensor, message: Tensor) -> float:
        g = torch.Generator().manual_seed(0)
        attacked = layer(marked, layer.sample(marked.shape, g, device=marked.device))  # type: ignore[operator]
        logits = torch.cat([self.net.extract(c) for c in attacked.split(4)])
        return float(dc.metrics.bit_accuracy(message, logits).mean())

    # --- what the user sees -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
        def line(f: Mapping[str, float]) -> str:
            return f"loss {f['loss']:.3f}  bits {100 * f['accuracy']:.1f} %  PSNR {f['psnr']:.2f} dB"

        if not self.main or self.plan.quiet:
            yield lambda step, f: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if not Console().is_terminal:
            clock = Clock()
            yield lambda step, f: print(f"step {step}  {line(f)}", flush=True) if clock.due() else None
            return
        columns = [BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")]
        with Progress(*columns) as progress:
            task = progress.add_task("", total=self.config.training.steps, completed=self.step)
            yield lambda step, f: progress.update(task, completed=step, description=line(f))


class _Running:
    """Exponential moving averages of figures over the steps."""

    def __init__(self) -> None:
        self.means: dict[str, float] = {}

    def add(self, figures: Mapping[str, float]) -> None:
        for k, v in figures.items():
            self.means[k] = v if k not in self.means else 0.95 * self.means[k] + 0.05 * v


class _Log:
    """``log.jsonl`` of the run, a line a step with the time (UTC) at which it ended, and a TensorBoard log if requested."""

    def __init__(self, plan: Plan, main: bool) -> None:
        self.plan, self.main = plan, main
        self.board: Any = None

    def __enter__(self) -> _Log:
        if self.main:
            self.file = open(self.plan.out / "log.jsonl", "a")
            if self.plan.tensorboard:
                try:
                    from torch.utils.tensorboard import SummaryWriter
                except ImportError as error:
                    raise ImportError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
                self.board = SummaryWriter(str(self.plan.out))
        return self

    def write(self, step: int, figures: Mapping[str, float], tell: bool = False) -> None:
        if not self.main:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self.file.write(json.dumps({"step": step, "time": now, **{k: float(f"{v:.6g}") for k, v in figures.items()}}) + "\n")
        self.file.flush()
        if tell and not self.plan.quiet:
            print(f"step {step}  " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()), flush=True)
        if self.board is not None:
            for k, v in figures.items():
                self.board.add_scalar(k, v, step)

    def __exit__(self, *_: object) -> None:
        if self.main:
            self.file.close()
            if self.board is not None:
                self.board.close()


@contextlib.contextmanager
def _signals(run: _Training) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP let the step finish; then the run is saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        if run.interrupted and number == signal.SIGINT:  # a second Ctrl-C stops at once, without saving
            raise KeyboardInterrupt
        run.interrupted = True

    before = {n: signal.signal(n, stop) for n in ENDING if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


def _has_av() -> bool:
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


def stages(text: Sequence[str]) -> tuple[tuple[int, str], ...]:
    """A curriculum from a command line: ``["none", "x264@500", "exact@3000"]``."""
    out = []
    for part in text:
        name, _, step = part.partition("@")
        try:
            out.append((int(step or 0), name))
        except ValueError:
            raise ValueError(f"--distortion expected name or name@step, got {part!r}") from None
    return tuple(out)
