import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers import natural
from hypothesis import given
from hypothesis import strategies as st

import diffcodec as dc
from revmark_ref import apply, framing, weights
from revmark_ref.cli import main
from revmark_ref.framing import MessageError
from revmark_ref.model import REVMark


@pytest.fixture(scope="module")
def net() -> REVMark:
    return weights.load("small")[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of video with sound, 50 frames of 96 x 160."""
    path = tmp_path_factory.mktemp("source") / "in.mp4"
    silent = path.with_name("silent.mp4")
    dc.write_video(silent, natural(1, 50, 96, 160)[0], fps=25, crf=12)
    with av.open(str(silent)) as reader, av.open(str(path), "w") as writer:
        video = writer.add_stream_from_template(reader.streams.video[0])
        sound = writer.add_stream("aac", rate=16000)
        sound.layout = "mono"
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                writer.mux(packet)
        wave = (8000 * np.sin(np.arange(32000) * 0.05)).astype(np.int16)
        for i in range(0, 32000, 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, i : i + 1024], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, i, Fraction(1, 16000)
            writer.mux(sound.encode(frame))
        writer.mux(sound.encode(None))
    return path


@pytest.fixture(scope="module")
def marked(net: REVMark, source: Path) -> Path:
    out = source.with_name("marked.mp4")
    done = apply.embed(net, source, out, message="dead", psnr=37)
    assert (done.frames, done.segments) == (50, 7)
    return out


def packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(**{kind: 0}) if p.size]


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(f.pts * f.time_base) for f in container.decode(video=0)]


def test_round_trip_through_a_file(net: REVMark, source: Path, marked: Path) -> None:
    found = apply.extract(net, marked)
    assert found.message == "dead"
    assert found.p_value < 1e-6
    assert found.segments == 6
    assert found.confidence > 0.9
    assert packets(marked, "audio") == packets(source, "audio")
    assert times(marked) == times(source)
    assert apply.extract(net, source).message is None


def test_psnr_is_the_one_asked_for(net: REVMark, source: Path) -> None:
    out = source.with_name("near.mp4")
    before = dc.read_video(source)
    for psnr in (36.0, 40.0):
        apply.embed(net, source, out, message="0000", psnr=psnr, crf=0)
        assert float(dc.metrics.psnr(dc.read_video(out)[None], before[None])) == pytest.approx(psnr, abs=0.6)


@pytest.mark.parametrize("cut", [1, 3, 11])
def test_frames_were_cut_and_the_rest_coded_again(net: REVMark, marked: Path, tmp_path: Path, cut: int) -> None:
    again = tmp_path / "again.mp4"
    dc.write_video(again, dc.read_video(marked)[cut:], crf=23)
    found = apply.extract(net, again)
    assert found.message == "dead"


def test_text_round_trip_and_too_short(net: REVMark, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "text.mp4"
    apply.embed(net, source, out, text="hö", psnr=36)
    found = apply.extract(net, out)
    assert found.text == "hö"
    assert found.message is None
    with pytest.raises(MessageError, match=r"needs 3\.\d s of video at 25 frames a second \(\d+ frames\).* has 2\.0 s"):
        apply.embed(net, source, tmp_path / "never.mp4", text="a longer text than that")
    assert not (tmp_path / "never.mp4").exists()


def test_odd_sizes_and_a_whole_in_matroska(net: REVMark, tmp_path: Path) -> None:
    path = tmp_path / "odd.mkv"
    dc.write_video(path, natural(1, 16, 75, 101)[0], crf=10)
    apply.embed(net, path, tmp_path / "out.mkv", message="0f0f", psnr=35)
    found = apply.extract(net, tmp_path / "out.mkv")
    assert found.message == "0f0f"
    assert dc.video_info(tmp_path / "out.mkv").height == 75


def test_wrong_input(net: REVMark, source: Path, tmp_path: Path) -> None:
    def bad(error: type[Exception], match: str, **given: object) -> None:
        arguments = {"source": source, "out": tmp_path / "o.mp4", "message": "dead"} | given
        with pytest.raises(error, match=match):
            apply.embed(net, **arguments)
        assert not list(tmp_path.glob("*o.mp4*"))

    digest = source.read_bytes()
    bad(MessageError, "4 hex digits", message="xyz")
    bad(MessageError, r"4 hex digits \(16 bits\), got 8", message="deadbeef")
    bad(MessageError, "either", text="a")
    bad(MessageError, "1 to 200 bytes", message=None, text="")
    bad(ValueError, r"psnr .* got 99", psnr=99)
    bad(ValueError, r"crf .* got 77", crf=77)
    bad(ValueError, r"preset 'quick'", preset="quick")
    bad(dc.VideoError, "same file", out=source)
    bad(dc.VideoError, "ending in", out=tmp_path / "o.avi")
    bad(dc.VideoError, "no such file", source=tmp_path / "missing.mp4")
    bad(dc.VideoError, "does not exist", out=tmp_path / "no" / "o.mp4")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video at all" * 50)
    bad(dc.VideoError, "broken.mp4", source=broken)
    short = tmp_path / "short.mp4"
    dc.write_video(short, natural(1, 5, 32, 32)[0])
    bad(dc.VideoError, "5 frames; a mark needs at least 16", source=short)
    with pytest.raises(dc.VideoError, match="too short"):
        apply.extract(net, short)
    with pytest.raises(dc.VideoError, match=r"broken.mp4"):
        apply.extract(net, broken)
    assert source.read_bytes() == digest


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs a small file system")
def test_no_space_left(net: REVMark, source: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        with pytest.raises(dc.VideoError, match="no space left"):
            apply.embed(net, source, disk / "out.mp4", message="dead")
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_ctrl_c_leaves_nothing(source: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.mp4"
    dc.write_video(long, (natural(1, 60, 240, 320)[0] for _ in range(6)), crf=20)
    out = tmp_path / "out" / "o.mp4"
    out.parent.mkdir()
    script = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script += "; from revmark_ref.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        script,
        "embed",
        str(long),
        str(out),
        "--message",
        "0123456789abcdef",
        "--preset",
        "ultrafast",
        "--crf",
        "4",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 1000 for p in out.parent.iterdir()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "no partial output was kept" in said
    assert not list(out.parent.iterdir())


# --- framing ------------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 130), st.randoms(use_true_random=False))
def test_hex_round_trip(bits: int, random: object) -> None:
    message = np.array([random.randint(0, 1) for _ in range(bits)])  # type: ignore[attr-defined]
    text = framing.to_hex(message)
    assert len(text) == math.ceil(bits / 4)
    assert (framing.from_hex(text, bits) == message).all()


def test_p_values_are_those_of_chance() -> None:
    """Under fair votes a p-value below x comes up with a probability of at most x (up to sampling)."""
    rng = np.random.default_rng(0)
    for n in (2, 3, 8, 41, 60):
        p = np.array([framing.agreement(rng.normal(size=(n, 32))) for _ in range(1500)])
        for x in (0.5, 0.1, 0.01):
            assert (p < x).mean() < x + 3.5 * math.sqrt(x * (1 - x) / 1500) + (0.01 if n > 40 else 0), (n, x)
    assert framing.agreement(np.ones((1, 32))) == 1.0
    assert framing.agreement(np.ones((2, 32))) == pytest.approx(2.0**-32)
    # exact and approximate tails meet
    votes = np.where(rng.random((40, 32)) < 0.62, 1.0, -1.0)
    exact = framing.agreement(votes)
    near = framing._chi2_tail(float((votes.sum(0) ** 2).sum()) / 40, 32)
    assert 0.2 < exact / near < 5


def test_segments_that_all_say_the_same_are_no_message() -> None:
    """What unmarked content says does not change from segment to segment; under the masks that is no agreement."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        steady = np.repeat(rng.normal(size=(1, 32)), 33, 0) + 0.1 * rng.normal(size=(33, 32))
        assert framing.search(steady, 8).bits is None


@given(st.text(min_size=1, max_size=12), st.integers(0, 7), st.integers(0, 5), st.integers(0, 1000))
def test_text_is_found_from_any_start(text: str, phase: int, first: int, seed: int) -> None:
    rows = framing.frame_text(text, 32)
    sent = 2 * framing.payloads(rows, 2 * len(rows) + 1, first) - 1
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(phase + 8 * len(sent), 32))
    logits[phase::8][: len(sent)] += 3.0 * sent
    found = framing.find_text(logits, 8)
    assert found is not None
    assert found[0] == text


@given(st.integers(64, 130), st.integers(0, 2**32), st.text(max_size=5))
def test_a_message_has_a_check_of_its_key(bits: int, seed: int, key: str) -> None:
    rng = np.random.default_rng(seed)
    message = rng.integers(0, 2, framing.message_bits(bits))
    payload = framing.protected(message, bits, key)
    assert payload.shape == (bits,)
    assert (framing.message_of(payload, key) == message).all()  # type: ignore[union-attr]
    assert framing.message_of(payload, key + "x") is None
    payload[rng.integers(0, bits)] ^= 1
    assert framing.message_of(payload, key) is None


# --- the command ----------------------------------------------------------------------------------------------------------------


def test_verbs(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "m.mp4")
    assert main(["embed", str(source), out, "--message", "0123456789abcdef", "--psnr", "37"]) == 0
    assert re.search(r"50 frames, 2\.0 s, 37 dB before encoding; \d+ kB became \d+ kB", capsys.readouterr().out)
    assert main(["extract", out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["message"] == "0123456789abcdef"
    assert set(told) >= {"message", "confidence", "p_value", "segments"}
    assert main(["extract", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["message"] is None
    assert main(["extract", str(source)]) == 0
    assert "no mark found" in capsys.readouterr().out
    for arguments, match in (
        (["embed", str(source), out, "--message", "12"], "16 hex digits"),
        (["embed", str(tmp_path / "none.mp4"), out, "--message", "0123456789abcdef"], "no such file"),
        (["extract", out, "--weights", "nothing"], "no such weights file; shipped ones are base, small"),
        (["evaluate", "--data", str(tmp_path / "nowhere")], "no such file or folder"),
        (["train", "--data", "synthetic", "--out", str(tmp_path / "r"), "--set", "colour=1"], "no field 'colour'"),
    ):
        assert main(arguments) == 2
        assert match in capsys.readouterr().err


def test_train_evaluate_pack_export(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(source, folder)
    assert main(["pack", str(folder), str(tmp_path / "p.clips"), "--frames", "16", "--side", "64"]) == 0
    size = ["height=32", "width=32", "widths=(8,16)", "decoder_widths=(8,16)", "hidden=16", "validate_every=2"]
    run = str(tmp_path / "run")
    train = [
        "train",
        "--data",
        str(tmp_path / "p.clips"),
        "--out",
        run,
        "--bits",
        "8",
        "--batch",
        "2",
        "--steps",
        "3",
        "--validation-share",
        "0",
        "--distortion",
        "jpeg",
        "--set",
        *size,
    ]
    assert main([*train, "--until", "2"]) == 0
    assert "paused at step 2 of 3" in capsys.readouterr().out
    assert main([*train, "--resume"]) == 0
    assert "done at step 3" in capsys.readouterr().out
    w = str(tmp_path / "w.safetensors")
    assert main(["export", run, w]) == 0
    detector = ["train-detector", "--data", "synthetic", "--weights", w, "--out", str(tmp_path / "d"), "--steps", "2", "--batch", "1"]
    assert main(detector) == 0
    assert main(["detect", str(source), "--weights", str(tmp_path / "d" / "detector.safetensors"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["frames"] == len(told["probability"]) == 50
    assert main(["detect", str(source), "--weights", w, "--json"]) == 0  # of a model: a verdict on the file
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verdict"] == "none"
    out = tmp_path / "ev"
    tables = [str(n) for n in range(1, 11)]
    evaluate = [
        "evaluate",
        "--data",
        str(folder),
        "--weights",
        w,
        "--variants",
        w,
        "--windows",
        "2",
        "--out",
        str(out),
        "--tables",
        *tables,
    ]
    evaluate += ["--detector", str(tmp_path / "d" / "detector.safetensors"), "--figures"]
    assert main(evaluate) == 0
    first = json.loads((out / "tables.json").read_text())
    assert [r["attack"] for r in first["tables"]["table 1"]][-1] == "libx264, CRF 22"
    assert len(first["tables"]) == 10
    assert (out / "figure5.png").stat().st_size > 10000
    assert (out / "figure6.png").stat().st_size > 10000
    began = time.monotonic()
    assert main(evaluate) == 0  # every cell is kept
    assert time.monotonic() - began < 20
    assert json.loads((out / "tables.json").read_text())["tables"] == first["tables"]


def test_interval_and_lpips_errors(tmp_path: Path) -> None:
    from revmark_ref.lpips import LPIPS
    from revmark_ref.measure import interval

    mean, low, high = interval([90.0, 100.0, 80.0, 100.0], [0, 0, 1, 1])
    assert mean == pytest.approx(92.5)
    assert low == pytest.approx(90.0)
    assert high == pytest.approx(95.0)
    with pytest.raises(FileNotFoundError, match="REVMARK_ALEXNET"):
        LPIPS(tmp_path / "none.pth")


def test_lpips_is_zero_on_equals_and_grows(tmp_path: Path) -> None:
    """With made-up features: the heads are the published ones, AlexNet's features are not ours to ship."""
    from revmark_ref.lpips import _LAYERS, LPIPS

    torch.manual_seed(0)
    state = {}
    for i, (a, b, k, _, _) in zip((0, 3, 6, 8, 10), _LAYERS):
        state |= {f"features.{i}.weight": 0.1 * torch.randn(b, a, k, k), f"features.{i}.bias": torch.zeros(b)}
    torch.save(state, tmp_path / "alexnet.pth")
    distance = LPIPS(tmp_path / "alexnet.pth")
    assert sum(h.numel() for h in distance.heads) == 1152
    x = natural(2, 2, 64, 64)
    assert distance(x, x).abs().max() == 0
    near, far = distance(x, (x + 0.02 * torch.randn_like(x)).clamp(0, 1)), distance(x, (x + 0.2 * torch.randn_like(x)).clamp(0, 1))
    assert (near > 0).all()
    assert (far > near).all()
    with pytest.raises(ValueError, match="31 x 31"):
        distance(x[..., :16, :16], x[..., :16, :16])
