"""Fit the constants of ``DiffH264(model="x264")`` for a preset family, or for another encoder or option set, on a folder of clips.

Gauss-Newton on the differences between simulator and real encoder in mean survival of the ten probes and in mean PSNR, at several CRFs; then the
weights of the bit count by non-negative least squares. Dependence on CRF, frame rate and probe is not fitted: it must follow from the model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffcodec as dc
from benchmarks.common import record
from diffcodec import fidelity, report
from diffcodec.files import video_files
from diffcodec.h264 import PRESETS, Constants, presets
from diffcodec.h264.bits import Weights
from diffcodec.h264.options import habits
from diffcodec.h264.presets import Preset

PSNR_WEIGHT = 0.03  # one dB counts as much as 0.03 of survival

# Constant, step of its finite difference, maximum distance from its initial value
WITH_TRELLIS = [("quant.trellis.intra", 0.15, 0.6), ("quant.trellis.inter", 0.15, 0.6), ("qp", 0.3, 1.0), ("intra_bias", 0.1, 0.3)]
WITHOUT = [("quant.intra", 0.03, 0.1), ("quant.inter", 0.03, 0.1), ("qp", 0.3, 1.0), ("intra_bias", 0.1, 0.3)]


def get(constants: Any, name: str) -> float:
    for part in name.split("."):
        constants = getattr(constants, part)
    return float(constants)


def put(constants: Any, name: str, value: float) -> Any:
    first, _, rest = name.partition(".")
    return dataclasses.replace(constants, **{first: put(getattr(constants, first), rest, value) if rest else value})


def real_of(task: tuple[report.Clip, int, float], preset: str, encoder: str, options: dict[str, str]) -> fidelity.Measured:
    torch.set_num_threads(1)
    clip, i, crf = task
    return fidelity.measure(dc.RealCodec(encoder, crf=crf, preset=preset, options=options), clip.video, torch.Generator().manual_seed(i))


def simulated(task: tuple[report.Clip, int, float], preset: Preset, used: Constants) -> fidelity.Measured:
    torch.set_num_threads(1)
    clip, i, crf = task
    return fidelity.measure(dc.DiffH264(crf, preset, constants=used), clip.video, torch.Generator().manual_seed(i), batch=10)


def features(task: tuple[report.Clip, int, float], preset: Preset, used: Constants) -> Tensor:
    """Features from which the bits of a clip are computed, ``[6]``."""
    torch.set_num_threads(1)
    clip, _, crf = task
    layer = dc.DiffH264(crf, preset, constants=used)
    x = clip.video[None]
    with torch.no_grad():
        return layer.features(x, layer.sample(x.shape))[1].sum((0, 1))


def residuals(tasks: Sequence[Any], sims: Sequence[fidelity.Measured], reals: Sequence[fidelity.Measured]) -> Tensor:
    """Differences between simulator and encoder for each CRF: ten of mean survival, one of mean PSNR."""
    out = []
    for crf in dict.fromkeys(t[2] for t in tasks):
        mine = [k for k, t in enumerate(tasks) if t[2] == crf]
        gap = torch.stack([sims[k].survival - reals[k].survival for k in mine]).mean(0)
        psnr = [dc.metrics.psnr(m[k].video[None], tasks[k][0].video[None]).item() for m in (sims, reals) for k in mine]
        n = len(mine)
        out.append(torch.cat([gap, torch.tensor([PSNR_WEIGHT * (sum(psnr[:n]) - sum(psnr[n:])) / n])]))
    return torch.cat(out)


def non_negative(x: Tensor, towards: Sequence[float] | None = None, hold: float = 0.0) -> list[float]:
    """Weights w >= 0 that solve ``x @ w = 1`` in the least-squares sense.

    Args:
        x: ``[rows, weights]``.
        towards: prior weights, to which poorly determined weights stay close.
        hold: strength of this prior: cost of a weight with a relative error of 1, relative to that of a row with an error of 1, times the rows.
    """
    from scipy.optimize import nnls

    rows, y = x.double(), torch.ones(len(x)).double()
    if towards is not None:
        strength = (hold * len(x)) ** 0.5
        rows = torch.cat([rows, strength * torch.diag(1 / torch.tensor(towards, dtype=torch.float64))])
        y = torch.cat([y, torch.full((len(towards),), strength, dtype=torch.float64)])
    return [float(v) for v in nnls(rows.numpy(), y.numpy())[0]]


def bit_weights(
    run: Callable[..., Any], tasks: Sequence[Any], reals: Sequence[fidelity.Measured], preset: Preset, used: Constants
) -> Weights:
    """Weights of the bit count for given constants."""
    found = torch.stack(list(run(partial(features, preset=preset, used=used), tasks))).double()
    bits = torch.tensor([m.bits for m in reals], dtype=torch.float64)
    return Weights(*(round(w, 4) for w in non_negative(found / bits[:, None], dataclasses.astuple(Weights()), 0.001)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="folder of clips to fit on")
    parser.add_argument("--count", type=int, default=12, help="number of clips, spread over the folder")
    parser.add_argument("--preset", default="medium", choices=list(PRESETS))
    parser.add_argument("--encoder", default="libx264")
    parser.add_argument("--options", default="{}", help="options of the encoder, as JSON")
    parser.add_argument("--crf", nargs="+", type=float, default=[17, 22, 27, 32])
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--damping", type=float, default=0.002, help="keeps poorly determined constants near their initial values")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, help="JSON to write; by default the stored calibration of the preset, which must name its family"
    )
    args = parser.parse_args()
    if args.out is None and (PRESETS[args.preset].family != args.preset or args.encoder != "libx264" or args.options != "{}"):
        parser.error(f"--out is needed: {args.preset} does not name a preset family, or the encoder is not plain libx264")
    files = video_files(args.clips)
    clips: list[report.Clip] = []
    for path in files[:: max(1, len(files) // (args.count + 2))]:
        try:
            clips.append(report.load_clip(path, 8, 128))
        except dc.VideoError as error:
            print(f"left out: {error}")
    clips = clips[: args.count]
    tasks = [(c, i, crf) for crf in args.crf for i, c in enumerate(clips)]
    start = Constants()  # x264's own formulas
    options = json.loads(args.options)
    mine = habits(args.preset, options=options, strict=False)  # options that the model covers itself are not fitted
    plan = WITH_TRELLIS if mine.trellis else WITHOUT
    names = [n for n, _, _ in plan]
    origin = torch.tensor([get(start, n) for n in names], dtype=torch.float64)
    scale = torch.tensor([s for _, s, _ in plan], dtype=torch.float64)
    room = torch.tensor([r for _, _, r in plan], dtype=torch.float64)
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        reals = list(pool.map(partial(real_of, preset=args.preset, encoder=args.encoder, options=options), tasks))

        def constants(v: Tensor) -> Constants:
            out = start
            for name, value in zip(names, v.tolist()):
                out = put(out, name, round(value, 4))
            return out

        def run(v: Tensor) -> Tensor:
            return residuals(tasks, list(pool.map(partial(simulated, preset=mine, used=constants(v)), tasks)), reals).double()

        values, begin = origin, time.time()
        best = first = run(values)
        for turn in range(args.turns):
            print(f"turn {turn}: mean absolute residual {best.abs().mean():.4f}, {time.time() - begin:.0f} s", flush=True)
            moved = [values + scale * (torch.arange(len(names)) == k) for k in range(len(names))]
            jacobian = torch.stack([run(v) - best for v in moved], 1)  # of one step each
            a = jacobian.mT @ jacobian + args.damping * torch.eye(len(names), dtype=torch.float64)
            towards = -jacobian.mT @ best - args.damping * (values - origin) / scale
            move = torch.linalg.solve(a, towards) * scale
            for share in (1.0, 0.4):
                trial = (values + share * move).clamp(origin - room, origin + room)
                new = run(trial)
                print(f"   {share} x: {new.abs().mean():.4f}  {dict(zip(names, [round(t, 4) for t in trial.tolist()]))}", flush=True)
                if new.square().mean() < best.square().mean():
                    values, best = trial, new
                    break
            else:
                break
        fitted = constants(values)
        fitted = dataclasses.replace(fitted, rate=bit_weights(pool.map, tasks, reals, mine, fitted))
    data = {
        "encoder": {"name": args.encoder, "preset": args.preset, "options": options},
        "constants": fitted.to_dict(),
        "fitted": names,
        "residual": {"start": first.abs().mean().item(), "end": best.abs().mean().item()},
        "crf": args.crf,
        "clips": [{"name": c.name, "sha256": c.sha256} for c in clips],
    }
    path = args.out or Path(presets.__file__).parent / "calibration" / f"{args.preset}.json"
    record(path.stem, data, path.parent)


if __name__ == "__main__":
    main()
