import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from helpers import natural

import diffcodec as dc
from revmark_ref import progress
from revmark_ref.config import PRESETS
from revmark_ref.data import gather, pack
from revmark_ref.run import Plan
from revmark_ref.train import train

TINY = PRESETS["small"].with_values(
    {
        "bits": 8, "height": 32, "width": 32, "widths": (8, 16), "decoder_widths": (8, 16), "hidden": 16, "batch": 2, "steps": 4, "save_every": 2,
        "validate_every": 2, "distortion": ((0, "none"),),
    }
)  # fmt: skip


def written(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        dc.write_video(folder / f"{i}.mp4", natural(1, 10, 40, 48, seed=i)[0], crf=15)
    return folder


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    out = Time()
    monkeypatch.setattr(progress, "time", out)
    return out


def test_the_paper_on_a_cpu_is_told_after_a_few_steps() -> None:
    time = Time()
    pace = progress.Pace(60000, time.monotonic)
    told = []
    for step in range(1, 20):
        time.now += 400 if step == 1 else 50  # the first one compiles
        if sentence := pace.after(step, "none"):
            told.append((step, sentence))
    assert told == [(4, "about 35 days to go at 50 s a step (59 996 steps)")]
    for step in range(20, 30):  # another kind of step: told again
        time.now += 100
        if sentence := pace.after(step, "revmark"):
            told.append((step, sentence))
    assert [step for step, _ in told] == [4, 23]
    assert "69 days to go at 100 s" in told[1][1]


def test_short_trainings_are_not_estimated_and_fast_ones_after_a_while() -> None:
    time = Time()
    short, fast = progress.Pace(100, time.monotonic), progress.Pace(100_000, time.monotonic)
    told: list[tuple[int, str]] = []
    for step in range(1, 100):
        time.now += 0.02
        assert short.after(step, 0) is None
        if sentence := fast.after(step, 0):
            told.append((step, sentence))
    assert told == [(51, "about 33 minutes to go at 0.02 s a step (99 949 steps)")]


@pytest.mark.parametrize(
    ("seconds", "words"), [(59, "59 s"), (600, "10 minutes"), (3600 * 5, "5 hours"), (86400 * 1.9, "46 hours"), (86400 * 35, "35 days")]
)
def test_durations(seconds: float, words: str) -> None:
    assert progress.duration(seconds) == words


def test_lines_go_by_time(time: Time) -> None:
    clock = progress.Clock()
    due = []
    for _ in range(100):
        due.append(clock.due())
        time.now += 1
    assert [i for i, d in enumerate(due) if d] == [0, 30, 60, 90]


def test_reading_tells_how_far_it_is(time: Time, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress.counted(range(500), "reading videos"):
        time.now += 0.5
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "reading videos: 60 of 500"
    assert len(lines) == 8
    list(progress.counted(range(500), "reading videos", quiet=True))
    assert capsys.readouterr().out == ""


def test_every_source_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "videos", 2)
    pack(folder, tmp_path / "p.clips", frames=10, side=32)
    monkeypatch.setattr(progress.Clock, "due", lambda self: True)
    for source, words in ((folder, "reading videos: 1 of 2"), (tmp_path / "p.clips", "reading clips: 1 of 2")):
        gather(source, 8, (32, 32), quiet=False)
        assert words in capsys.readouterr().out


def test_the_log_has_times_and_lines_come_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    began = datetime.now(timezone.utc)
    train(Plan(TINY, written(tmp_path / "videos", 2), out))
    said = capsys.readouterr().out.splitlines()
    assert sum("  loss " in line for line in said) == 1  # the first; another one after 30 seconds
    assert sum("validation/psnr" in line for line in said) == 2
    times = [datetime.fromisoformat(json.loads(line)["time"]) for line in (out / "log.jsonl").read_text().splitlines()]
    assert len(times) == 6
    assert times == sorted(times)
    assert all((t - began).total_seconds() > -0.01 for t in times)
    assert times[-1] <= datetime.now(timezone.utc)


def test_a_training_prints_its_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress.Pace, "after", lambda self, step, kind: "about 35 days to go" if step == 3 else None)
    train(Plan(TINY, written(tmp_path / "videos", 2), tmp_path / "run"))
    assert [line for line in capsys.readouterr().out.splitlines() if "35 days" in line] == ["about 35 days to go"]
    assert PRESETS["paper"].training.steps == 60000
