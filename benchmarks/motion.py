"""Motion-compensated prediction of a frame from one that is 1 or 4 frames away: mean PSNR over the clips of a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import diffcodec as dc
from benchmarks.common import named, record
from diffcodec.files import video_files
from diffcodec.motion import BlockMotion, NoMotion, warp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="folder of video files")
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    paths = video_files(args.clips)
    videos = torch.stack([dc.read_video(p, 2, 5, crop=(args.size, args.size)) for p in paths])  # [N, 5, 3, H, W]
    estimators = {
        "none": NoMotion(),
        "BlockMotion(block=8, search=8, subpel=1)": BlockMotion(search=8, subpel=1),
        "BlockMotion() (8 x 8, 16 pixels, quarter-pel)": BlockMotion(),
        "BlockMotion(block=16)": BlockMotion(block=16),
        "BlockMotion(block=4)": BlockMotion(block=4),
        "BlockMotion(search=32)": BlockMotion(search=32),
    }
    rows = {}
    for name, estimator in estimators.items():
        row = {}
        for gap in (1, 4):
            current, reference = videos[:, gap], videos[:, 0]
            predicted = warp(reference, estimator(current, reference))
            row[f"psnr_{gap}_away"] = dc.metrics.psnr(predicted, current).mean().item()
        rows[name] = row
        print(f"{name:50s} {row['psnr_1_away']:.2f} {row['psnr_4_away']:.2f}")
    clips = named(paths)
    record("motion", {"frames": "2 from 3 and 2 from 6, centre crop", "size": args.size, "clips": clips, "rows": rows})


if __name__ == "__main__":
    main()
