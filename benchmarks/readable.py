"""Is the prediction of ``embed`` right? Films of many kinds, marked with ``base`` at embed's defaults (libx264 veryfast at CRF 20), read as written
and after coding again at CRF 28; and how many excerpts of clips are read, by their length.

Parts: ``contents`` are the synthetic films of ``benchmarks.contents``; ``clips`` are those of ``--clips``, played forwards and backwards for 4 or
8 s, and their excerpts; ``weak`` are both, marked at 43 dB and written at CRF 32, so that many are not read. Finished films are kept in --work, so
that an interrupted part resumes where it stopped.
"""

from __future__ import annotations

import argparse
import math
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffcodec as dc
from benchmarks import contents, file_attacks, watermark
from benchmarks.common import named, record
from benchmarks.file_attacks import FileAttack, encoder
from benchmarks.rows import Rows, belongs
from diffcodec.files import sha256, video_files
from revmark_ref import apply, predict, weights

MESSAGE = "0123456789abcdef"
CARRIED = {"CRF 28": FileAttack("coding", **encoder("libx264", 28, "veryfast"))}
WEAK = {"psnr": 43.0, "crf": 32.0}
LENGTHS = (1.5, 2.0, 2.5, 3.0, 4.0)  # seconds


def films(args: argparse.Namespace, part: str, source: Path) -> Iterator[tuple[str, Any]]:
    """Names of films, and functions that write each to ``source``."""
    if part != "clips":
        for name in contents.CONTENTS:
            yield name, lambda name=name: contents.write(name, source)
    for i, path in enumerate(args.paths if part != "contents" else []):

        def write(i: int = i, path: Path = path) -> None:
            dc.write_video(source, watermark.clip(path, 2 * i), fps=watermark.FPS, crf=10, preset="ultrafast")

        yield path.name, write


def marked(net: Any, source: Path, out: Path, crf: float | None = None, psnr: float = 40.0) -> dict[str, Any]:
    """Mark a film whatever is predicted; what was predicted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        done = apply.embed(net, source, out, message=MESSAGE, psnr=psnr, crf=crf, force=True)
    told = done.prediction
    assert told is not None
    return {
        "margin": round(told.margin, 2), "share": round(told.share, 3), "predicted": told.readable, "reason": told.reason,
        "bytes_before": done.bytes_before, "bytes_after": done.bytes_after,
    }  # fmt: skip


def is_read(net: Any, path: Path) -> bool:
    try:
        return apply.extract(net, path).message == MESSAGE
    except dc.VideoError:  # too short
        return False


def predictions(net: Any, args: argparse.Namespace, part: str) -> dict[str, Any]:
    """Films marked: predicted, and read as written and after coding again."""
    attacks = {} if part == "weak" else CARRIED
    done = Rows(args.work / f"{part}.jsonl", "film")
    source, out, carried = (args.work / f"{part}-{n}.mp4" for n in ("source", "marked", "carried"))
    names = []
    for name, write in films(args, part, source):
        names.append(name)
        if (name,) in done:
            continue
        write()
        row = {"film": name} | marked(net, source, out, **(WEAK if part == "weak" else {})) | {"as written": is_read(net, out)}
        for called, attack in attacks.items():
            file_attacks.apply(attack, out, carried)
            row[called] = is_read(net, carried)
        if part == "clips":
            row["excerpts"] = excerpts(net, out, carried, args.each, name)
        done.add(row)
        print(row, flush=True)
    rows = [done[(name,)] for name in names]
    counts = {called: _counts(rows, called) for called in ("as written", *attacks)}
    told = {"films": len(rows), "needed": predict.NEEDED, "counts": counts}
    if part == "clips":
        told["excerpts"] = {
            f"{n:g} s": {"number": args.each * len(rows), "read": sum(r["excerpts"][f"{n:g} s"] for r in rows)} for n in LENGTHS
        }
    return told | {"rows": rows}


def _counts(rows: list[dict[str, Any]], called: str) -> dict[str, int]:
    return {
        f"predicted {'readable' if said else 'unreadable'}, {'read' if read else 'not read'}": sum(
            (r["predicted"], r[called]) == (said, read) for r in rows
        )
        for said in (True, False)
        for read in (True, False)
    }


def excerpts(net: Any, marked: Path, cut: Path, each: int, seed: str) -> dict[str, int]:
    """Excerpts of a marked film, ``each`` of a length at random places, coded again at CRF 20: how many are read."""
    info = dc.video_info(marked)
    rng = random.Random(seed)
    out = {}
    for length in LENGTHS:
        frames = math.ceil(length * float(info.fps))
        read = 0
        for _ in range(each):
            first = rng.randint(0, info.frames - frames)
            trim = f"select='between(n,{first},{first + frames - 1})',setpts=PTS-STARTPTS"
            file_attacks.apply(FileAttack("time", trim), marked, cut)
            read += is_read(net, cut)
        out[f"{length:g} s"] = read
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, help="folder of video files, for the parts clips and weak")
    parser.add_argument("--parts", nargs="+", choices=["contents", "clips", "weak"], default=["contents"])
    parser.add_argument("--each", type=int, default=2, help="excerpts of each length from each clip")
    parser.add_argument("--work", type=Path, default=Path("out/readable"), help="folder for intermediate files")
    args = parser.parse_args()
    if args.clips is None and args.parts != ["contents"]:
        parser.error("the parts clips and weak need --clips")
    net, _ = weights.load("base")
    args.paths = [] if args.clips is None else video_files(args.clips)
    clips = named(args.paths)
    belongs(args.work, weights=sha256(weights.find("base")), needed=predict.NEEDED, clips=clips)
    for part in args.parts:
        told = predictions(net, args, part)
        record(f"readable_{part}", ({} if part == "contents" else {"clips": clips}) | told)


if __name__ == "__main__":
    main()
