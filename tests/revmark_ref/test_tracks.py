"""Everything in a file beside its frames: kept when it is marked, or named in a warning."""

from __future__ import annotations

import io
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import natural

from revmark_ref import REVMark, apply, weights

av = pytest.importorskip("av")
FRAMES = 48


@pytest.fixture(scope="module")
def net() -> REVMark:
    return weights.load("base")[0]


def cover() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(out, "JPEG")
    return out.getvalue()


def rich(path: Path, sar: Fraction | None = None, **kinds: bool) -> Path:
    """A file with the kinds of things that are asked for."""
    pictures = (natural(1, FRAMES, 96, 128)[0] * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    with av.open(str(path), "w") as writer:
        writer.metadata.update({"title": "A film", "artist": "Somebody", "comment": "no comment"})
        streams = [writer.add_stream("libx264", rate=25, options={"preset": "ultrafast"}) for _ in range(1 + kinds.get("second", False))]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
            stream.codec_context.colorspace, stream.codec_context.color_primaries, stream.codec_context.color_trc = 1, 1, 1
            if sar is not None:
                stream.codec_context.sample_aspect_ratio = sar
        sound = writer.add_stream("aac", rate=16000)
        sound.layout = "mono"
        sound.metadata.update({"language": "deu", "title": "Ton"})
        if kinds.get("chapters"):
            writer.set_chapters(
                [
                    {"id": i, "start": 1000 * i, "end": 1000 * (i + 1), "time_base": Fraction(1, 1000), "metadata": {"title": f"part {i}"}}
                    for i in range(2)
                ]
            )
        if kinds.get("fonts"):
            writer.add_attachment("letters.ttf", "font/ttf", b"\0\1\0\0" + bytes(60))
        picture = None
        if kinds.get("cover"):
            if "matroska" in writer.format.name:
                writer.add_attachment("cover.jpg", "image/jpeg", cover())
            else:
                picture = writer.add_stream("mjpeg", rate=1)
                picture.height, picture.width, picture.pix_fmt = 32, 32, "yuvj420p"
                picture.disposition = av.stream.Disposition.attached_pic
        data = writer.add_data_stream("klv") if kinds.get("data") else None
        if picture is not None:
            packet = av.Packet(cover())
            writer.start_encoding()
            packet.stream, packet.pts, packet.dts, packet.time_base = picture, 0, 0, Fraction(1, 25)
            writer.mux(packet)
        for i, frame in enumerate(pictures):
            for stream in streams:
                writer.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            if data is not None and i == 0:
                packet = av.Packet(bytes(16))
                packet.stream, packet.pts, packet.dts, packet.time_base = data, 0, 0, Fraction(1, 1000)
                writer.mux(packet)
        for stream in streams:
            writer.mux(stream.encode(None))
        for i in range(0, 30720, 1024):
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 16000, i, Fraction(1, 16000)
            writer.mux(sound.encode(heard))
        writer.mux(sound.encode(None))
    return path


def marked(net: REVMark, source: Path, out: Path) -> list[str]:
    """Marks a file and returns what the warnings say was left out."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        apply.embed(net, source, out, message="0123456789abcdef", preset="ultrafast")
    assert all("left out of the marked file" in str(w.message) for w in said)
    return [part for w in said for part in str(w.message).split("marked file: ")[1].split("; ")]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_chapters_covers_shapes_and_colours_are_kept(net: REVMark, tmp_path: Path, suffix: str) -> None:
    source = rich(tmp_path / f"in{suffix}", Fraction(4, 3), chapters=True, cover=suffix != ".mov")
    for other in (suffix, ".mkv" if suffix != ".mkv" else ".mp4"):
        out = tmp_path / f"out{other}"
        assert marked(net, source, out) == []
        with av.open(str(source)) as a, av.open(str(out)) as b:
            assert [c["metadata"]["title"] for c in b.chapters()] == ["part 0", "part 1"]
            assert [float(c["start"] * c["time_base"]) for c in b.chapters()] == [0.0, 1.0]
            assert b.metadata.get("title", b.metadata.get("TITLE")) == "A film"
            assert b.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
            assert b.streams.video[0].codec_context.color_trc == 1
            assert suffix == ".mov" or b.streams.audio[0].metadata["language"] == "deu"  # .mov does not take that one
            pictures = [bytes(next(p for p in c.demux(s) if p.size)) for c in (a, b) for s in c.streams.video[1:]]
            assert pictures == ([cover()] * 2 if suffix != ".mov" else [])


def test_attachments_are_kept_or_named(net: REVMark, tmp_path: Path) -> None:
    source = rich(tmp_path / "in.mkv", fonts=True)
    assert marked(net, source, tmp_path / "out.mkv") == []
    with av.open(str(tmp_path / "out.mkv")) as b:
        (font,) = [s for s in b.streams if s.type == "attachment"]
        assert (font.metadata["filename"], bytes(font.data)) == ("letters.ttf", b"\0\1\0\0" + bytes(60))
    assert marked(net, source, tmp_path / "out.mp4") == ["attachment 2 (letters.ttf)"]


def test_what_is_not_kept_is_named(net: REVMark, tmp_path: Path) -> None:
    source = rich(tmp_path / "in.ts", second=True, data=True)
    said = marked(net, source, tmp_path / "out.mp4")
    assert [s.split(" ")[0] for s in said[:2]] == ["video", "data"]
    tagged = tmp_path / "tagged.mkv"
    with av.open(str(rich(tmp_path / "plain.mkv"))) as reader, av.open(str(tagged), "w") as writer:
        writer.metadata.update({"title": "A film", "MY_OWN": "value of mine"})
        streams = {s.index: writer.add_stream_from_template(s) for s in reader.streams}
        for packet in reader.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                writer.mux(packet)
    assert marked(net, tagged, tmp_path / "tagged.mp4") == ["the tag MY_OWN"]
    assert marked(net, tagged, tmp_path / "tagged2.mkv") == []


def test_a_trim_is_marked_as_it_is_shown(net: REVMark, tmp_path: Path) -> None:
    """Sound and frames before the start of an edit list stay hidden."""
    import diffcodec as dc

    source = tmp_path / "trim.mp4"
    with av.open(str(rich(tmp_path / "in.mp4"))) as reader, av.open(str(source), "w") as writer:
        streams = {s.index: writer.add_stream_from_template(s) for s in reader.streams}
        for packet in reader.demux():
            if packet.dts is not None:
                shift = round(Fraction(4, 25) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, streams[packet.stream.index]
                writer.mux(packet)
    frames = dc.read_video(source)
    assert len(frames) == FRAMES - 4
    assert marked(net, source, tmp_path / "out.mp4") == []
    assert len(dc.read_video(tmp_path / "out.mp4")) == FRAMES - 4
