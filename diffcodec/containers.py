"""Checks of what containers say of their own bytes: sizes that reach beyond the end of the file, and checksums."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO


def wrong(path: Path, format_: str) -> str:
    """What contradicts itself in a file's structure, as text; empty if nothing does.

    - Matroska: its segment reaches beyond the end (RFC 8794); an element fails its CRC-32, where it has one, as ffmpeg writes them.
    - MP4: a box reaches beyond the end (ISO/IEC 14496-12, 4.2).
    - AVI: its RIFF chunk reaches beyond the end.
    - Transport streams: the last packet is not complete (ISO/IEC 13818-1, 2.4.3.2).

    Args:
        path: the file.
        format_: libavformat's name of the format.
    """
    check = _CHECKS.get(format_)
    if check is None:
        return ""
    size = path.stat().st_size
    with open(path, "rb") as file:
        return check(file, size)


def _matroska(file: IO[bytes], end: int) -> str:
    head, at = file.read(4096), 4
    size, n = _vint(head, at)  # of the EBML header
    at += n + size
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return ""
    size, n = _vint(head, at + 4)
    at += 4 + n
    if _known(size, n):
        if at + size > end:
            return "the file is shorter than it says"
        end = at + size
    while at + 12 < end:  # the elements of the segment
        file.seek(at)
        head = file.read(24)
        if not head[0]:
            return ""
        width = 9 - head[0].bit_length()
        size, n = _vint(head, width)
        if width > 4 or not _known(size, n):
            return ""
        at += width + n
        if at + size > end:
            return ""
        if (
            size >= 6 and head[width + n : width + n + 2] == b"\xbf\x84"
        ):  # a CRC-32 of 4 bytes comes first, little-endian, of all that follows
            file.seek(at + 6)
            if _crc(file, size - 6) != int.from_bytes(head[width + n + 2 : width + n + 6], "little"):
                return "a checksum does not fit"
        at += size
    return ""


def _crc(file: IO[bytes], size: int) -> int:
    crc = 0
    while size > 0 and (part := file.read(min(size, 1 << 20))):
        crc = zlib.crc32(part, crc)
        size -= len(part)
    return crc


def _known(size: int, width: int) -> bool:
    return size != (1 << 7 * width) - 1  # all ones: not known


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-size integer and its length in bytes (RFC 8794, section 4)."""
    if at >= len(data) or not data[at]:
        return (1 << 7) - 1, 1
    n = 9 - data[at].bit_length()
    return int.from_bytes(data[at : at + n], "big") & ((1 << 7 * n) - 1), n


def _mp4(file: IO[bytes], end: int) -> str:
    at = 0
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if kind not in _BOXES:  # what follows the last box need not be one
            return ""
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        elif size == 0:  # to the end
            return ""
        if at + size > end:
            return "the file is shorter than it says"
        if size < 8:
            return ""
        at += size
    return ""


_BOXES = (
    b"ftyp",
    b"moov",
    b"mdat",
    b"moof",
    b"free",
    b"skip",
    b"wide",
    b"sidx",
    b"styp",
    b"meta",
    b"uuid",
    b"mfra",
    b"emsg",
    b"prft",
    b"pdin",
)


def _avi(file: IO[bytes], end: int) -> str:
    head = file.read(12)
    size = int.from_bytes(head[4:8], "little")
    if head[:4] == b"RIFF" and head[8:] == b"AVI " and 8 + size > end + 1:  # chunks are padded to even sizes, the last one not by everybody
        return "the file is shorter than it says"
    return ""


def _ts(file: IO[bytes], end: int) -> str:
    head = file.read(5 * 204)
    for size in (188, 192, 204):
        first = head.find(0x47)
        if 0 <= first < size and all(head[at] == 0x47 for at in range(first, len(head), size)) and len(head) > 2 * size:
            offset = 4 if size == 192 and first == 4 else 0
            return "the last packet is not complete" if first == offset and end % size else ""
    return ""


_CHECKS: dict[str, Callable[[IO[bytes], int], str]] = {
    "matroska,webm": _matroska, "mov,mp4,m4a,3gp,3g2,mj2": _mp4, "avi": _avi, "mpegts": _ts,
}  # fmt: skip
