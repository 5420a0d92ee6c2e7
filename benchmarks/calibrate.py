"""Fit the constants of ``DiffH264(model="x264")`` for a preset family, or for another option set, to a real encoder on a folder of clips.

Gauss-Newton on what the real encoder lets through: differences of mean survival of the ten probes and of mean PSNR, at several CRFs. What
depends on CRF, frame rate or probe is no constant and must follow from the model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffcodec as dc
from benchmarks.common import RESULTS, record
from diffcodec import fidelity, report
from diffcodec.h264 import x264
from diffcodec.video import video_files

PSNR_WEIGHT = 0.03  # one dB counts as much as 0.03 of survival

# (zone, field) of the constants that are fitted; without trellis the quantiser is known and only what follows it is
TRELLIS = [
    (zone, field) for zone in ("intra4", "intra8", "inter4", "inter8") for field in ("dense", "sparse", "tilt")
]  # chroma hardly tells


def constants(start: x264.Constants, names: Sequence[tuple[str, str]], values: Sequence[float]) -> x264.Constants:
    """Constants with some values replaced."""
    prefer = start.prefer
    for (zone, field), value in zip(names, values):
        prefer = dataclasses.replace(prefer, **{zone: dataclasses.replace(getattr(prefer, zone), **{field: value})})
    return dataclasses.replace(start, prefer=prefer)


def real_of(task: tuple[report.Clip, int, float], preset: str, encoder: str, options: dict[str, str]) -> fidelity.Measured:
    torch.set_num_threads(1)
    clip, i, crf = task
    codec = dc.RealCodec(encoder, crf=crf, preset=preset, options=options)
    return fidelity.measure(codec, clip.video, torch.Generator().manual_seed(i))


def simulated(task: tuple[report.Clip, int, float], preset: str, used: x264.Constants) -> fidelity.Measured:
    torch.set_num_threads(1)
    clip, i, crf = task
    return fidelity.measure(dc.DiffH264(crf, preset, constants=used), clip.video, torch.Generator().manual_seed(i), batch=10)


def residuals(tasks: Sequence[Any], sims: Sequence[fidelity.Measured], reals: Sequence[fidelity.Measured]) -> Tensor:
    """By CRF: ten differences of mean survival, and that of mean PSNR."""
    out = []
    for crf in dict.fromkeys(t[2] for t in tasks):
        mine = [k for k, t in enumerate(tasks) if t[2] == crf]
        gap = torch.stack([sims[k].survival - reals[k].survival for k in mine]).mean(0)
        psnr = [_psnr(tasks[k][0].video, sims[k].video) - _psnr(tasks[k][0].video, reals[k].video) for k in mine]
        out.append(torch.cat([gap, torch.tensor([PSNR_WEIGHT * sum(psnr) / len(psnr)])]))
    return torch.cat(out)


def _psnr(a: Tensor, b: Tensor) -> float:
    return -10 * torch.log10((a - b).square().mean()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="folder of clips to fit on")
    parser.add_argument("--count", type=int, default=12, help="clips, spread over the folder")
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--encoder", default="libx264")
    parser.add_argument("--options", default="{}", help="options of the encoder, JSON")
    parser.add_argument("--crf", nargs="+", type=float, default=[17, 22, 27, 32])
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--damping", type=float, default=0.003)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--name", help="of the calibration: the preset by default")
    args = parser.parse_args()
    files = video_files(args.clips)
    files = files[:: max(1, len(files) // args.count)]
    clips: list[report.Clip] = []
    for path in files:
        try:
            clips.append(report.load_clip(path, 8, 128))
        except dc.VideoError as error:
            print(f"left out: {error}")
    clips = clips[: args.count]
    tasks = [(c, i, crf) for crf in args.crf for i, c in enumerate(clips)]
    start = x264.constants_of(args.preset)
    names = TRELLIS
    values = [float(getattr(getattr(start.prefer, z), f)) for z, f in names]
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        reals = list(pool.map(partial(real_of, preset=args.preset, encoder=args.encoder, options=json.loads(args.options)), tasks))

        def run(v: Sequence[float]) -> Tensor:
            used = constants(start, names, v)
            return residuals(tasks, list(pool.map(partial(simulated, preset=args.preset, used=used), tasks)), reals)

        best, history = run(values), []
        for turn in range(args.iterations):
            begin = time.time()
            print(f"turn {turn}: squared residual {best.square().mean():.6f}, mean absolute {best.abs().mean():.4f}", flush=True)
            history.append(best.square().mean().item())
            steps = [0.06] * len(values)
            columns = []
            for k in range(len(values)):
                columns.append((run([*values[:k], values[k] + steps[k], *values[k + 1 :]]) - best) / steps[k])
                print(f"   {names[k]}: {columns[-1].square().mean().sqrt():.3f} a step, {time.time() - begin:.0f} s", flush=True)
            jacobian = torch.stack(columns, 1).double()
            a = jacobian.mT @ jacobian + args.damping * torch.eye(len(values), dtype=torch.float64)
            move = torch.linalg.solve(a, -jacobian.mT @ best.double()).clamp(-0.15, 0.15)
            for scale in (1.0, 0.4):
                trial = [min(max(v + scale * m.item(), -0.5), 2.0) for v, m in zip(values, move)]
                new = run(trial)
                print("  ", scale, f"{new.square().mean():.6f}", [round(t, 3) for t in trial], flush=True)
                if new.square().mean() < best.square().mean():
                    values, best = trial, new
                    break
            else:
                break
            print(f"   {time.time() - begin:.0f} s", flush=True)
    fitted = constants(start, names, [round(v, 3) for v in values])
    name = args.name or args.preset
    data = {"constants": dataclasses.asdict(fitted), "residual": best.abs().mean().item(), "history": history}
    path = record(f"calibration_{name}", data | {"clips": [{"name": c.name, "sha256": c.sha256} for c in clips], "crf": args.crf})
    target = Path(x264.__file__).parent / "calibration" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(path.read_text())
    print(f"wrote {target} ({RESULTS})")


if __name__ == "__main__":
    main()
