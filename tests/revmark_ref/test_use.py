"""revmark in rough conditions: damaged and turned files, tags, broken weights and checkpoints, two processes in one folder, signals."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import natural

import diffcodec as dc
from diffcodec.media import Damage
from revmark_ref import apply, checkpoint, framing, weights
from revmark_ref.checkpoint import CheckpointError
from revmark_ref.cli import main
from revmark_ref.config import PRESETS, Config, Model
from revmark_ref.data import unpack
from revmark_ref.model import REVMark
from revmark_ref.run import Plan
from revmark_ref.tracks import Clock
from revmark_ref.train import _alone, train

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def net() -> REVMark:
    return weights.load("small")[0]


def write(
    path: Path, frames: int = 40, options: dict[str, str] | None = None, pix: str = "yuv420p", codec: str = "libx264", turn: int = 0
) -> Path:
    """A video of 96 x 160 with stamps, tags and a display matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "12"} if options is None else options)
        stream.height, stream.width, stream.pix_fmt = 96, 160, pix
        if turn:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV cannot write a display matrix")
            stream.set_display_rotation(turn)
        for frame in (natural(1, frames, 96, 160)[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that opens, with damage in its middle."""
    folder = tmp_path_factory.mktemp("broken")
    data = bytearray(write(folder / "whole.mp4", options={"g": "5", "crf": "15"}).read_bytes())
    for part in (0.5, 0.52, 0.54):
        data[int(part * len(data))] ^= 16
    (folder / "broken.mp4").write_bytes(data)
    damage = Damage()
    list(apply.small_frames(folder / "broken.mp4", 8, 8, damage))
    assert damage
    return folder / "broken.mp4"


def test_embed_refuses_damage_or_keeps_it_with_a_word(
    net: REVMark, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    with pytest.raises(dc.VideoError, match=r"broken.mp4: damaged: .*nothing was kept"):
        apply.embed(net, broken, out, message="dead")
    assert list(tmp_path.iterdir()) == []
    assert main(["embed", str(broken), str(out), "--message", "0123456789abcdef"]) == 2
    assert "--damaged keep" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="what could be decoded was marked"):
        done = apply.embed(net, broken, out, message="dead", psnr=37, damaged="keep")
    assert done.damage
    assert apply.extract(net, out).message == "dead"


def test_extract_and_detect_go_on_and_report(net: REVMark, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = tmp_path / "marked.mp4"
    apply.embed(net, broken.parent / "whole.mp4", clean, message="cafe", psnr=37, crf=16, preset="ultrafast")
    assert apply.extract(net, clean).damage is None
    data = bytearray(clean.read_bytes())
    for part in (0.6, 0.65, 0.7, 0.72, 0.75):
        data[int(part * len(data))] ^= 16
    hurt = tmp_path / "hurt.mp4"
    hurt.write_bytes(data)
    found = apply.extract(net, hurt)
    assert found.message == "cafe"
    assert found.damage is not None
    assert "frames" in found.damage
    assert main(["extract", str(hurt), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["damage"] == found.damage
    assert "what could be decoded was read" in shown.err
    assert main(["detect", str(hurt), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["damage"] == found.damage
    assert "what could be decoded was read" in shown.err


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_turned_videos_are_marked_as_they_are_shown(net: REVMark, tmp_path: Path, turn: int) -> None:
    source, out = write(tmp_path / "in.mp4", turn=turn), tmp_path / "out.mp4"
    apply.embed(net, source, out, message="dead", psnr=37)
    before, after = dc.read_video(source), dc.read_video(out)
    assert before.shape == after.shape == ((40, 3, 160, 96) if turn % 180 else (40, 3, 96, 160))
    assert dc.metrics.psnr(before[None], after[None]).item() > 30
    assert apply.extract(net, out).message == "dead"


def test_tags_dispositions_and_the_order_of_tracks(net: REVMark, tmp_path: Path) -> None:
    plain, source, out = write(tmp_path / "plain.mp4"), tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(plain)) as reader, av.open(str(source), "w") as writer:
        writer.metadata["title"] = "A film"
        first = writer.add_stream("aac", rate=16000)
        video = writer.add_stream_from_template(reader.streams.video[0])
        second = writer.add_stream("aac", rate=16000)
        for stream, language in ((first, "deu"), (second, "fra")):
            stream.layout = "mono"
            stream.metadata.update({"language": language, "title": f"sound {language}"})
        second.disposition = av.stream.Disposition.default
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                writer.mux(packet)
        wave = (8000 * np.sin(np.arange(25600) * 0.05)).astype(np.int16)
        for stream in (first, second):
            for i in range(0, 25600, 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, i : i + 1024], format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16000, i, Fraction(1, 16000)
                writer.mux(stream.encode(frame))
            writer.mux(stream.encode(None))
    apply.embed(net, source, out, message="dead")
    with av.open(str(source)) as a, av.open(str(out)) as b:
        assert b.metadata["title"] == "A film"
        assert [s.type for s in a.streams] == [s.type for s in b.streams] == ["audio", "video", "audio"]
        for own, kept in zip(a.streams, b.streams):
            for tag in ("language", "title"):
                assert own.metadata.get(tag) == kept.metadata.get(tag)
            assert own.disposition == kept.disposition


def test_ten_bits_and_transparency_are_told(net: REVMark, tmp_path: Path) -> None:
    deep = write(tmp_path / "deep.mkv", pix="yuv420p10le", codec="ffv1", options={})
    with pytest.warns(UserWarning, match="10 bits a sample; it is marked in 8 bits"):
        apply.embed(net, deep, tmp_path / "out.mp4", message="dead")
    clear = write(tmp_path / "clear.mkv", pix="yuva420p", codec="ffv1", options={})
    with pytest.warns(UserWarning, match="transparency"):
        apply.embed(net, clear, tmp_path / "out.mp4", message="dead")


def test_streams_without_time_stamps_play_as_long_as_they_should(net: REVMark, tmp_path: Path) -> None:
    raw, out = write(tmp_path / "in.h264"), tmp_path / "out.mp4"
    done = apply.embed(net, raw, out, message="dead", psnr=37)
    assert done.seconds == pytest.approx(40 / 25, abs=0.02)
    with av.open(str(out)) as container:
        assert float(container.duration / 1e6) == pytest.approx(40 / 25, abs=0.1)
    assert apply.extract(net, out).message == "dead"


def test_clocks_go_forwards() -> None:
    clock = Clock(40)
    assert [clock(t) for t in (0, 40, 80, 0, 40, None, 200)] == [0, 40, 80, 120, 160, 200, 320]
    clock = Clock(40)
    assert [clock(t) for t in (None, None, 100, 100)] == [0, 40, 100, 140]


def test_time_stamps_that_jump_back(net: REVMark, tmp_path: Path) -> None:
    """Two transport streams one after the other."""
    part = write(tmp_path / "part.ts", frames=16)
    both, out = tmp_path / "both.ts", tmp_path / "out.mp4"
    both.write_bytes(part.read_bytes() * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = apply.embed(net, both, out, message="dead", psnr=37, damaged="keep")
    with av.open(str(out)) as container:
        stamps = [float(f.pts * f.time_base) for f in container.decode(video=0)]
    assert len(stamps) == done.frames >= 30
    steps = np.diff(stamps)
    assert (steps > 0.02).all()
    assert (steps < 0.5).all()


# --- weights ---


def test_what_is_not_finite_is_no_mark() -> None:
    for value in (np.nan, np.inf):
        logits = np.full((40, 32), value)
        assert framing.search(logits, 8).bits is None
        assert framing.search(logits, 8).p_value == 1
        assert framing.agreement(logits) == 1
        assert framing.find_text(logits, 8) is None
    one = np.random.default_rng(0).normal(size=(40, 32))
    one[3, 4] = np.nan
    assert framing.search(one, 8).bits is None


def test_shipped_weights_are_what_was_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {p.stem for p in weights.FOLDER.glob("*.safetensors")} - {"lpips"} == set(weights.SHIPPED)
    for name in weights.SHIPPED:
        weights.read(weights.find(name))
    shutil.copy(weights.FOLDER / "small.safetensors", tmp_path)
    data = bytearray((tmp_path / "small.safetensors").read_bytes())
    data[-7] ^= 1
    (tmp_path / "small.safetensors").write_bytes(data)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="not that of the shipped file"):
        weights.load("small")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    tensors, meta = weights.read(weights.find("small"))
    name = next(iter(tensors))
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    path = tmp_path / "nan.safetensors"
    save_file(tensors, path, metadata=meta)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        weights.load(path)
    assert main(["extract", str(path), "--weights", str(path)]) == 2
    assert "NaN" in capsys.readouterr().err


@pytest.mark.parametrize("config", ["{}", "[]", "null", '{"model": 5, "training": {}}', "[" * 100_000, '{"model": {"bits": 1e400}}'])
def test_broken_descriptions_are_named(tmp_path: Path, config: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"config": config, "detector": config})
    with pytest.raises(CheckpointError):
        weights.load(path)
    with pytest.raises(CheckpointError):
        weights.load_detector(path)


# --- checkpoints and runs ---


def test_every_changed_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 7, {"model": {"w": torch.arange(4.0)}}, {"seed": 3})
    assert checkpoint.read(path)[0]["step"] == 7
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for i in range(0, len(whole), max(1, len(whole) // 40)):
            file.write_bytes(whole[:i] + bytes([whole[i] ^ 2]) + whole[i + 1 :])
            with pytest.raises(CheckpointError):
                checkpoint.read(path)
        file.unlink()
        with pytest.raises(CheckpointError):
            checkpoint.read(path)
        file.write_bytes(whole)
    checkpoint.read(path)


def damaged_states() -> list[str]:
    return ["{}", "[]", "null", "1", '{"sha256": 5}', '{"sha256": []}', "[" * 100_000, '{"sha256": {"model": 1}}', '{"step": 1}']


@pytest.mark.parametrize("text", damaged_states(), ids=range(len(damaged_states())))
def test_states_of_another_shape_are_named(tmp_path: Path, text: str) -> None:
    """Also where the hash is that of the damaged text."""
    import hashlib

    path = checkpoint.save(tmp_path, 7, {"model": {"w": torch.arange(4.0)}}, {})
    (path / checkpoint.STATE).write_text(text)
    (path / checkpoint.STATE_HASH).write_text(hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(CheckpointError):
        checkpoint.read(path)


def packed(videos: str) -> bytes:
    head = f'{{"format": "revmark clips 1", "videos": {videos}}}'.encode()
    return len(head).to_bytes(8, "little") + head


BROKEN = [
    b"", b"\0" * 4, b"\xff" * 64, (1 << 60).to_bytes(8, "little"), (100_000).to_bytes(8, "little") + b"[" * 100_000,
    (2).to_bytes(8, "little") + b"[]", packed("5"), packed("null"), packed('[{"sizes": [-1]}]'), packed('[{"sizes": [10000000000]}]'),
    packed('[{"sizes": ["a"]}]'), packed('[{"sizes": []}]'),
]  # fmt: skip


@pytest.mark.parametrize("raw", BROKEN, ids=range(len(BROKEN)))
def test_broken_packed_files_are_named(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x.clips").write_bytes(raw)
    with pytest.raises(dc.VideoError, match=r"x.clips"):
        unpack(tmp_path / "x.clips")


TINY = Config(
    dataclasses.replace(PRESETS["small"].model, widths=(4, 8, 8), decoder_widths=(4, 8, 8)) if hasattr(Model(), "widths") else Model(),
    dataclasses.replace(PRESETS["small"].training, steps=40, batch=2, save_every=1, validate_every=1000),
)


def test_a_second_training_in_a_folder_is_refused(tmp_path: Path) -> None:
    code = (
        "import time\nfrom pathlib import Path\nfrom revmark_ref.train import _alone\n"
        f"with _alone(Path({str(tmp_path / 'run')!r})):\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        with pytest.raises(ValueError, match="another process trains here"):
            train(Plan(TINY, "synthetic", tmp_path / "run"))
    finally:
        process.kill()
        process.communicate()
    with _alone(tmp_path / "run"):  # it went with the process
        pass


def test_a_training_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(dc.VideoError):
        train(Plan(TINY, tmp_path / "none", tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="cannot be made"):
        train(Plan(TINY, "synthetic", tmp_path / "file" / "run"))


def revmark(*arguments: object, ignored: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    def set_up() -> None:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # a job in the background, or under nohup, inherits that they are ignored
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "revmark_ref.cli", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=set_up, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if there() or process.poll() is not None:
            return
        time.sleep(0.05)


def end_of(process: subprocess.Popen[str]) -> str:
    """What a process said on its standard error until it ended; one that does not end is killed."""
    try:
        return process.communicate(timeout=120)[1]
    finally:
        process.kill()


TRAIN = ["train", "--data", "synthetic", "--steps", "400", "--batch", "2", "--set", "save_every=1", "validate_every=10000"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signals_save_a_training(tmp_path: Path, name: str) -> None:
    if not hasattr(signal, name):
        pytest.skip(f"no {name} here")
    run = tmp_path / "run"
    process = revmark(*TRAIN, "--out", run)
    wait_for(lambda: bool(checkpoint.every(run / "checkpoints")), process)
    process.send_signal(getattr(signal, name))
    error = end_of(process)
    assert process.returncode == 130, error
    assert "--resume goes on" in error
    assert "Traceback" not in error
    assert checkpoint.newest(run / "checkpoints") is not None


def test_nohup_is_respected_and_ctrl_c_twice_ends_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = revmark(*TRAIN, "--out", run, ignored=(signal.SIGHUP,))
    wait_for(lambda: bool(checkpoint.every(run / "checkpoints")), process)
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    error = end_of(process)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert checkpoint.newest(run / "checkpoints") is not None


@pytest.mark.parametrize("delay", [0.3, 0.8, 1.5])
def test_ctrl_c_while_it_starts(tmp_path: Path, delay: float) -> None:
    command = shutil.which("revmark", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("revmark is not installed in this environment")
    process = subprocess.Popen(
        [command, *TRAIN, "--out", str(tmp_path / "run")], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in error
