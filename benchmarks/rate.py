"""Fit and check the bit counts of DiffJPEG (libjpeg's entropy-coded segments, default Huffman tables) and, with ``--preset``, of DiffH264 (slices).

Fit on one folder of clips, check on another: one frame of each clip at several qualities, or 8 frames of 128 x 128 at several CRFs.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffcodec as dc
from benchmarks.common import record
from diffcodec import fidelity, rate, report
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


CRFS = (17, 22, 27, 32)


def video_features(paths: list[Path], preset: str) -> tuple[Tensor, Tensor]:
    """Features of DiffH264's bits and the real slices' bits of every clip x CRF: ``[N, 6]``, ``[N]``."""
    found, bits = [], []
    for path in paths:
        try:
            clip = report.load_clip(path, 8, 128).video[None]
        except dc.VideoError as error:
            print(f"left out: {error}")
            continue
        for crf in CRFS:
            engine = dc.DiffH264(crf, preset).engine
            with torch.no_grad():
                _, counted = engine.coded(clip, engine.sample(clip.shape))
            found.append(counted.sum((0, 1)))
            bits.append(dc.RealCodec(crf=crf, preset=preset).encode(clip).bits[0])
    return torch.stack(found).double(), torch.stack(bits).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", type=Path, required=True, help="folder of clips to fit on")
    parser.add_argument("--check", type=Path, required=True, help="folder of clips to check on")
    parser.add_argument("--every", type=int, default=8, help="use every n-th file of the folder to fit on")
    parser.add_argument("--preset", help="fit DiffH264's bits for this preset instead of DiffJPEG's")
    args = parser.parse_args()
    look = (lambda paths: video_features(paths, args.preset)) if args.preset else features
    x, y = look(video_files(args.fit)[:: args.every])
    constants = non_negative(x / y[:, None])
    x, y = look(video_files(args.check))
    used = torch.tensor(
        dataclasses.astuple(dc.DiffH264(preset=args.preset).engine.constants.rate) if args.preset else [rate.PER_OCTAVE, rate.PER_NONZERO],
        dtype=torch.float64,
    )
    out: dict[str, Any] = {"strengths": CRFS if args.preset else QUALITIES, "checked_on": len(y)}
    for name, weights in (("fitted", constants), ("in_use", used)):
        rank, error = fidelity.rate_agreement((x @ weights).tolist(), y.tolist())
        print(f"{name} constants {[round(v, 4) for v in weights.tolist()]}: rank {rank:.3f}, median error {100 * error:.1f} %")
        out[name] = {"constants": weights.tolist(), "rank_correlation": rank, "median_relative_error": error}
    record(f"rate_{args.preset}" if args.preset else "rate", out)


def non_negative(x: Tensor) -> Tensor:
    """Weights >= 0 that bring every row of x to 1 in the least squares sense."""
    from scipy.optimize import nnls

    return torch.from_numpy(nnls(x.numpy(), torch.ones(len(x)).double().numpy())[0])


if __name__ == "__main__":
    main()
