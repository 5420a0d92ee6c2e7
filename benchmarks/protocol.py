"""The attacks of current evaluations (VideoSeal, OmniSealBench) on ``base``, ``small`` and RivaGAN.

Whole clips of 72 frames are marked, saved at CRF 4, attacked and read. RivaGAN (Zhang et al. 2019) is the model that the package
invisible-watermark ships as ONNX files (``pip install --no-deps invisible-watermark onnxruntime``). Finished rows are kept in --work.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import statistics
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diffcodec as dc
from benchmarks import file_attacks
from benchmarks.common import named, record
from benchmarks.file_attacks import FileAttack, encoder
from benchmarks.rows import Rows, belongs
from benchmarks.watermark import scaled, to_and_fro
from diffcodec.files import sha256, video_files
from revmark_ref import apply, framing, weights
from revmark_ref.keys import generator

FRAMES, FPS, HEIGHT = 72, 24, 480
KEPT = (("crf", "4"), ("preset", "ultrafast"))
TILTED = dc.Perspective(0.5).sample((1, FRAMES, 3, 1, 1), generator=generator(2, "perspective", 0))  # the same for all


def _filter(filters: str) -> FileAttack:
    return FileAttack("pictures", filters, options=KEPT)


def _coded(codec: str, crf: int, filters: str = "") -> FileAttack:
    return FileAttack("coding", filters, **encoder(codec, crf))


def _light(formula: str) -> str:
    return "format=gbrp,lutrgb=" + ":".join(f"{c}='clip({formula},0,255)'" for c in "rgb") + ",format=yuv420p"


def _crop(share: float) -> str:
    return f"crop=trunc(iw*{share}/2)*2:trunc(ih*{share}/2)*2"


ATTACKS: dict[str, FileAttack] = {
    "none": _filter(""),
    "flip": _filter("hflip"),
    "rotation 10": _filter("rotate=10*PI/180"),
    "rotation 90": _filter("transpose=1"),
    "resize .55": _filter("scale=trunc(iw*0.275)*2:trunc(ih*0.275)*2"),
    "resize .71": _filter("scale=trunc(iw*0.355)*2:trunc(ih*0.355)*2"),
    "crop .55": _filter(_crop(0.55)),
    "crop .71": _filter(_crop(0.71)),
    "perspective .5": FileAttack("pictures", options=KEPT, layer=partial(dc.Perspective(0.5), draw=TILTED)),
    "brightness .5": _filter(_light("val*0.5")),
    "brightness 1.5": _filter(_light("val*1.5")),
    "contrast .5": _filter(_light("(val-110)*0.5+110")),
    "contrast 1.5": _filter(_light("(val-110)*1.5+110")),
    "saturation .5": _filter("hue=s=0.5"),
    "saturation 1.5": _filter("hue=s=1.5"),
    "hue .25": _filter("hue=h=90"),
    "grey": _filter("hue=s=0"),
    "JPEG 40": FileAttack("coding", options=KEPT, layer=dc.RealJPEG(40)),
    "blur 9": _filter("gblur=sigma=1.7"),
    **{f"H.264 CRF {c}": _coded("libx264", c) for c in (23, 30, 40, 50)},
    **{f"H.265 CRF {c}": _coded("libx265", c) for c in (23, 30, 40, 50)},
    **{f"VP9 CRF {c}": _coded("libvpx-vp9", c) for c in (23, 30, 40, 50)},
    **{f"H.264 CRF {c}, crop .71, brightness .5": _coded("libx264", c, f"{_crop(0.71)},{_light('val*0.5')}") for c in (23, 30, 40, 50)},
}


class System(ABC):
    """A watermarking system for files."""

    bits: int

    @abstractmethod
    def embed(self, source: Path, out: Path, message: np.ndarray) -> None: ...

    @abstractmethod
    def read(self, path: Path) -> np.ndarray | None:
        """Bits ``[bits]``; None if the system reports that there is no message."""


class Ours(System):
    def __init__(self, name: str, psnr: float) -> None:
        self.net, _ = weights.load(name)
        self.bits, self.psnr = framing.message_bits(self.net.model.bits), psnr

    def embed(self, source: Path, out: Path, message: np.ndarray) -> None:
        apply.embed(self.net, source, out, message=framing.to_hex(message), psnr=self.psnr, crf=4, preset="ultrafast", force=True)

    def read(self, path: Path) -> np.ndarray | None:
        try:
            told = apply.extract(self.net, path).message
        except dc.VideoError:
            return None
        return None if told is None else np.array([int(b) for b in f"{int(told, 16):0{self.bits}b}"])


LOOKED_AT = 24  # every 24th frame: RivaGAN's bits are means over frames, and a frame of 480 rows takes 3 s


class RivaGAN(System):
    bits = 32

    def __init__(self) -> None:
        import onnxruntime

        files = {f.name: str(f.locate()) for f in importlib.metadata.files("invisible-watermark") or []}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.encoder, self.decoder = (onnxruntime.InferenceSession(files[f"rivagan_{n}.onnx"], options) for n in ("encoder", "decoder"))

    def embed(self, source: Path, out: Path, message: np.ndarray) -> None:
        video = dc.read_video(source).numpy()
        frames = [
            (torch.from_numpy(self.encoder.run(None, {"frame": _inside(f), "data": message[None].astype(np.float32)})[0])[0, :, 0] + 1) / 2
            for f in video
        ]
        dc.write_video(out, [f[None].clamp(0, 1) for f in frames], fps=FPS, crf=4, preset="ultrafast")

    def read(self, path: Path) -> np.ndarray | None:
        heard = [self.decoder.run(None, {"frame": _inside(f)})[0][0] for f in dc.read_video(path).numpy()[::LOOKED_AT]]
        return (np.mean(heard, 0) > 0.52).astype(int)  # the package's threshold


def _inside(frame: np.ndarray) -> np.ndarray:
    """Shape: ``[3, H, W]`` in [0, 1] -> ``[1, 3, 1, H, W]`` in [-1, 1]."""
    return (2 * frame - 1).astype(np.float32)[None, :, None]


SYSTEMS = ("base", "small", "rivagan")


def system(name: str, psnr: float) -> System:
    return RivaGAN() if name == "rivagan" else Ours(name, psnr)


def capacity(bits: int, accuracy: float) -> float:
    """Capacity in bits of ``bits`` uses of a binary symmetric channel with this bit accuracy."""
    e = min(max(1 - accuracy, 1e-12), 0.5)
    return bits * (1 + e * math.log2(e) + (1 - e) * math.log2(1 - e))


def log10_p(bits: int, right: int) -> float:
    """log10 of the probability that fair coins agree with at least ``right`` of ``bits``."""
    ways = sum(math.comb(bits, k) for k in range(right, bits + 1))
    return math.log10(ways) - bits * math.log10(2)


def measured(name: str, told: System, paths: list[Path], work: Path) -> dict[str, Any]:
    done = Rows(work / "rows.jsonl", "sha256", "attack")
    hashes = [sha256(p) for p in paths]
    source, marked = work / "source.mp4", work / "marked.mp4"
    for i, (path, digest) in enumerate(zip(paths, hashes)):
        if all((digest, a) in done for a in ATTACKS):
            continue
        message = torch.randint(2, (told.bits,), generator=generator(2, f"protocol {path.name}", i)).numpy()
        frames = list(to_and_fro(path, FRAMES))
        size = (HEIGHT, 2 * round(HEIGHT * frames[0].shape[-1] / frames[0].shape[-2] / 2))
        dc.write_video(source, (scaled(f, size) for f in frames), fps=FPS, crf=4, preset="ultrafast")
        told.embed(source, marked, message)
        a, b = dc.read_video(source), dc.read_video(marked)
        quality = {"psnr": float(dc.metrics.psnr(b[None], a[None])), "ssim": float(dc.metrics.ssim(b[None], a[None]))}
        for attack, what in ATTACKS.items():
            if (digest, attack) in done:
                continue
            out = work / f"attacked{what.suffix}"
            file_attacks.apply(what, marked, out)
            found = told.read(out)
            right = None if found is None else int((found == message).sum())
            done.add({"clip": path.name, "sha256": digest, "attack": attack, "right": right, **quality})
        print(name, path.name, {a: done[digest, a]["right"] for a in ATTACKS}, flush=True)
    rows = {}
    for attack in ATTACKS:
        # no message read counts as guessing: half of the bits, and no evidence
        own = [done[h, attack]["right"] for h in hashes]
        accuracy = [0.5 if r is None else r / told.bits for r in own]
        rows[attack] = {
            "bit_accuracy": statistics.mean(accuracy), "worst_clip": min(accuracy), "exact": sum(r == told.bits for r in own),
            "capacity": capacity(told.bits, statistics.mean(accuracy)),
            "log10_p": statistics.mean(0.0 if r is None else log10_p(told.bits, r) for r in own),
        }  # fmt: skip
    first = [done[h, "none"] for h in hashes]
    return {
        "bits": told.bits, "clips": len(paths), "psnr": statistics.mean(r["psnr"] for r in first), "ssim": statistics.mean(r["ssim"] for r in first),
        "attacks": rows,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="folder of video files")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--psnr", type=float, default=40.0, help="PSNR of base and small in dB; RivaGAN has a fixed strength")
    parser.add_argument("--count", type=int, nargs="+", help="number of clips, one for all systems or one per system; all by default")
    parser.add_argument("--work", type=Path, default=Path("out/protocol"))
    args = parser.parse_args()
    counts = args.count or [None]
    if len(counts) not in (1, len(args.systems)):
        parser.error(f"--count expected 1 number or {len(args.systems)}, got {len(counts)}")
    paths = video_files(args.clips)
    clips = {name: paths[:n] for name, n in zip(args.systems, counts * (len(args.systems) if len(counts) == 1 else 1))}
    used = {n: sha256(weights.find(n)) for n in args.systems if n != "rivagan"}
    for name in args.systems:
        belongs(args.work / name, weights=used.get(name), psnr=args.psnr if name in used else None)
    result = {name: measured(name, system(name, args.psnr), clips[name], args.work / name) for name in args.systems}
    record(
        "protocol",
        {
            "frames": FRAMES,
            "fps": FPS,
            "height": HEIGHT,
            "weights": used,
            "clips": named(paths),
            "systems": result,
        },
    )


if __name__ == "__main__":
    main()
