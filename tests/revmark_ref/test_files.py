"""The mark of ``base`` in files: read after what happens to files, and never a wrong one."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import footage, natural
from torch import Tensor

import diffcodec as dc
from diffcodec.media import Damage
from revmark_ref import apply, code, filemark, framing, reading, sync, weights
from revmark_ref.cli import main
from revmark_ref.filemark import BITS, PERIOD, VECTORS, Mark, Painter
from revmark_ref.model import REVMark

MESSAGE = "0123456789abcdef"


@pytest.fixture(scope="module")
def net() -> REVMark:
    return weights.load("base")[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds, 100 frames of 160 x 224."""
    path = tmp_path_factory.mktemp("files") / "in.mp4"
    dc.write_video(path, footage(100, 160, 224), fps=25, crf=12)
    return path


@pytest.fixture(scope="module")
def marked(net: REVMark, source: Path) -> Path:
    out = source.with_name("marked.mp4")
    done = apply.embed(net, source, out, message=MESSAGE, crf=14)
    assert done.frames == 100
    assert done.seconds == pytest.approx(4)
    return out


# --- pieces -------------------------------------------------------------------------------------------------------------------


def test_code_corrects() -> None:
    rng = np.random.default_rng(0)
    right = 0
    for _ in range(40):
        payload = rng.integers(0, 2, 96)
        sent = 2.0 * code.encode(payload) - 1
        assert len(sent) == code.length(96) == 204
        right += (code.decode(sent + 0.75 * rng.normal(size=len(sent))) == payload).all()
        gone = sent.copy()
        gone[rng.permutation(len(sent))[:60]] = 0  # waves that a codec took away
        assert (code.decode(gone) == payload).mean() > 0.9
    assert right >= 37
    assert (code.decode(np.ones(204)) >= 0).all()


def test_waves_of_two_keys_differ_and_carry_the_payload() -> None:
    mark, other = Mark.of("a"), Mark.of("b")
    payload = np.random.default_rng(1).integers(0, 2, BITS)
    assert sorted([*mark.data, *mark.pilots]) == list(range(len(VECTORS)))
    assert (mark.bits(mark.signs(payload)) == payload).all()
    assert (other.bits(mark.signs(payload)) != payload).any()
    assert np.abs(mark.phases - other.phases).max() > 1


def test_nothing_pulses() -> None:
    """Energy, and change from frame to frame, are the same everywhere; words of a text change without a jump."""
    rng = np.random.default_rng(2)
    for words in (1, 5):
        paint = Painter(Mark.of(), rng.integers(0, 2, (words, BITS)), 128, 128)
        frames = torch.stack([paint(t / 25) for t in range(150)])
        energy = frames.square().mean((1, 2))
        change = frames.diff(dim=0).square().mean((1, 2)).sqrt()
        assert energy.max() < 1.4 * energy.min()  # pairs of opposite waves stand
        turns = [round(filemark.WORD * PERIOD * 25 * n) for n in range(1, 4)]
        at_turns = torch.stack([change[t - 3 : t + 3].mean() for t in turns]).mean()
        assert at_turns / change.mean() < 1.1


def test_poses_only_change_places() -> None:
    """What a mirrored, turned or reversed frame says of the lattice is the same numbers elsewhere."""
    paint = Painter(Mark.of(), np.zeros((1, BITS), dtype=int), 128, 128)

    def seen(change: Callable[[Tensor], Tensor]) -> np.ndarray:
        windows = sync.Windows()
        video = change(torch.stack([paint(t / 25) for t in range(40)]))
        found = [z for t in range(40) for _, z in windows.add(video[t].contiguous(), t / 25)]
        return sync.responses(torch.stack(found), sync.Place(np.eye(2), 0.0)).mean(0)

    plain = seen(lambda v: v)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "mirrored": lambda v: v.flip(2), "turned": lambda v: v.rot90(1, (1, 2)), "both": lambda v: v.rot90(1, (1, 2)).flip(1),
        "backwards": lambda v: v.flip(0),
    }  # fmt: skip
    for name, change in changes.items():
        x = seen(change)
        close = [abs(np.vdot(p.of(x), plain)) / np.linalg.norm(x) / np.linalg.norm(plain) for p in sync.POSES]
        assert max(close) > 0.95, name
        assert sync.POSES[int(np.argmax(close))].backwards == (name == "backwards")


# --- what happens to files ----------------------------------------------------------------------------------------------------


def _crop(v: Tensor) -> Tensor:
    return v[..., 12:142, 20:210]


def _resize(v: Tensor, h: int, w: int) -> Tensor:
    return F.interpolate(v, (h, w), mode="bilinear", antialias=True)


def _turn(v: Tensor, degrees: float) -> Tensor:
    return dc.Rotate(degrees)(v[None])[0]


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda v: v,
    "mirrored": lambda v: v.flip(-1),
    "quarter turn": lambda v: v.rot90(1, (-2, -1)),
    "upside down": lambda v: v.flip((-1, -2)),
    "backwards": lambda v: v.flip(0),
    "cropped": _crop,
    "stretched": lambda v: _resize(v, 160, 168),
    "smaller": lambda v: _resize(v, 120, 168),
    "letterboxed": lambda v: F.pad(v, (0, 0, 20, 20)),
    "turned a little": lambda v: _turn(v, 3.0),
    "turned": lambda v: _turn(v, 10.0),
    "cropped to 55 %": lambda v: v[..., 36:124, 50:174],
    "trimmed": lambda v: v[17:],
    "cut in the middle": lambda v: torch.cat([v[:40], v[50:]]),
    "brighter": lambda v: (1.1 * v + 0.05).clamp(0, 1),
    "grey": lambda v: v.mean(1, keepdim=True).expand_as(v),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_the_message_is_read(net: REVMark, marked: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.mp4"
    dc.write_video(out, CHANGES[name](dc.read_video(marked)).contiguous(), fps=25, crf=16, preset="veryfast")
    found = apply.extract(net, out)
    assert (found.verdict, found.message) == ("message", MESSAGE)
    assert found.p_value < 1e-6
    geometry = found.geometry
    assert geometry["mirrored"] == (name == "mirrored")
    assert geometry["backwards"] == (name == "backwards")
    expected = {"quarter turn": {90, 270}, "upside down": {180}, "turned a little": {3, 357}, "turned": {10, 350}}.get(name, {0})
    assert min(abs((geometry["turn"] - e + 180) % 360 - 180) for e in expected) < 0.6


@pytest.mark.parametrize("fps", [20, 24, 50])
def test_any_frame_rate(net: REVMark, marked: Path, tmp_path: Path, fps: int) -> None:
    video = dc.read_video(marked)
    index = (torch.arange(int(4 * fps)) * 25 / fps).long().clamp(max=99)
    out = tmp_path / "out.mp4"
    dc.write_video(out, video[index], fps=fps, crf=16)
    assert apply.extract(net, out).message == MESSAGE


def test_another_key_finds_nothing_and_nothing_is_nothing(net: REVMark, source: Path, marked: Path) -> None:
    for path, key in ((marked, "other"), (source, ""), (source, "other")):
        found = apply.extract(net, path, key=key)
        assert (found.verdict, found.message, found.text, found.p_value, found.geometry) == ("none", None, None, 1.0, {})


def _moving(name: str) -> Tensor:
    """Pictures that hold waves of the mark's period without being one. Shape: ``[100, 3, 240, 320]``."""
    y, x = torch.meshgrid(torch.arange(240.0), torch.arange(320.0), indexing="ij")
    t = torch.arange(100)[:, None, None] / 25
    turn = t / PERIOD
    halftone = (torch.sin(0.8 * x) * torch.sin(0.8 * y) > 0).float() - 0.5
    waves = {
        "shade": y / 240 * (1 - t / 8),  # contours of 8-bit levels move
        "dots": (((x + 24 * turn) % 24 < 6) & (y % 20 < 6)).float(),
        "stripes": torch.floor((0.7 * x + 0.3 * y + 12 * turn) / 6) % 2,
        "halftone": 0.5 + 0.5 * halftone * torch.cos(2 * torch.pi * turn),
    }
    return waves[name].clamp(0, 1).expand(100, 240, 320)[:, None].expand(-1, 3, -1, -1).contiguous()


@pytest.mark.parametrize("name", ["shade", "dots", "stripes", "halftone"])
def test_what_moves_at_the_marks_rate_is_no_mark(net: REVMark, tmp_path: Path, name: str) -> None:
    path = tmp_path / "moving.mp4"
    dc.write_video(path, _moving(name), fps=25, crf=16, preset="veryfast")
    assert apply.extract(net, path).verdict == "none"


def test_marked_but_unreadable_is_said(
    monkeypatch: pytest.MonkeyPatch, net: REVMark, marked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(framing, "message_of", lambda *_: None)  # as if every check failed
    found = apply.extract(net, marked)
    assert (found.verdict, found.message) == ("unreadable", None)
    assert main(["extract", str(marked)]) == 0
    assert "marked, but unreadable" in capsys.readouterr().out


def test_key_and_text(net: REVMark, source: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.mp4"
    frames = dc.read_video(source)
    dc.write_video(long, torch.cat([frames, frames.flip(0), frames]), fps=25, crf=12)
    out = tmp_path / "text.mp4"
    apply.embed(net, long, out, text="copy 17", key="s3cret", crf=14)
    found = apply.extract(net, out, key="s3cret")
    assert (found.verdict, found.text, found.message) == ("text", "copy 17", None)
    assert apply.extract(net, out).text is None
    with pytest.raises(framing.MessageError, match=r"needs 9\.2 s of video .*has 4\.0 s \(100 frames\)"):
        apply.embed(net, source, tmp_path / "never.mp4", text="a much longer text, which needs more time than that")
    assert not (tmp_path / "never.mp4").exists()


def test_a_mark_over_a_mark_needs_force(net: REVMark, marked: Path, tmp_path: Path) -> None:
    out = tmp_path / "twice.mp4"
    with pytest.raises(dc.VideoError, match="carries a mark of this key already"):
        apply.embed(net, marked, out, message=MESSAGE)
    assert not out.exists()
    apply.embed(net, marked, out, message=MESSAGE, key="another's", crf=14)
    assert apply.extract(net, out).message == MESSAGE
    assert apply.extract(net, out, key="another's").message == MESSAGE
    apply.embed(net, marked, out, message="f" * 16, force=True)
    assert apply.extract(net, out).verdict != "none"


def test_what_cannot_be_read_back_is_refused(net: REVMark, tmp_path: Path) -> None:
    for name, shape, fps, match in (
        ("short", (1, 30, 96, 128), 25, "30 frames; a mark needs at least 44 to be read back"),
        ("small", (1, 60, 64, 128), 25, "128 x 64 is too small"),
        ("slow", (1, 20, 96, 128), 5, "5 frames a second are too few"),
    ):
        path = tmp_path / f"{name}.mp4"
        dc.write_video(path, natural(*shape)[0], fps=fps)
        with pytest.raises(dc.VideoError, match=match):
            apply.embed(net, path, tmp_path / "out.mp4", message=MESSAGE)
        assert not (tmp_path / "out.mp4").exists()


def test_size_is_about_the_sources(net: REVMark, source: Path, tmp_path: Path) -> None:
    small, out = tmp_path / "small.mp4", tmp_path / "out.mp4"
    dc.write_video(small, dc.read_video(source), fps=25, crf=32)
    with pytest.warns(UserWarning, match="predicted unreadable"):
        done = apply.embed(net, small, out, message=MESSAGE, force=True)
    assert (done.bytes_before, done.bytes_after) == (small.stat().st_size, out.stat().st_size)
    assert done.bytes_after < 2 * done.bytes_before
    done = apply.embed(net, small, out, message=MESSAGE, crf=16)
    assert done.bytes_after > 2 * done.bytes_before


def test_flat_and_black_videos_stay_as_they_are(net: REVMark, tmp_path: Path) -> None:
    path, out = tmp_path / "black.mp4", tmp_path / "out.mp4"
    dc.write_video(path, torch.zeros(60, 3, 96, 128), fps=25)
    with pytest.warns(UserWarning, match="predicted unreadable"):
        apply.embed(net, path, out, message=MESSAGE, force=True)
    assert dc.read_video(out).max() < 0.02
    assert apply.extract(net, out).message in (MESSAGE, None)


def test_black_frames_hold_no_message() -> None:
    frames = ((torch.zeros(96, 128), t / 25) for t in range(50))
    (group,) = reading.groups(frames)
    assert group.shape[1:] == (96, 128)
    assert reading.read_group(group, Mark.of(), "", len(group)).bits is None


@pytest.mark.parametrize("begin", [0.0, 6.0, -3.0])
def test_frames_go_by_the_clock_wherever_it_begins(tmp_path: Path, begin: float) -> None:
    """A frame rate that changes in the middle, and a jump of 100 s, which is read as one frame's time."""
    import av

    path = tmp_path / "vfr.mkv"
    stamps = [40 * i for i in range(10)] + [400 + 20 * i for i in range(10)] + [100_000 + 40 * i for i in range(5)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 9 * i, np.uint8), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = stamp + round(1000 * begin), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    steps = np.diff([at for _, at in reading.frames(path, Damage())])
    assert steps[:19] == pytest.approx([0.04] * 10 + [0.02] * 9, abs=2e-3)
    assert 0 < steps[19] < 0.1
    assert steps[20:] == pytest.approx([0.04] * 4, abs=2e-3)
