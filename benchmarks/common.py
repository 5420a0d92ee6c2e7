"""Shared by all benchmarks: timing, memory, and result files with all that is needed to repeat them."""

from __future__ import annotations

import gc
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcodec.fidelity import jsonable
from diffcodec.files import replacing, sha256, without_folders

RESULTS = Path(__file__).parent / "results"


def record(name: str, data: dict[str, Any], out: Path | None = None) -> Path:
    """Write a result with versions, machine, commit and command; returns its path."""
    path = (out or RESULTS) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    module = sys.modules["__main__"].__spec__
    arguments = map(without_folders, sys.argv[1:])
    head = {
        "command": f"python -m {module.name if module else name} {shlex.join(arguments)}".strip(),
        "commit": _commit(),
        "machine": machine(),
        "versions": versions(),
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(jsonable(head | data), indent=1) + "\n")
    print(f"wrote {path}")
    return path


def named(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Clips as results name them."""
    return [{"name": p.name, "sha256": sha256(p)} for p in paths]


def _commit() -> str:
    """The commit that ran, "-dirty" where tracked files other than results differ from it."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)benchmarks/results")
        return git("rev-parse", "--short=10", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> dict[str, Any]:
    model = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return {"cpu": model, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def versions() -> dict[str, str]:
    from diffcodec import __version__

    out = {"diffcodec": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in ("av", "PIL", "numpy"):
        try:
            out[name] = __import__(name).__version__
        except ImportError:
            out[name] = "not installed"
    return out


def forward_backward(layer: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Forward and backward pass of a layer, as in a training step."""
    x = x.detach().requires_grad_(True)
    out = layer(x)
    out.backward(torch.ones_like(out))


def forward_only(layer: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.no_grad():
        layer(x)


def interleaved(jobs: dict[str, Callable[[], None]], repeats: int, warm_up: int = 2) -> dict[str, dict[str, float]]:
    """Time jobs in alternation, so that fluctuations of the machine affect all alike: median and quartiles in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        for _ in range(warm_up):
            job()
    for _ in range(repeats):
        for name, job in jobs.items():
            gc.collect()
            begin = time.perf_counter()
            job()
            times[name].append(1e3 * (time.perf_counter() - begin))
    out = {}
    for name, values in times.items():
        q = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
        out[name] = {"median_ms": statistics.median(values), "q1_ms": q[0], "q3_ms": q[2], "runs": len(values)}
    return out


def peak_memory(job: Callable[[], None], given: int) -> int:
    """Peak memory of tensors during a job in bytes, including ``given`` bytes of input, from the allocations that torch's profiler reports."""
    from torch.profiler import ProfilerActivity, profile

    job()  # creates caches and constants before the measurement
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=False) as prof:
        job()
    now = peak = 0
    for event in prof.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak + given
