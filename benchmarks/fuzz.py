"""Fuzzing: random layers, mixtures, damaged files, real encodes, and killed training runs. Counts trials, failures and unreported damage.

A trial fails if it ends in anything but a correct result or an error that names the cause. Damage counts as unreported if decoding with libav alone
shows a sign of it (a frame or packet flagged as corrupt, a rejected packet, fewer frames than announced) and a reader neither raises nor warns. Files
whose pictures differ without any such sign are counted separately: their formats cannot detect it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import random
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import diffcodec as dc
from benchmarks.common import record
from benchmarks.fuzz_files import try_files, try_kills
from benchmarks.fuzz_score import Score

WANTED = {"layers": 20_000, "mixtures": 5_000, "files": 1_000, "encodes": 2_000, "kills": 100}


# --- layers ---


def value(r: random.Random, low: float, high: float, batch: int, whole: bool = False) -> Any:
    """A strength of any kind."""

    def one() -> float:
        v = r.uniform(low, high)
        return float(round(v)) if whole else v

    kind = r.randrange(5)
    if kind == 0:
        return one()
    if kind == 1:
        return tuple(sorted((one(), one())))
    if kind == 2:
        return torch.tensor([one() for _ in range(batch)])
    if kind == 3:
        return dc.Choice([one() for _ in range(r.randint(1, 4))])
    return dc.Ramp(one(), one(), 0, 10)


def layers(r: random.Random, b: int) -> dict[str, Callable[[], dc.Layer]]:
    """Constructors of random layers by name; expensive layers are drawn less often."""

    def jpeg() -> dc.Layer:
        sub = r.choice(["4:2:0", "4:2:2", "4:4:4"])
        if r.random() < 0.3:
            return dc.DiffJPEG(value(r, 1, 100, b), sub, rounding=r.choice(list(dc.rounding.ROUNDINGS)))
        if r.random() < 0.2:
            return dc.DiffJPEG(subsampling=sub, tables=torch.randint(1, 256, r.choice([(2, 8, 8), (b, 2, 8, 8)])).float())
        return dc.DiffJPEG(value(r, 1, 100, b), sub, gradient=r.choice(["expected", "cubic", "identity", "straight_through", "soft"]))

    def h264() -> dc.Layer:
        return dc.DiffH264(
            value(r, 0, 51, b), r.choice(["ultrafast", "superfast", "veryfast", "medium"]), r.choice([25, "30000/1001", 60.0]),
            r.choice(["start", "middle", "random"]),
        )  # fmt: skip

    def real() -> dc.Layer:
        return dc.RealCodec(
            "libx264", value(r, 0, 51, b), r.choice(["ultrafast", "veryfast", "medium"]), gradient=r.choice(["best", "identity", None])
        )

    cheap: dict[str, Callable[[], dc.Layer]] = {
        "FrameAverage": lambda: dc.FrameAverage(value(r, 1, 9, b, True)),
        "FrameDrop": lambda: dc.FrameDrop(value(r, 0, 1, b)),
        "FrameSwap": lambda: dc.FrameSwap(value(r, 0, 1, b)),
        "FrameInsert": lambda: dc.FrameInsert(value(r, 0, 1, b)),
        "FrameRate": lambda: dc.FrameRate(value(r, 0.2, 3, b)),
        "RandomCrop": lambda: dc.RandomCrop(value(r, 0.01, 1, b), r.choice(["zero", "resize"])),
        "Resize": lambda: dc.Resize(value(r, 0.01, 1, b)),
        "Rotate": lambda: dc.Rotate(value(r, -360, 360, b)),
        "Flip": lambda: dc.Flip(value(r, 0, 1, b), r.choice(["horizontal", "vertical"])),
        "GaussianNoise": lambda: dc.GaussianNoise(value(r, 0, 1, b)),
        "GaussianBlur": lambda: dc.GaussianBlur(value(r, 0.01, 9, b), r.choice([1, 3, 5, 7]), r.choice(["space", "time and space"])),
        "Brightness": lambda: dc.Brightness(value(r, 0, 3, b)),
        "Contrast": lambda: dc.Contrast(value(r, 0, 3, b)),
        "Saturation": lambda: dc.Saturation(value(r, 0, 3, b)),
        "Hue": lambda: dc.Hue(value(r, -0.5, 0.5, b)),
        "ColorDither": lambda: dc.ColorDither(value(r, 2, 256, b, True)),
        "Identity": dc.Identity,
        "JPEGMask": lambda: dc.JPEGMask(r.randint(1, 64), r.randint(1, 64)),
        "JPEGDrop": lambda: dc.JPEGDrop(value(r, 1, 100, b)),
        "DiffJPEG": jpeg,
    }
    dear = {
        "DiffH264": h264,
        "RealCodec": real,
        "RealJPEG": lambda: dc.RealJPEG(value(r, 1, 100, b, True)),
        "CompNet": lambda: dc.CompNet(r.randint(1, 4), 2),
        "DiffH264 revmark": lambda: dc.DiffH264(model="revmark", rounding=r.choice(list(dc.rounding.ROUNDINGS))),
    }
    return dear if r.random() < 0.15 else cheap


def layer_of(r: random.Random, b: int) -> tuple[str, dc.Layer]:
    makers = layers(r, b)
    name = r.choice(list(makers))
    return name, makers[name]()


def mixture_of(r: random.Random, b: int, depth: int = 2) -> dc.Layer:
    members = [layer_of(r, b)[1] for _ in range(r.randint(1, 3))]
    if depth > 1 and r.random() < 0.4:
        members.append(mixture_of(r, b, depth - 1))
    return dc.RandomDistortion(members, [r.uniform(0.1, 2) for _ in members], r.choice(["batch", "sample"]))


def batch_of(r: random.Random, images: bool) -> Tensor:
    b, t, h, w = r.randint(1, 3), r.randint(1, 5), r.randint(1, 36), r.randint(1, 36)
    x = torch.rand(b, 3, h, w) if images and r.random() < 0.3 else torch.rand(b, t, 3, h, w)
    if r.random() < 0.2:  # a view that is not contiguous
        x = torch.rand(*x.shape[:-1], 2 * x.shape[-1])[..., ::2]
    if r.random() < 0.2:
        x = x * 1.04 - 0.02
    return x.to(r.choice([torch.float32] * 6 + [torch.float64, torch.float16, torch.bfloat16]))


def check_layer(r: random.Random, layer: dc.Layer, x: Tensor) -> None:
    """Check all guarantees of a layer on one input; an AssertionError names the one that is violated."""
    x = x.requires_grad_(True)
    before = x.detach().clone()
    seed, b = r.randrange(2**30), len(x)
    together = any(isinstance(m, dc.RandomDistortion) and m.per == "batch" for m in layer.modules())  # draws one member for the whole batch
    each = r.random() < 0.3 and not together
    generators: Any = [torch.Generator().manual_seed(seed + i) for i in range(b)] if each else torch.Generator().manual_seed(seed)
    draw = layer.sample(x.shape, generators, step=r.randint(0, 12))
    y = layer(x, draw)
    assert y.shape == x.shape, f"shape {tuple(y.shape)}"
    assert y.dtype == x.dtype, f"dtype {y.dtype}"
    assert 0 <= y.min() <= y.max() <= 1, f"range {y.min().item()} to {y.max().item()}"
    assert torch.equal(x.detach(), before), "the input was changed"
    assert torch.equal(layer(x, reloaded(draw)), y), "the same draw gave another result"
    if y.requires_grad:
        (g,) = torch.autograd.grad(y.float().sum(), x)
        assert g.isfinite().all(), "gradient not finite"
    if each:
        i = r.randrange(b)
        alone = layer.rows([i], b)
        one = alone(x[i : i + 1], alone.sample((1, *x.shape[1:]), [torch.Generator().manual_seed(seed + i)], step=3))
        again = layer(x, layer.sample(x.shape, [torch.Generator().manual_seed(seed + j) for j in range(b)], step=3))[i : i + 1]
        assert (one - again).abs().float().mean() < 1e-3, "a sample gives different results alone and in its batch"


def reloaded(draw: Any) -> Any:
    file = io.BytesIO()
    torch.save(draw, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def try_layers(seed: int, count: int, until: float, score: Score, mixtures: bool = False) -> None:
    for k in range(count):
        if time.monotonic() > until:
            return
        r = random.Random(f"{mixtures}{seed}{k}")
        torch.manual_seed(r.randrange(2**30))
        images = r.random() < 0.5
        x = batch_of(r, images)
        name = "mixture"
        try:
            if mixtures:
                layer: dc.Layer = mixture_of(r, len(x))
            else:
                name, layer = layer_of(r, len(x))
            if x.dim() == 4 and not layer.images:
                x = x[:, None]
            check_layer(r, layer, x)
        except Exception as error:
            score.fail(f"seed {seed}, number {k}, {name} on {tuple(x.shape)} {x.dtype}: {type(error).__name__}: {error}"[:400])
        score.add(name)


# --- encodes ---


def try_encodes(seed: int, count: int, until: float, score: Score) -> None:
    sizes = [(48, 64), (64, 64), (33, 47), (64, 128), (96, 96), (128, 128), (128, 64), (144, 176), (80, 200), (17, 130)]
    g = torch.Generator().manual_seed(seed)
    clips = {s: dc.GaussianBlur(1.5, 5, over="time and space")(torch.rand(1, 5, 3, *s, generator=g)) for s in sizes}
    makers = {
        "libx264 medium": lambda: dc.RealCodec(crf=25, gradient=None),
        "libx264 veryfast": lambda: dc.RealCodec(crf=30, preset="veryfast", gradient=None),
        "libx264 bitrate": lambda: dc.RealCodec(bitrate=3e5, gradient=None),
        "libx265": lambda: dc.RealCodec("libx265", crf=28, preset="fast", gradient=None),
        "libvpx-vp9": lambda: dc.RealCodec("libvpx-vp9", crf=35, preset=5, gradient=None),
        "libsvtav1": lambda: dc.RealCodec("libsvtav1", crf=35, preset=11, gradient=None),
    }
    codecs = {name: make() for name, make in makers.items()}
    first: dict[tuple[str, tuple[int, int]], str] = {}
    shares = [6, 3, 2, 2, 1, 1]
    for k in range(count):
        if time.monotonic() > until:
            return
        r = random.Random(f"encodes{seed}{k}")
        name, size = r.choices(list(codecs), shares)[0], r.choice(sizes)
        torch.randint(0, 256, (r.randrange(1, 1 << 20),), dtype=torch.uint8)  # garbage in the memory that the encoder allocates
        coded = codecs[name].encode(clips[size])
        digest = hashlib.sha256(coded.video.numpy().tobytes() + b"".join(coded.streams)).hexdigest()
        if first.setdefault((name, size), digest) != digest:
            score.fail(f"seed {seed}, number {k}: {name} at {size} gave another result")
        score.add(name)


PARTS: dict[str, Callable[[int, int, float, Score], None]] = {
    "layers": try_layers,
    "mixtures": lambda *a: try_layers(*a, mixtures=True),
    "files": try_files,
    "encodes": try_encodes,
    "kills": try_kills,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import av.logging

    av.logging.set_level(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def run(parts: dict[str, int], seed: int, minutes: float) -> dict[str, Any]:
    """Run the given number of trials of each part, or until its share of the minutes is over."""
    out: dict[str, Any] = {}
    with _quiet():
        for name, count in parts.items():
            began, score = time.monotonic(), Score()
            try:
                PARTS[name](seed, count, began + 60 * minutes / len(parts), score)
            except Exception:
                score.fail(traceback.format_exc()[-1500:])
            out[name] = score.to_dict() | {"wanted": count, "seconds": round(time.monotonic() - began, 1)}
            print(f"{name}: {score.tried} of {count} tried, {score.failed} failed, {out[name]['seconds']} s", flush=True)
            for example in score.examples:
                print("   ", example, flush=True)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="time limit for all parts together, shared evenly")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the full numbers of trials: " + ", ".join(f"{v} {k}" for k, v in WANTED.items())
    )
    parser.add_argument("--name", default="fuzz", help="name of the result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = run({p: max(1, round(WANTED[p] * args.share)) for p in args.parts}, args.seed, args.minutes)
    record(args.name, {"seed": args.seed, "parts": found})
    return int(any(p["failed"] for p in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
