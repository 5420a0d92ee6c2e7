"""DiffJPEG against libjpeg: share of identical samples in the exact forward pass, steering gain and band test of every gradient and of kornia.

Photographs are 256 x 256 centre crops of one frame of each clip that is large enough.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import diffcodec as dc
from benchmarks.common import named, record
from diffcodec import fidelity
from diffcodec.files import video_files
from diffcodec.jpeg import Expected
from diffcodec.slopes import GRADIENTS

QUALITIES = (25, 50, 75, 90)
EXACT_QUALITIES = (1, 5, 10, 25, 50, 75, 90, 95, 100)


def exactness(paths: list[Path]) -> list[dict[str, Any]]:
    """Share of identical samples on whole frames."""
    rows = []
    for subsampling in ("4:2:0", "4:2:2", "4:4:4"):
        for quality in EXACT_QUALITIES:
            total = different = largest = 0
            for path in paths:
                x = dc.read_video(path, 5, 1)
                with torch.no_grad():
                    apart = ((dc.DiffJPEG(quality, subsampling)(x) - dc.RealJPEG(quality, subsampling)(x)) * 255).round().abs()
                total, different = total + apart.numel(), different + int((apart > 0).sum())
                largest = max(largest, int(apart.max()))
            share = 1 - different / total
            rows.append(
                {"subsampling": subsampling, "quality": quality, "samples": total, "identical": share, "largest_difference": largest}
            )
            print(f"{subsampling} quality {quality:3d}: {100 * share:.5f} % of {total} samples identical, largest difference {largest}")
    return rows


def layers(widths: list[float]) -> dict[str, Callable[[int], Callable[[torch.Tensor], torch.Tensor]]]:
    out: dict[str, Any] = {f"gradient={g}": lambda q, g=g: dc.DiffJPEG(q, gradient=g) for g in GRADIENTS}
    out["rounding=cubic (soft forward)"] = lambda q: dc.DiffJPEG(q, rounding="cubic")
    for noise in ("laplacian", "gaussian", "uniform"):
        for width in widths:
            out[f"Expected({noise!r}, {width:g})"] = lambda q, n=noise, w=width: dc.DiffJPEG(q, gradient=Expected(n, w))
    try:
        import kornia.enhance

        out["kornia"] = lambda q: lambda v: kornia.enhance.jpeg_codec_differentiable(v[:, 0], torch.full((len(v),), float(q)))[:, None]
    except ImportError:
        print("kornia is not installed: its row is left out")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="folder of video files")
    parser.add_argument("--side", type=int, default=256, help="side of the photographs")
    parser.add_argument("--most", type=int, default=100, help="maximum number of photographs, spread over the folder")
    parser.add_argument("--widths", type=float, nargs="*", default=[], help="widths of Expected() to add as rows")
    parser.add_argument("--name", default="jpeg", help="name of the result file")
    args = parser.parse_args()
    paths = [p for p in video_files(args.clips) if min((i := dc.video_info(p)).height, i.width) >= args.side]
    paths = paths[:: max(1, len(paths) // args.most)][: args.most]
    rows = exactness(paths)
    photographs = [dc.read_video(p, 5, 1, crop=(args.side, args.side)) for p in paths]
    steering: dict[str, Any] = {}
    for name, make in layers(args.widths).items():
        gains = {str(q): fidelity.steering(photographs, make(q), dc.RealJPEG(q)).static for q in QUALITIES}
        band = fidelity.steering(photographs, make(50), dc.RealJPEG(50), bands=fidelity.BANDS).static
        steering[name] = {"steering": gains, "band_test": band}
        print(f"{name:34s}" + "".join(f"  q{q} {v:.3f}" for q, v in gains.items()) + f"  band test {band:.3f}")
    clips = [c | {"frame": 5} for c in named(paths)]
    record(args.name, {"photographs": clips, "side": args.side, "exactness": rows, "steering": steering})


if __name__ == "__main__":
    main()
