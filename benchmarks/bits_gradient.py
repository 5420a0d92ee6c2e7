"""Gradients of the simulators' bits and distortion against finite differences of the simulator and of the real codec.

crf      d ln(bits) / d CRF of DiffH264: ratios of the gradient to the finite differences (bits_gradient.json)
pixels   slopes and cosines of :mod:`diffcodec.derivatives` by preset and CRF, and of DiffJPEG by quality (bits_gradient_pixels.json)
step     a step of a few levels against the gradient of the bits: real change beside the first-order prediction (bits_gradient_step.json)
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffcodec as dc
from benchmarks.common import record
from diffcodec import derivatives, report
from diffcodec.fidelity import quantised
from diffcodec.files import video_files
from diffcodec.layer import Codec

SPAN = 2.0  # step of the central difference, in CRF


def slopes(video: Tensor, preset: str, crf: float) -> dict[str, float]:
    """d log(bits) / d CRF of one clip ``[T, 3, H, W]``: the gradient, and both finite differences."""
    x = video[None]
    q = torch.tensor([float(crf)], requires_grad=True)
    (gradient,) = torch.autograd.grad(dc.DiffH264(q, preset).encode(x).bits.log().sum(), q)
    out = {"gradient": gradient.item()}
    with torch.no_grad():
        for name, codec in (("simulator", dc.DiffH264(preset=preset)), ("libx264", dc.RealCodec(preset=preset, gradient=None))):
            low, high = (codec.encode(x, crf=crf + d).bits.log().item() for d in (-SPAN, SPAN))
            out[name] = (high - low) / (2 * SPAN)
    return out


def crf_part(args: argparse.Namespace, clips: Sequence[Tensor]) -> dict[str, Any]:
    rows = []
    for preset in args.presets:
        for crf in args.crf or [18, 23, 30, 40]:
            found = [slopes(c, preset, crf) for c in clips]
            row: dict[str, object] = {"preset": preset, "crf": crf}
            for against in ("simulator", "libx264"):
                ratio = torch.tensor([f["gradient"] / f[against] for f in found])
                row[against] = {"median": ratio.median().item(), "low": ratio.min().item(), "high": ratio.max().item()}
            rows.append(row)
            print(row, flush=True)
    return {"ratio_of_gradient_to_finite_differences": rows}


Setting = tuple[dict[str, Any], Codec, Codec, Sequence[Tensor]]  # what it is, simulator, real codec, clips


def settings(args: argparse.Namespace, clips: Sequence[Tensor]) -> Iterator[Setting]:
    """libx264 by preset and CRF on the clips, libjpeg by quality on their first frames."""
    for preset in args.presets:
        for crf in args.crf or [17, 22, 27, 32]:
            real = dc.RealCodec(crf=crf, preset=preset, gradient=None)
            yield {"codec": "libx264", "preset": preset, "crf": crf}, dc.DiffH264(crf, preset), real, clips
    for quality in args.quality:
        pictures = [c[:1] for c in clips]
        yield {"codec": "libjpeg", "quality": quality}, dc.DiffJPEG(quality), dc.RealJPEG(quality, gradient=None), pictures


def pixels_part(args: argparse.Namespace, clips: Sequence[Tensor]) -> dict[str, Any]:
    rows = []
    for setting, simulator, real, videos in settings(args, clips):
        found = derivatives.compare(videos, simulator, real)
        rows.append(setting | dataclasses.asdict(found))
        print(" ".join(map(str, setting.values())))
        for name, each in (("ln bits", found.bits), ("squared error", found.distortion)):
            for direction, v in each.items():
                print(
                    f"  {name:13s} {direction:8s} gradient {_told(v.gradient)}  simulator {_told(v.simulated)}  real {_told(v.real)}"
                    f"  gradient / real {_told(v.ratio)}  simulator / real {_told(v.ratio_simulated)}"
                )
        for kind, c in found.cosine.items():
            print(
                f"  cosine {kind:8s} gradient {_told(c.gradient)}  simulator {_told(c.simulated)}  identity {_told(c.identity)}", flush=True
            )
    return {"step": derivatives.STEP, "rows": rows}


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def stepped(simulator: Codec, real: Codec, clip: Tensor, levels: float) -> dict[str, list[float]]:
    """ln of the ratio of bits after a step of ``levels`` RMS against the gradient: [predicted, simulator, real], for both kinds of step."""
    x = clip[None].requires_grad_(True)
    before = simulator.encode(x).bits.log()
    (g,) = torch.autograd.grad(before.sum(), x)
    x = x.detach()
    steps = {"sign": g.sign(), "normalised": g / g.square().mean().sqrt().clamp(min=1e-30)}
    out = {}
    with torch.no_grad():
        was = real.encode(x).bits.log()
        for name, step in steps.items():
            y = quantised(x - levels / 255 * step)
            changes = ((g * (y - x)).sum(), simulator.encode(y).bits.log() - before, real.encode(y).bits.log() - was)
            out[name] = [v.item() for v in changes]
    return out


def step_part(args: argparse.Namespace, clips: Sequence[Tensor]) -> dict[str, Any]:
    rows = []
    for setting, simulator, real, videos in settings(args, clips):
        found = [stepped(simulator, real, v, args.levels) for v in videos]
        for kind in ("sign", "normalised"):
            values = torch.tensor([f[kind] for f in found], dtype=torch.float64)  # [clips, 3]
            mean = [100 * math.expm1(v) for v in values.mean(0).tolist()]
            row = dict(zip(("predicted_percent", "simulated_percent", "real_percent"), mean))
            rows.append(setting | {"step": kind} | row | {"clips_with_fewer_bits": int((values[:, 2] < 0).sum())})
            print(rows[-1], flush=True)
    return {"levels": args.levels, "rows": rows}


PARTS: dict[str, tuple[Callable[[argparse.Namespace, Sequence[Tensor]], dict[str, Any]], int, str]] = {
    # what to run, first frame, name of the result
    "crf": (crf_part, 0, "bits_gradient"),
    "pixels": (pixels_part, report.START, "bits_gradient_pixels"),
    "step": (step_part, report.START, "bits_gradient_step"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--presets", nargs="*", default=["ultrafast", "medium", "slow"])
    parser.add_argument("--crf", nargs="+", type=float, help="default: 18 23 30 40 for crf, 17 22 27 32 for the others")
    parser.add_argument("--quality", nargs="*", type=float, default=[25, 50, 75, 90])
    parser.add_argument("--levels", type=float, default=2, help="RMS of the step in 8-bit levels")
    parser.add_argument("--every", type=int, default=1, help="use every n-th clip")
    parser.add_argument("--out", type=Path, help="folder of the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.parts:
        part, start, result = PARTS[name]
        clips = []
        for path in video_files(args.clips)[:: args.every]:
            first = max(0, min(start, dc.video_info(path).frames - 8))
            clips.append(report.load_clip(path, 8, 128, first))
        found = part(args, [c.video for c in clips])
        record(result, {"clips": [{"name": c.name, "sha256": c.sha256, "start": c.start} for c in clips]} | found, args.out)


if __name__ == "__main__":
    main()
