"""Where the time of layers goes on a GPU: total kernel time against wall time, launches and copies, and where Python waits for the GPU."""

from __future__ import annotations

import argparse
import collections
import functools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import RESULTS, record
from benchmarks.gpu import ROOT, jobs, natural

LONGEST = 25


def forward(call: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.no_grad():
        call(x)


def forward_backward(call: Callable[[Tensor], Tensor], x: Tensor) -> None:
    x = x.detach().requires_grad_()
    torch.autograd.grad(call(x).sum(), x)


def waits(call: Callable[[], None]) -> dict[str, int]:
    """How often Python waits for the GPU, by file and line."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        call()
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename.removeprefix(str(ROOT)).lstrip('/')}:{w.lineno}" for w in seen if "called a synchronizing" in str(w.message)]
    return dict(collections.Counter(places).most_common())


def wall(call: Callable[[], None], runs: int) -> float:
    """Milliseconds per call, including the GPU's work."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(runs):
        call()
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began) / runs


def where(call: Callable[[], None], runs: int) -> dict[str, Any]:
    """Where the time of a call goes."""
    for _ in range(2):
        call()
    took, places = wall(call, runs), waits(call)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    table = seen.key_averages()
    kernels = sorted((e for e in table if e.device_type == DeviceType.CUDA), key=lambda e: -e.self_device_time_total)
    on_cpu = sorted((e for e in table if e.device_type == DeviceType.CPU), key=lambda e: -e.self_cpu_time_total)
    print(table.table(sort_by="self_device_time_total", row_limit=LONGEST, max_name_column_width=60))
    return {
        "wall_ms": took,
        "kernels_ms": sum(e.self_device_time_total for e in kernels) / 1e3,
        "launches": sum(e.count for e in kernels),
        "waits": places,
        "of_the_driver": {e.key: e.count for e in on_cpu if e.key.startswith("cu")},
        "of_torch": {e.key: e.count for e in on_cpu if e.key in ("aten::item", "aten::nonzero", "aten::copy_", "aten::to", "aten::index")},
        "kernels": {e.key[:80]: {"ms": e.self_device_time_total / 1e3, "launches": e.count} for e in kernels[:LONGEST]},
        "cpu": {e.key[:80]: {"ms": e.self_cpu_time_total / 1e3, "calls": e.count} for e in on_cpu[:LONGEST]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", nargs="+", default=["DiffH264, medium"], help="jobs of benchmarks.gpu, by name")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gpu_profile.json")
    parser.add_argument("--commit", default="", help="commit of the checkout, if git is not available")
    args = parser.parse_args()
    device, rows = torch.device("cuda"), {}
    found = {"gpu": torch.cuda.get_device_name()} | ({"commit": args.commit} if args.commit else {})
    for name in args.jobs:
        job = jobs(device, False, False)[name]
        x = natural(job.shape, device, 0)
        rows[name] = {"shape": list(job.shape)}
        for what, way in (("forward", forward), ("forward_backward", forward_backward)):
            print(f"{name}, {what}")
            rows[name][what] = r = where(functools.partial(way, job.fused, x), args.runs)
            print(
                f"wall {r['wall_ms']:.1f} ms, kernels {r['kernels_ms']:.1f} ms in {r['launches']} launches, {sum(r['waits'].values())} waits"
            )
            for place, times in r["waits"].items():
                print(f"  {place}: {times}")
    record("gpu_profile", {**found, "rows": rows}, args.out)


if __name__ == "__main__":
    main()
