"""``DiffH264(bitrate=)``: fit the guess of a clip's size, and measure how well bitrates are met and what a call costs beside ``crf=``.

The polynomials of :data:`diffcodec.h264.bitrate.SIZE` are fitted to sizes at ten CRFs on one folder of clips: differences between neighbouring CRFs
count most, as one encode corrects the level. Bitrates are checked, and calls timed, on another.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffcodec as dc
from benchmarks.common import forward_only, record
from benchmarks.cost import cut, forward_backward, in_turn, report
from diffcodec.files import video_files
from diffcodec.h264 import Gop
from diffcodec.h264 import bitrate as bitrates
from diffcodec.h264.encoder import Analysis, Settings, size_of
from diffcodec.h264.x264 import START
from diffcodec.report import load_clip

FITTED = {True: ("medium",), False: ("ultrafast", "superfast")}  # by whether costs are SATD
CRFS = tuple(range(4, 52, 5))
BITRATES = (5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 4e6)
PRIOR = (4.5, 4.0, 0.5, 0.0)
LEAST_RISE = 0.5  # least slope of the polynomials, octaves a unit of their argument
LEVEL, SLOPE, HOLD = 0.3, 2.0, 1e-4  # weights of the errors of sizes, of their differences, and of the distance from the prior


def load(folder: Path, count: int) -> Tensor:
    """Centre crops of 8 frames of clips spread over a folder, ``[B, 8, 3, 128, 128]``."""
    clips, files = [], video_files(folder)
    for path in files[:: max(1, len(files) // count)][:count]:
        try:
            clips.append(load_clip(path, 8, 128).video)
        except dc.VideoError as error:
            print(f"left out: {error}")
    return torch.stack(clips)


def analysed(x: Tensor, preset: str, phase: int = START) -> tuple[Analysis, Settings, list[Gop]]:
    layer = dc.DiffH264(23, preset, gop="start" if phase == START else "middle")
    settings = Settings(layer.fps, layer.settings, layer.constants, True)
    gops = layer.gops(torch.full((len(x),), phase), x.shape[1])
    with torch.no_grad():
        return Analysis.of(x, gops, settings), settings, gops


def fit(x: Tensor, presets: Sequence[str]) -> list[float]:
    """Coefficients of I, P and B frames, and log2 of the bits of a frame."""
    arguments, kinds, sizes = [], [], []
    for clip, preset in ((clip, preset) for preset in presets for clip in x):
        analysis, settings, _ = analysed(clip[None], preset)
        shown = analysis.plan.shown
        cost = analysis.costs.inter[shown].clamp(min=1).log2()
        qp = analysis.frame_qp[shown][:, None, None] + analysis.offsets.total[shown] + settings.constants.qp
        arguments.append(torch.stack([bitrates.argument(cost, qp, crf) for crf in CRFS]).flatten(2))
        kinds.append(torch.tensor(["IPB".index(analysis.plan.types[i].upper()) for i in shown]))
        sizes.append(torch.stack([size_of(analysis, torch.tensor([float(crf)]), settings)[0] for crf in CRFS]).log2())
    v, kind, real = torch.stack(arguments), torch.stack(kinds), torch.stack(sizes)  # [B, CRFS, T, N], [B, T], [B, CRFS]
    prior = torch.tensor([*PRIOR * 3, PRIOR[1]])
    weights = prior.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weights], max_iter=150, line_search_fn="strong_wolfe", history_size=20)

    places = torch.linspace(-1, 1, 41) * bitrates.HALF_RANGE / bitrates.CENTRE

    def loss() -> Tensor:
        optimiser.zero_grad()
        a, b, c, d = weights[:12].view(3, 4)[kind][:, None, :, None].unbind(-1)
        error = (torch.exp2(a + v * (b + v * (c + v * d))).sum((2, 3)) + kind.shape[1] * torch.exp2(weights[12])).log2() - real
        a, b, c, d = weights[:12].view(3, 4, 1).unbind(1)
        rises = LEAST_RISE - (b + places * (2 * c + places * 3 * d))  # a coarser quantiser takes no more bits
        total = LEVEL * error.square().mean() + SLOPE * error.diff(dim=1).square().mean() + HOLD * (weights - prior).square().mean()
        total = total + rises.clamp(min=0).square().mean()
        total.backward()
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return [round(w, 2) for w in weights.tolist()]


def met(x: Tensor, preset: str, phase: int = START) -> dict[str, Any]:
    """|log2(estimated / wanted bits)| over clips and bitrates that lie within CRF 0 to 51."""
    analysis, settings, gops = analysed(x, preset, phase)
    errors = []
    for bitrate in BITRATES:
        crf = bitrates.crf_of_bitrate(x, gops, analysis, torch.full((len(x),), bitrate), settings)
        error = (size_of(analysis, crf.float(), settings).log2() - torch.tensor(bitrate * x.shape[1] / settings.fps).log2()).abs()
        errors.append(error[(crf > 0) & (crf < 51)])
    found = torch.cat(errors)
    out = {"median": found.median().item(), "mean": found.mean().item(), "p90": found.quantile(0.9).item(), "max": found.max().item()}
    print(preset, {k: round(v, 4) for k, v in out.items()}, flush=True)
    return out | {"count": len(found)}


def cost(x: Tensor, preset: str, bitrate: float, rounds: int) -> dict[str, dict[str, float]]:
    """CPU time of a call by bitrate and by the CRFs that it finds, in turn."""
    grad, out = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), {}
    rates = torch.full((len(x),), bitrate, requires_grad=True)
    analysis, settings, gops = analysed(x, preset)
    crf = bitrates.crf_of_bitrate(x, gops, analysis, rates.detach(), settings).float()
    layers = {"crf": dc.DiffH264(crf, preset), "bitrate": dc.DiffH264(bitrate=bitrate, preset=preset)}
    forward = {name: lambda layer=layer: forward_only(layer, x) for name, layer in layers.items()}
    both = {name: lambda layer=layer: forward_backward(layer, x, grad) for name, layer in layers.items()}
    both["bitrate with a gradient"] = lambda: forward_backward(dc.DiffH264(bitrate=rates, preset=preset), x, grad)
    for title, jobs in (("forward", forward), ("forward + backward", both)):
        found = in_turn(jobs, rounds)  # type: ignore[arg-type]
        report(f"{len(x)} x {x.shape[-2]} x {x.shape[-1]}, {preset}, {title}", found)
        out |= {f"{title}, {name}": row for name, row in found.items()}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", type=Path, help="folder of clips to fit on; without it the constants in use are only checked")
    parser.add_argument("--check", type=Path, required=True, help="folder of clips to check and to time on")
    parser.add_argument("--count", type=int, default=65, help="clips to fit on, spread over the folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--presets", nargs="+", default=["ultrafast", "veryfast", "medium", "slow"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    out: dict[str, Any] = {"bitrates": BITRATES, "in_use": {", ".join(FITTED[k]): v for k, v in bitrates.SIZE.items()}}
    if args.fit:
        x = load(args.fit, args.count)
        out["fitted"] = {", ".join(presets): fit(x, presets) for presets in FITTED.values()}
        print(out["fitted"])
    x = load(args.check, 1000)
    out["error"] = {preset: met(x, preset) for preset in args.presets}
    out["error_inside_a_stream"] = {"medium": met(x, "medium", 1)}
    small, out["small_clips"] = cut(video_files(args.check), 128, 128, 8)
    large, out["large_clips"] = cut(video_files(args.check), 720, 1280, 1)
    out["small"] = {preset: cost(small, preset, 3e5, args.rounds) for preset in args.presets}
    out["large"] = {preset: cost(large, preset, 3e6, max(3, args.rounds // 2)) for preset in ("ultrafast", "medium")}
    record("bitrate", out)


if __name__ == "__main__":
    main()
