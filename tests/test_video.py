import os
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers import natural
from PIL import Image
from torch.utils.data import DataLoader

import diffcodec as dc
from diffcodec.video import read_frames


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def unusable(tmp_path: Path, clip_file: Path) -> dict[str, tuple[Path, str]]:
    data = clip_file.read_bytes()
    files = {
        "missing": (tmp_path / "missing.mp4", "no such file"),
        "empty": (tmp_path / "empty.mp4", "empty"),
        "text": (tmp_path / "text.mp4", "not a readable video"),
        "truncated": (tmp_path / "truncated.mp4", "not a readable video"),
        "audio": (tmp_path / "audio.mp4", "no video stream"),
        "folder": (tmp_path, "is a folder"),
    }
    files["empty"][0].write_bytes(b"")
    files["text"][0].write_text("this is no video" * 100)
    files["truncated"][0].write_bytes(data[: len(data) // 2])
    audio_only(files["audio"][0])
    return files


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "audio", "folder"])
def test_unusable_files_are_named(kind: str, tmp_path: Path, clip_file: Path) -> None:
    path, words = unusable(tmp_path, clip_file)[kind]
    for call in (dc.video_info, dc.read_video):
        with pytest.raises(dc.VideoError, match=words) as error:
            call(path)
        assert str(path) in str(error.value)


def test_info_and_reading(clip_file: Path) -> None:
    assert dc.video_info(clip_file) == dc.video.VideoInfo(40, 64, 80, Fraction(25))
    whole = dc.read_video(clip_file)
    assert whole.shape == (40, 3, 64, 80)
    assert dc.metrics.psnr(whole, natural(1, 40, 64, 80)[0]).min() > 30
    assert torch.equal(dc.read_video(clip_file, 7, 5), whole[7:12])
    assert torch.equal(dc.read_video(clip_file, 3, 2, crop=(32, 48)), whole[3:5, :, 16:48, 16:64])
    assert torch.equal(dc.read_video(clip_file, 3, 2, crop=(5, 6, 7, 8)), whole[3:5, :, 5:12, 6:14])
    assert dc.read_video(clip_file, 0, 1, size=(20, 30)).shape == (1, 3, 20, 30)


@pytest.mark.parametrize("kind", ["truncated", "corrupt"])
def test_damage_inside_a_file_is_found(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    dc.write_video(path, natural(1, 90, 64, 80)[0], crf=20)
    data = bytearray(path.read_bytes())
    if kind == "truncated":
        data = data[: len(data) // 3]
    else:
        for i in range(len(data) // 4, len(data) // 2, 7):
            data[i] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(dc.VideoError, match=r"a\.mkv"):
        dc.read_video(path)


def test_colours_are_tagged_as_they_were_made(tmp_path: Path) -> None:
    red = torch.tensor([0.8, 0.1, 0.1])[:, None, None].expand(4, 3, 720, 1280)
    dc.write_video(tmp_path / "a.mp4", red, preset="ultrafast")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert next(container.decode(video=0)).colorspace == 6  # SMPTE 170M, BT.601's matrix
    assert (dc.read_video(tmp_path / "a.mp4") - red).abs().max() < 0.02


def test_reading_errors(clip_file: Path) -> None:
    with pytest.raises(dc.VideoError, match=r"expected 9 frames from frame 35 on, found 5"):
        dc.read_video(clip_file, 35, 9)
    with pytest.raises(dc.VideoError, match="found 0"):
        dc.read_video(clip_file, 99)
    with pytest.raises(dc.VideoError, match=r"crop \(65, 10\) does not fit frames of 64 x 80"):
        dc.read_video(clip_file, crop=(65, 10))
    with pytest.raises(ValueError, match="-1"):
        dc.read_video(clip_file, -1)
    with pytest.raises(ValueError, match="got 0"):
        dc.read_video(clip_file, frames=0)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_far_starts_are_frame_exact(suffix: str, tmp_path: Path) -> None:
    """Frames that carry their number in their brightness, B frames and several key frames between."""
    n = 400
    video = (torch.arange(n) % 200 / 255 + 0.1)[:, None, None, None].expand(n, 3, 16, 16)
    path = tmp_path / f"long{suffix}"
    dc.write_video(path, video, preset="ultrafast" if suffix == ".avi" else "medium")
    whole = list(read_frames(path))
    assert len(whole) == n
    for start in (0, 100, 251, 252, 300, 397):
        frames = list(read_frames(path, start))
        assert len(frames) == n - start
        assert torch.equal(frames[0], whole[start])
        assert torch.equal(frames[-1], whole[-1])


def test_lossless_round_trip_and_chunks(tmp_path: Path) -> None:
    x = natural(1, 6, 33, 47)[0]
    dc.write_video(tmp_path / "a.mkv", x, lossless=True)
    assert torch.equal(dc.read_video(tmp_path / "a.mkv"), x)
    dc.write_video(tmp_path / "b.mkv", iter(x.split(2)), fps=30000 / 1001, lossless=True)
    assert torch.equal(dc.read_video(tmp_path / "b.mkv"), x)
    assert dc.video_info(tmp_path / "b.mkv").fps == Fraction(30000, 1001)
    dc.write_video(tmp_path / "odd.mp4", x)
    assert dc.read_video(tmp_path / "odd.mp4").shape == x.shape


def test_nothing_half_written(tmp_path: Path) -> None:
    x = natural(1, 2)[0]

    def failing():  # type: ignore[no-untyped-def]
        yield x
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="broke"):
        dc.write_video(tmp_path / "a.mp4", failing())
    with pytest.raises(ValueError, match="48 x 64, then 24 x 64"):
        dc.write_video(tmp_path / "a.mp4", iter([x, x[..., :24, :]]))
    with pytest.raises(ValueError, match="at least one frame"):
        dc.write_video(tmp_path / "a.mp4", iter([]))
    with pytest.raises(ValueError, match="255"):
        dc.write_video(tmp_path / "a.mp4", x * 255)
    with pytest.raises(dc.VideoError, match="a.nonsense"):
        dc.write_video(tmp_path / "a.nonsense", x)
    with pytest.raises(dc.VideoError, match="a.webm"):
        dc.write_video(tmp_path / "a.webm", x)
    for options in ({"fps": 0}, {"fps": -5}, {"crf": 99}, {"crf": float("nan")}, {"preset": "zz"}):
        with pytest.raises(ValueError, match=str(next(iter(options.values())))):
            dc.write_video(tmp_path / "a.mp4", x, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 48, 64\)"):
        dc.write_video(tmp_path / "a.mp4", x[None])
    with pytest.raises(dc.VideoError, match="does not exist"):
        dc.write_video(tmp_path / "no" / "a.mp4", x)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept.mp4").write_bytes(b"old")
    with pytest.raises(RuntimeError):
        dc.write_video(tmp_path / "kept.mp4", failing())
    assert (tmp_path / "kept.mp4").read_bytes() == b"old"


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file size stands in for a full disk."""
    code = f"""
import resource, signal, torch, diffcodec as dc
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    dc.write_video({str(tmp_path / "a.mkv")!r}, torch.rand(30, 3, 64, 64), crf=1)
except dc.VideoError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "no space left" in result.stdout, result.stdout + result.stderr
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dataset")
    (path / "sub").mkdir()
    for i, (t, h, w) in enumerate([(12, 64, 96), (20, 80, 64), (9, 48, 48)]):
        dc.write_video(path / ("sub" if i else ".") / f"{i}.mp4", natural(1, t, h, w, seed=i)[0], preset="ultrafast")
    return path


def test_clips(folder: Path) -> None:
    clips = dc.Clips(folder, frames=8, size=(56, 64), length=10, seed=3)
    assert len(clips) == 10
    items = [clips[i] for i in range(10)]
    assert all(v.shape == (8, 3, 56, 64) and v.dtype == torch.float32 and 0 <= v.min() <= v.max() <= 1 for v in items)
    assert torch.equal(clips[4], items[4])
    assert torch.equal(clips[-1], items[9])
    assert len({v.sum().item() for v in items}) == 10
    clips.set_epoch(1)
    assert not torch.equal(clips[4], items[4])
    with pytest.raises(IndexError):
        clips[10]
    assert dc.Clips(folder, frames=4, size=None)[0].shape == (4, 3, 64, 96)


def test_clips_are_the_same_on_any_number_of_workers(folder: Path) -> None:
    clips = dc.Clips(folder, frames=4, size=32, length=6)
    alone = torch.cat(list(DataLoader(clips, batch_size=2)))
    shared = torch.cat(list(DataLoader(clips, batch_size=2, num_workers=2)))
    assert torch.equal(alone, shared)


def test_clips_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(dc.VideoError, match="1 of 3 files cannot serve"):
        dc.Clips(folder, frames=10)
    with pytest.warns(UserWarning, match="1 of 3 files left out"):
        assert len(dc.Clips(folder, frames=10, strict=False)) == 2
    with pytest.raises(dc.VideoError, match="no video files"):
        dc.Clips(tmp_path)
    with pytest.raises(dc.VideoError, match="no such"):
        dc.Clips(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="got 0"):
        dc.Clips(folder, frames=0)
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(dc.VideoError, match=r"a\.mp4"):
        dc.Clips(tmp_path)


def test_memory_is_bounded_on_long_files(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    dc.write_video(path, (torch.rand(50, 3, 90, 160) for _ in range(4)), preset="ultrafast")
    frames = read_frames(path)
    assert next(frames).shape == (3, 90, 160)  # nothing beyond the first frame is held
    frames.close()
    assert not any(
        os.path.samefile(f"/proc/self/fd/{fd}", path) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")
    )


def test_read_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    x = dc.read_image(tmp_path / "rgb.png")
    assert torch.equal((x * 255).round().byte().permute(1, 2, 0), torch.from_numpy(pixels))
    assert dc.read_image(tmp_path / "rgb.png", crop=(2, 2)).equal(x[:, 2:4, 1:3])
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert torch.equal(dc.read_image(tmp_path / "grey.png")[0], x[0])
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    assert dc.read_image(tmp_path / "turned.png").shape == (3, 4, 6)


def test_read_image_errors(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, words in (("deep.png", "8 bits"), ("text.png", "cannot be read"), ("none.png", "no such file"), (".", "folder")):
        with pytest.raises(dc.VideoError, match=words):
            dc.read_image(tmp_path / name)
