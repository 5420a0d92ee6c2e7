"""Short trainings through a layer with and without its fused kernels, over several seeds: final losses must agree within the spread of the seeds.

A pattern for each bit is learnt together with a decoder, through the layer, at a fixed strength. Without a GPU, kernels run in Triton's
interpreter, so pictures are tiny.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

if not torch.cuda.is_available():  # before triton is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from torch import Tensor, nn

import diffcodec as dc
from benchmarks.common import record
from benchmarks.gpu import natural

BITS = 16
LAYERS: dict[str, tuple[Callable[[str], dc.Layer], tuple[int, ...]]] = {
    "jpeg": (lambda b: dc.DiffJPEG(50, backend=b), (1, 3, 32, 32)),
    "h264": (lambda b: dc.DiffH264(26, "ultrafast", backend=b), (1, 2, 3, 16, 16)),
}


def train(layer: dc.Layer, shape: tuple[int, ...], steps: int, seed: int, device: torch.device) -> tuple[list[float], float]:
    """Loss of each step, and the bit accuracy over 16 batches at the end."""
    torch.manual_seed(seed)
    area = shape[-3] * shape[-2] * shape[-1]
    patterns = nn.Parameter(torch.randn(BITS, area, device=device) / area**0.5)
    decoder = nn.Linear(area, BITS, bias=False, device=device)
    with torch.no_grad():
        decoder.weight.copy_(patterns)
    optimiser = torch.optim.Adam([patterns, decoder.weight], 3e-3)
    frames = shape[1] if len(shape) == 5 else 1

    def step(i: int) -> tuple[Tensor, Tensor]:
        pictures = natural(shape, device, 1000 * seed + i)
        message = torch.randint(0, 2, (shape[0], BITS), device=device).float()
        mark = ((2 * message - 1) @ patterns).view(shape[0], *shape[-3:])
        mark = 8 / 255 * mark / mark.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)
        marked = pictures + (mark[:, None] if len(shape) == 5 else mark)
        draw = layer.sample(shape, torch.Generator().manual_seed(i), device=device)
        seen = layer(marked, draw).view(shape[0], frames, area).mean(1)
        logits = 4 * decoder(seen - seen.mean(1, keepdim=True))
        return nn.functional.binary_cross_entropy_with_logits(logits, message), ((logits > 0) == message.bool()).float().mean()

    losses = []
    for i in range(steps):
        loss, _ = step(i)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        right = statistics.mean(float(step(steps + i)[1]) for i in range(16))
    return losses, right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in args.layers:
        make, shape = LAYERS[name]
        runs: dict[str, list[dict[str, Any]]] = {"reference": [], "triton": []}
        began = time.perf_counter()
        for seed in range(args.seeds):
            for backend, found in runs.items():
                losses, right = train(make(backend), shape, args.steps, seed, device)
                found.append({"seed": seed, "first": statistics.mean(losses[:20]), "last": statistics.mean(losses[-20:]), "bits": right})
        ends = {b: [r["last"] for r in found] for b, found in runs.items()}
        spread = max(ends["reference"]) - min(ends["reference"])
        apart = max(abs(a - b) for a, b in zip(ends["reference"], ends["triton"]))
        print(f"{name}: seeds end {spread:.1e} apart, backends {apart:.1e}, {time.perf_counter() - began:.0f} s", flush=True)
        of_all = {"layer": repr(make("reference")), "shape": list(shape), "steps": args.steps, "bits": BITS, "device": device.type}
        record(f"convergence_{name}", {**of_all, "runs": runs, "spread_of_seeds": spread, "backends_apart": apart})


if __name__ == "__main__":
    main()
