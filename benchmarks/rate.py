"""Fit and check the bit count of DiffJPEG against libjpeg's entropy-coded segments with its default Huffman tables.

Fit on one folder of clips, check on another: one frame of each clip at several qualities. (DiffH264's bits: ``benchmarks.calibrate``.)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffcodec as dc
from benchmarks.calibrate import non_negative
from benchmarks.common import record
from diffcodec import fidelity, rate
from diffcodec.files import video_files

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
    constants = torch.tensor(non_negative(x / y[:, None]), dtype=torch.float64)
    x, y = features(video_files(args.check))
    used = torch.tensor([rate.PER_OCTAVE, rate.PER_NONZERO], dtype=torch.float64)
    out: dict[str, Any] = {"strengths": QUALITIES, "checked_on": len(y)}
    for name, weights in (("fitted", constants), ("in_use", used)):
        rank, error = fidelity.rate_agreement((x @ weights).tolist(), y.tolist())
        print(f"{name} constants {[round(v, 4) for v in weights.tolist()]}: rank {rank:.3f}, median error {100 * error:.1f} %")
        out[name] = {"constants": weights.tolist(), "rank_correlation": rank, "median_relative_error": error}
    record("rate", out)


if __name__ == "__main__":
    main()
