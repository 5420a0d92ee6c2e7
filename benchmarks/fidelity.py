"""Fidelity of the simulators against libx264 over the clips of a folder: ``diffcodec fidelity`` with more simulators, recorded as a result.

The results of the manual, each with ``--clips DIR``:

fidelity            as it is: CRF 17 22 27 32, steering at CRF 22
fidelity_unfitted   CRFs that no constant was fitted on: --name fidelity_unfitted --crf 19.5 24.5 29.5 35 --steering 19.5 24.5 29.5
fidelity_60         windows of 60 frames: --name fidelity_60 --frames 60 --crf 22 29.5 --steering
fidelity_60_first   windows of 8 frames of the same clips: --name fidelity_60_first --at-least 60 --crf 22 29.5 --steering
The last three take --sim x264 revmark revmark:rounding=paper benchmarks.peers:KorniaJPEG:quality=50 none, the second also
jpeg:quality=50,rounding=cubic.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.common import record
from diffcodec import report
from diffcodec.files import video_files
from diffcodec.video import VideoError, video_info

SIMULATORS = [
    "x264",
    "revmark",
    "revmark:reference=0",
    "revmark:motion=block16",
    "revmark:motion=none",
    "revmark:rounding=paper",
    "revmark:intra_scale=0.5,inter_scale=1",
    "jpeg:quality=50,rounding=cubic",
    "none",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder of video files")
    parser.add_argument("--sim", nargs="+", default=SIMULATORS)
    parser.add_argument("--real", default="libx264")
    parser.add_argument("--crf", nargs="+", type=float, default=[17, 22, 27, 32])
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--fps", type=float, default=25)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--at-least", type=int, default=1, help="leave out clips of fewer frames")
    parser.add_argument("--steering", nargs="*", type=float, default=[22])
    parser.add_argument("--derivatives", nargs="*", type=float, default=[])
    parser.add_argument("--name", default="fidelity", help="name of the result file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = []
    for path in video_files(args.clips):
        try:
            if video_info(path).frames < args.at_least:
                raise VideoError(f"{path}: fewer than {args.at_least} frames")
            clips.append(report.load_clip(path, args.frames, args.size))
        except VideoError as error:
            print(f"left out: {error}")
    settings = {"preset": args.preset, "fps": args.fps, "steering_at": args.steering, "derivatives_at": args.derivatives}
    result = report.run(clips, args.sim, args.real, args.crf, **settings, progress=print)
    for row in result.rows:
        f, s = row.figures, row.steering
        steer = f"  steering {s.static:.2f} {s.changing:.2f}" if s else ""
        print(
            f"{row.simulator:40s} CRF {row.strength:g}  survival error {f.survival_error:.3f}  per clip {f.per_clip_survival_error:.3f}"
            f"  gap {f.distortion_gap:.2f}  skill {f.skill:+.2f}  cosine {f.error_cosine:.2f}"
            f"  chroma {f.chroma_survival_error:.3f}  Y' gap {f.luma_distortion_gap:.2f} skill {f.luma_skill:+.2f}{steer}"
        )
    data = result.to_dict("")
    record(args.name, {k: data[k] for k in ("settings", "clips", "rows", "rate_agreement")})


if __name__ == "__main__":
    main()
