"""Damaged files through every reader, and killed training runs: parts of ``benchmarks.fuzz``."""

from __future__ import annotations

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
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffcodec as dc
from benchmarks.fuzz_score import Score
from diffcodec.files import sha256

NAMED = (ValueError, TypeError)  # VideoError, MessageError and CheckpointError are among them


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
    clip = GaussianBlur(2.0, 5, over="time and space")(torch.rand(1, 24, 3, 72, 96, generator=g))[0]
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
    """Whether decoding with libav alone shows a sign of damage."""
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
    """Untrained networks, to test the code around them."""
    from revmark_ref.model import Detector, REVMark
    from revmark_ref.weights import load

    net, _ = load("small")
    model = dataclasses.replace(
        net.model, widths=(2,) * len(net.model.widths), decoder_widths=(2,) * len(net.model.decoder_widths), hidden=8
    )
    torch.manual_seed(0)
    return REVMark(model).eval(), Detector(2, None).eval()


def readers(path: Path, folder: Path) -> dict[str, tuple[Callable[[], Any], bool]]:
    """Every way to read a file, and whether it must report damage anywhere in the file."""
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
        "embed": (lambda: apply.embed(net, path, out, message="dead"), True),
        "embed keep": (lambda: reported(apply.embed(net, path, out, message="dead", damaged="keep").damage), True),
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


# --- kills ---


def _training(out: Path, steps: int) -> None:
    from revmark_ref.config import PRESETS
    from revmark_ref.run import Plan
    from revmark_ref.train import train

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
    return {p.name: sha256(p) for p in newest.iterdir()}


def try_kills(seed: int, count: int, until: float, score: Score) -> None:
    """An uninterrupted training run and one that is killed repeatedly must end with identical checkpoints."""
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
            score.fail("two uninterrupted training runs differ")
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
                score.fail(f"the training run cannot be resumed after {killed} kills: exit {process.exitcode}")
                return
            if killed < count:  # it finished before it was killed often enough: start over
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
