"""embed says whether its mark can be read back, before anybody relies on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import footage, natural
from torch import Tensor

import diffcodec as dc
from diffcodec.media import Damage
from revmark_ref import UnreadableError, apply, framing, marking, predict, reading, weights
from revmark_ref.cli import main
from revmark_ref.filemark import Mark
from revmark_ref.model import REVMark

MESSAGE = "0123456789abcdef"


@pytest.fixture(scope="module")
def net() -> REVMark:
    return weights.load("base")[0]


def written(path: Path, video: Tensor, fps: float = 25, crf: float = 12) -> Path:
    dc.write_video(path, video, fps=fps, crf=crf, preset="ultrafast")
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3.2 s, 80 frames of 160 x 224."""
    return written(tmp_path_factory.mktemp("predict") / "in.mp4", footage(80, 160, 224))


def black(frames: int) -> Tensor:
    return torch.zeros(frames, 3, 96, 128)


def test_what_is_predicted_readable_is_read(net: REVMark, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    told = apply.embed(net, source, out, message=MESSAGE, crf=14, verify=True)
    assert told.prediction is not None
    assert told.prediction.readable
    assert told.prediction.margin > 2
    assert told.prediction.share == 1
    assert told.verified is True
    weak = apply.embed(net, source, out, message=MESSAGE, psnr=43, crf=14).prediction
    assert weak is not None
    assert weak.margin < told.prediction.margin - 1


@pytest.mark.parametrize(
    ("video", "fps", "reason"),
    [
        (black(60), 25, "nearly black"),
        (torch.ones(60, 3, 96, 128), 25, "nearly white"),
        (torch.full((60, 3, 96, 128), 0.5), 30, "hardly any texture"),
    ],
    ids=["black", "white", "grey"],
)
def test_a_film_that_holds_no_mark_is_refused(
    net: REVMark, tmp_path: Path, capsys: pytest.CaptureFixture[str], video: Tensor, fps: int, reason: str
) -> None:
    path, out = written(tmp_path / "in.mp4", video, fps), tmp_path / "out.mp4"
    with pytest.raises(UnreadableError, match=rf"mark predicted unreadable: margin .*: it .*{reason}.*--force.*nothing was kept") as caught:
        apply.embed(net, path, out, message=MESSAGE)
    assert "\n" not in str(caught.value)
    assert not caught.value.prediction.readable
    assert caught.value.prediction.share == 0
    assert main(["embed", str(path), str(out), "--message", MESSAGE]) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_force_writes_it_with_a_warning_and_verify_fails(net: REVMark, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = written(tmp_path / "in.mp4", black(60)), tmp_path / "out.mp4"
    with pytest.warns(UserWarning, match="predicted unreadable"):
        told = apply.embed(net, path, out, message=MESSAGE, force=True, verify=True)
    assert told.verified is False
    assert told.prediction is not None
    assert not told.prediction.readable
    out.unlink()
    with pytest.warns(UserWarning, match="predicted unreadable"):
        assert main(["embed", str(path), str(out), "--message", MESSAGE, "--force", "--verify"]) == 1
    shown = capsys.readouterr()
    assert "mark predicted unreadable" in shown.out
    assert "was not read back; the file was kept" in shown.err
    assert out.exists()


def test_verify_compares_what_was_read(
    net: REVMark, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    arguments = ["embed", str(source), str(out), "--message", "0x" + MESSAGE.upper(), "--verify", "--key", "k"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "mark predicted readable: margin" in shown
    assert "verified: the message was read back" in shown
    read = apply.extract
    monkeypatch.setattr(apply, "extract", lambda *a, **k: dataclasses.replace(read(*a, **k), message="f" * 16))
    assert main(arguments) == 1


def test_verify_works_for_networks_which_have_no_prediction(tmp_path: Path) -> None:
    small = weights.load("small")[0]
    path, out = written(tmp_path / "in.mp4", natural(1, 40, 96, 160)[0]), tmp_path / "out.mp4"
    told = apply.embed(small, path, out, message="dead", psnr=37, crf=14, verify=True)
    assert told.prediction is None
    assert told.verified is True
    told = apply.embed(small, path, out, message="dead", psnr=60, crf=51, verify=True)
    assert told.verified is False


def test_a_still_picture_of_little_bitrate_keeps_its_mark(net: REVMark, tmp_path: Path) -> None:
    """The default bitrate follows the source's, which is next to nothing here."""
    path, out = written(tmp_path / "in.mp4", torch.full((80, 3, 240, 320), 0.5), crf=18), tmp_path / "out.mp4"
    told = apply.embed(net, path, out, message=MESSAGE, verify=True)
    assert told.verified is True
    assert told.bytes_after < 40_000


def test_the_share_of_the_film_in_which_an_excerpt_can_be_read(net: REVMark, tmp_path: Path) -> None:
    """Black in the first half: the message is read, but not from there."""
    path, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    written(path, torch.cat([torch.zeros(100, 3, 128, 160), footage(100, 128, 160)]))
    told = apply.embed(net, path, out, message=MESSAGE, crf=20, verify=True)
    assert told.verified is True
    assert told.prediction is not None
    assert 0.2 < told.prediction.share < 0.8
    assert f"in {int(100 * told.prediction.share)} % of the film" in str(told.prediction)


@pytest.mark.filterwarnings("ignore:.*predicted unreadable")
@pytest.mark.parametrize("psnr", [40, 60])
def test_texts(net: REVMark, tmp_path: Path, psnr: float) -> None:
    path, out = written(tmp_path / "in.mp4", footage(150, 128, 160)), tmp_path / "out.mp4"
    told = apply.embed(net, path, out, text="hi", psnr=psnr, crf=16 if psnr == 40 else 34, force=True, verify=True)
    assert told.prediction is not None
    assert told.prediction.readable == told.verified == (psnr == 40)


def test_odd_sizes_and_other_containers(net: REVMark, tmp_path: Path) -> None:
    path, out = written(tmp_path / "in.mp4", footage(60, 121, 161)), tmp_path / "out.mkv"
    told = apply.embed(net, path, out, message=MESSAGE, crf=14, verify=True)
    assert told.prediction is not None
    assert told.prediction.readable
    assert told.verified is True


def test_what_is_decoded_on_the_way_is_what_the_file_holds(net: REVMark, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    told = apply.embed(net, source, out, message=MESSAGE, crf=16)
    words = framing.protected(framing.from_hex(MESSAGE, 64), 96)[None]
    watch = predict.Watch(marking.WavePen(Mark.of(), words, 40.0, 25.0), "", 25.0)
    groups = reading.Groups()
    for y, at in reading.frames(out, Damage()):
        assert not list(groups.add(y, at))
    ((numbers, windows),) = groups.end()
    found = predict.predicted([predict.measured(windows, watch._expected(numbers), numbers, 1)], text=False)
    assert told.prediction is not None
    assert found.margin == pytest.approx(told.prediction.margin, abs=0.05)


def test_correlation_is_of_signal_and_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 240)) + 1j * rng.normal(size=(200, 240))  # power 2
    for ratio in (0.5, 1.0, 4.0):
        x = (np.sqrt(2 * ratio) + noise) * np.exp(1j)  # a common phase does not count
        told = np.mean([predict.decibels(predict.correlation(row)) for row in x])
        assert told == pytest.approx(10 * np.log10(ratio), abs=0.6)
    assert np.mean([predict.correlation(row) for row in noise]) < 0.1
    assert predict.correlation(np.zeros(240)) == 0


@pytest.mark.parametrize("read", [True, False])
def test_near_the_threshold_the_reader_decides(
    net: REVMark, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: bool
) -> None:
    """Whatever the margin says, the reader's own word on the encoded frames is taken."""
    monkeypatch.setattr(predict, "DOUBT", (-30.0, 31.0))
    if not read:  # as if an earlier mark with the same key were read in its place
        monkeypatch.setattr(framing, "message_of", lambda *_: framing.from_hex("f" * 16, 64))
    out = tmp_path / "out.mp4"
    if read:
        told = apply.embed(net, source, out, message=MESSAGE, crf=14).prediction
    else:
        with pytest.warns(UserWarning, match="predicted unreadable: .*tried: not read"):
            told = apply.embed(net, source, out, message=MESSAGE, crf=14, force=True).prediction
    assert told is not None
    assert told.tried is told.readable is read
    assert told.margin > told.needed
