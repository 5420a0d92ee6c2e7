"""Random layers, mixtures, damaged files, real encodes, and kills of a training: what is tried, what fails, what passes in silence.

A try fails where it ends in anything but a right result or an error that names what is wrong. A damaged file passes in silence where libav's own pass
over it shows a sign of damage (a marked frame or packet, a refused packet, fewer frames than announced) and a reader neither raises nor warns. Files
whose pictures differ without any such sign are counted apart: their formats cannot tell.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import multiprocessing
import os
import random
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffcodec as dc
from benchmarks.common import record

WANTED = {"layers": 20_000, "mixtures": 5_000, "files": 1_000, "encodes": 2_000, "kills": 100}
NAMED = (ValueError, TypeError)  # VideoError, MessageError and CheckpointError are among them


class Score:
    """What was tried and how it ended."""

    def __init__(self) -> None:
        self.tried = self.failed = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self.examples: list[str] = []

    def add(self, *kinds: str) -> None:
        self.tried += 1
        self.counts.update(kinds)

    def fail(self, what: str) -> None:
        self.failed += 1
        if len(self.examples) < 20:
            self.examples.append(what)

    def to_dict(self) -> dict[str, Any]:
        return {"tried": self.tried, "failed": self.failed, "counts": dict(sorted(self.counts.items())), "examples": self.examples}


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
    """Makers of random layers by name; those that cost most come up least."""

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
        "GaussianBlur": lambda: dc.GaussianBlur(value(r, 0.01, 9, b), r.choice([1, 3, 5, 7])),
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
    if r.random() < 0.2:  # rows of another tensor
        x = torch.rand(*x.shape[:-1], 2 * x.shape[-1])[..., ::2]
    if r.random() < 0.2:
        x = x * 1.04 - 0.02
    return x.to(r.choice([torch.float32] * 6 + [torch.float64, torch.float16, torch.bfloat16]))


def check_layer(r: random.Random, layer: dc.Layer, x: Tensor) -> None:
    """All that a layer promises of one input; an AssertionError says what it does not hold."""
    x = x.requires_grad_(True)
    before = x.detach().clone()
    seed, b = r.randrange(2**30), len(x)
    each = r.random() < 0.3 and not (isinstance(layer, dc.RandomDistortion) and layer.per == "batch")
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
        assert (one - again).abs().float().mean() < 1e-3, "a sample differs alone and in its batch"


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


# --- files ---

KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264.mp4": ("libx264", "yuv420p", {}),
    "h264-gops.mp4": ("libx264", "yuv420p", {"g": "6"}),
    "h264.mkv": ("libx264", "yuv420p", {"g": "12"}),
    "h264.mov": ("libx264", "yuv420p", {"preset": "ultrafast"}),
    "h264.avi": ("libx264", "yuv420p", {"bf": "0"}),
    "h264.ts": ("libx264", "yuv420p", {}),
    "hevc.mp4": ("libx265", "yuv420p", {"x265-params": "log-level=none"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"bf": "2"}),
    "mpeg4.mp4": ("mpeg4", "yuv420p", {}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"bf": "2"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"cpu-used": "8"}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
}


def whole_files(folder: Path) -> dict[str, list[bytes]]:
    """One file of each kind, and hashes of its frames."""
    import av

    from diffcodec.attacks import GaussianBlur

    g = torch.Generator().manual_seed(0)
    clip = GaussianBlur(2.0, 5)(torch.rand(1, 24, 3, 72, 96, generator=g))[0]
    clip = ((clip - clip.mean()) * 3 + 0.5).clamp(0, 1)
    out = {}
    for name, (codec, pix, options) in KINDS.items():
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = 72, 96, pix
            for frame in (clip * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        out[name] = hashes(dc.read_video(folder / name))
    return out


def hashes(video: Tensor) -> list[bytes]:
    return [hashlib.md5(f.numpy().tobytes()).digest() for f in video]


def damage(r: random.Random, data: bytes) -> bytes:
    out, kind = bytearray(data), r.randrange(5)
    at = r.randrange(len(out))
    if kind == 0:
        for _ in range(r.choice([1, 3, 20])):
            out[r.randrange(len(out))] ^= 1 << r.randrange(8)
    elif kind == 1:
        del out[at:]
    elif kind == 2:
        n = r.choice([16, 200, 2000])
        out[at : at + n] = bytes(len(out[at : at + n]))
    elif kind == 3:
        del out[at : at + r.choice([1, 16, 188, 1000])]
    else:
        out[at:at] = r.randbytes(r.choice([1, 16, 188]))
    return bytes(out)


def signs(path: Path) -> bool:
    """Whether libav itself, asked plainly, shows a sign of damage."""
    import av

    frames = packets = 0
    wrong = False
    try:
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    packets += 1
                    wrong |= packet.is_corrupt
                try:
                    for frame in packet.decode():
                        frames += 1
                        wrong |= frame.is_corrupt
                except av.error.InvalidDataError:
                    wrong |= packet.size > 0
            packed = stream.codec_context.name == "mpeg4" and container.format.name == "avi"
            return wrong or frames < max(packets, stream.frames) - packed
    except Exception:
        return True


@functools.cache
def small_nets() -> tuple[Any, Any]:
    """Untrained, for what is around them."""
    from revmark_ref.model import Detector, REVMark
    from revmark_ref.weights import load

    net, _ = load("small")
    model = dataclasses.replace(
        net.model, widths=(2,) * len(net.model.widths), decoder_widths=(2,) * len(net.model.decoder_widths), hidden=8
    )
    torch.manual_seed(0)
    return REVMark(model).eval(), Detector(2, None).eval()


def readers(path: Path, folder: Path) -> dict[str, tuple[Callable[[], Any], bool]]:
    """Every way to read a file, and whether it must report whatever is wrong anywhere in it."""
    from diffcodec.cli import main
    from revmark_ref import apply

    net, detector = small_nets()
    out = folder / "out.mp4"

    def roundtrip() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            if main(["roundtrip", str(path), str(out), "--codec", "jpeg"]):
                raise ValueError(said.getvalue())

    def reported(damage: Any) -> None:
        if damage:
            warnings.warn(str(damage), stacklevel=2)

    def detect() -> None:
        from diffcodec.media import Damage

        found = Damage()
        apply.detect(detector, (64, 64), path, damage=found)
        reported(found)

    return {
        "read_video": (lambda: dc.read_video(path), True),
        "read_video keep": (lambda: dc.read_video(path, damaged="keep"), True),
        "video_info": (lambda: dc.video_info(path), False),
        "read_video part": (lambda: dc.read_video(path, 5, 4), False),
        "Clips": (lambda: dc.Clips([path], frames=4, size=32)[0], False),
        "Clips keep": (lambda: dc.Clips([path], frames=4, size=32, damaged="keep")[0], False),
        "Clips lenient": (lambda: dc.Clips([path], frames=4, size=32, strict=False)[0], False),
        "roundtrip": (roundtrip, True),
        "embed": (lambda: apply.embed(net, path, out, message="deadbeef"), True),
        "embed keep": (lambda: reported(apply.embed(net, path, out, message="deadbeef", damaged="keep").damage), True),
        "extract": (lambda: reported(apply.extract(net, path).damage), True),
        "detect": (detect, True),
    }  # fmt: skip


def try_files(seed: int, count: int, until: float, score: Score) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        whole = whole_files(folder)
        for k in range(count):
            if time.monotonic() > until:
                return
            r = random.Random(f"files{seed}{k}")
            name = r.choice(list(whole))
            path = folder / f"damaged{Path(name).suffix}"
            path.write_bytes(damage(r, (folder / name).read_bytes()))
            wrong = signs(path)
            score.add(name)
            for reader, (read, whole_file) in readers(path, folder).items():
                before = {p.name for p in folder.iterdir()}
                ended = "read"
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    try:
                        got = read()
                        ended = "warned" if said else "read"
                        if reader == "read_video" and ended == "read" and not wrong and hashes(got) != whole[name]:
                            score.counts["pictures differ, no sign"] += 1
                    except NAMED as error:
                        ended = "refused"
                        if path.name not in str(error) and "--" not in str(error):
                            score.fail(f"seed {seed}, number {k}, {name}, {reader}: the error does not name the file: {error}"[:300])
                    except Exception as error:
                        ended = "failed"
                        score.fail(f"seed {seed}, number {k}, {name}, {reader}: {type(error).__name__}: {error}"[:300])
                score.counts[f"{reader}: {ended}"] += 1
                if wrong and whole_file and ended == "read":
                    score.counts["silent"] += 1
                    score.fail(f"seed {seed}, number {k}, {name}, {reader}: damage passed in silence")
                left = {p.name for p in folder.iterdir()} - before - {"out.mp4"}
                if left:
                    score.fail(f"seed {seed}, number {k}, {name}, {reader}: left {left}")
            (folder / "out.mp4").unlink(missing_ok=True)


# --- encodes ---


def try_encodes(seed: int, count: int, until: float, score: Score) -> None:
    sizes = [(48, 64), (64, 64), (33, 47), (64, 128), (96, 96), (128, 128), (128, 64), (144, 176), (80, 200), (17, 130)]
    g = torch.Generator().manual_seed(seed)
    clips = {s: dc.GaussianBlur(1.5, 5)(torch.rand(1, 5, 3, *s, generator=g)) for s in sizes}
    makers = {
        "libx264 medium": lambda: dc.RealCodec(crf=25, gradient=None),
        "libx264 veryfast": lambda: dc.RealCodec(crf=30, preset="veryfast", gradient=None),
        "libx264 bitrate": lambda: dc.RealCodec(bitrate=3e5, gradient=None),
        "libx265": lambda: dc.RealCodec("libx265", crf=28, preset="fast", gradient=None),
        "libvpx-vp9": lambda: dc.RealCodec("libvpx-vp9", crf=35, preset=8, gradient=None),
        "libsvtav1": lambda: dc.RealCodec("libsvtav1", crf=35, preset=12, gradient=None),
    }
    codecs = {name: make() for name, make in makers.items()}
    first: dict[tuple[str, tuple[int, int]], str] = {}
    shares = [6, 3, 2, 2, 1, 1]
    for k in range(count):
        if time.monotonic() > until:
            return
        r = random.Random(f"encodes{seed}{k}")
        name, size = r.choices(list(codecs), shares)[0], r.choice(sizes)
        torch.randint(0, 256, (r.randrange(1, 1 << 20),), dtype=torch.uint8)  # dirt where the encoder allocates
        coded = codecs[name].encode(clips[size])
        digest = hashlib.sha256(coded.video.numpy().tobytes() + b"".join(coded.streams)).hexdigest()
        if first.setdefault((name, size), digest) != digest:
            score.fail(f"seed {seed}, number {k}: {name} at {size} gave another result")
        score.add(name)


# --- kills ---


def _training(out: Path, steps: int) -> None:
    from revmark_ref.config import PRESETS
    from revmark_ref.train import Plan, train

    os.setsid()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    small = PRESETS["small"]
    model = dataclasses.replace(
        small.model, widths=(2,) * len(small.model.widths), decoder_widths=(2,) * len(small.model.decoder_widths), hidden=8
    )
    exact = {"distortion": ((0, "exact"),), "codec_preset": "veryfast", "restart_below": 0.0}
    training = dataclasses.replace(small.training, steps=steps, batch=2, save_every=1, validate_every=10**6, **exact)
    config = dataclasses.replace(small, model=model, training=training)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        train(Plan(config, "synthetic", out, resume=(out / "checkpoints").is_dir(), quiet=True))


def _final(out: Path) -> dict[str, str]:
    newest = sorted((out / "checkpoints").glob("step-*"))[-1]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in newest.iterdir()}


def try_kills(seed: int, count: int, until: float, score: Score) -> None:
    """One training without a break and one that is killed again and again: their ends are equal to the bit."""
    context = multiprocessing.get_context("fork")
    r = random.Random(f"kills{seed}")
    steps = max(6, 2 * count)
    with tempfile.TemporaryDirectory() as place:
        runs = [Path(place) / name for name in ("whole", "again", "killed")]
        for run in runs[:2]:
            process = context.Process(target=_training, args=(run, steps))
            process.start()
            process.join()
        if _final(runs[0]) != _final(runs[1]):
            score.fail("two trainings without a break differ")
        killed = 0
        while time.monotonic() < until:
            process = context.Process(target=_training, args=(runs[2], steps))
            process.start()
            if killed < count:
                process.join(r.uniform(0.05, 3.0))
                if process.is_alive():
                    process.kill()
                    killed += 1
                    score.add("killed")
                    process.join()
                    continue
            process.join()
            if process.exitcode:
                score.fail(f"the training does not go on after {killed} kills: exit {process.exitcode}")
                return
            if killed < count:  # done before it was killed often enough: begin again
                if _final(runs[2]) != _final(runs[0]):
                    score.fail(f"another result after {killed} kills")
                for p in sorted(runs[2].rglob("*"), reverse=True):
                    p.unlink() if p.is_file() else p.rmdir()
                runs[2].rmdir()
                score.counts["finished"] += 1
                continue
            if _final(runs[2]) != _final(runs[0]):
                score.fail(f"another result after {killed} kills")
            score.counts["finished"] += 1
            return


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
    """Try each part so many times, or until its share of the minutes is over."""
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
    parser.add_argument("--minutes", type=float, default=60, help="for all parts together, evenly shared")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the numbers wanted: " + ", ".join(f"{v} {k}" for k, v in WANTED.items())
    )
    parser.add_argument("--name", default="fuzz", help="of the result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = run({p: max(1, round(WANTED[p] * args.share)) for p in args.parts}, args.seed, args.minutes)
    record(args.name, {"seed": args.seed, "parts": found})
    return int(any(p["failed"] for p in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
