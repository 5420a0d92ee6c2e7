"""Damaged, odd and hostile files through every reader: an error or a warning that names what is wrong, never wrong pictures in silence."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from diffcodec import video as videos
from diffcodec.media import Damage, decode, opened
from diffcodec.video import read_frames, video_info

av = pytest.importorskip("av")
FRAMES = 24


def encode(
    path: Path,
    codec: str = "libx264",
    pix: str = "yuv420p",
    options: dict[str, str] | None = None,
    clip: Tensor | None = None,
    title: str | None = None,
) -> Path:
    clip = natural(1, FRAMES, 96, 128)[0] if clip is None else clip
    with av.open(str(path), "w") as container:
        if title is not None:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = clip.shape[-2], clip.shape[-1], pix
        for frame in (clip * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


WHOLE: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264.mp4": ("libx264", "yuv420p", {}),
    "h264.mkv": ("libx264", "yuv420p", {}),
    "h264.avi": ("libx264", "yuv420p", {"bf": "0"}),
    "h264.ts": ("libx264", "yuv420p", {}),
    "h264.flv": ("libx264", "yuv420p", {}),
    "raw.h264": ("libx264", "yuv420p", {}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"bf": "2"}),
    "mpeg4.mkv": ("mpeg4", "yuv420p", {"bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"bf": "2"}),
    "vp8.webm": ("libvpx", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "hevc.mp4": ("libx265", "yuv420p", {"x265-params": "log-level=none"}),
    "av1.mkv": ("libsvtav1", "yuv420p", {}),
    "mjpeg.mov": ("mjpeg", "yuvj420p", {}),
    "ffv1.mkv": ("ffv1", "yuv420p", {}),
    "raw.y4m": ("rawvideo", "yuv420p", {}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_are_whole(folder: Path, name: str) -> None:
    codec, pix, options = WHOLE[name]
    if codec not in av.codecs_available:
        pytest.skip(f"no {codec} in this PyAV")
    path = encode(folder / name, codec, pix, options)
    assert video_info(path).frames == FRAMES
    assert len(dc.read_video(path)) == FRAMES
    assert len(dc.read_video(path, damaged="keep")) == FRAMES  # and no warning, which would be an error here
    damage = Damage()
    with opened(path) as (container, stream):
        assert sum(1 for _ in decode(container, stream, damage)) == FRAMES
    assert not damage


def bits_flipped(data: bytes) -> bytes:
    """A bit in each of a few places in the second half, where frames are."""
    out = bytearray(data)
    for part in (0.65, 0.67, 0.69):
        out[int(part * len(out))] ^= 16
    return bytes(out)


@pytest.fixture(scope="module")
def flipped(folder: Path) -> Path:
    path = encode(folder / "whole.mp4", options={"g": "4"})
    out = folder / "flipped.mp4"
    out.write_bytes(bits_flipped(path.read_bytes()))
    return out


@pytest.fixture(scope="module")
def cut(folder: Path) -> Path:
    path = encode(folder / "whole.mkv", options={"g": "4", "preset": "ultrafast"})
    out = folder / "cut.mkv"
    out.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return out


def test_changed_bits_are_an_error_or_kept_with_a_warning(flipped: Path) -> None:
    with pytest.raises(dc.VideoError, match=r"flipped.mp4: damaged at frame \d+ or before .*damaged='keep'"):
        dc.read_video(flipped)
    with pytest.raises(dc.VideoError, match="damaged"):
        dc.Clips([flipped], frames=FRAMES, size=None)[0]
    with pytest.warns(UserWarning, match=r"flipped.mp4: \d+ damaged frames .*kept"):
        kept = len(dc.read_video(flipped, damaged="keep"))
    assert FRAMES - 3 <= kept <= FRAMES
    with pytest.warns(UserWarning, match="damaged frames"):
        assert dc.Clips([flipped], frames=kept, size=None, damaged="keep")[0].shape[0] == kept
    first = dc.read_video(flipped, frames=4)  # before the damage
    assert torch.equal(first, dc.read_video(flipped.parent / "whole.mp4", frames=4))
    with pytest.raises(ValueError, match="unknown damaged 'maybe'"):
        dc.read_video(flipped, damaged="maybe")


def test_a_file_cut_short_says_how_much_is_missing(cut: Path) -> None:
    with pytest.raises(dc.VideoError, match=rf"cut.mkv: damaged.* of about {FRAMES} frames|\d+ missing frames"):
        dc.read_video(cut)
    with pytest.warns(UserWarning, match=r"missing frames"):
        kept = dc.read_video(cut, damaged="keep")
    assert 0 < len(kept) < FRAMES


def test_every_cut_of_matroska_is_noticed(folder: Path) -> None:
    """Also where only the last frames are missing."""
    path = encode(folder / "long.mkv", options={"preset": "ultrafast", "bf": "0"})
    data = path.read_bytes()
    sizes = range(len(data) // 3, len(data) - 2000, (len(data) - len(data) // 3) // 12)
    assert len(sizes) > 8
    for n in sizes:
        (folder / "part.mkv").write_bytes(data[:n])
        with pytest.raises(dc.VideoError):
            dc.read_video(folder / "part.mkv")


def test_a_far_start_sees_damage_too(folder: Path) -> None:
    clip = natural(1, 10, 32, 32)[0].repeat(40, 1, 1, 1)
    path = encode(folder / "far.mp4", options={"g": "50", "preset": "ultrafast"}, clip=clip)
    data = bytearray(path.read_bytes())
    for i in range(int(0.86 * len(data)), int(0.88 * len(data))):
        data[i] ^= 255
    (folder / "far-broken.mp4").write_bytes(data)
    assert len(dc.read_video(folder / "far-broken.mp4", 260, 10)) == 10
    with pytest.raises(dc.VideoError, match=r"damaged at frame 3\d\d or before"):
        dc.read_video(folder / "far-broken.mp4", 300)


# --- odd but whole ---


def packed_avi(path: Path) -> Path:
    """MPEG-4 with B frames as XviD packs it into AVI: P and B in one packet, then a packet that codes nothing."""
    packets = []
    with av.open(str(path.with_suffix(".m4v.mkv")), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"bf": "1", "b_strategy": "0"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for frame in (natural(1, FRAMES, 96, 128)[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy():
            packets += stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))
        packets += stream.encode(None)
        extra = bytes(stream.codec_context.extradata or b"")
        data = [bytes(p) for p in packets]
    kinds = [_vop(d) for d in data]
    chunks: list[bytes] = []
    nothing = b"\x00\x00\x01\xb6\x7f"  # a VOP that is not coded
    i = 0
    while i < len(data):
        if i + 1 < len(data) and kinds[i + 1] == "B":
            chunks += [data[i] + data[i + 1], nothing]
            i += 2
        else:
            chunks.append(data[i])
            i += 1
    user = b"\x00\x00\x01\xb2DivX503b1393p"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.codec_context.extradata = extra
        for k, chunk in enumerate(chunks):
            packet = av.Packet((extra + user if k == 0 else b"") + chunk)
            packet.stream, packet.time_base, packet.dts, packet.pts = stream, Fraction(1, 25), k, k
            packet.is_keyframe = k == 0
            container.mux(packet)
    return path


def _vop(data: bytes) -> str:
    at = data.find(b"\x00\x00\x01\xb6")
    return "IPBS"[data[at + 4] >> 6] if at >= 0 else "?"


def test_packed_b_frames_in_avi_are_whole(folder: Path) -> None:
    path = packed_avi(folder / "xvid.avi")
    with opened(path) as (container, stream):
        shown = sum(1 for packet in container.demux(stream) for _ in packet.decode())
        announced = stream.frames
    assert FRAMES - 1 <= shown <= announced
    assert len(dc.read_video(path)) == shown == video_info(path).frames
    for frames in (8, shown):
        clips = dc.Clips([path], frames=frames, size=64, length=30)
        assert all(clips[i].shape == (frames, 3, 64, 64) for i in range(0, 30, 3))


def test_latin_1_tags(folder: Path) -> None:
    encode(folder / "titled.avi", "mpeg4", title="PLACEHOLD")
    data = (folder / "titled.avi").read_bytes()
    assert b"PLACEHOLD" in data
    latin = folder / "latin.avi"
    latin.write_bytes(data.replace(b"PLACEHOLD", "Caf\xe9 M\xfcll".encode("latin-1")))
    assert video_info(latin).frames == FRAMES
    assert len(dc.read_video(latin, frames=3)) == 3
    assert len(dc.Clips([latin])) == 1


def test_an_unknown_codec_is_named(folder: Path) -> None:
    data = encode(folder / "codec.avi", "mpeg4").read_bytes()
    bad = folder / "unknown.avi"
    bad.write_bytes(data.replace(b"FMP4", b"QQQQ").replace(b"fmp4", b"QQQQ"))
    for read in READERS:
        with pytest.raises(dc.VideoError, match=r"unknown.avi: .*(cannot decode|not a readable video|damaged)"):
            read(bad)


READERS: list[Callable[[Path], object]] = [
    video_info,
    dc.read_video,
    lambda p: next(read_frames(p)),
    lambda p: dc.Clips([p], frames=2, size=None),
]


def test_what_is_written_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = natural(1, 40, 48, 64)[0]
    for suffix in (".mp4", ".mkv", ".mov", ".m4v", ".avi"):
        for frames in (1, 2, 3, 8, 40):
            path = tmp_path / f"a{suffix}"
            dc.write_video(path, clip[:frames])
            assert len(dc.read_video(path)) == frames == video_info(path).frames
    monkeypatch.chdir(tmp_path)
    dc.write_video("12:31.mkv", clip[:8])
    assert len(dc.read_video("12:31.mkv")) == 8


def test_matroska_short_by_a_few_bytes(tmp_path: Path) -> None:
    dc.write_video(tmp_path / "a.mkv", natural(1, 40, 48, 64)[0])
    data = (tmp_path / "a.mkv").read_bytes()
    for missing in (1, 50, 100, 400):
        (tmp_path / "b.mkv").write_bytes(data[:-missing])
        with pytest.raises(dc.VideoError, match="damaged"):
            dc.read_video(tmp_path / "b.mkv")


@pytest.mark.parametrize("given", [{"size": 64}, {"crop": 64}, {"crop": (20.5, 20)}, {"size": (1, 2, 3)}])
def test_sizes_of_another_form_are_named(folder: Path, given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(given))} expected 2"):
        dc.read_video(encode(folder / "plain.mkv"), **given)  # type: ignore[arg-type]


@pytest.mark.skipif(os.name == "nt", reason="no such names on Windows")
@pytest.mark.parametrize(
    "name", ["12:30.mkv", "concat:x.mkv", "http:x.mkv", "pipe:0.mkv", "a%03d.mkv", "-i.mkv", "\u00e9 \u4e2d.mkv", "a'b\"c.mkv"]
)
def test_odd_names(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_bytes(encode(folder / "plain.mkv").read_bytes())
    assert len(dc.read_video(folder / name, frames=3)) == 3
    monkeypatch.chdir(folder)
    assert video_info(name).frames == FRAMES


def test_lists_of_other_files_are_not_followed(folder: Path) -> None:
    encode(folder / "neighbour.ts")
    lists = {
        "list.mp4": "ffconcat version 1.0\nfile neighbour.ts\n",
        "list.mkv": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\nneighbour.ts\n#EXT-X-ENDLIST\n",
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\nneighbour.ts\n#EXT-X-ENDLIST\n",
        "list.avi": "file 'neighbour.ts'\n",
    }
    for name, text in lists.items():
        (folder / name).write_text(text)
        for read in READERS:
            with pytest.raises(dc.VideoError, match=name.replace(".", r"\.")):
                read(folder / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_pipes_and_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", Path("/dev/zero")):
        for read in READERS:
            with pytest.raises(dc.VideoError, match="pipe or device"):
                read(path)
    with pytest.raises(dc.VideoError, match="no such file"):
        dc.read_video(tmp_path / "none.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(dc.VideoError, match="0 bytes"):
        dc.read_video(tmp_path / "empty.mp4")


def test_pictures_that_unpack_to_gigabytes(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("1", (13000, 13000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 50_000
    with pytest.raises(dc.VideoError, match=r"13000 x 13000 pixels are more than max_pixels=100000000"):
        dc.read_image(tmp_path / "bomb.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    with pytest.raises(dc.VideoError, match="20 x 30"):
        dc.read_image(tmp_path / "small.png", max_pixels=500)
    assert dc.read_image(tmp_path / "small.png", max_pixels=600).shape == (3, 20, 30)


def turned_file(path: Path, degrees: int, mirrored: bool = False) -> tuple[Path, Tensor]:
    """A file with a display matrix, and how its first frame is stored."""
    clip = natural(1, 10, 48, 80)[0]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a display matrix")
        stream.set_display_rotation(degrees, hflip=mirrored)
        for frame in (clip * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path, clip


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_videos_are_turned_as_players_show_them(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    path, clip = turned_file(tmp_path / "turned.mp4", degrees, mirrored)
    with av.open(str(path)) as container:
        rotation = next(container.decode(video=0)).rotation  # counter-clockwise, by ffmpeg
    expected = torch.rot90(clip, round(rotation / 90) % 4, (-2, -1)) if not mirrored else None
    read = dc.read_video(path)
    info = video_info(path)
    assert (info.height, info.width) == tuple(read.shape[-2:])
    assert tuple(read.shape[-2:]) == ((80, 48) if degrees % 180 else (48, 80))
    if expected is not None:
        assert dc.metrics.psnr(read[None], expected[None]).item() > 28
    else:  # some turn of the mirrored picture
        turns = [torch.rot90(clip.flip(-1), k, (-2, -1)) for k in range(4)]
        assert max(dc.metrics.psnr(read[None], t[None]).item() for t in turns if t.shape == read.shape) > 28
    assert dc.Clips([path], frames=4, size=(64, 40) if degrees % 180 else (40, 64))[0].isfinite().all()


# --- a folder of clips ---


def test_clips_leave_out_what_cannot_be_read(folder: Path, flipped: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "a.mp4", tmp_path / "b.mp4"
    good.write_bytes((folder / "whole.mp4").read_bytes())
    bad.write_bytes(flipped.read_bytes())  # its header is fine
    with pytest.raises(dc.VideoError, match="damaged"):
        [dc.Clips(tmp_path, frames=FRAMES, size=32)[i] for i in range(2)]
    clips = dc.Clips(tmp_path, frames=FRAMES, size=32, strict=False)
    assert len(clips) == 2
    with pytest.warns(UserWarning, match=r"left out: .*b.mp4"):
        items = [clips[i] for i in range(2)]
    assert all(c.shape == (FRAMES, 3, 32, 32) for c in items)
    assert torch.equal(clips[1], items[1])  # again, and without a word
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh = dc.Clips(tmp_path, frames=FRAMES, size=32, strict=False)
        assert torch.equal(fresh[1], items[1])  # in any order
        loader = torch.utils.data.DataLoader(dc.Clips(tmp_path, frames=FRAMES, size=32, strict=False), num_workers=2)
        assert torch.equal(torch.cat(list(loader)), torch.stack(items))
        only = dc.Clips([bad], frames=FRAMES, size=32, strict=False)
        with pytest.raises(dc.VideoError, match="none of 100 files"):
            only[0]


def test_lazy_clips_look_when_they_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes((folder / "whole.mp4").read_bytes())
    (tmp_path / "b.mp4").write_text("no video")
    opened_ = []
    look = videos.video_info
    monkeypatch.setattr(videos, "video_info", lambda p: opened_.append(p) or look(p))
    clips = dc.Clips(tmp_path, frames=4, size=32, strict=False, lazy=True)
    assert len(clips) == 2
    assert not opened_
    eager = dc.Clips([tmp_path / "a.mp4"], frames=4, size=32)
    assert torch.equal(clips[0], eager[0])
    with pytest.warns(UserWarning, match="b.mp4"):
        clips[1]
    with pytest.raises(dc.VideoError, match="b.mp4"):
        dc.Clips(tmp_path, frames=4, size=32, lazy=True)[1]


def test_leftovers_and_hidden_files_are_no_videos(folder: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", ".b.1234abcd.mp4", "._a.mp4"):
        (tmp_path / name).write_bytes((folder / "whole.mp4").read_bytes())
    assert [p.name for p in videos.video_files(tmp_path)] == ["a.mp4"]


def test_files_get_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with videos.replacing(tmp_path / "x.txt") as temporary:
            temporary.write_text("x")
            assert temporary.name.startswith(".")
        assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_replacing_never_touches_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is the whole process's"))
    with videos.replacing(tmp_path / "x.txt") as temporary:
        temporary.write_text("x")


def test_no_space_is_told_apart_from_a_bad_input(tmp_path: Path) -> None:
    class Full(OSError):
        pass

    with pytest.raises(dc.VideoError, match="no space left"), videos.replacing(tmp_path / "x.mp4"):
        raise Full(errno.ENOSPC, "full")
    assert list(tmp_path.iterdir()) == []


def test_a_bit_anywhere_in_a_cluster_of_matroska_is_noticed(tmp_path: Path) -> None:
    """ffmpeg writes checksums into it."""
    data = encode(tmp_path / "a.mkv", options={"preset": "ultrafast"}).read_bytes()
    for part in (0.3, 0.5, 0.7, 0.9):
        out = bytearray(data)
        out[int(part * len(data))] ^= 1
        (tmp_path / "b.mkv").write_bytes(out)
        with pytest.raises(dc.VideoError, match="damaged"):
            dc.read_video(tmp_path / "b.mkv")
        with pytest.warns(UserWarning, match="kept as they are"):
            dc.read_video(tmp_path / "b.mkv", damaged="keep")


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "mpeg2video"), ("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.mp4", "mpeg4")])
def test_a_few_bytes_less_are_noticed(tmp_path: Path, name: str, codec: str) -> None:
    data = encode(tmp_path / name, codec, options={"g": "12"}).read_bytes()
    for missing in (3, 50, 150):
        (tmp_path / f"b{name}").write_bytes(data[:-missing])
        with pytest.raises(dc.VideoError):
            dc.read_video(tmp_path / f"b{name}")
    (tmp_path / f"c{name}").write_bytes(data + bytes(188))  # what follows the end is not damage, as long as it is whole packets
    if name != "a.ts":
        assert len(dc.read_video(tmp_path / f"c{name}")) == FRAMES


def test_bits_of_motion_jpeg(tmp_path: Path) -> None:
    """Its decoder conceals errors without marking the frame."""
    data = encode(tmp_path / "a.mov", "mjpeg", "yuvj420p").read_bytes()
    told = 0
    for k in range(20):
        out = bytearray(data)
        at = int((0.1 + 0.04 * k) * len(data))
        out[at : at + 4] = bytes(b ^ 255 for b in out[at : at + 4])
        (tmp_path / "b.mov").write_bytes(out)
        try:
            dc.read_video(tmp_path / "b.mov")
        except dc.VideoError:
            told += 1
            with pytest.warns(UserWarning, match="damaged frames|missing"):
                dc.read_video(tmp_path / "b.mov", damaged="keep")
    assert told >= 5
