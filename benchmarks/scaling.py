"""Scaling on the CPU: time and memory of forward and backward against batch size, number of frames and frame area, and their log-log slopes."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import diffcodec as dc
from benchmarks.common import forward_backward, interleaved, peak_memory, record
from benchmarks.speed import correct, video

START = (1, 4, 64)  # batch, frames, side
AXES: dict[str, list[tuple[int, int, int]]] = {
    "batch": [(b, 4, 64) for b in (1, 2, 4, 8, 16, 32)],
    "frames": [(1, t, 64) for t in (4, 8, 16, 32, 64)],
    "area": [(1, 4, s) for s in (64, 128, 256, 512, 1024)],
}


def layers() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "DiffJPEG 4:2:0, exact": dc.DiffJPEG(50),
        "DiffH264 medium": dc.DiffH264(22),
        "DiffH264 ultrafast": dc.DiffH264(22, "ultrafast"),
        "RealCodec libx264, guided gradient": dc.RealCodec(crf=22, gradient=dc.DiffH264(22)),
    }


def slope(sizes: list[float], values: list[float]) -> float:
    """Log-log slope between the last two points, where fixed costs matter least."""
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    for name, layer in layers().items():
        correct(name, layer, video(*START))
        for axis, shapes in AXES.items():
            found = []
            for b, t, side in shapes:
                x = video(b, t, side)
                job = partial(forward_backward, layer, x)
                timed = interleaved({name: job}, args.repeats, warm_up=1)[name]
                given = x.numel() * x.element_size()
                found.append({"batch": b, "frames": t, "side": side, "samples": x.numel(), **timed, "peak_bytes": peak_memory(job, given)})
            sizes = [float(f["samples"]) for f in found]
            slopes = {what: slope(sizes, [float(f[key]) for f in found]) for what, key in (("time", "median_ms"), ("memory", "peak_bytes"))}
            rows.append({"layer": name, "axis": axis, "slope": slopes, "points": found})
            print(f"{name:40s} {axis:7s} slope of time {slopes['time']:.2f}, of memory {slopes['memory']:.2f}", flush=True)
    record("scaling", {"threads": args.threads, "rows": rows})


if __name__ == "__main__":
    main()
