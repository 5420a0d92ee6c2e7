"""Marks in files: messages read after attacks, false positives on unmarked files, frames marked and read per second, cost in bits.

Finished attacks are kept in --work, so that an interrupted part resumes where it stopped.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import diffcodec as dc
from benchmarks import file_attacks
from benchmarks.common import named, record
from benchmarks.file_attacks import ATTACKS
from benchmarks.rows import Rows, belongs
from diffcodec.files import sha256, video_files
from revmark_ref import apply, framing, weights
from revmark_ref.keys import generator

HEIGHT, WIDTH, FPS, SECONDS = 720, 1280, 25, 10


def to_and_fro(path: Path, frames: int) -> Iterator[Tensor]:
    """``frames`` frames ``[3, H, W]`` of a video that is played forwards and backwards in turn."""
    video = dc.read_video(path, 0, min(dc.video_info(path).frames, frames))
    turn = max(1, 2 * (len(video) - 1))
    for i in range(frames):
        at = i % turn
        yield video[at if at < len(video) else turn - at]


def scaled(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """Shape: ``[3, h, w] -> [1, 3, *size]``."""
    return F.interpolate(frame[None], size, mode="bicubic", antialias=True).clamp(0, 1)


def long_video(path: Path, frames: int) -> Iterator[Tensor]:
    """``frames`` frames of 1280 x 720: the video played forwards and backwards, scaled to cover the frame and centre-cropped."""
    for frame in to_and_fro(path, frames):
        h, w = frame.shape[-2:]
        scale = max(HEIGHT / h, WIDTH / w)
        size = (max(HEIGHT, round(h * scale)), max(WIDTH, round(w * scale)))
        top, left = (size[0] - HEIGHT) // 2, (size[1] - WIDTH) // 2
        yield scaled(frame, size)[..., top : top + HEIGHT, left : left + WIDTH]


def clip(path: Path, i: int) -> Iterator[Tensor]:
    """4 to 10 s of a video played forwards and backwards, at one of four heights, at most its own or 288."""
    height = min((360, 480, 288, 720)[i % 4], max(288, dc.video_info(path).height))
    for frame in to_and_fro(path, (100, 150, 200, 250)[i % 4]):
        yield scaled(frame, (height, 2 * round(height * frame.shape[-1] / frame.shape[-2] / 2)))


def attacks(net: Any, paths: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Clips of 4 to 10 s, marked at the default strength and written at CRF 20, through every attack on files: is the message read?"""
    return _through_attacks(net, paths, args, "attacks")


def unmarked(net: Any, paths: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """The same clips unmarked, as they are and through every attack: is a mark reported?"""
    return _through_attacks(net, paths, args, "unmarked")


def _through_attacks(net: Any, paths: list[Path], args: argparse.Namespace, part: str) -> dict[str, Any]:
    done = Rows(args.work / f"{part}.jsonl", "clip", "attack")
    names = ["none", *ATTACKS]
    clips = [(i, paths[i % len(paths)], f"{paths[i % len(paths)].name} {i // len(paths)}") for i in range(args.count)]
    for i, path, called in clips:
        missing = [name for name in names if (called, name) not in done]
        if not missing:
            continue
        marked = args.work / "marked.mp4"
        message = _written(net, path, i, marked, args, part == "attacks")
        for name in missing:
            row = {"clip": called} | _attacked(net, marked, name, message)
            done.add(row)
            if (part == "attacks") != row["exact"]:
                print(row, flush=True)
    told = _summary([done[called, name] for _, _, called in clips for name in names], part) | {"psnr": args.psnr}
    print({k: v for k, v in told.items() if not isinstance(v, (dict, list))}, flush=True)
    return told


def _written(net: Any, path: Path, i: int, out: Path, args: argparse.Namespace, mark: bool) -> str | None:
    """A clip as a file at CRF 20, with a mark or without; returns its message."""
    if not mark:
        dc.write_video(out, clip(path, i), fps=FPS, crf=20, preset="veryfast")
        return None
    bits = torch.randint(2, (framing.message_bits(net.model.bits),), generator=generator(1, f"file {path.name}", i))
    message, source = framing.to_hex(bits.numpy()), args.work / "source.mp4"
    dc.write_video(source, clip(path, i), fps=FPS, crf=8, preset="ultrafast")
    apply.embed(net, source, out, message=message, psnr=args.psnr, crf=20)
    return message


def _attacked(net: Any, marked: Path, name: str, message: str | None) -> dict[str, Any]:
    """What is read of a file after an attack."""
    attack = ATTACKS.get(name)
    out = marked
    if attack is not None:
        out = marked.with_name(f"attacked{attack.suffix}")
        file_attacks.apply(attack, marked, out)
    found = apply.extract(net, out)
    return {
        "attack": name, "family": attack.family if attack else "none", "verdict": found.verdict, "score": round(found.score, 1),
        "exact": message is not None and found.message == message, "confidence": round(found.confidence, 3), "bytes": out.stat().st_size,
    }  # fmt: skip


def _summary(rows: list[dict[str, Any]], part: str) -> dict[str, Any]:
    by = {}
    for name in ["none", *ATTACKS]:
        own = [r for r in rows if r["attack"] == name]
        by[name] = {
            "family": own[0]["family"], "files": len(own), "exact": sum(r["exact"] for r in own),
            "unreadable": sum(r["verdict"] == "unreadable" for r in own),
            "median_confidence": round(statistics.median(r["confidence"] for r in own), 3),
        }  # fmt: skip
    return {
        "files": len(rows), "exact": sum(r["exact"] for r in rows),
        "wrong_messages": sum(not r["exact"] for r in rows if r["verdict"] in ("message", "text")),
        "unreadable": sum(r["verdict"] == "unreadable" for r in rows),
        "largest_score": max(r["score"] for r in rows), "smallest_score": min(r["score"] for r in rows), "attacks": by,
        "not_exact": [r for r in rows if not r["exact"]] if part == "attacks" else [r for r in rows if r["verdict"] != "none"],
    }  # fmt: skip


def speed(net: Any, paths: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Frames marked and read per second, including decoding and encoding: 10 s of 720p, each preset, three times."""
    rows = {}
    a, b = args.work / "source.mp4", args.work / "marked.mp4"
    for path in [p for p in paths if dc.video_info(p).height >= 720] or paths[:1]:
        dc.write_video(a, long_video(path, FPS * SECONDS), fps=FPS, crf=18, preset="veryfast")
        for preset in ("ultrafast", "veryfast", "medium"):
            times, reading = [], []
            for _ in range(3):
                begin = time.perf_counter()
                told = apply.embed(
                    net, a, b, message="0" * (framing.message_bits(net.model.bits) // 4), psnr=args.psnr, preset=preset, force=True
                )
                times.append(told.frames / (time.perf_counter() - begin))
                begin = time.perf_counter()
                apply.extract(net, b)
                reading.append(told.frames / (time.perf_counter() - begin))
            row = {"embed_fps": [round(t, 1) for t in times], "extract_fps": [round(t, 1) for t in reading]}
            rows[f"{path.name} {preset}"] = row | {"bytes_before": told.bytes_before, "bytes_after": told.bytes_after}
            print(path.name, preset, rows[f"{path.name} {preset}"], flush=True)
    return {"threads": torch.get_num_threads(), "rows": rows}


def bits(net: Any, paths: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Cost of the mark: bytes of the marked clip over those of the unmarked one, both coded from nearly lossless files at the same CRF."""
    rows: dict[str, Any] = {}
    source, marked, out = (args.work / f"bits-{n}.mp4" for n in ("source", "marked", "out"))
    for i in range(min(args.count, len(paths))):
        dc.write_video(source, clip(paths[i], i), fps=FPS, crf=4, preset="ultrafast")
        apply.embed(
            net,
            source,
            marked,
            message="0" * (framing.message_bits(net.model.bits) // 4),
            psnr=args.psnr,
            crf=4,
            preset="ultrafast",
            force=True,
        )
        row: dict[str, float] = {}
        for crf in (18, 23, 28, 33):
            attack = file_attacks.FileAttack("coding", options=(("crf", str(crf)), ("preset", "medium")))
            sizes = []
            for path in (source, marked):
                file_attacks.apply(attack, path, out)
                sizes.append(out.stat().st_size)
            row[f"CRF {crf}"] = sizes[1] / sizes[0]
        rows[paths[i].name] = row
        print(paths[i].name, row, flush=True)
    return {
        "psnr": args.psnr,
        "rows": rows,
        "median": {k: statistics.median(r[k] for r in rows.values()) for k in next(iter(rows.values()))},
    }


PARTS: dict[str, Callable[[Any, list[Path], argparse.Namespace], dict[str, Any]]] = {
    "attacks": attacks,
    "unmarked": unmarked,
    "speed": speed,
    "bits": bits,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="folder of video files")
    parser.add_argument("--weights", default="base")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--count", type=int, default=20, help="number of clips, taken from the folder in turn")
    parser.add_argument("--psnr", type=float, default=40.0)
    parser.add_argument("--work", type=Path, default=Path("out/watermark"), help="folder for intermediate files")
    args = parser.parse_args()
    net, _ = weights.load(args.weights)
    digest = sha256(weights.find(args.weights))
    paths = video_files(args.clips)
    clips = named(paths)
    belongs(args.work, weights=digest, psnr=args.psnr, clips=clips)
    for part in args.parts:
        record(f"watermark_{part}", {"weights": digest, "clips": clips, **PARTS[part](net, paths, args)})


if __name__ == "__main__":
    main()
