"""What a marked file takes over from its source beside the video: tracks, tags, chapters, attachments, pictures; and what it could not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffcodec.media import is_picture, orientation, side_data

# Tags that say how the input was written, not what it is
_NOT_COPIED = (
    "encoder", "major_brand", "minor_version", "compatible_brands", "duration", "vendor_id", "rotate", "bps", "number_of_frames",
    "number_of_bytes",
)  # fmt: skip
_NOT_CHECKED = ("handler_name", "creation_time", "filename", "mimetype", "comment")  # of tracks: containers write their own
_COLOURS = ("colorspace", "color_range", "color_primaries", "color_trc")
# side data of frames that a new picture does not carry
_SIDE_DATA = {
    "A53_CC": "closed captions", "MASTERING_DISPLAY_METADATA": "HDR metadata", "CONTENT_LIGHT_LEVEL": "HDR metadata",
    "DYNAMIC_HDR_PLUS": "HDR metadata", "DYNAMIC_HDR_VIVID": "HDR metadata", "AMBIENT_VIEWING_ENVIRONMENT": "HDR metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata", "DOVI_METADATA": "Dolby Vision metadata", "S12M_TIMECODE": "timecodes of frames",
    "STEREO3D": "stereo layout", "SPHERICAL": "spherical projection", "ICC_PROFILE": "ICC profile", "AFD": "active format description",
}  # fmt: skip


def _tags(metadata: Mapping[str, str]) -> dict[str, str]:
    def kept(name: str, value: str) -> bool:
        unset = name == "creation_time" and value.startswith(("1904-", "1970-01-01T00:00:00"))  # a time of 0
        return name.partition("-")[0] not in _NOT_COPIED and not name.startswith("_statistics") and not unset

    return {k: v for k, v in metadata.items() if kept(k.lower(), v)}


class Clock:
    """Strictly increasing time stamps: unchanged where they increase, evenly spaced where there are none, shifted where they jump back.

    Args:
        step: duration of a frame where nothing else is known, in units of the time base.
    """

    def __init__(self, step: int) -> None:
        self.step, self.shift = max(1, step), 0
        self.last: int | None = None

    def __call__(self, stamp: int | None) -> int:
        if stamp is None:
            stamp = 0 if self.last is None else self.last + self.step
        else:
            stamp += self.shift
            if self.last is not None and stamp <= self.last:
                self.shift += self.last + self.step - stamp
                stamp = self.last + self.step
        self.last = stamp
        return stamp


class Tracks:
    """Copies the other tracks from one container to another, in the order of the input.

    Attributes:
        others: the streams to copy, besides the video.
        lost: names of what the output does not hold.
    """

    def __init__(self, reader: Any, video: Any, writer: Any) -> None:
        self.reader, self.video, self.writer = reader, video, writer
        self.matroska = "matroska" in writer.format.name
        self.others = [
            s for s in reader.streams if s.type in ("audio", "subtitle") or (s.type == "video" and is_picture(s) and s is not video)
        ]
        self.lost: list[str] = []
        self._copied: dict[int, Any] = {}
        self._clocks: dict[int, Clock] = {}
        self._waiting: list[Any] | None = []  # packets before the first frame, on which the output's tracks depend
        self._sent: list[Any] = []  # streams of the output that are tracks, with what they are copied from

    def create(self, make: Callable[[Any], Any], frame: Any) -> Any:
        """Create the tracks of the output; ``make(frame)`` creates the marked video's. Packets may be written from here on."""
        self.writer.metadata.update(_tags(self.reader.metadata))
        made: Any = None
        for s in self.reader.streams:
            if s.index == self.video.index:
                new = made = make(frame)
            elif s in self.others:
                copied = self._create(s)
                if copied is None:
                    continue
                new = copied
            else:
                self._other(s)
                continue
            tags = _tags(s.metadata)
            if "name" in tags:  # what MP4's reader calls the title that its writer takes
                tags.setdefault("title", tags.pop("name"))
            new.metadata.update(tags)
            with contextlib.suppress(AttributeError, TypeError):
                new.disposition = s.disposition
            if not is_picture(s):
                self._sent.append(s)
        self._chapters()
        waiting, self._waiting = self._waiting or [], None
        for packet in waiting:
            self.copy(packet)
        return made

    def _create(self, s: Any) -> Any:
        if self.matroska and is_picture(s):  # an attachment there
            picture = next((p for p in self._waiting or [] if p.stream.index == s.index), None)
            kind = {"mjpeg": "jpeg"}.get(s.codec_context.name, s.codec_context.name)
            if picture is not None:
                self._attach(s, f"cover.{kind}", f"image/{kind}", bytes(picture))
            return None
        try:
            new = self._copied[s.index] = self.writer.add_stream_from_template(s)
        except (ValueError, AttributeError):  # a kind of stream that this container does not take
            self.lost.append(f"{_name(s)}, which cannot be stored in the output")
            return None
        self._clocks[s.index] = Clock(1)
        return new

    def _attach(self, s: Any, name: str, kind: str, data: bytes) -> None:
        if hasattr(self.writer, "add_attachment"):
            self.writer.add_attachment(s.metadata.get("filename", name), s.metadata.get("mimetype", kind), data)
        else:
            self.lost.append(_name(s))

    def _other(self, s: Any) -> None:
        """A stream that is neither copied nor marked: an attachment, or lost."""
        if s.type == "attachment" and self.matroska and (data := getattr(s, "data", None)):
            self._attach(s, f"attachment{s.index}", "application/octet-stream", bytes(data))
            return
        if s.type == "data" and (_of_chapters(s) or "timecode" in s.metadata):  # the muxer writes both anew from the chapters and the tag
            return
        self.lost.append(_name(s))

    def _chapters(self) -> None:
        read = getattr(self.reader, "chapters", None)
        chapters = read() if read is not None else []
        if chapters and hasattr(self.writer, "set_chapters"):
            self.writer.set_chapters(chapters)

    def copy(self, packet: Any) -> None:
        """Write a packet of another track, or keep it until there are tracks."""
        if self._waiting is not None:
            self._waiting.append(packet)
            return
        index = packet.stream.index
        if index not in self._copied or not packet.size:
            return
        if is_picture(packet.stream):
            packet.pts = packet.dts = 0
        elif packet.dts is None:
            return
        dts = self._clocks[index](packet.dts)
        if packet.pts is not None:
            packet.pts += dts - packet.dts
        packet.dts, packet.stream = dts, self._copied[index]
        self.writer.mux(packet)

    def saw(self, frame: Any) -> None:
        """Notes what of a frame's properties and side data the marked frame does not carry."""
        found = [_SIDE_DATA[name] for data in side_data(frame) if (name := data.type.name) in _SIDE_DATA]
        if getattr(frame, "interlaced_frame", False):
            found.append("interlacing (the frames are coded as progressive ones)")
        if orientation(frame) == (0, False) and (angle := getattr(frame, "rotation", 0)):
            found.append(f"a rotation by {angle} degrees")
        self.lost += [name for name in dict.fromkeys(found) if name not in self.lost]

    def missing(self, path: Path, turned: bool) -> list[str]:
        """Names of what the source has and the file written does not, by reading it back, after :attr:`lost`."""
        import av

        out = list(self.lost)
        with av.open(f"file:{path}", metadata_errors="ignore") as written:
            out += [f"the tag {k}" for k, v in _tags(self.reader.metadata).items() if not _held(v, written.metadata)]
            chapters = [len(c.chapters()) if hasattr(c, "chapters") else 0 for c in (self.reader, written)]
            if chapters[1] < chapters[0] or (chapters[0] and not hasattr(self.writer, "set_chapters")):
                out.append(f"{chapters[0] - chapters[1]} chapters")
            pictures = [sum(map(is_picture, c.streams)) for c in (self.reader, written)]
            if pictures[1] < pictures[0] - is_picture(self.video):
                out.append("cover pictures")
            tracks = [s for s in written.streams if s.type in ("video", "audio", "subtitle") and not is_picture(s)]
            for s, new in zip(self._sent, tracks):
                checked = {k: v for k, v in _tags(s.metadata).items() if k.lower() not in _NOT_CHECKED and v != "und"}
                out += [f"the tag {k}={v} of {_name(s)}" for k, v in checked.items() if not _held(v, new.metadata)]
                if flags := int(s.disposition) & ~int(new.disposition):
                    out.append(f"the disposition {type(s.disposition)(flags).name} of {_name(s)}")
                if s is self.video:
                    out += self._picture(new, turned)
        return out

    def _picture(self, new: Any, turned: bool) -> list[str]:
        """Properties of the video that differ in the track written."""
        own, other = self.video.codec_context, new.codec_context
        out = [f"the colour property {name}" for name in _COLOURS if getattr(own, name, None) != getattr(other, name, None)]
        shape = self.video.sample_aspect_ratio
        if shape and (1 / shape if turned else shape) != (new.sample_aspect_ratio or 1):
            out.append(f"the sample aspect ratio {shape}")
        return out


def _of_chapters(s: Any) -> bool:
    """Whether a data track holds the titles of chapters, which libavformat reads as such and then discards."""
    return int(getattr(s, "discard", 0)) >= 48  # AVDISCARD_ALL


def _name(s: Any) -> str:
    what = {"data": "data track", "attachment": "attachment", "video": "video track"}.get(s.type, f"{s.type} track")
    if is_picture(s):
        what = "picture"
    tags = s.metadata
    said = tags.get("filename") or tags.get("title") or tags.get("language") or tags.get("handler_name")
    return f"{what} {s.index}" + (f" ({said})" if said else "")


def _held(value: str, tags: Mapping[str, str]) -> bool:
    """Whether tags hold a value, under whatever name the container gives it."""
    value = value.strip().casefold()
    return any(value == (v := t.strip().casefold()) or (v and value.startswith(v)) for t in tags.values())
