"""The REVMark paper's tables and figures for our weights: bit accuracy under attacks and real codecs, quality, cost.

Finished cells are kept in --work and not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import record
from diffcodec.files import sha256
from revmark_ref import evaluate, measure, weights
from revmark_ref.waves import luma


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="folder of video files")
    parser.add_argument("--weights", default="small")
    parser.add_argument("--tables", type=int, nargs="+", default=[1, 2, 3, 8, 9, 10])
    parser.add_argument("--variants", nargs="+", default=[], help="other weights, for tables 4 to 7")
    parser.add_argument("--detector", default="small-detector", help="'none' leaves table 10 empty")
    parser.add_argument("--attacks", nargs="+", default=[], help="further attacks for bit accuracy, as libx264:27 or resize:0.5+libx264:23")
    parser.add_argument("--vmaf", action="store_true", help="also measure VMAF of the marked clips; needs the package vmaf-torch")
    parser.add_argument("--curves", action="store_true", help="also measure figure 5")
    parser.add_argument("--descent", type=int, default=0, help="steps of revmark_ref.refine, for weights with mapping 'waves'")
    parser.add_argument("--psnr", type=float, help="mean PSNR of the marked clips in dB; by default that of the model's own strength")
    parser.add_argument("--alexnet", help="AlexNet's features, for LPIPS")
    parser.add_argument("--windows", type=int, default=4, help="clips per video")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="robustness", help="name of the result")
    parser.add_argument("--work", type=Path, default=Path("out/robustness"))
    args = parser.parse_args()

    main_, *others = evaluate.evaluations(
        [args.weights, *args.variants], args.clips, args.work, args.windows, args.seed, args.alexnet, args.descent
    )
    if args.psnr is not None:
        for found in (main_, *others):
            found.alpha = found.alpha_for(args.psnr)
    detector = None if args.detector == "none" else args.detector
    data: dict[str, Any] = {
        "weights": {e.name: sha256(weights.find(n)) for e, n in zip([main_, *others], [args.weights, *args.variants])},
        "model": dataclasses.asdict(main_.config.model),
        "alpha": main_.alpha,
        "steps": main_.steps,
        "descent": args.descent,
        "windows_of_each_clip": args.windows,
        "clips": [{"name": n, "sha256": h} for n, h in zip(main_.material.names, main_.material.hashes)],
        "tables": evaluate.tables(main_, args.tables, args.clips, others, detector),
    }
    if args.attacks:
        data["attacks"] = {name: main_.accuracy(name) for name in args.attacks}
        data["quality"] = main_.quality()
        print({name: told["value"] for name, told in data["attacks"].items()}, data["quality"])
    if args.vmaf:
        data["vmaf"] = vmaf(main_)
        print("VMAF", data["vmaf"])
    if args.curves:
        data["curves"] = evaluate.curves(main_)
    print(evaluate.markdown(data["tables"]))
    record(args.name, data)


@torch.no_grad()
def vmaf(of: measure.Evaluation) -> dict[str, float]:
    """Mean VMAF of the marked clips, with a 95 % confidence interval over videos."""
    from vmaf_torch import VMAF

    judge = VMAF(temporal_pooling=True, clip_score=True)
    marked, clips = (16 + 219 / 255 * luma(v)[:, :, None] for v in (of.marked(of.alpha), of.material.clips))
    return measure.with_interval([float(judge(a, b)) for a, b in zip(clips, marked)], of.material.owner)


if __name__ == "__main__":
    main()
