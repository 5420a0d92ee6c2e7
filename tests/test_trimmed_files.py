"""Files whose container announces other frames than it shows: edit lists, late starts, open GOPs, empty chunks; all are whole."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import natural

import diffcodec as dc
from diffcodec.media import announced, opened

av = pytest.importorskip("av")


def encode(path: Path, codec: str = "libx264", options: dict[str, str] | None = None, frames: int = 100) -> Path:
    clip = (natural(1, frames, 48, 64)[0] * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "50"} if options is None else options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def trim(source: Path, out: Path, start: float, length: float = 99.0, shown_from: float | None = None) -> Path:
    """Stream copy from the key frame before ``start``, which becomes the time 0 (or ``shown_from``)."""
    with av.open(str(source)) as reader, av.open(str(out), "w") as writer:
        video = reader.streams.video[0]
        stream = writer.add_stream_from_template(video)
        zero = round((start if shown_from is None else shown_from) / video.time_base)
        reader.seek(round(start / video.time_base), stream=video)
        for packet in reader.demux(video):
            if out.suffix == ".avi":  # which has no negative times
                zero = min(zero, packet.dts or 0)
            if not packet.size or packet.dts >= round((start + length) / video.time_base):
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - zero, packet.dts - zero, stream
            writer.mux(packet)
    return out


def shown(path: Path) -> list[Any]:
    """What ffmpeg's decoder makes of the file."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [torch.from_numpy(f.to_ndarray(format="rgb24")).permute(2, 0, 1) for f in container.decode(video=0)]


def whole(path: Path) -> Iterator[str]:
    """Differences between what is shown and what the readers say."""
    frames = shown(path)
    n = len(frames)
    read = dc.read_video(path)
    if len(read) != n or not torch.equal(read, torch.stack(frames).float() / 255):
        yield f"{len(read)} frames read, {n} shown"
    if dc.video_info(path).frames != n:
        yield f"{dc.video_info(path).frames} frames said, {n} shown"
    for start in (0, n // 2, n - 2):
        if not torch.equal(dc.read_video(path, start, 2), read[start : start + 2]):
            yield f"other frames from {start} on"
    if len(dc.Clips([path], frames=n, size=None)[0]) != n:
        yield "another length of clips"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts", ".avi"])
@pytest.mark.parametrize("start", [1.3, 2.5])
def test_trims_without_re_encoding(tmp_path: Path, suffix: str, start: float) -> None:
    source = encode(tmp_path / "long.mp4", "mpeg4" if suffix == ".avi" else "libx264")
    cut = trim(source, tmp_path / f"cut{suffix}", start, 1.2)
    assert list(whole(cut)) == []
    if suffix == ".mp4":
        with opened(cut) as (container, stream):
            assert stream.frames > announced(container, stream) == len(shown(cut))


@pytest.mark.parametrize(("codec", "suffix", "options"), [
    ("mpeg2video", ".ts", {"bf": "2", "g": "12"}), ("mpeg2video", ".mp4", {"bf": "2", "g": "12"}), ("mpeg4", ".avi", {"bf": "2", "g": "12"}),
    ("mpeg4", ".mp4", {"bf": "2", "g": "12"}), ("libx264", ".mp4", {"g": "25", "x264-params": "open-gop=1:scenecut=0"}),
    ("libx265", ".mkv", {"preset": "ultrafast", "x265-params": "log-level=none:keyint=25:open-gop=1:bframes=3"}),
    ("libx265", ".mp4", {"preset": "ultrafast", "x265-params": "log-level=none:keyint=25:open-gop=1:bframes=3"}),
])  # fmt: skip
def test_frames_before_the_first_key_frame_are_not_missing(tmp_path: Path, codec: str, suffix: str, options: dict[str, str]) -> None:
    """Trims of open GOPs begin with frames that are predicted from what was cut off."""
    if codec not in av.codecs_available:
        pytest.skip(f"no {codec} in this PyAV")
    source = encode(tmp_path / "long.mp4", codec, options)
    for start in (1.0, 1.3):
        assert list(whole(trim(source, tmp_path / f"cut{suffix}", start))) == []


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".flv", ".avi", ".nut"])
def test_a_start_after_zero(tmp_path: Path, suffix: str) -> None:
    """Written as an empty edit in MP4, as empty chunks in AVI."""
    source = encode(tmp_path / "long.mp4", "mpeg4" if suffix in (".avi", ".nut") else "libx264")
    late = trim(source, tmp_path / f"late{suffix}", 0.0, shown_from=-3.0)
    assert list(whole(late)) == []


def test_a_far_start_in_a_trim(tmp_path: Path) -> None:
    cut = trim(encode(tmp_path / "long.mp4", options={"g": "60", "preset": "ultrafast"}, frames=420), tmp_path / "cut.mp4", 1.3)
    frames = dc.read_video(cut)
    assert len(frames) == dc.video_info(cut).frames == 420 - 33
    assert torch.equal(dc.read_video(cut, 300, 3), frames[300:303])


def test_an_edit_list_that_ends_early(tmp_path: Path) -> None:
    """Written by patching: a phone's trim that shows the first second of four."""
    path = encode(tmp_path / "long.mp4")
    data = bytearray(path.read_bytes())
    at = data.index(b"elst")
    assert struct.unpack(">I", data[at + 8 : at + 12]) == (1,)
    data[at + 12 : at + 16] = struct.pack(">I", 1000)  # in milliseconds
    (tmp_path / "part.mp4").write_bytes(data)
    assert 20 < len(shown(tmp_path / "part.mp4")) < 32
    assert list(whole(tmp_path / "part.mp4")) == []


def test_frames_that_last_longer(tmp_path: Path) -> None:
    """A slide show, whose last picture is shown for a second; in AVI the gaps are empty chunks."""
    for suffix in (".mp4", ".mkv", ".avi"):
        with av.open(str(tmp_path / f"slides{suffix}"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 25)
            for i, frame in enumerate((natural(1, 8, 48, 64)[0] * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                picture.pts, picture.time_base = 25 * i, Fraction(1, 25)
                for packet in stream.encode(picture):
                    packet.duration = 25
                    container.mux(packet)
            container.mux(stream.encode(None))
        assert list(whole(tmp_path / f"slides{suffix}")) == []


def test_a_cover_is_not_the_video(tmp_path: Path) -> None:
    path = encode(tmp_path / "long.mkv", frames=10)
    with av.open(str(path)) as reader, av.open(str(tmp_path / "cover.mp4"), "w") as writer:
        picture = writer.add_stream("mjpeg", rate=1)
        picture.height, picture.width, picture.pix_fmt = 32, 32, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        video = writer.add_stream_from_template(reader.streams.video[0])
        blank = av.VideoFrame(32, 32, "yuvj420p")
        for packet in [*picture.encode(blank), *picture.encode(None)]:
            writer.mux(packet)
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = video
                writer.mux(packet)
    assert list(whole(tmp_path / "long.mkv")) == []
    info = dc.video_info(tmp_path / "cover.mp4")
    assert (info.frames, info.height, info.width) == (10, 48, 64)
