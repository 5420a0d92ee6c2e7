"""Low-level PyAV: safe opening of files, decoding with damage detection, orientation and conversion of frames, reproducible libx264 options."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import re
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .containers import wrong

# Demuxers of video containers and raw video streams. Playlists and file patterns are excluded, as they read files other than the one named.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,obu,ivf,yuv4mpegpipe,ogg,flv,asf,mxf,nut,gif,apng,dv,rm,wtv,mjpeg,vc1,"
    "h261,h263"
)
NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
DAMAGED = ("error", "keep")
_log_lock = threading.Lock()


class VideoError(ValueError):
    """A video or picture file that cannot be read or written; the message names the file and the problem."""


@contextlib.contextmanager
def opened(path: str | Any) -> Iterator[tuple[Any, Any]]:
    """An open container and its video stream; every failure becomes a :class:`VideoError` that names the file.

    Only regular files are opened, with names taken literally (never as URLs), and only in formats that read no other file.
    """
    import av

    path = Path(path)
    try:
        mode = path.stat()
    except OSError as error:
        raise VideoError(
            f"{path}: no such file" if isinstance(error, FileNotFoundError) else f"{path}: {error.strerror or error}"
        ) from None
    if stat.S_ISDIR(mode.st_mode):
        raise VideoError(f"{path} is a folder; expected a video file")
    if not stat.S_ISREG(mode.st_mode):
        raise VideoError(f"{path} is a pipe or device; expected a video file")
    if mode.st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes)")
    try:
        with av.open(
            f"file:{path}", metadata_errors="ignore", options={"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        ) as container:
            if not container.streams.video:
                kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
                raise VideoError(f"{path} holds no video stream (streams: {kinds})")
            stream = next((v for v in container.streams.video if not is_picture(v)), container.streams.video[0])
            if stream.codec_context is None:
                raise VideoError(f"{path}: its video is coded in a format that this build of ffmpeg cannot decode")
            # One thread: with frame threading, ffmpeg returns frames before it knows whether they are damaged; and a process that is forked while
            # a threaded decoder awaits garbage collection hangs when it frees its copy
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:  # from writing inside the block
            raise
        what = "unsupported format, or damaged" if isinstance(error, av.error.InvalidDataError) else error.strerror or error
        raise VideoError(f"{path}: not a readable video ({what})") from error


def is_picture(stream: Any) -> bool:
    """Whether a video stream is a cover picture or a thumbnail."""
    return bool(getattr(stream, "disposition", 0) & 0xC00)  # AV_DISPOSITION_ATTACHED_PIC and AV_DISPOSITION_TIMED_THUMBNAILS


def announced(container: Any, stream: Any) -> int:
    """Number of frames that the container says it shows, before it is read; 0 if it does not say.

    From the index of MP4 and AVI where there is one, as ``stream.frames`` also counts what an edit list leaves out, and the empty chunks that stand
    in AVI for a frame that is shown for longer.
    """
    index = _index(container, stream)
    if stream.frames and len(index):
        return sum(1 for entry in index if entry.size and not entry.is_discard)
    return int(stream.frames)


def _index(container: Any, stream: Any) -> Any:
    """The index of MP4 and AVI, before they are read; empty if there is none, as in AVI cut short."""
    return (getattr(stream, "index_entries", None) or ()) if container.format.name in (_MOV, "avi") else ()


_MOV = "mov,mp4,m4a,3gp,3g2,mj2"


class Damage:
    """Damage found in a file so far.

    Attributes:
        corrupt: indices of the frames that the decoder marked as corrupt.
        lost: number of frames that packets announced and that were not decoded.
        structure: what contradicts itself in the container (:func:`diffcodec.containers.wrong`); empty if nothing does.
        spreads: whether there was a corrupt frame since the last intact key frame: frames predicted from it are wrong as well.
    """

    def __init__(self) -> None:
        self.corrupt: list[int] = []
        self.lost = 0
        self.structure = ""
        self.spreads = False

    def __bool__(self) -> bool:
        return bool(self.corrupt or self.lost or self.structure)

    def __str__(self) -> str:
        out = []
        if self.corrupt:
            some = ", ".join(map(str, self.corrupt[:5])) + (", ..." if len(self.corrupt) > 5 else "")
            out.append(f"{len(self.corrupt)} damaged frames ({some})")
        if self.lost:
            out.append(f"{self.lost} missing frames")
        if self.structure:
            out.append(self.structure)
        return " and ".join(out) or "no damage"


def is_packed(container: Any, stream: Any) -> bool:
    """Whether packets may hold two frames and others none: B frames in AVI as XviD and DivX write them."""
    return stream.codec_context.name == "mpeg4" and container.format.name == "avi"


def coded_vops(packet: Any) -> int:
    """Number of frames in an MPEG-4 packet; one that is not coded takes about seven bytes (ISO/IEC 14496-2, 6.2.5)."""
    return bytes(packet).count(b"\x00\x00\x01\xb6") if packet.size > 9 else 0


def decode(
    container: Any,
    stream: Any,
    damage: Damage,
    whole: bool = True,
    others: Sequence[Any] = (),
    pass_on: Callable[[Any], None] | None = None,
) -> Iterator[Any]:
    """Decoded frames in display order; damage is recorded in ``damage`` before the next frame is returned.

    Args:
        container, stream: from :func:`opened`.
        damage: damage found so far, updated.
        whole: whether the file is read from its beginning; then frames that the container announced and that are missing at the end are counted.
        others: further streams.
        pass_on: called with the packets of the further streams.
    """
    import av

    packets = frames = refused = 0
    told, indexed = announced(container, stream), len(_index(container, stream)) > 0
    stamps = Stamps()
    strict = _strict(stream)
    maybe, packed = is_packed(container, stream), False
    # AVI has no time stamps of its own; frames that VP8 does not show have some
    hidden = container.format.name == "avi" or stream.codec_context.name in ("vp8", "libvpx")
    end: int | None = None
    lasts = 0  # duration of the last frame
    for packet in _packets(container, stream, others):
        if packet is None:
            refused += 1
            continue
        if packet.stream.index != stream.index:
            if pass_on is not None:
                pass_on(packet)
            continue
        real = stamps.sent(packet)
        packets += real
        packed = packed or (real and maybe and coded_vops(packet) > 1)
        refused += real and packet.is_corrupt  # cut short, or with a gap before it
        try:
            decoded = packet.decode()
            if real and strict is not None and decoded and not _decodes(strict, packet):
                damage.corrupt.append(frames)
                damage.spreads = True
        except av.error.InvalidDataError:
            refused += not (real and packet.is_corrupt)  # with threads an error may come with a later packet, or at the end
            continue
        for frame in decoded:
            if not frames and not refused:
                leading = stamps.leading(frame, stream)
                packets -= leading
                told -= leading
            late = stamps.late(frame, stream)
            damage.lost += 0 if hidden else late
            if frame.pts is not None and (end is None or frame.pts >= end):
                end, lasts = frame.pts, getattr(frame, "duration", 0) or 0
            if frame.is_corrupt and damage.corrupt[-1:] != [frames]:
                damage.corrupt.append(frames)
                damage.spreads = True
            elif frame.key_frame and damage.corrupt[-1:] != [frames]:
                damage.spreads = False
            frames += 1
            yield frame
    if not whole:
        return
    missing = max(packets, told) - frames - (packed and not refused)  # the index of packed frames counts one too many
    cut = 0 if indexed else _cut(container, stream, end, lasts)
    damage.lost = max(damage.lost, missing, refused, cut)
    damage.structure = wrong(Path(container.name.removeprefix("file:")), container.format.name)


def _strict(stream: Any) -> Any:
    """A second decoder that stops at errors, for codecs whose decoder conceals them without a mark; None for the others."""
    import av

    if stream.codec_context.name != "mjpeg":
        return None
    decoder = av.CodecContext.create("mjpeg", "r")
    if stream.codec_context.extradata:
        decoder.extradata = stream.codec_context.extradata
    decoder.options = {"err_detect": "explode"}
    decoder.thread_count = 1
    return decoder


def _decodes(decoder: Any, packet: Any) -> bool:
    """Whether a packet that needs no other is decoded without an error."""
    import av

    try:
        decoder.decode(packet)
    except av.error.InvalidDataError:
        return False
    return True


class Stamps:
    """Time stamps of packets against those of the frames that a decoder makes of them."""

    def __init__(self) -> None:
        self.all: list[int | None] = []  # of the packets that hold a frame to be shown, in the order of decoding
        self._begins_with_key: bool | None = None
        self._seen: set[int] = set()
        self._pending: set[int] = set()  # of packets whose frame has not been decoded
        self._trusted, self._in_order = True, True
        self._latest: int | None = None  # of the packets
        self._last: int | None = None  # of the frames

    def sent(self, packet: Any) -> bool:
        """A packet is given to the decoder; whether it holds a frame to be shown."""
        if self._begins_with_key is None and packet.size:
            self._begins_with_key = bool(packet.is_keyframe)
        if not packet.size or packet.is_discard:
            return False
        pts = packet.pts
        self.all.append(pts)
        if pts is None or pts in self._seen:
            self._trusted = False
            return True
        if self._latest is not None and pts < self._latest:
            self._in_order = False
            self._trusted &= not packet.is_keyframe  # what is decoded before a key frame is also shown before it
        self._latest = pts if self._latest is None else max(pts, self._latest)
        self._seen.add(pts)
        self._pending.add(pts)
        return True

    def trusted(self, stream: Any) -> bool:
        """Whether they say when frames are shown: each has its own, and they are not in the order of decoding where frames are reordered."""
        return self._trusted and not (self._in_order and len(self.all) > 1 and stream.codec_context.has_b_frames)

    def leading(self, frame: Any, stream: Any) -> int:
        """Number of frames before the first one shown, ``frame``, that no decoder shows: they are predicted from what was cut off before."""
        if not self._begins_with_key:
            return 0
        early = {p for p in self._pending if p < frame.pts} if frame.pts is not None and frame.pts == self.all[0] else set()
        self._pending -= early
        if stream.codec_context.name in _DELAYED:
            return max(0, len(self.all) - 1 - bool(stream.codec_context.has_b_frames))
        return len(early)

    def late(self, frame: Any, stream: Any) -> int:
        """Number of frames that should have been shown before this one, and were not."""
        if frame.pts is None:
            return 0
        self._trusted &= self._last is None or frame.pts > self._last
        self._last = frame.pts
        self._pending.discard(frame.pts)
        if not self.trusted(stream):
            return 0
        early = {p for p in self._pending if p < frame.pts}
        self._pending -= early
        return len(early)


_DELAYED = ("mpeg4", "mpeg2video", "mpeg1video")  # decoders that hold back one frame where there are B frames, and none otherwise


def _packets(container: Any, stream: Any, others: Sequence[Any]) -> Iterator[Any]:
    """Packets, the last ones empty to flush the decoder; None before these if the container is broken and cannot be read further."""
    import av

    packets = container.demux(stream, *others)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.InvalidDataError:
            yield None
            flush = av.Packet()
            flush.stream = stream
            yield flush
            return
        yield packet


def _cut(container: Any, stream: Any, end: int | None, lasts: int) -> int:
    """Number of frames missing between the last one, at ``end``, and the end of the video according to the container."""
    if end is None or not stream.average_rate:
        return 0
    if container.format.name == "matroska,webm" and (told := _DURATION.fullmatch(stream.metadata.get("DURATION", ""))):
        hours, minutes, seconds = (float(v) for v in told.groups())
        length = 3600 * hours + 60 * minutes + seconds
    elif container.duration and len(container.streams) == 1 and container.format.name in _TIMED:
        length = container.duration / 1e6
    else:
        return 0
    rate = float(stream.average_rate)
    shown = float(end * stream.time_base) + max(0.0, float(lasts * stream.time_base) - 1 / rate)
    return max(0, int((length - shown) * rate - 0.5))


_DURATION = re.compile(r"(\d+):(\d\d):(\d\d\.?\d*)")  # a tag of Matroska, as ffmpeg writes it: 00:00:01.200000000
_TIMED = ("matroska,webm", "flv", "asf", "avi")  # containers that store a duration, which truncation leaves unchanged


class Pictures:
    """Frames as displayed: RGB, rotated as the file specifies."""

    def __init__(self) -> None:
        self._convert = Converter()

    def __call__(self, frame: Any, **options: Any) -> np.ndarray:
        """uint8 ``[H, W, 3]``; options as for :class:`Converter`, sizes before rotation."""
        return np.ascontiguousarray(turned(self._convert(frame, **options), orientation(frame)))


class Converter:
    """Conversion of frames to another format or size, with one converter and one thread.

    PyAV's own ``frame.to_ndarray(format=...)`` makes a converter for each frame, with as many threads as there are processors; they live as long as
    the frame, and a process forked meanwhile waits for them forever.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._options: dict[str, Any] = {"threads": 1} if "threads" in (VideoReformatter.reformat.__doc__ or "") else {}

    def __call__(self, frame: Any, format: str = "rgb24", **options: Any) -> np.ndarray:
        """The frame as an array: rgb24 ``[H, W, 3]``, planar formats as PyAV lays them out."""
        out: np.ndarray = self.frame(frame, format, **options).to_ndarray()
        return out

    def frame(self, frame: Any, format: str, **options: Any) -> Any:
        """The converted frame as a PyAV frame."""
        return self._reformatter.reformat(frame, format=format, **options, **self._options)


def side_data(frame: Any) -> list[Any]:
    """A frame's side data. ``frame.side_data`` would create a reference cycle that only the garbage collector frees."""
    from av.sidedata.sidedata import SideDataContainer

    return list(SideDataContainer(frame))  # type: ignore[call-arg]


def orientation(frame: Any) -> tuple[int, bool]:
    """How a frame is rotated and mirrored for display, from its display matrix (ISO/IEC 14496-12, 6.2.2).

    Returns:
        Quarter turns counter-clockwise, and whether it is mirrored left to right before them. (0, False) for other angles.
    """
    for data in side_data(frame):
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = (int(v) for v in np.frombuffer(data, np.int32)[:5])
            signs = tuple((v > 0) - (v < 0) for v in (a, b, c, d))
            if 0 in (a, b) and 0 in (c, d):
                return _TURNS.get(signs, (0, False))  # type: ignore[arg-type]
    return 0, False


_TURNS = {
    (1, 0, 0, 1): (0, False), (0, -1, 1, 0): (1, False), (-1, 0, 0, -1): (2, False), (0, 1, -1, 0): (3, False),
    (-1, 0, 0, 1): (0, True), (0, -1, -1, 0): (3, True), (1, 0, 0, -1): (2, True), (0, 1, 1, 0): (1, True),
}  # fmt: skip


def lost_in_8_bits(frame: Any) -> str:
    """Properties of a frame that 8-bit RGB or YCbCr without transparency loses, as text; empty if there are none."""
    bits = max(c.bits for c in frame.format.components)
    lost = [f"{bits} bits a sample"] if bits > 8 else []
    return " and ".join(lost + ["transparency"] * any(c.is_alpha for c in frame.format.components))


def turned(picture: np.ndarray, turn: tuple[int, bool]) -> np.ndarray:
    """A picture or plane ``[H, W, ...]`` as displayed; ``turn`` is from :func:`orientation`."""
    quarters, mirrored = turn
    if mirrored:
        picture = picture[:, ::-1]
    return np.rot90(picture, quarters) if quarters else picture


@functools.cache
def x264_asm() -> str | None:
    """Limit on libx264's assembly that makes its output reproducible: "avx2" on a CPU with AVX-512, else None.

    The AVX-512 code of core 165's macroblock tree reads uninitialised memory if the width is not a multiple of 128; the output with "avx2" is that
    of the C code. There is no limit on other CPUs, as x264 does not check the requested instruction set against the CPU.
    """
    return "avx2" if _avx512() else None


def _avx512() -> bool:
    """Whether this CPU has the subset of AVX-512 that x264 looks for (F, CD, BW, DQ, VL), by numpy's and torch's own detection."""
    import torch

    for module in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        with contextlib.suppress(ImportError, AttributeError):
            if importlib.import_module(module).__cpu_features__.get("AVX512_SKX", False):
                return True
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def x264_options(options: dict[str, str]) -> dict[str, str]:
    """Options for libx264, with its assembly limited (:func:`x264_asm`) unless they set it themselves."""
    inner = ":".join(options.get(k, "") for k in ("x264-params", "x264opts")).split(":")
    asm = x264_asm()
    if asm is None or any(p.partition("=")[0] in ("asm", "no-asm") for p in inner):
        return options
    own = options.get("x264-params")
    return options | {"x264-params": f"asm={asm}:{own}" if own else f"asm={asm}"}


@contextlib.contextmanager
def captured_log(level: int) -> Iterator[list[tuple[int, str, str]]]:
    """Capture the log of ffmpeg's libraries. One caller at a time, as the log level is global to the process.

    Only for single-threaded work of the calling thread: a codec's own thread that logs would wait for the GIL.
    """
    import av.logging

    with _log_lock:
        before = av.logging.get_level()
        av.logging.set_level(level)
        try:
            with av.logging.Capture() as log:
                yield log
        finally:
            av.logging.set_level(before)
