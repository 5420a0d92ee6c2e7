"""What long benchmarks keep, and what is done to their files."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import footage

import diffcodec as dc

rows = pytest.importorskip("benchmarks.rows")
from benchmarks import file_attacks, protocol, watermark  # noqa: E402
from revmark_ref import weights  # noqa: E402


def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    done = rows.Rows(path, "clip", "attack")
    done.add({"clip": "a", "attack": "none", "right": 3})
    with path.open("a") as file:
        file.write('{"clip": "a", "att')  # killed here
    again = rows.Rows(path, "clip", "attack")
    assert ("a", "none") in again
    again.add({"clip": "a", "attack": "blur", "right": 2})
    assert rows.Rows(path, "clip", "attack")["a", "blur"]["right"] == 2


def test_rows_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    rows.belongs(tmp_path, weights="x", psnr=40.0)
    rows.belongs(tmp_path, weights="x", psnr=40.0)
    with pytest.raises(ValueError, match="holds results for other psnr"):
        rows.belongs(tmp_path, weights="x", psnr=42.0)


def test_attacks_on_files(tmp_path: Path) -> None:
    source, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    dc.write_video(source, footage(8, 48, 64), fps=25, crf=4)
    flip = file_attacks.FileAttack("geometry", "hflip", options=(("crf", "4"), ("preset", "ultrafast")), times=3)
    file_attacks.apply(flip, source, out)
    assert dc.metrics.psnr(dc.read_video(out)[None], dc.read_video(source)[None].flip(-1)).min() > 34
    layer = file_attacks.FileAttack("coding", options=(("crf", "0"), ("preset", "ultrafast")), layer=dc.Brightness(0.5))
    file_attacks.apply(layer, source, out)
    assert dc.metrics.psnr(dc.read_video(out)[None], dc.read_video(source)[None] * 0.5).min() > 34
    with pytest.raises(ValueError, match="a layer goes without filters"):
        file_attacks.FileAttack("coding", layer=dc.Brightness(0.5), **file_attacks.encoder("libvpx-vp9", 33))


class Parity(protocol.System):
    """Writes nothing and reads the message that it was given, but after one attack."""

    bits = 8

    def embed(self, source: Path, out: Path, message: np.ndarray) -> None:
        out.write_bytes(source.read_bytes())
        self.message, self.reads = message, 0

    def read(self, path: Path) -> np.ndarray | None:
        self.reads += 1
        return None if self.reads == 2 else self.message


def test_protocol_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tmp_path / "clip.mp4"
    dc.write_video(clip, footage(8, 48, 64), fps=25)
    monkeypatch.setattr(protocol, "ATTACKS", {n: protocol.ATTACKS[n] for n in ("none", "flip")})
    monkeypatch.setattr(protocol, "HEIGHT", 48)
    told = protocol.measured("parity", Parity(), [clip], tmp_path)
    assert told["attacks"]["none"] == {
        "bit_accuracy": 1,
        "worst_clip": 1,
        "exact": 1,
        "capacity": pytest.approx(8),
        "log10_p": pytest.approx(-8 * np.log10(2)),
    }
    assert told["attacks"]["flip"] == {"bit_accuracy": 0.5, "worst_clip": 0.5, "exact": 0, "capacity": 0, "log10_p": 0}
    assert told["psnr"] > 60 or torch.isinf(torch.tensor(told["psnr"]))
    assert protocol.measured("parity", Parity(), [clip], tmp_path) == told  # from what was kept


def test_marks_in_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    dc.write_video(path, footage(75, 160, 224), fps=25, crf=8)
    monkeypatch.setattr(watermark, "clip", lambda path, i: iter(dc.read_video(path)[:, None]))
    monkeypatch.setattr(watermark, "ATTACKS", {n: file_attacks.ATTACKS[n] for n in ("mirrored", "trimmed")})
    args = argparse.Namespace(work=tmp_path, count=1, psnr=38.0)
    net = weights.load("base")[0]
    told = watermark.attacks(net, [path], args)
    assert {k: told[k] for k in ("files", "exact", "wrong_messages", "unreadable")} == {
        "files": 3,
        "exact": 3,
        "wrong_messages": 0,
        "unreadable": 0,
    }
    assert told["attacks"]["mirrored"]["files"] == 1
    assert watermark.attacks(None, [path], args) == told  # from what was kept
    told = watermark.unmarked(net, [path], args)
    assert {k: told[k] for k in ("files", "exact", "wrong_messages", "not_exact")} == {
        "files": 3,
        "exact": 0,
        "wrong_messages": 0,
        "not_exact": [],
    }
