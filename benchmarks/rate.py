"""Fit and check the rough bit count of ``diffcodec.rate`` against libjpeg's entropy-coded segments (default Huffman tables).

Fit on one folder of clips, check on another: one frame of each clip, several qualities.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import diffcodec as dc
from benchmarks.common import record
from diffcodec import fidelity, rate
from diffcodec.video import video_files

QUALITIES = (10, 25, 50, 75, 90, 95)


def features(paths: list[Path]) -> tuple[Tensor, Tensor]:
    """Sums of the two terms of the count, and the real bits, of every frame x quality: ``[N, 2]``, ``[N]``."""
    terms, bits = [], []
    for path in paths:
        frame = dc.read_video(path, 0, 1)
        for quality in QUALITIES:
            layer = dc.DiffJPEG(quality)
            _, levels = layer.levels(frame, layer.sample(frame.shape))
            terms.append(sum(torch.stack(rate.terms(v))[:, 0] for v in levels))
            bits.append(dc.RealJPEG(quality).encode(frame).bits[0])
    return torch.stack(terms).double(), torch.stack(bits).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", type=Path, required=True, help="folder of clips to fit on")
    parser.add_argument("--check", type=Path, required=True, help="folder of clips to check on")
    parser.add_argument("--every", type=int, default=8, help="use every n-th file of the folder to fit on")
    args = parser.parse_args()
    x, y = features(video_files(args.fit)[:: args.every])
    constants = torch.linalg.lstsq(x / y[:, None], torch.ones(len(y), 1, dtype=torch.float64)).solution[:, 0]  # relative error
    x, y = features(video_files(args.check))
    rank, error = fidelity.rate_agreement((x @ constants).tolist(), y.tolist())
    used = torch.tensor([rate.PER_OCTAVE, rate.PER_NONZERO], dtype=torch.float64)
    rank_used, error_used = fidelity.rate_agreement((x @ used).tolist(), y.tolist())
    print(f"fitted constants {constants.tolist()}: rank {rank:.3f}, median error {100 * error:.1f} %")
    print(f"constants in use {used.tolist()}: rank {rank_used:.3f}, median error {100 * error_used:.1f} %")
    fitted = {"constants": constants.tolist(), "rank_correlation": rank, "median_relative_error": error}
    in_use = {"constants": used.tolist(), "rank_correlation": rank_used, "median_relative_error": error_used}
    record("rate", {"qualities": QUALITIES, "checked_on": len(y), "fitted": fitted, "in_use": in_use})


if __name__ == "__main__":
    main()
