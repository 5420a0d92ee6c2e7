import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import natural
from safetensors import safe_open

import diffcodec as dc
from revmark_ref import checkpoint, run, weights
from revmark_ref.config import PRESETS
from revmark_ref.data import TrainingClips, gather, pack
from revmark_ref.heldout import RECORD, Video, continued, hold_out, recorded
from revmark_ref.run import Plan
from revmark_ref.train import train

TINY = PRESETS["small"].with_values(
    {
        "bits": 8, "height": 32, "width": 32, "widths": (8, 16), "decoder_widths": (8, 16), "hidden": 16, "batch": 2, "steps": 4, "save_every": 2,
        "validate_every": 2, "distortion": ((0, "none"),),
    }
)  # fmt: skip


def videos(count: int, first: int = 0) -> list[Video]:
    return [
        Video(f"{i}.mp4", f"{(i * 0x9E3779B97F4A7C15) % 2**64:016x}" + "0" * 48, torch.zeros(8, 3, 4, 4))
        for i in range(first, first + count)
    ]


def names(of: list[Video]) -> set[str]:
    return {v.name for v in of}


def written(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(first, first + count):
        dc.write_video(folder / f"{i}.mp4", natural(1, 10, 40, 48, seed=i)[0], crf=15)
    return folder


def test_a_share_by_hash_is_stable_when_videos_are_added() -> None:
    few, many = hold_out(videos(60)), hold_out(videos(400))
    assert 1 <= len(few.validation) <= 8
    assert len(many.validation) == pytest.approx(20, abs=10)
    assert names(few.validation) <= names(many.validation)
    assert names(few.training) <= names(many.training)
    for split in (few, many):
        assert not {v.digest for v in split.training} & {v.digest for v in split.validation}
    renamed = hold_out([v._replace(name=f"other/{v.name}") for v in reversed(videos(60))])
    assert {v.digest for v in renamed.validation} == {v.digest for v in few.validation}


def test_copies_stay_together_and_both_parts_have_one() -> None:
    two = videos(2)
    for share in (1e-9, 0.999999):
        split = hold_out([*two, two[0]._replace(name="copy"), two[1]._replace(name="copy 2")], share)
        assert len(split.training) == len(split.validation) == 2
        assert len({v.digest for v in split.validation}) == 1
    alone = hold_out([*videos(1), videos(1)[0]._replace(name="copy")])
    assert (alone.how, len(alone.training), alone.measured) == ("none", 2, "training")
    assert hold_out(two, 0).how == "none"
    for share in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"in \[0, 1\), got"):
            hold_out(two, share)
    with pytest.raises(ValueError, match="exclude each other"):
        hold_out(two, 0.5, videos(1))


def test_given_videos_are_not_trained_on() -> None:
    split = hold_out(videos(10), given=[videos(1)[0]._replace(name="a copy"), *videos(2, 20)])
    assert (split.how, len(split.training), len(split.validation)) == ("given", 9, 3)
    with pytest.raises(ValueError, match="nothing is left to train on"):
        hold_out(videos(2), given=videos(3))


def test_what_a_resumed_run_may_change() -> None:
    first = hold_out(videos(60), 0.1)
    record = json.loads(json.dumps(first.record()))
    again = continued(videos(90), record)  # more videos: they are trained on, the others stay
    assert names(again.validation) == names(first.validation)
    assert len(again.training) == len(first.training) + 30
    gone = [v for v in videos(60) if v.name != first.validation[0].name]
    for arguments, match in (
        ((gone, record), rf"{first.validation[0].name} is not among them"),
        ((videos(60), record, 0.2), "holds out 0.1"),
        ((videos(60), record, None, videos(2, 99)), "of its own videos"),
        ((videos(60), hold_out(videos(60), given=videos(2, 99)).record()), "give it again"),
        ((videos(60), hold_out(videos(60), given=videos(2, 99)).record(), None, videos(3, 99)), "there are others"),
        ((videos(60), None, None, videos(1)), r"has trained on 1 of these videos \(0.mp4\)"),
        ((videos(60), None, 0.1), "has trained on all"),
    ):
        with pytest.raises(ValueError, match=match):
            continued(*arguments)  # type: ignore[arg-type]
    assert continued(videos(60), None).how == "none"
    assert continued(videos(60), None, None, videos(2, 99)).how == "given"


def test_every_source_has_hashes(tmp_path: Path) -> None:
    folder = written(tmp_path / "videos", 3)
    shutil.copy(folder / "0.mp4", folder / "copy of 0.mp4")
    found = gather(folder, 8, (32, 32))
    assert len({v.digest for v in found}) == 3
    assert found[0].digest == dc.files.sha256(folder / "0.mp4")
    pack(folder, tmp_path / "p.clips", frames=10, side=32)
    packed = gather(tmp_path / "p.clips", 8, (32, 32))
    assert {v.name for v in packed} == {v.name for v in found}
    assert len({v.digest for v in packed}) == 3
    made = gather("synthetic", 8, (16, 16))
    assert len({v.digest for v in made}) == len(made) == 48
    assert torch.equal(TrainingClips(found, 8, (32, 32), 1)[5][0], TrainingClips(folder, 8, (32, 32), 1)[5][0])


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_validation_never_sees_a_training_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = written(tmp_path / "videos", 4), tmp_path / "run"
    seen: list[run.Run] = []
    real = run.Run.__init__

    def noted(self: run.Run, plan: Plan) -> None:
        real(self, plan)
        seen.append(self)

    monkeypatch.setattr(run.Run, "__init__", noted)
    train(Plan(TINY, folder, out, until=2))
    said = capsys.readouterr().out
    assert "training on 3 videos, validation on 1 others: " in said
    record = recorded(out)
    assert record is not None
    held = record["validation"][0]
    assert held["name"] in said
    assert held["sha256"] == dc.files.sha256(folder / held["name"])
    assert held["name"] not in {v["name"] for v in record["training"]}
    mine = gather(folder / held["name"], 8, (32, 32))[0].frames
    assert len(seen[0].others.videos) == 1
    assert torch.equal(seen[0].others.videos[0], mine)
    assert not any(torch.equal(v, mine) for v in seen[0].data.videos)
    assert any("validation/psnr" in line for line in lines(out))
    written(folder, 3, first=4)  # resumed with more videos: the same one is held out
    train(Plan(TINY, folder, out, resume=True, quiet=True))
    assert recorded(out)["validation"] == record["validation"]  # type: ignore[index]
    file = tmp_path / "w.safetensors"
    weights.export(out, file)
    with safe_open(file, "pt") as told:
        data = json.loads(told.metadata()["data"])
    assert data["validation"] == record["validation"]
    assert len(data["training"]) == 6
    weights.load(file)
    (out / RECORD).write_text("{")
    with pytest.raises(checkpoint.CheckpointError, match=r"data.json: damaged"):
        train(Plan(TINY, folder, out, resume=True, quiet=True))


def test_one_video_and_a_run_from_before_are_named(tmp_path: Path) -> None:
    folder, out = written(tmp_path / "videos", 1), tmp_path / "run"
    with pytest.warns(UserWarning, match=r"none of 1 videos is held out; .* is named training/... \(there is only one\); --validation DIR"):
        train(Plan(TINY, folder, out, until=2, quiet=True))
    assert any("training/psnr" in line for line in lines(out))
    assert not any(k.startswith("validation/") for line in lines(out) for k in line)
    written(folder, 3, first=1)
    (out / RECORD).unlink()
    with pytest.warns(UserWarning, match=r"none of 4 videos is held out; .* \(it was begun so\)"):
        train(Plan(TINY, folder, out, resume=True, quiet=True))


def test_a_folder_of_its_own(tmp_path: Path) -> None:
    folder, other, out = written(tmp_path / "videos", 2), written(tmp_path / "others", 2, first=2), tmp_path / "run"
    shutil.copy(folder / "0.mp4", other)
    train(Plan(TINY, folder, out, until=2, quiet=True, validation=other))
    record = recorded(out)
    assert record is not None
    assert [v["name"] for v in record["training"]] == ["1.mp4"]
    assert len(record["validation"]) == 3
    with pytest.raises(ValueError, match="give it again"):
        train(Plan(TINY, folder, out, resume=True, quiet=True))
    assert train(Plan(TINY, folder, out, resume=True, quiet=True, validation=other)).why == "done"
