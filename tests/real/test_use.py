"""Real codecs as training uses them: over and over, in many threads, before a fork, at any size: one result each."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from helpers import natural
from torch import Tensor
from torch.utils.data import Dataset

import diffcodec as dc
from diffcodec import media
from diffcodec.real.encoders import ENCODERS

pytest.importorskip("av")
SIZES = [(48, 64), (64, 64), (33, 47), (64, 128), (96, 96), (128, 128), (128, 64), (144, 176), (80, 200), (17, 130)]


def digest(coded: dc.Coded) -> str:
    return hashlib.sha256(coded.video.numpy().tobytes() + b"".join(coded.streams)).hexdigest()


def dirty() -> None:
    """Leave garbage where an encoder's next allocation may lie."""
    for n in (1 << 12, 1 << 16, 1 << 20):
        torch.randint(0, 256, (n,), dtype=torch.uint8)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_repeat_themselves(encoder: str) -> None:
    """Ten sizes, one result each: libx264 200 encodes, the others fewer."""
    codec = dc.RealCodec(
        encoder, crf=28, preset={"libx264": "medium", "libx265": "medium", "libvpx-vp9": 5, "libsvtav1": 10}[encoder], gradient=None
    )
    clips = [natural(1, 4, h, w, seed=h * w) for h, w in SIZES]
    found: list[set[str]] = [set() for _ in clips]
    for _ in range(20 if encoder == "libx264" else 4):
        for clip, seen in zip(clips, found):
            dirty()
            seen.add(digest(codec.encode(clip)))
    assert [len(seen) for seen in found] == [1] * len(SIZES)


def test_x264_is_its_c_code() -> None:
    """What its assembly is limited to changes no bit against no assembly at all."""
    for h, w in ((64, 64), (48, 96), (128, 128)):
        x = natural(1, 6, h, w)
        plain, c = (dc.RealCodec(crf=25, options=o, gradient=None).encode(x) for o in (None, {"x264-params": "asm=0"}))
        assert torch.equal(plain.video, c.video)


def test_assembly_is_limited_only_where_there_is_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, asked in ((True, {"x264-params": "asm=avx2"}), (False, {})):
        media.x264_asm.cache_clear()
        monkeypatch.setattr(media, "_avx512", lambda has=has: has)
        assert media.x264_options({}) == asked
    media.x264_asm.cache_clear()
    monkeypatch.setattr(media, "_avx512", lambda: True)
    assert media.x264_options({"x264-params": "ref=1"}) == {"x264-params": "asm=avx2:ref=1"}
    for own in ({"x264-params": "asm=0"}, {"x264opts": "ref=1:asm=sse2"}, {"x264-params": "ref=1:no-asm=1"}):
        assert media.x264_options(own) == own
    media.x264_asm.cache_clear()


def test_x265_blocks_of_narrow_frames_cannot_be_set_back() -> None:
    x = natural(1, 4, 64, 64)
    codec = dc.RealCodec("libx265", crf=28, options={"x265-params": "ctu=64"}, gradient=None)
    assert len({digest(codec.encode(x)) for _ in range(5)}) == 1


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads by /proc")
def test_threads_and_memory_stay() -> None:
    """200 encodes without the garbage collector."""
    codec, x = dc.RealCodec(crf=25, preset="ultrafast"), natural(1, 3, 48, 64)
    codec.encode(x)
    before, objects = threads(), None
    gc.collect()
    gc.disable()
    try:
        for i in range(200):
            codec.encode(x)
            if i == 20:
                objects = Counter(str(type(o).__module__).split(".")[0] for o in gc.get_objects())
        after = Counter(str(type(o).__module__).split(".")[0] for o in gc.get_objects())
    finally:
        gc.enable()
    assert threads() <= before + 1
    assert objects is not None
    assert after["av"] <= objects["av"]  # no frame waits for the collector


def test_files_leave_no_threads(tmp_path: Path) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("counts threads by /proc")
    clip = natural(1, 12, 64, 64)[0]
    dc.write_video(tmp_path / "a.mp4", clip)
    before = threads()
    gc.disable()
    try:
        for _ in range(20):
            dc.write_video(tmp_path / "a.mp4", clip)
            dc.read_video(tmp_path / "a.mp4")
    finally:
        gc.enable()
    assert threads() <= before + 1


class Coded(Dataset[Tensor]):
    def __init__(self) -> None:
        self.codec = dc.RealCodec(crf=25, preset="ultrafast")
        self.clips = natural(4, 3, 48, 64)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Tensor:
        return self.codec(self.clips[i : i + 1])[0]


WORKERS = """
import sys, torch
sys.path.insert(0, {tests!r})
from torch.utils.data import DataLoader
from test_use import Coded
if __name__ == "__main__":
    data = Coded()
    for _ in range(3):
        expected = torch.stack([data[i] for i in range(4)])      # the parent has used the codec
    data.codec(data.clips.requires_grad_(True)).sum().backward()
    data.clips.requires_grad_(False)
    for _ in range(2):
        loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context={context!r})
        assert torch.equal(torch.cat(list(loader)), expected)
    print("done")
"""


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_workers_after_the_parent_has_used_the_codec(context: str, tmp_path: Path) -> None:
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {context} here")
    tests = Path(__file__).parent
    script = tmp_path / "workers.py"  # spawn and forkserver import the main module: it must be a file
    script.write_text(WORKERS.format(tests=str(tests), context=context))
    run = subprocess.run([sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True, timeout=180, cwd=tests,
                         env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, tests.parents[:2]))})  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert "done" in run.stdout


def test_many_threads_at_once() -> None:
    x = natural(1, 3, 48, 64)
    expected = dc.RealCodec(crf=25, preset="veryfast")(x)

    def work(_: int) -> bool:
        return torch.equal(dc.RealCodec(crf=25, preset="veryfast", options={"bf": 3})(x), expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(24)))


# --- options that change what a picture means ---


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("libx264", {"color_range": "pc"}),
        ("libx264", {"colorspace": "bt709"}),
        ("libx264", {"pixel_format": "yuv444p"}),
        ("libx264", {"pix_fmt": "yuv444p"}),
        ("libx264", {"profile": "high10"}),
        ("libx264", {"profile": "high444"}),
        ("libx264", {"x264-params": "fullrange=on"}),
        ("libx264", {"x264-params": "profile=high422"}),
        ("libx264", {"x264-params": "colormatrix=bt709:ref=1"}),
        ("libx264", {"x264-params": "crop-rect=2,2,2,2"}),
        ("libx264", {"pass": 1}),
        ("libx264", {"flags": "+pass1"}),
        ("libx264", {"x264-params": "dump-yuv=x.yuv"}),
        ("libx265", {"x265-params": "range=full"}),
        ("libx265", {"profile": "main10"}),
        ("libvpx-vp9", {"profile": "1"}),
        ("libsvtav1", {"svtav1-params": "color-range=1"}),
    ],
)
def test_options_that_change_the_picture_are_refused(encoder: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not free|holds profile"):
        dc.RealCodec(encoder, options=options)


def test_profiles_that_are_fine() -> None:
    x = natural(1, 3, 48, 64)
    stream = dc.RealCodec(options={"profile": "baseline"}, gradient=None).encode(x).streams[0]
    assert b"\x67\x42" in stream  # SPS with profile_idc 66


def test_whole_numbers_where_the_encoder_knows_no_others() -> None:
    for encoder in ("libvpx-vp9", "libsvtav1"):
        drawn = dc.RealCodec(encoder, crf=(20, 40)).sample((100, 2, 3, 16, 16))["crf"]
        assert torch.equal(drawn, drawn.round())
        assert len(set(drawn.tolist())) > 10
        with pytest.raises(ValueError, match="whole number"):
            dc.RealCodec(encoder, crf=30.5)
        ramp = dc.RealCodec(encoder, crf=dc.Ramp(20, 40, 0, 7))
        assert ramp.sample((1, 2, 3, 16, 16), step=3)["crf"].item() == 29
    q = dc.RealJPEG((20, 90)).sample((50, 3, 16, 16))
    assert torch.equal(q["quality"], q["quality"].round())
    assert torch.equal(q["gradient"]["quality"], q["quality"])


def test_frame_rates() -> None:
    for fps, rate in (
        ("30000/1001", Fraction(30000, 1001)),
        (29.97, Fraction(2997, 100)),
        ("25", Fraction(25)),
        (Fraction(24), Fraction(24)),
    ):
        assert dc.RealCodec(fps=fps).fps == rate
        assert dc.DiffH264(fps=fps).fps == pytest.approx(float(rate))
    import numpy as np

    assert dc.RealCodec(fps=np.float32(50)).fps == 50
    for bad in (0, -1, "x", "1/0", float("nan"), None, True, 1e9, "30000/"):
        with pytest.raises(ValueError, match="fps"):
            dc.RealCodec(fps=bad)


def busy(frames: int) -> Tensor:
    """A clip that needs many bits."""
    noise = torch.randn(1, frames, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    return (natural(1, frames, 96, 128) + 0.04 * noise).clamp(0, 1)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_bitrate(encoder: str) -> None:
    x = busy(48)
    bits = [dc.RealCodec(encoder, bitrate=rate, gradient=None).encode(x).bits.item() for rate in (200e3, 1e6)]
    assert bits[1] > 1.8 * bits[0]
    assert 0.4 < bits[1] / (1e6 * 48 / 25) < 2.5
    if encoder == "libsvtav1":  # it has a limit for CRF only
        with pytest.raises(ValueError, match="maxrate"):
            dc.RealCodec(encoder, bitrate=1e5, maxrate="1.5x", bufsize="2x")
        return
    codec = dc.RealCodec(encoder, bitrate=(100e3, 400e3), maxrate="1x" if encoder == "libvpx-vp9" else "1.5x", bufsize="2x")
    draw = codec.sample((4, 2, 3, 16, 16), torch.Generator().manual_seed(0))
    assert ((draw["bitrate"] >= 100e3) & (draw["bitrate"] <= 400e3)).all()
    assert codec(natural(2, 3, 64, 64)).shape == (2, 3, 3, 64, 64)


def test_bitrate_gradient_and_errors() -> None:
    x = natural(2, 4, 48, 64).requires_grad_(True)
    codec = dc.RealCodec(bitrate=dc.Choice([100e3, 200e3, 400e3]), maxrate="2x", bufsize="4x")
    codec(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.any()
    assert "bitrate=" in repr(codec)
    capped = dc.RealCodec(crf=20, maxrate=100e3, bufsize=100e3, gradient=None).encode(busy(48))
    assert capped.bits.sum() < 0.8 * dc.RealCodec(crf=20, gradient=None).encode(busy(48)).bits.sum()
    for arguments, words in (
        ({"crf": 20, "bitrate": 1e5}, "both crf"),
        ({"bitrate": 5}, r"\[1000, 1e\+09\]"),
        ({"bitrate": 1e5, "maxrate": 2e5}, "belong together"),
        ({"crf": 20, "maxrate": "2x", "bufsize": "2x"}, "multiple of a bitrate"),
        ({"bitrate": 1e5, "maxrate": "fast", "bufsize": "2x"}, "'fast'"),
        ({"bitrate": 1e5, "maxrate": -1, "bufsize": 1}, "-1"),
        ({"bitrate": 1e5, "maxrate": 1.5, "bufsize": 2}, "'1.5x', got 1.5"),
    ):
        with pytest.raises(ValueError, match=words):
            dc.RealCodec(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="arguments bitrate"):
        dc.RealCodec(options={"b": "1M"})
