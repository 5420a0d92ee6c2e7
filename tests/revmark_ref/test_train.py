import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import natural
from safetensors.torch import load_file

import diffcodec as dc
from revmark_ref import checkpoint, data, weights
from revmark_ref.config import PRESETS, Config
from revmark_ref.data import Order, TrainingClips, pack, synthetic, unpack
from revmark_ref.run import Plan
from revmark_ref.train import stages, train

TINY = PRESETS["small"].with_values(
    {
        "bits": 8, "height": 32, "width": 32, "widths": (8, 16), "decoder_widths": (8, 16), "hidden": 16, "batch": 2, "steps": 8, "save_every": 2,
        "validate_every": 100, "distortion": ((0, "none"), (3, "jpeg")), "warmup": 2, "attacks_in_none": True,
        "adversarial_weight": [5e-4, 5e-4, 0, 0],
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("videos")
    for i in range(3):
        dc.write_video(out / f"{i}.mp4", natural(1, 12, 48, 64, seed=i)[0], crf=15)
    return out


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("run") / "whole"
    assert train(Plan(TINY, folder, out, quiet=True)).why == "done"
    return out


def last(run: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.newest(run / "checkpoints")
    assert found is not None
    return {f"{g}/{k}": v for g, tensors in found[1].items() for k, v in tensors.items()}


def same(a: Path, b: Path) -> None:
    one, two = last(a), last(b)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def losses_of(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_resumes_to_the_bit_after_pauses(folder: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for until in (3, 4, 7):  # also between two saves
        assert train(Plan(TINY, folder, out, resume=True, until=until, quiet=True)).why == "paused"
    assert train(Plan(TINY, folder, out, resume=True, quiet=True)).step == 8
    same(whole, out)
    assert losses_of(whole) == losses_of(out)


def test_killed_at_random_it_ends_the_same(folder: Path, whole: Path, tmp_path: Path) -> None:
    out, rng = tmp_path / "run", random.Random(0)
    script = tmp_path / "go.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from revmark_ref.run import Plan; from revmark_ref.train import train; from revmark_ref.config import Config\n"
        "c = Config.from_json(Path(sys.argv[2]).read_text()); train(Plan(c, sys.argv[3], Path(sys.argv[4]), resume=True, quiet=True))\n"
    )
    (tmp_path / "config.json").write_text(TINY.to_json())
    command = [sys.executable, str(script), str(Path(__file__).parents[2]), str(tmp_path / "config.json"), str(folder), str(out)]
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    kills = 0
    for _ in range(2):
        process = subprocess.Popen(command, env=env)
        target, deadline = rng.randint(1, 6), time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            log = out / "log.jsonl"
            if log.is_file() and log.read_text().count("\n") >= target:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        process.wait()
        (out / "log.jsonl").unlink(missing_ok=True)
    assert kills
    subprocess.run(command, check=True, env=env)
    same(whole, out)


def test_damaged_checkpoints_are_named_and_skipped(folder: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    newest = checkpoint.every(out / "checkpoints")[-1]
    victim = newest / "model.safetensors"
    raw = bytearray(victim.read_bytes())
    raw[-3] ^= 1
    victim.write_bytes(bytes(raw))
    with pytest.warns(UserWarning, match=rf"{newest.name}.*model.safetensors is damaged"):
        assert train(Plan(TINY, folder, out, resume=True, quiet=True)).step == 8
    same(whole, out)
    for path in checkpoint.every(out / "checkpoints"):
        (path / "state.json").write_text("{")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(checkpoint.CheckpointError, match="all 2 checkpoints are damaged"):
        train(Plan(TINY, folder, out, resume=True, quiet=True))


def test_a_run_is_not_overwritten_nor_mixed_with_another_model(folder: Path, whole: Path) -> None:
    with pytest.raises(ValueError, match="holds a run already"):
        train(Plan(TINY, folder, whole, quiet=True))
    with pytest.raises(checkpoint.CheckpointError, match="another model"):
        train(Plan(TINY.with_values({"bits": 16}), folder, whole, resume=True, quiet=True))


def test_two_processes_are_one_with_twice_the_batch(folder: Path, tmp_path: Path) -> None:
    one = TINY.with_values({"batch": 4, "steps": 4})
    assert train(Plan(one, folder, tmp_path / "one", quiet=True)).why == "done"
    accumulated = TINY.with_values({"batch": 2, "accumulate": 2, "steps": 4})
    assert train(Plan(accumulated, folder, tmp_path / "accumulated", quiet=True)).why == "done"
    two = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "revmark_ref.cli", "train", "--data", str(folder),
        "--out", str(tmp_path / "two"), "--set",
    ]  # fmt: skip
    values = dataclasses.asdict(TINY.with_values({"steps": 4}).training) | dataclasses.asdict(TINY.model)
    start = dataclasses.asdict(PRESETS["small"].training) | dataclasses.asdict(PRESETS["small"].model)
    two += [f"{k}={tuple(v.values()) if isinstance(v, dict) else v!r}" for k, v in values.items() if v != start[k]]
    done = subprocess.run(
        two, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=os.environ | {"ACCELERATE_USE_CPU": "true"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ours = losses_of(tmp_path / "one")
    assert len(ours) == 4
    for other in ("two", "accumulated"):
        assert losses_of(tmp_path / other) == pytest.approx(ours, abs=1e-5), other


def test_small_checkpoints_hold_weights_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(Plan(TINY, folder, out, until=4, budget=1.5, quiet=True))
    found = checkpoint.newest(out / "checkpoints")
    assert found is not None
    assert set(found[1]) == {"model", "discriminator"}
    train(Plan(TINY, folder, out, resume=True, budget=1.5, quiet=True))
    state = checkpoint.newest(out / "checkpoints")[0]
    assert (state["step"], state["rewarm"]) == (8, 4)
    with pytest.raises(checkpoint.CheckpointError, match="too small"):
        checkpoint.small({"a": torch.zeros(10**6)}, 1.0)
    assert checkpoint.small({"a": torch.zeros(10**6)}, 3.0)["a"].dtype == torch.float16


def test_a_message_that_does_not_start_is_begun_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    linear = TINY.with_values({"mapping": "linear", "restart_below": 0.99, "restart_at": 2, "steps": 2})
    with pytest.MonkeyPatch.context() as patch:
        seeds: list[int] = []
        real = data.TrainingClips.__init__

        def counted(self: TrainingClips, *args: object, **kwargs: object) -> None:
            seeds.append(args[3] if len(args) > 3 else kwargs["seed"])  # type: ignore[arg-type]
            if len(seeds) == 5:  # two a run: what is trained on, and what is held out
                raise KeyboardInterrupt
            real(self, *args, **kwargs)  # type: ignore[arg-type]

        patch.setattr(data.TrainingClips, "__init__", counted)
        with pytest.raises(KeyboardInterrupt):
            train(Plan(linear, folder, tmp_path / "run", quiet=True))
    assert seeds == [0, 0, 1, 1, 2]
    assert "beginning again with seed 1" in capsys.readouterr().out


def test_weights_export_and_load(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    weights.export(whole, out)
    assert all(v.dtype == torch.float16 for v in load_file(out).values())
    net, config = weights.load(out)
    assert config == TINY
    assert net.model.bits == 8
    raw = out.read_bytes()
    out.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        weights.load(out)
    with pytest.raises(checkpoint.CheckpointError, match="no such weights"):
        weights.load("nothing")


def test_order_and_clips_are_keyed(folder: Path) -> None:
    assert list(Order(3, 2, 4)) == [[6, 7, 8], [9, 10, 11]]
    clips = TrainingClips(folder, 8, (32, 32), seed=1)
    again = TrainingClips(folder, 8, (32, 32), seed=1)
    for k in (0, 5, 2**61):
        a, b = clips[k], again[k]
        assert a[1] == k
        assert torch.equal(a[0], b[0])
        assert a[0].shape == (8, 3, 32, 32)
        assert a[0].min() >= 0
        assert a[0].max() <= 1
    assert not torch.equal(clips[0][0], clips[1][0])
    large = TrainingClips(folder, 8, (64, 64))[3][0]  # larger than the videos: scaled up
    assert large.shape == (8, 3, 64, 64)
    with pytest.raises(dc.VideoError, match="none of 3 videos has 20 frames"):
        TrainingClips(folder, 20, (32, 32))


def test_synthetic_videos_move() -> None:
    videos = synthetic(2, 6, 40, seed=0)
    assert [tuple(v.shape) for v in videos] == [(6, 3, 40, 40)] * 2
    assert all((v[0] != v[5]).float().mean() > 0.2 for v in videos)
    assert not torch.equal(videos[0], videos[1])
    assert videos[0].float().std() > 10


def test_pack_round_trip_and_errors(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "some.clips"
    told = pack(folder, out, budget=1.0, frames=10, side=32, quality=90)
    assert told["videos"] == 3
    assert told["bytes"] == out.stat().st_size
    videos = unpack(out)
    assert sorted(v.shape[0] for v in videos) == [10, 10, 10]
    original = dc.read_video(folder / told["names"][0], 1, 10, size=tuple(videos[0].shape[-2:]))
    assert dc.metrics.psnr(videos[0][None].float() / 255, original[None]) > 28
    assert len(TrainingClips(out, 8, (32, 32)).videos) == 3
    with pytest.raises(dc.VideoError, match="could be packed"):
        pack(folder, tmp_path / "none.clips", budget=0.2001)
    with pytest.raises(dc.VideoError, match=r"ending in .clips"):
        pack(folder, tmp_path / "x.zip")
    out.write_bytes(out.read_bytes()[:-100])
    with pytest.raises(dc.VideoError, match="damaged"):
        unpack(out)


def test_stages() -> None:
    assert stages(["none", "x264@500"]) == ((0, "none"), (500, "x264"))
    with pytest.raises(ValueError, match="name@step"):
        stages(["x264@soon"])
    with pytest.raises(ValueError, match="order"):
        Config().with_values({"distortion": stages(["x264@5", "none@2"])})


def test_ctrl_c_saves_and_resumes(folder: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text(TINY.to_json())
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code += "; from revmark_ref.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "--data", str(folder), "--out", str(out), "--resume"]
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and not (out / "log.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=120)
    assert process.returncode == 130, complained
    assert "stopped at step" in said
    assert "--resume goes on" in complained
    assert train(Plan(TINY, folder, out, resume=True, quiet=True)).why == "done"
    same(whole, out)
