"""Marks in files: found again after re-encoding, claimed where there are none, frames marked a second.

Every part keeps what it has finished in --work and goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import diffcodec as dc
from benchmarks.common import record
from diffcodec import report
from diffcodec.files import video_files
from revmark_ref import apply, framing, weights
from revmark_ref.keys import generator

HEIGHT, WIDTH, FPS, SECONDS = 720, 1280, 25, 10


def long_video(path: Path, frames: int) -> Iterator[Tensor]:
    """``frames`` frames of 1280 x 720: the video played to and fro, scaled to cover the frame and cropped in the middle."""
    video = dc.read_video(path, 0, min(dc.video_info(path).frames, frames))
    h, w = video.shape[-2:]
    scale = max(HEIGHT / h, WIDTH / w)
    size = (max(HEIGHT, round(h * scale)), max(WIDTH, round(w * scale)))
    turn = max(1, 2 * (len(video) - 1))
    for i in range(frames):
        at = i % turn
        frame = video[at if at < len(video) else turn - at]
        big = F.interpolate(frame[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        top, left = (size[0] - HEIGHT) // 2, (size[1] - WIDTH) // 2
        yield big[None, :, top : top + HEIGHT, left : left + WIDTH]


def again(source: Path, out: Path, crf: float) -> None:
    """Decode and encode once more, libx264's defaults."""

    def chunks() -> Iterator[Tensor]:
        for frame in dc.video.read_frames(source):
            yield frame[None].float() / 255

    dc.write_video(out, chunks(), fps=FPS, crf=crf)


def files(net: Any, paths: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Embed into 10 s of 720p at 38 dB, re-encode at CRF 23, extract."""
    done: dict[str, Any] = kept(args.work / "files.json")
    a, b, c = (args.work / f"{name}.mp4" for name in ("source", "marked", "again"))
    for i in range(args.count):
        path = paths[i % len(paths)]
        name = f"{path.name} {i // len(paths)}"
        if name in done:
            continue
        dc.write_video(a, long_video(path, FPS * SECONDS), fps=FPS, crf=8, preset="ultrafast")
        message = framing.to_hex(torch.randint(2, (net.model.bits,), generator=generator(1, f"file {path.name}", i)).numpy())
        begin = time.perf_counter()
        told = apply.embed(net, a, b, message=message, psnr=args.psnr)
        seconds = time.perf_counter() - begin
        again(b, c, args.crf)
        found = apply.extract(net, c)
        done[name] = {"sent": message, **found.to_dict(), "exact": found.message == message, "embed_fps": round(told.frames / seconds, 1)}
        (args.work / "files.json").write_text(json.dumps(done))
        print(name, done[name], flush=True)
    exact = sum(r["exact"] for r in done.values())
    return {
        "exact": exact, "of": len(done), "psnr": args.psnr, "crf": args.crf, "seconds": SECONDS,
        "median_embed_fps": statistics.median(r["embed_fps"] for r in done.values()), "rows": done,
    }  # fmt: skip


def unmarked(net: Any, paths: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Windows of 16 to 64 frames, of a random part of the frame, from videos that nobody marked: how many claims?"""
    claims, smallest, rows = 0, 1.0, []
    for i in range(args.windows):
        g = generator(2, "unmarked", i)
        path = paths[i % len(paths)]
        info = dc.video_info(path)
        length = min(info.frames, 16 + int(torch.randint(49, (1,), generator=g)))
        start = int(torch.randint(info.frames - length + 1, (1,), generator=g))
        share = 0.3 + 0.7 * float(torch.rand((), generator=g))
        h, w = max(64, round(info.height * share)), max(64, round(info.width * share))
        top, left = (int(torch.randint(n + 1, (1,), generator=g)) for n in (info.height - h, info.width - w))
        window = dc.read_video(path, start, length, crop=(top, left, h, w), size=(net.model.height, net.model.width))
        logits = apply.read_logits(net, iter(window))
        found = framing.search(logits, net.model.frames)
        text = framing.find_text(logits, net.model.frames)
        claim = found.bits is not None or text is not None
        claims += claim
        smallest = min(smallest, found.p_value)
        rows.append({"clip": path.name, "start": start, "frames": length, "p_value": float(f"{found.p_value:.3g}"), "claimed": claim})
    print(f"claims in {claims} of {len(rows)} unmarked windows, smallest p-value {smallest:.2g}", flush=True)
    return {"claims": claims, "of": len(rows), "threshold": framing.CLAIM, "smallest_p_value": smallest, "rows": rows}


def speed(net: Any, paths: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Frames marked a second, decoding and encoding included: 10 s of 720p, each preset, fastest of three."""
    rows = {}
    a, b = args.work / "source.mp4", args.work / "marked.mp4"
    for path in [p for p in paths if dc.video_info(p).height >= 720] or paths[:1]:
        dc.write_video(a, long_video(path, FPS * SECONDS), fps=FPS, crf=18, preset="veryfast")
        for preset in ("ultrafast", "superfast", "veryfast", "medium"):
            times = []
            for _ in range(3):
                begin = time.perf_counter()
                told = apply.embed(net, a, b, message="0" * -(-net.model.bits // 4), psnr=args.psnr, preset=preset)
                times.append(told.frames / (time.perf_counter() - begin))
            rows[f"{path.name} {preset}"] = {"fps": [round(t, 1) for t in times], "bytes": b.stat().st_size}
            print(path.name, preset, rows[f"{path.name} {preset}"], flush=True)
    return {"threads": torch.get_num_threads(), "crf": 18, "rows": rows}


def kept(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


PARTS: dict[str, Callable[[Any, list[Path], argparse.Namespace], dict[str, Any]]] = {"files": files, "unmarked": unmarked, "speed": speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="folder of video files")
    parser.add_argument("--weights", default="small")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--count", type=int, default=20, help="files that are marked")
    parser.add_argument("--windows", type=int, default=200, help="unmarked windows")
    parser.add_argument("--psnr", type=float, default=38.0)
    parser.add_argument("--crf", type=float, default=23.0)
    parser.add_argument("--work", type=Path, default=Path("out/watermark"), help="folder for files in between")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    net, _ = weights.load(args.weights)
    digest = hashlib.sha256(weights.find(args.weights).read_bytes()).hexdigest()
    if kept(args.work / "of.json").get("weights") != digest:  # finished parts of other weights are none
        (args.work / "files.json").unlink(missing_ok=True)
        (args.work / "of.json").write_text(json.dumps({"weights": digest}))
    paths = video_files(args.clips)
    clips = [{"name": p.name, "sha256": report.sha256(p)} for p in paths]
    for part in args.parts:
        record(f"watermark_{part}", {"weights": digest, "clips": clips, **PARTS[part](net, paths, args)})


if __name__ == "__main__":
    main()
