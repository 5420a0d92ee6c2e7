"""Comparison of distortion layers (the paper's Table 6): a common start without distortion, equal training through each layer, test on real codecs.

Trains the runs that are missing in --work (minutes each on one core; an interrupted run is resumed), then measures all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import record
from benchmarks.runs import curve
from diffcodec.files import sha256
from diffcodec.strength import Ramp
from revmark_ref import evaluate, weights
from revmark_ref.config import PRESETS, Config
from revmark_ref.run import Plan
from revmark_ref.train import train

LAYERS: dict[str, dict[str, Any]] = {
    "none": {"distortion": ((0, "none"),)},
    "identity": {"distortion": ((0, "exact"),), "exact_gradient": "identity"},
    "jpeg": {"distortion": ((0, "jpeg"),)},
    "compnet": {"distortion": ((0, "compnet"),)},
    "revmark": {"distortion": ((0, "revmark"),)},
    "x264": {"distortion": ((0, "x264"),)},
    "exact": {"distortion": ((0, "exact"),)},
}
ATTACKS = ("libx264:18", "libx264:22", "libx264:27", "libx264:32", "libx265:28", "libvpx-vp9:36", "libsvtav1:40",
           "average", "drop", "swap", "crop", "noise", "blur")  # fmt: skip
START, STEPS = 900, 500


def start(seed: int) -> Config:
    """Common start: the message is learnt without distortion at the paper's initial strength, which is then reduced."""
    return PRESETS["linear-small"].with_values({"steps": START, "distortion": ((0, "none"),), "seed": seed})


def through(layer: str, seed: int) -> Config:
    """Training from the common start through a layer, mixed with the paper's other attacks."""
    return PRESETS["linear-small"].with_values(
        {"steps": STEPS, "lr": 5e-4, "halve_every": STEPS // 2, "alpha": Ramp(6.5, 6.5, 0, 0), "attacks_in_none": True, "seed": seed}
        | LAYERS[layer]
    )


def trained(config: Config, data: Path, out: Path, first: Path | None = None) -> Path:
    """Weights of a run, trained if they do not exist yet.

    Raises:
        ValueError: the folder holds a run of another configuration.
    """
    file = out / "weights.safetensors"
    if file.exists():
        if weights.load(file)[1] != config:
            raise ValueError(f"{file} is of another configuration: choose another --work")
    else:
        told = train(Plan(config, data, out, resume=True, start=first))
        if told.step < config.training.steps:
            raise SystemExit(f"{out}: stopped at step {told.step}")
        weights.export(out, file)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of videos to train on")
    parser.add_argument("--clips", type=Path, required=True, help="folder of other videos to test on")
    parser.add_argument("--layers", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--start-seed", type=int, default=0, help="seed of the common start")
    parser.add_argument("--windows", type=int, default=4, help="clips per video")
    parser.add_argument("--alexnet", help="AlexNet's features, for LPIPS")
    parser.add_argument("--name", default="distortions", help="name of the result")
    parser.add_argument("--work", type=Path, default=Path("out/distortions"))
    args = parser.parse_args()

    begin = start(args.start_seed)
    first = args.work / "start"
    trained(begin, args.data, first)
    rows: dict[str, Any] = {}
    for layer in args.layers:
        seeds = []
        for seed in range(1, args.seeds + 1):
            out = args.work / f"{layer}-{seed}"
            file = trained(through(layer, seed), args.data, out, first)
            found = evaluate.evaluation(file, args.clips, args.work / "cells", args.windows, 0, args.alexnet)
            told = {name: found.accuracy(name) for name in ATTACKS}
            seeds.append({"seed": seed, "weights": sha256(file), "quality": found.quality(), "accuracy": told})
            learnt = curve(out)
            seeds[-1]["curve"] = learnt["validation"]
            print(layer, seed, {k: v["value"] for k, v in told.items()}, flush=True)
        means = {name: round(statistics.mean(s["accuracy"][name]["value"] for s in seeds), 2) for name in ATTACKS}
        rows[layer] = {"mean": means, "seeds": seeds}
    record(
        args.name,
        {
            "start": dataclasses.asdict(begin), "trained": dataclasses.asdict(through(args.layers[-1], 1)), "windows_of_each_clip": args.windows,
            "clips": [{"name": n, "sha256": h} for n, h in zip(found.material.names, found.material.hashes)], "layers": rows,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
