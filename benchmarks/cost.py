"""Cost of a layer: CPU time of forward and backward relative to the real codec on the same clips, alternating in one process, on one thread.

libx264's time covers its encoder and ffmpeg's decoder, from and to yuv420p frames: colour conversion is part of the layer's time but not of
libx264's. Pillow's covers encoding and decoding of RGB pictures. A ratio is the median over rounds of the ratios within a round.
"""

from __future__ import annotations

import argparse
import gc
import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

import diffcodec as dc
from benchmarks.common import forward_only, record
from diffcodec.files import sha256

PRESETS = {128: ("ultrafast", "veryfast", "medium", "slow"), 720: ("ultrafast", "medium")}
CRF, QUALITY, FRAMES = 23, 50, 8


def forward_backward(layer: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> None:
    """Forward and backward pass of a layer as in a training step, where the incoming gradient is given."""
    x = x.detach().requires_grad_()
    torch.autograd.grad(layer(x), x, grad)


def cut(files: list[Path], height: int, width: int, count: int) -> tuple[Tensor, list[dict[str, Any]]]:
    """Centre crops of the first frames of the first clips that are large enough, ``[count, FRAMES, 3, height, width]``, and the clips' names."""
    found, names = [], []
    for path in files:
        info = dc.video_info(path)
        if info.height < height or info.width < width or info.frames < FRAMES or len(found) == count:
            continue
        clip = dc.read_video(path)[:FRAMES]
        y, x = (clip.shape[-2] - height) // 2 // 2 * 2, (clip.shape[-1] - width) // 2 // 2 * 2
        found.append(clip[..., y : y + height, x : x + width])
        names.append({"clip": path.name, "sha256": sha256(path)[:16]})
    if len(found) < count:
        raise SystemExit(f"{len(found)} clips of at least {FRAMES} frames of {height} x {width} were found, {count} are needed")
    return torch.stack(found), names


def yuv_frames(clip: Tensor) -> list[Any]:
    """PyAV frames of a clip ``[T, 3, H, W]`` as an encoder takes them."""
    arrays = (clip * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [av.VideoFrame.from_ndarray(np.ascontiguousarray(a), format="rgb24").reformat(format="yuv420p") for a in arrays]


def x264(frames: list[Any], preset: str) -> None:
    """Encode and decode frames."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.thread_count = Fraction(1, 25), Fraction(25), 1
    encoder.options = {"preset": preset, "crf": str(CRF), "threads": "1"}
    packets = []
    for i, frame in enumerate(frames):
        frame.pts = i
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoded = sum(len(decoder.decode(p)) for p in [*packets, None])
    if decoded != len(frames):
        raise RuntimeError(f"{decoded} of {len(frames)} frames were decoded")


def pillow(images: list[Image.Image]) -> None:
    """Encode and decode pictures."""
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY)
        np.asarray(Image.open(buffer))


def in_turn(
    jobs: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, dict[str, float]]:
    """Times in milliseconds, and ratios to the first job of the same round: medians and quartiles."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            gc.collect()
            began = clock()
            job()
            times[name].append(1e3 * (clock() - began))
    base = next(iter(times.values()))
    out = {}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, base)]
        q = statistics.quantiles(ratios, n=4)
        out[name] = {"median_ms": statistics.median(values), "ratio": statistics.median(ratios), "q1": q[0], "q3": q[2]}
    return out


def report(title: str, rows: dict[str, dict[str, float]]) -> None:
    for name, row in rows.items():
        print(f"{title:34s} {name:46s} {row['median_ms']:8.1f} ms {row['ratio']:7.2f} x [{row['q1']:.2f}, {row['q3']:.2f}]", flush=True)


def of_video(x: Tensor, preset: str, rounds: int, backends: list[str], guided: bool) -> dict[str, dict[str, float]]:
    frames, grad = [yuv_frames(clip) for clip in x], torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    jobs: dict[str, Callable[[], None]] = {"libx264": lambda: [x264(f, preset) for f in frames] and None}  # type: ignore[func-returns-value]
    for backend in backends:
        layer = dc.DiffH264(CRF, preset, backend=backend)
        jobs[f"DiffH264, {backend}, forward"] = lambda layer=layer: forward_only(layer, x)  # type: ignore[misc]
        jobs[f"DiffH264, {backend}, forward + backward"] = lambda layer=layer: forward_backward(layer, x, grad)  # type: ignore[misc]
        if guided:
            guides = dc.RealCodec("libx264", CRF, preset=preset).encode(x).guide
            draw = layer.sample(x.shape, torch.Generator().manual_seed(0)) | {"guide": guides}
            jobs[f"guided DiffH264, {backend}, forward + backward"] = lambda layer=layer, draw=draw: forward_backward(  # type: ignore[misc]
                lambda v: layer(v, draw), x, grad
            )
    return in_turn(jobs, rounds)


def of_pictures(x: Tensor, rounds: int, backends: list[str]) -> dict[str, dict[str, float]]:
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    images = [Image.fromarray(a) for a in (x * 255).round().byte().permute(0, 2, 3, 1).numpy()]
    jobs: dict[str, Callable[[], None]] = {"Pillow": lambda: pillow(images)}
    for backend in backends:
        layer = dc.DiffJPEG(QUALITY, backend=backend)
        jobs[f"DiffJPEG 4:2:0, {backend}, forward"] = lambda layer=layer: forward_only(layer, x)  # type: ignore[misc]
        jobs[f"DiffJPEG 4:2:0, {backend}, forward + backward"] = lambda layer=layer: forward_backward(layer, x, grad)  # type: ignore[misc]
    try:
        import kornia.enhance

        quality = torch.full((len(x),), float(QUALITY))
        jobs["kornia, forward + backward"] = lambda: forward_backward(
            lambda v: kornia.enhance.jpeg_codec_differentiable(v, quality), x, grad
        )
    except ImportError:
        print("kornia is not installed: its row is left out")
    return in_turn(jobs, rounds)


def threads(x: Tensor, preset: str, rounds: int) -> dict[str, float]:
    """Wall time of forward and backward on one thread and on two, in turn."""
    layer, grad = dc.DiffH264(CRF, preset), torch.ones_like(x)

    def on(n: int) -> Callable[[], None]:
        def job() -> None:
            torch.set_num_threads(n)
            forward_backward(layer, x, grad)

        return job

    found = in_turn({"1": on(1), "2": on(2)}, rounds, time.perf_counter)
    torch.set_num_threads(1)
    return {"one_ms": found["1"]["median_ms"], "two_ms": found["2"]["median_ms"], "speedup": 1 / found["2"]["ratio"]}


FIRST_CALL = """
import time
began = time.perf_counter()
import torch, diffcodec as dc
torch.set_num_threads(1)
imported = time.perf_counter()
dc.DiffH264(23)(torch.rand(1, 8, 3, 128, 128))
print(imported - began, time.perf_counter() - began)
"""
PEAK = """
import torch, diffcodec as dc
torch.set_num_threads(1)
def high():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
layer = dc.DiffH264(23, backend={backend!r})
x = torch.rand(1, 8, 3, 64, 64, requires_grad=True)
layer(x).sum().backward()  # constants are made
x = torch.nn.functional.interpolate(torch.rand(8, 3, 135, 240), scale_factor=8, mode="bilinear")[None].clamp(0, 1).requires_grad_()
grad = torch.rand(x.shape)  # what a network behind the layer hands it
open("/proc/self/clear_refs", "w").write("5")  # the high water mark is what is held now
before = high()
out = layer(x)
out.backward(grad)
print((high() - before) / 2**20, x.numel() * 4 / 2**30)
"""


LONG = """
import time, torch, diffcodec as dc
torch.set_num_threads(1)
def high():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
frames = {frames}
layer = dc.DiffH264(23, keyint=100)
layer(torch.rand(1, 8, 3, 64, 64, requires_grad=True)).sum().backward()  # constants are made
big = torch.nn.functional.interpolate(torch.rand(1, 3, 40, 80), scale_factor=16, mode="bicubic").clamp(0, 1)
x = torch.stack([big[0, :, i // 2 : i // 2 + 256, i : i + 256] for i in range(frames)])[None].requires_grad_()
grad = torch.rand(x.shape)
open("/proc/self/clear_refs", "w").write("5")
before, began = high(), time.process_time()
layer(x).backward(grad)
print((high() - before) * 1024 / (frames * 256 * 256), 1e3 * (time.process_time() - began) / frames)
"""


def in_a_fresh_process(code: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(v) for v in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="folder of clips")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=["small", "large", "stills", "threads", "first", "memory", "long"])
    parser.add_argument("--presets", nargs="+", help="presets of the parts small and large; all by default")
    parser.add_argument("--backends", nargs="+", default=["native"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(p for p in args.clips.iterdir() if p.is_file() and p.suffix != ".md")
    out: dict[str, Any] = {"native": dc.backends()["native"].why.partition(" (")[0], "crf": CRF, "quality": QUALITY}
    for kind, size, (height, width, count) in (("small", 128, (128, 128, 8)), ("large", 720, (720, 1280, 1))):
        if kind not in args.only:
            continue
        x, out[f"{kind}_clips"] = cut(files, height, width, count)
        out[kind] = {}
        for preset in args.presets or PRESETS[size]:
            rounds = args.rounds if kind == "small" else max(3, args.rounds // 2)
            out[kind][preset] = of_video(x, preset, rounds, args.backends, kind == "small" and preset == "medium")
            report(f"{count} x 8 x {height} x {width}, {preset}", out[kind][preset])
    if "stills" in args.only:
        x, _ = cut(files, 256, 256, 8)
        out["stills"] = of_pictures(x[:, :2].flatten(0, 1), args.rounds, args.backends)
        report("stills 16 x 256 x 256", out["stills"])
    if "threads" in args.only:
        x, _ = cut(files, 128, 128, 8)
        out["threads"] = {p: threads(x, p, args.rounds) for p in ("ultrafast", "medium")}
        print(out["threads"])
    if "first" in args.only:
        imported, total = min((in_a_fresh_process(FIRST_CALL) for _ in range(3)), key=lambda v: v[1])
        out["first_call"] = {"import_s": imported, "total_s": total}
        print(out["first_call"])
    if "memory" in args.only:
        out["memory_1080p"] = {}
        for backend in args.backends:
            beyond, given = in_a_fresh_process(PEAK.format(backend=backend))
            out["memory_1080p"][backend] = {"beyond_input_gib": beyond, "input_gib": given}
        print(out["memory_1080p"])
    if "long" in args.only:
        out["long_256"] = {}
        for frames in (8, 64, 250):
            beyond, ms = in_a_fresh_process(LONG.format(frames=frames))
            out["long_256"][str(frames)] = {"beyond_input_bytes_a_pixel": beyond, "ms_a_frame": ms}
        print(out["long_256"])
    if set(args.only) == set(parser.get_default("only")) and not args.presets:
        record("cost", out)


if __name__ == "__main__":
    main()
