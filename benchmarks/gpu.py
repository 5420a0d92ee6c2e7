"""Kernels on a GPU: checked, then timed against the copy bandwidth of the GPU, their torch references ("twins"), and other packages if installed.

Runs from a checkout with torch, triton, numpy and Pillow. A layer that fails its check is not timed. Times are taken with CUDA events around a call,
after a kernel that overwrites the L2 cache (and lets the CPU run ahead), over several inputs in turn; ``wall_ms`` is the time per call of a loop,
including launches. A measurement takes about ``--seconds``, so slow calls are repeated less often, but at least three times (``runs``). Results are
written after every row. ``--rehearse`` runs everything on tiny inputs in Triton's interpreter and records nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if "--rehearse" in sys.argv:  # before triton is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
import triton
from torch import Tensor, nn

import diffcodec as dc
from benchmarks.common import RESULTS, record
from benchmarks.gpu_tests import run_tests
from benchmarks.speed import one_draw

ROOT = Path(__file__).parent.parent
FLUSH = 2**29  # bytes, ten times the L2 cache of an H100


@dataclasses.dataclass(frozen=True)
class Job:
    """A layer as it is timed.

    Attributes:
        fused, twin: the layer with kernels, and its reference in torch; ``twin`` is None if there are no kernels.
        shape: shape of the input, batch first.
        forward, both: minimum memory traffic of the forward pass and of forward and backward, in multiples of the input's size; None if memory is
            not the bottleneck.
        exact: the forward pass must equal the twin's except for one sample in 10 000.
        chaotic: a single differing decision changes everything after it, so only the strength of distortion and gradient must match the twin's.
        peers: other implementations, by name.
    """

    fused: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    twin: Callable[[Tensor], Tensor] | None = None
    forward: float | None = None
    both: float | None = None
    exact: bool = False
    chaotic: bool = False
    peers: dict[str, Callable[[Tensor], Tensor]] = dataclasses.field(default_factory=dict)


class Clock:
    """Times calls on a device, each for some seconds."""

    def __init__(self, device: torch.device, repeats: int, seconds: float) -> None:
        self.device, self.repeats, self.seconds = device, repeats, seconds
        self.cuda = device.type == "cuda"
        self.dirt = torch.empty(FLUSH if self.cuda else 1, dtype=torch.uint8, device=device)

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def wall(self, call: Callable[[int], None], runs: int) -> float:
        """Milliseconds per call in a loop."""
        self.sync()
        began = time.perf_counter()
        for i in range(runs):
            call(i)
        self.sync()
        return 1e3 * (time.perf_counter() - began) / runs

    def __call__(self, call: Callable[[int], None]) -> dict[str, float]:
        """Median and quartiles in milliseconds of ``call(i)``, i counting up."""
        call(0)
        once = self.wall(call, 1)
        runs = max(2 if self.repeats < 3 else 3, min(self.repeats, int(500 * self.seconds / once)))
        if runs > 3:
            self.wall(call, 2)
        spans: list[Any] = []
        self.sync()
        began = time.perf_counter()
        for i in range(runs):
            self.dirt.zero_()
            if self.cuda:
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                call(i)
                end.record()
                spans.append((begin, end))
            else:
                start = time.perf_counter()
                call(i)
                spans.append(1e3 * (time.perf_counter() - start))
        self.sync()
        wall = self.wall(call, runs) if runs > 3 else 1e3 * (time.perf_counter() - began) / runs
        values = sorted(a.elapsed_time(b) for a, b in spans) if self.cuda else sorted(spans)
        q = statistics.quantiles(values, n=4)
        return {"median_ms": statistics.median(values), "q1_ms": q[0], "q3_ms": q[2], "runs": len(values), "wall_ms": wall}

    def bandwidth(self, size: int) -> float:
        """Copy bandwidth in bytes per millisecond, reads plus writes, for ``size`` bytes."""
        x, y = (torch.empty(size // 4, device=self.device) for _ in range(2))

        def copy(i: int) -> None:
            y.copy_(x)

        return 2 * size / self(copy)["median_ms"]

    def memory(self, call: Callable[[int], None]) -> int:
        """Peak bytes that a call other than the first allocates on top of what was allocated before."""
        if not self.cuda:
            return 0
        self.sync()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call(0)
        self.sync()
        return torch.cuda.max_memory_allocated() - before


def natural(shape: tuple[int, ...], device: torch.device, seed: int) -> Tensor:
    """Smooth random fields, moving where there is time. ``[..., 3, H, W]`` in [0, 1]."""
    g = torch.Generator(device).manual_seed(seed)
    *lead, _, h, w = shape
    still = torch.zeros(lead[0], 3, h + 16, w + 16, device=device)
    for k in (4, 16, 64):
        still += (
            nn.functional.interpolate(torch.rand(lead[0], 3, k, k, generator=g, device=device), size=still.shape[-2:], mode="bicubic") / 3
        )
    still = still.clamp(0, 1)
    if len(lead) == 1:
        return still[..., :h, :w].contiguous()
    return torch.stack([still[..., i % 16 : i % 16 + h, 2 * i % 16 : 2 * i % 16 + w] for i in range(lead[1])], 1)


def job(make: Callable[[str], dc.Layer], shape: tuple[int, ...], compiled: bool, **more: Any) -> Job:
    """Job of a layer that takes ``backend``: with kernels, its twin and, if requested, the compiled twin."""
    peers = dict(more.pop("peers", {}))
    if compiled:
        peers["torch.compile(twin)"] = one_draw(torch.compile(make("reference"), fullgraph=True, dynamic=False))
    return Job(one_draw(make("triton")), shape, one_draw(make("reference")), peers=peers, **more)


def predicted(backend: str) -> Callable[[Tensor], Tensor]:
    """Every frame predicted from the clip's first one by motion."""
    search = dc.motion.BlockMotion(backend=backend)

    def call(x: Tensor) -> Tensor:
        later = x[:, 1:].flatten(0, 1)
        first = x[:, :1].expand(-1, x.shape[1] - 1, -1, -1, -1).flatten(0, 1)
        moved = dc.motion.warp(first, search(later, first), backend=backend)
        return torch.cat([x[:, :1], moved.unflatten(0, (len(x), -1))], 1)

    return call


def jobs(device: torch.device, rehearse: bool, compiled: bool) -> dict[str, Job]:
    still = (2, 3, 32, 32) if rehearse else (64, 3, 512, 512)
    video = (1, 4, 3, 32, 32) if rehearse else (16, 8, 3, 256, 256)
    clip = (1, 4, 3, 32, 32) if rehearse else (16, 8, 3, 128, 128)
    tiny = (1, 2, 3, 16, 16)  # the interpreter takes seconds a frame
    peers: dict[str, Callable[[Tensor], Tensor]] = {}
    if importlib.util.find_spec("kornia") is not None:
        import kornia.enhance

        peers["kornia"] = lambda x: kornia.enhance.jpeg_codec_differentiable(x, torch.full((len(x),), 50.0, device=x.device))

    def jpeg(name: str, subsampling: str, **how: Any) -> Job:
        return job(lambda b: dc.DiffJPEG(50, subsampling, backend=b, **how), still, compiled, forward=2, both=5, exact=not how, peers=peers)

    out = {
        "DiffJPEG 4:4:4, cubic": jpeg("soft", "4:4:4", rounding="cubic"),
        "DiffJPEG 4:2:0, cubic": jpeg("soft", "4:2:0", rounding="cubic"),
        "DiffJPEG 4:4:4, exact": jpeg("exact", "4:4:4"),
        "DiffJPEG 4:2:0, exact": jpeg("exact", "4:2:0"),
    }
    one_pass: dict[str, Callable[[str], dc.Layer]] = {
        "FrameAverage(3)": lambda b: dc.FrameAverage(3, backend=b),
        "FrameDrop(0.5)": lambda b: dc.FrameDrop(0.5, backend=b),
        "FrameSwap(0.5)": lambda b: dc.FrameSwap(0.5, backend=b),
        "GaussianNoise(0.04)": lambda b: dc.GaussianNoise(0.04, backend=b),
        "GaussianBlur(2.0)": lambda b: dc.GaussianBlur(2.0, kernel=3, over="time and space", backend=b),
    }
    for name, make in one_pass.items():
        out[name] = job(make, video, compiled, forward=3 if "Noise" in name else 2, both=5 if "Noise" in name else 4)
    out["BlockMotion and warp, from the first frame"] = Job(predicted("triton"), clip, predicted("reference"))
    torch.manual_seed(0)
    spynet = dc.motion.SPyNet(4).requires_grad_(False)  # random weights: as fast as trained ones
    paper = dc.DiffH264(model="revmark", motion=spynet, flow_gradient=True).to(device)
    for preset in ("ultrafast", "veryfast", "medium"):
        both = [one_draw(dc.DiffH264(22, preset, backend=b)) for b in ("triton", "reference")]
        others = {"the paper's model, SPyNet": paper} if preset == "medium" and not rehearse else {}
        out[f"DiffH264, {preset}"] = Job(both[0], tiny if rehearse else clip, both[1], chaotic=True, peers=others)
    out["DiffH264 revmark, block motion"] = Job(one_draw(dc.DiffH264(model="revmark")), clip)
    return out


def gradient(call: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    out = call(x)
    weight = torch.randn(out.shape, generator=torch.Generator(x.device).manual_seed(3), device=x.device)
    return out.detach(), torch.autograd.grad((out * weight).sum(), x)[0]


def wrong(j: Job, x: Tensor) -> str | None:
    """Why a layer fails its check; None if it passes."""
    out, grad = gradient(j.fused, x)
    if out.shape != x.shape or not out.isfinite().all() or not grad.isfinite().all():
        return f"shape {tuple(out.shape)}, or values that are not finite"
    if j.twin is None:
        return None
    expected, wanted = gradient(j.twin, x)
    if j.chaotic:
        noise = [float((y - x).square().mean()) for y in (out, expected)]
        norms = [float(g.norm()) for g in (grad, wanted)]
        if abs(noise[0] / noise[1] - 1) > 0.05 or abs(norms[0] / norms[1] - 1) > 0.1:
            return f"distortion {noise[0]:.2e} and gradient {norms[0]:.2e}, the twin's {noise[1]:.2e} and {norms[1]:.2e}"
        return None
    difference = (out - expected).abs()
    off = float((difference > (1e-6 if j.exact else 1e-4)).float().mean())
    if off > 1e-4:
        return f"{100 * off:.3f} % of the samples differ from the twin's, by up to {float(difference.max()):.2e}"
    error = float((grad - wanted).norm() / wanted.norm().clamp(min=1e-12))
    return f"the gradient differs from the twin's by {error:.1e} of its norm" if error > 1e-2 else None


def measure(j: Job, inputs: list[Tensor], clock: Clock, copy: float) -> dict[str, Any]:
    size = inputs[0].numel() * inputs[0].element_size()
    grads = [torch.ones_like(x) for x in inputs]

    def forward(call: Callable[[Tensor], Tensor]) -> Callable[[int], None]:
        @torch.no_grad()
        def one(i: int) -> None:
            call(inputs[i % len(inputs)])

        return one

    def both(call: Callable[[Tensor], Tensor]) -> Callable[[int], None]:
        leaves = [x.detach().requires_grad_() for x in inputs]

        def one(i: int) -> None:
            x = leaves[i % len(leaves)]
            torch.autograd.grad(call(x), x, grads[i % len(grads)])

        return one

    row: dict[str, Any] = {}
    ways = {"fused": j.fused, **({"twin": j.twin} if j.twin else {}), **j.peers}
    for name, call in ways.items():
        found: dict[str, Any] = {"forward": clock(forward(call)), "forward_backward": clock(both(call))}
        found["extra_memory_x_input"] = clock.memory(both(call)) / size
        for what, least in (("forward", j.forward), ("forward_backward", j.both)):
            if least is not None:
                found[what]["share_of_copy"] = least * size / found[what]["median_ms"] / copy
        row[name] = found
    own = row["fused"]["forward_backward"]["median_ms"]
    row["faster_than"] = {n: row[n]["forward_backward"]["median_ms"] / own for n in ways if n != "fused"}
    if len(inputs[0].shape) == 5:
        row["forward_backward_per_clip_ms"] = own / len(inputs[0])
    return row


def training_share(device: torch.device, clock: Clock, rehearse: bool) -> dict[str, float]:
    """Milliseconds of a training step of the preset ``paper`` (encoder, distortion, decoder, message loss, bf16) with each distortion."""
    from revmark_ref.config import PRESETS
    from revmark_ref.distortion import Distortion
    from revmark_ref.keys import messages
    from revmark_ref.model import REVMark

    config = PRESETS["paper"]
    model = dataclasses.replace(config.model, motion="block")
    batch = config.training.batch
    if rehearse:
        model, batch = dataclasses.replace(PRESETS["small"].model, tas=False, motion="none"), 1
    net = REVMark(model).to(device, memory_format=torch.channels_last_3d)
    clips = natural((batch, model.frames, 3, model.height, model.width), device, 0)
    message = messages(0, list(range(batch)), model.bits).to(device)
    out: dict[str, float] = {}
    for name in ("none", "revmark", "x264"):
        training = dataclasses.replace(config.training, distortion=((0, name),))
        layer = Distortion(training)

        def step(i: int, layer: Distortion = layer) -> None:
            draw = layer.sample(clips.shape, [batch * i + k for k in range(batch)], 0)
            with torch.autocast(device.type, torch.bfloat16):
                marked = net.embed(clips, message, 6.2)
                logits = net.extract(layer(marked, draw, 0).to(marked.dtype))
                loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), message)
            net.zero_grad(set_to_none=True)
            loss.backward()

        out[name] = clock(step)["wall_ms"]
    return {**{f"{k}_ms": v for k, v in out.items()}, **{f"share_{k}": 1 - out["none"] / out[k] for k in ("revmark", "x264")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30, help="maximum number of calls per measurement")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of a measurement")
    parser.add_argument("--only", default="", help="jobs whose name contains this")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gpu.json")
    parser.add_argument("--commit", default="", help="commit of the checkout, if git is not available")
    parser.add_argument("--rehearse", action="store_true", help="tiny inputs on the CPU; nothing is recorded")
    parser.add_argument("--no-tests", action="store_true", help="do not run pytest")
    parser.add_argument("--tests-seconds", type=float, default=600, help="time limit of pytest in seconds")
    parser.add_argument("--no-times", action="store_true", help="run the checks only, which compiles the kernels; nothing is recorded")
    parser.add_argument("--compile", action="store_true", help="also time the twins under torch.compile, which takes minutes")
    args = parser.parse_args()
    if not args.rehearse and not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs a CUDA device, and torch finds none here (--rehearse runs it on a CPU)")
    device = torch.device("cpu" if args.rehearse else "cuda")
    found: dict[str, Any] = {"triton": triton.__version__} | ({} if args.rehearse else {"gpu": torch.cuda.get_device_name()})
    found |= {"commit": args.commit} if args.commit else {}
    chosen = {name: j for name, j in jobs(device, args.rehearse, args.compile).items() if args.only in name}

    def keep(rows: dict[str, Any], share: dict[str, Any]) -> None:
        if not args.rehearse and not args.no_times:
            with contextlib.redirect_stdout(io.StringIO()):
                record("gpu_part" if args.only else "gpu", {**found, "rows": rows, "training_step": share}, args.out)

    args.out.mkdir(parents=True, exist_ok=True)
    clock = Clock(device, 2 if args.rehearse else args.repeats, args.seconds)
    found["tests"] = {"ran": False, "why": "left out"}
    if not args.rehearse and not args.no_tests:
        found["tests"] = run_tests(args.out, args.tests_seconds)
    copy = clock.bandwidth(2**12 if args.rehearse else 2**29)
    found["copy_gb_s"] = copy / 1e6
    print(f"copy: {copy / 1e6:.0f} GB/s")
    rows, began = {}, time.perf_counter()
    for name, j in chosen.items():
        try:
            inputs = [natural(j.shape, device, seed) for seed in range(2 if args.rehearse else 3)]
            fault = wrong(j, inputs[0][:2])
            row = {"fault": fault} if fault else {} if args.no_times else measure(j, inputs, clock, copy)
        except Exception as error:  # one row lost is better than all
            row = {"fault": f"{type(error).__name__}: {error}".splitlines()[0]}
        rows[name] = row | {"shape": list(j.shape)}
        text = "FAILED: " + str(row["fault"]) if "fault" in row else _line(row) if "fused" in row else "right"
        print(f"{name} {text} [{time.perf_counter() - began:.0f} s]", flush=True)
        keep(rows, {})
    share: dict[str, Any] = {}
    if not args.only and not args.no_times:
        try:
            share = training_share(device, clock, args.rehearse)
        except Exception as error:
            share = {"fault": f"{type(error).__name__}: {error}".splitlines()[0]}
        print("training step:", share)
        keep(rows, share)
    failed = [n for n, r in rows.items() if "fault" in r] + ["training step"] * ("fault" in share)
    raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)


def _line(row: dict[str, Any]) -> str:
    parts = []
    for what in ("forward", "forward_backward"):
        t = row["fused"][what]
        share = f" ({100 * t['share_of_copy']:.0f} % of copy)" if "share_of_copy" in t else ""
        parts.append(f"{what.replace('_', ' + ')} {t['median_ms']:.3f} ms{share}, wall {t['wall_ms']:.3f}")
    faster = ", ".join(f"{v:.1f} x faster than {n}" for n, v in row["faster_than"].items())
    return "; ".join([*parts, f"memory {row['fused']['extra_memory_x_input']:.1f} x", *([faster] if faster else [])])


if __name__ == "__main__":
    main()
