"""How often damage to a file goes unnoticed: damaged copies of real clips in several codecs and containers, read by ``read_video``.

A copy is "told" if an error is raised (or ``damaged="keep"`` warns), "same" if its frames are those of the original, "silent" otherwise. Of the
silent ones, "few" are those whose frames are fewer or more than the original's.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import diffcodec as dc
from benchmarks.common import named, record
from benchmarks.fuzz_files import hashes
from diffcodec.media import x264_options

FRAMES = 60
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264.mp4": ("libx264", "yuv420p", {"preset": "veryfast", "g": "25"}),
    "h264-cavlc.mp4": ("libx264", "yuv420p", {"preset": "ultrafast", "g": "25"}),
    "h264.mkv": ("libx264", "yuv420p", {"preset": "veryfast", "g": "25"}),
    "h264.ts": ("libx264", "yuv420p", {"preset": "veryfast", "g": "25"}),
    "h264.avi": ("libx264", "yuv420p", {"preset": "veryfast", "bf": "0"}),
    "hevc.mp4": ("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"bf": "2", "g": "25"}),
    "mpeg4-p.avi": ("mpeg4", "yuv420p", {"g": "25"}),
    "mpeg4.mp4": ("mpeg4", "yuv420p", {"g": "25"}),
    "mpeg2.ts": ("mpeg2video", "yuv420p", {"bf": "2", "g": "12"}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"bf": "2", "g": "12"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"cpu-used": "8"}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
}


def encode(path: Path, video: torch.Tensor, codec: str, pix: str, options: dict[str, str]) -> None:
    import av

    with av.open(str(path), "w", options={"fflags": "bitexact"}) as container:
        stream = container.add_stream(codec, rate=25, options=x264_options(options) if codec == "libx264" else options)
        stream.height, stream.width, stream.pix_fmt = video.shape[-2], video.shape[-1], pix
        stream.codec_context.thread_count = 1
        for frame in (video * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def damage(r: random.Random, data: bytes) -> tuple[str, bytes]:
    """A copy with bits flipped, an end cut off, or a hole of zeros or of nothing."""
    out, kind = bytearray(data), r.choice(["bit", "bits", "cut", "zeros", "hole"])
    at = r.randrange(len(out))
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else 10):
            out[r.randrange(len(out))] ^= 1 << r.randrange(8)
    elif kind == "cut":
        del out[max(1, at) :]
    elif kind == "zeros":
        n = r.choice([16, 200, 2000])
        out[at : at + n] = bytes(len(out[at : at + n]))
    else:
        del out[at : at + r.choice([1, 16, 188, 1000])]
    return kind, bytes(out)


def outcome(path: Path, whole: list[bytes]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            got = hashes(dc.read_video(path))
        except (dc.VideoError, UserWarning):
            return "told"
    return "same" if got == whole else "silent" if len(got) == len(whole) else "silent, few"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="folder of clips")
    parser.add_argument("--count", type=int, default=6, help="number of clips, evenly spaced in sorted order")
    parser.add_argument("--copies", type=int, default=8, help="damaged copies of each clip in each format")
    parser.add_argument("--keep", type=Path, help="folder to keep the copies in whose damage went unnoticed")
    parser.add_argument("--out", type=Path, help="folder of the result")
    args = parser.parse_args()
    files = dc.video.video_files(args.clips)
    files = files[:: max(1, len(files) // args.count)][: args.count]
    found: dict[str, Counter[str]] = {}
    silent: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for clip in files:
            video = dc.read_video(clip, 0, min(FRAMES, dc.video_info(clip).frames), size=(144, 192))
            for name, given in KINDS.items():
                path = Path(place) / name
                encode(path, video, *given)
                whole, data = hashes(dc.read_video(path)), path.read_bytes()
                for k in range(args.copies):
                    kind, changed = damage(random.Random(f"{clip.name} {name} {k}"), data)
                    path.write_bytes(changed)
                    said = outcome(path, whole)
                    for row in (name, kind, "all"):
                        found.setdefault(row, Counter())[said] += 1
                    if said.startswith("silent"):
                        silent.append({"clip": clip.name, "format": name, "kind": kind, "copy": k, "outcome": said})
                        if args.keep:
                            args.keep.mkdir(exist_ok=True)
                            (args.keep / f"{len(silent):03}-{kind}-{name}").write_bytes(changed)
    for row, counts in found.items():
        print(f"{row:16}", dict(counts))
    record(
        "damage",
        {"clips": named(files), "copies": args.copies, "counts": {k: dict(v) for k, v in found.items()}, "silent": silent},
        args.out,
    )


if __name__ == "__main__":
    main()
