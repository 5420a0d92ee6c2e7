"""Gradient of DiffH264's bits with respect to CRF, against finite differences of the simulator and of libx264: ratios of d log(bits) / d CRF."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import diffcodec as dc
from benchmarks.common import record
from diffcodec import report
from diffcodec.files import video_files

SPAN = 2.0  # step of the central difference, in CRF


def slopes(video: torch.Tensor, preset: str, crf: float) -> dict[str, float]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--presets", nargs="+", default=["ultrafast", "medium", "slow"])
    parser.add_argument("--crf", nargs="+", type=float, default=[18, 23, 30, 40])
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = [report.load_clip(p, 8, 128, 0) for p in video_files(args.clips)]
    rows = []
    for preset in args.presets:
        for crf in args.crf:
            found = [slopes(c.video, preset, crf) for c in clips]
            row: dict[str, object] = {"preset": preset, "crf": crf}
            for against in ("simulator", "libx264"):
                ratio = torch.tensor([f["gradient"] / f[against] for f in found])
                row[against] = {"median": ratio.median().item(), "low": ratio.min().item(), "high": ratio.max().item()}
            rows.append(row)
            print(row, flush=True)
    record(
        "bits_gradient", {"clips": [{"name": c.name, "sha256": c.sha256} for c in clips], "ratio_of_gradient_to_finite_differences": rows}
    )


if __name__ == "__main__":
    main()
