import csv
import json
from pathlib import Path

import pytest
import torch
from helpers import natural

import diffcodec as dc
from revmark_ref import evaluate, measure, weights
from revmark_ref.cli import main
from revmark_ref.config import PRESETS
from revmark_ref.model import REVMark
from revmark_ref.run import Plan
from revmark_ref.train import train

TINY = PRESETS["small"].with_values(
    {
        "bits": 8, "height": 32, "width": 32, "widths": (8, 16), "decoder_widths": (8, 16), "hidden": 16, "batch": 2, "steps": 40, "save_every": 2,
        "validate_every": 100, "distortion": ((0, "none"),),
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("videos")
    for i in range(2):
        dc.write_video(out / f"{i}.mp4", natural(1, 10, 40, 48, seed=i)[0], crf=15)
    return out


def test_every_row_says_what_ours_is(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(Plan(TINY, folder, tmp_path / "run", until=2, quiet=True))
    w, out = tmp_path / "w.safetensors", tmp_path / "out"
    weights.export(tmp_path / "run", w)
    command = [
        "evaluate",
        "--data",
        str(folder),
        "--weights",
        str(w),
        "--windows",
        "1",
        "--out",
        str(out),
        "--tables",
        "1",
        "2",
        "3",
        "4",
        "7",
        "8",
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    data = json.loads((out / "tables.json").read_text())
    words = data["ours is"]
    assert words == f"8 bits, 8 x 32 x 32, {data['tables']['table 2'][-1]['psnr']['value']:.1f} dB, 2 steps"  # of 40 in its configuration
    assert data["steps"] == 2
    assert data["tables"]["table 8"][-1]["steps"] == 2
    for name, rows in data["tables"].items():
        ours = [r for r in rows if "(paper" not in str(r.get("model"))]
        assert ours
        for r in ours:
            assert r["ours is"].startswith("8 bits, 8 x 32 x 32, "), name
            assert r["ours is"].endswith(" dB, 2 steps"), name
    for r in data["tables"]["table 3"]:  # at another strength each
        assert f"{r['psnr']:.1f} dB" in r["ours is"]
    assert shown.count(words) >= 8
    assert (out / "tables.md").read_text().strip() == shown.strip()[shown.strip().index("### Table 1") :]
    for column in ("flat", "flicker"):
        assert f"- *{column}*: {data['columns'][column]}." in shown
    assert "- *paper*: figures of the paper: 96 bits, 8 x 128 x 128, 37.5 dB, 60000 steps" in shown
    lines = list(csv.DictReader((out / "tables.csv").read_text().splitlines()))
    crf = next(r for r in lines if r["row"] == "libx264, CRF 22" and r["column"] == "ours")
    assert float(crf["value"]) == data["tables"]["table 1"][-1]["ours"]["value"]
    assert crf["ours is"] == words
    assert next(r for r in lines if r["row"] == "REVMark (paper)" and r["column"] == "psnr")["ours is"] == ""
    assert all(r["value"] != "None" for r in lines)


def test_what_flat_and_flicker_are(tmp_path: Path) -> None:
    """The definitions in words, computed by hand."""
    clips = torch.full((1, 3, 3, 32, 32), 0.5)
    clips[..., 16:] = torch.rand(16, generator=torch.Generator().manual_seed(0))  # the right half is not flat
    residual = torch.zeros_like(clips)
    residual[:, :, :, :, ::2] = 2 / 255  # alternates by column: a standard deviation of 1 level
    flat = measure._flat(clips + residual, clips, [0])
    assert flat is not None
    assert flat["value"] == pytest.approx(1.0, abs=5e-3)  # of 255 degrees of freedom in 256
    assert measure._flat(clips[..., 16:], clips[..., 16:], [0]) is None
    moved = torch.tensor([0.0, 1.0, 4.0]).view(1, 3, 1, 1, 1).expand_as(clips) / 255  # changes by 1, then by 3
    own = measure.Material(clips, torch.zeros(1, 8), [0], ["a"], ["0"])
    found = measure.Evaluation(REVMark(TINY.model), TINY, "a", own, tmp_path / "cells.json", "key")
    found._marked = {found.alpha: clips + moved}
    assert found.quality()["flicker"]["value"] == pytest.approx(3 / 2, abs=1e-3)
    assert set(measure.QUALITY) == {"psnr", "ssim", "lpips", "flat", "flicker"}
    assert f"{measure.BLOCK} x {measure.BLOCK}" in measure.QUALITY["flat"]
    assert f"below {measure.FLAT:g} level" in measure.QUALITY["flat"]


def test_the_manual_defines_the_columns() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs" / "revmark.rst").read_text().split())
    for name in ("flat", "flicker"):
        assert evaluate.COLUMNS[name] in text, name
