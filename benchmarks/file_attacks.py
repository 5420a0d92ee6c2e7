"""Attacks on video files: ffmpeg's filters and encoders by name, through PyAV. Used by ``benchmarks.watermark`` and ``benchmarks.protocol``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

import diffcodec as dc
from diffcodec.config import split_commas


@dataclass(frozen=True)
class FileAttack:
    """Filters, then an encoder.

    Attributes:
        family: group of attacks that share a row of the table.
        filters: ffmpeg's, separated by commas; empty for none.
        layer: function of a video ``[1, T, 3, H, W]`` that replaces the filters, where ffmpeg has none.
        codec, options: encoder and its options.
        rate: frames per second of the output, if the filters change it.
        times: how often the attack is applied.
        suffix: suffix of the file.
    """

    family: str
    filters: str = ""
    codec: str = "libx264"
    options: tuple[tuple[str, str], ...] = (("crf", "20"), ("preset", "veryfast"))
    rate: int | None = None
    times: int = 1
    suffix: str = ".mp4"
    layer: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.layer is not None and (self.filters or self.rate or self.codec != "libx264"):
            raise ValueError("a layer goes without filters, at the file's own rate, and its result is coded with libx264")


def encoder(codec: str, crf: int, preset: str = "medium") -> dict[str, Any]:
    """Arguments of :class:`FileAttack` for an encoder at a CRF; libvpx-vp9 and libsvtav1 use a fixed preset of their own."""
    options = {
        "libx264": (("preset", preset),),
        "libx265": (("preset", preset), ("x265-params", "log-level=none")),
        "libvpx-vp9": (("b", "0"), ("cpu-used", "6")),
        "libsvtav1": (("preset", "10"),),
    }[codec]
    suffix = {"libvpx-vp9": ".webm", "libsvtav1": ".mkv"}.get(codec, ".mp4")
    return {"codec": codec, "options": (("crf", str(crf)), *options), "suffix": suffix}


ATTACKS: dict[str, FileAttack] = {
    **{f"x264 medium CRF {crf}": FileAttack("coding", **encoder("libx264", crf)) for crf in (23, 28, 33)},
    "x264 veryfast CRF 28": FileAttack("coding", **encoder("libx264", 28, "veryfast")),
    "x265 CRF 28": FileAttack("coding", **encoder("libx265", 28, "fast")),
    "VP9 CRF 33": FileAttack("coding", **encoder("libvpx-vp9", 33)),
    "AV1 CRF 35": FileAttack("coding", **encoder("libsvtav1", 35)),
    "500 kbit/s": FileAttack("coding", options=(("b", "500000"), ("preset", "medium"))),
    "coded twice, CRF 26": FileAttack("coding", times=2, **encoder("libx264", 26)),
    "MJPEG": FileAttack("coding", "format=yuvj420p", "mjpeg", (), suffix=".avi"),  # ffmpeg's default: 200 kbit/s, its coarsest quantiser
    **{f"scaled to {p} %": FileAttack("geometry", f"scale=trunc(iw*{p}/200)*2:trunc(ih*{p}/200)*2") for p in (50, 75, 150)},
    "16:9 to 4:3": FileAttack("geometry", "scale=trunc(iw*3/8)*2:ih"),
    "4:3 to 16:9": FileAttack("geometry", "scale=trunc(iw*4/6)*2:ih"),
    "mirrored": FileAttack("geometry", "hflip"),
    "quarter turn": FileAttack("geometry", "transpose=1"),
    "half turn": FileAttack("geometry", "hflip,vflip"),
    "letterbox 25 %": FileAttack("geometry", "pad=iw:trunc(ih*4/6)*2:0:(oh-ih)/2"),
    "pillarbox 25 %": FileAttack("geometry", "pad=trunc(iw*4/6)*2:ih:(ow-iw)/2:0"),
    "cropped to 90 %": FileAttack("geometry", "crop=trunc(iw*0.45)*2:trunc(ih*0.45)*2:trunc(iw*0.03)*2:trunc(ih*0.02)*2"),
    "cropped to 75 %": FileAttack("geometry", "crop=trunc(iw*0.375)*2:trunc(ih*0.375)*2:trunc(iw*0.1)*2:trunc(ih*0.04)*2"),
    "cropped to 75 % and scaled back": FileAttack(
        "geometry", "crop=trunc(iw*0.375)*2:trunc(ih*0.375)*2,scale=trunc(iw/1.5)*2:trunc(ih/1.5)*2"
    ),
    "logo": FileAttack("geometry", "drawbox=x=iw*0.7:y=ih*0.05:w=iw*0.25:h=ih*0.2:color=white:t=fill"),
    **{f"turned by {a} degrees": FileAttack(f"rotation {a}", f"rotate={a}*PI/180") for a in (1, 2, 5)},
    **{f"to {r} frames a second": FileAttack("time", f"fps={r}", rate=r) for r in (24, 30, 50, 60)},
    "to 30 frames a second, blended": FileAttack("time", "framerate=fps=30", rate=30),
    "5 % faster": FileAttack("time", "setpts=PTS/1.05,fps=25", rate=25),
    "4 % slower": FileAttack("time", "setpts=PTS*1.04,fps=25", rate=25),
    "10 frames cut out of the middle": FileAttack("time", "select='not(between(n,60,69))',setpts=N/25/TB", rate=25),
    "trimmed": FileAttack("time", "trim=start_frame=33,setpts=PTS-STARTPTS"),
    "reversed": FileAttack("time", "reverse"),
    "brighter": FileAttack("light", "lutyuv=y='clip(val+30,16,235)'"),
    "more contrast": FileAttack("light", "lutyuv=y='clip((val-126)*1.3+126,16,235)':u='(val-128)*1.3+128':v='(val-128)*1.3+128'"),
    "gamma 0.7, grey": FileAttack("light", "lutyuv=y='16+219*pow(clip(val-16,0,219)/219,1.4)':u=128:v=128"),
    "grain": FileAttack("light", "noise=alls=20:allf=t"),
    "denoised": FileAttack("light", "atadenoise=0a=0.08:0b=0.16:s=9,gblur=sigma=0.7"),
    "sharpened": FileAttack("light", "unsharp=5:5:1.2"),
    "blurred": FileAttack("light", "gblur=sigma=1.5"),
    "GIF, 12 frames a second": FileAttack("light", "fps=12,format=bgr8", "gif", (), 12, suffix=".gif"),
}


def apply(attack: FileAttack, source: Path, out: Path) -> None:
    """Apply an attack to a file and write the result."""
    for i in range(attack.times):
        last = out if i == attack.times - 1 else out.with_name(f"{i}-{out.name}")
        _apply(attack, source, last)
        source = last


def _apply(attack: FileAttack, source: Path, out: Path) -> None:
    import av

    if attack.layer is not None:
        options = dict(attack.options)
        video = attack.layer(dc.read_video(source)[None])[0]
        dc.write_video(out, video, fps=dc.video_info(source).fps, crf=float(options["crf"]), preset=options["preset"])
        return

    with av.open(str(source)) as reader, av.open(str(out), "w") as writer:
        video = reader.streams.video[0]
        rate = Fraction(attack.rate) if attack.rate else video.average_rate
        graph = av.filter.Graph()
        steps = [graph.add_buffer(template=video)]
        for part in split_commas(attack.filters):
            name, _, options = part.partition("=")
            steps.append(graph.add(name, options) if options else graph.add(name))
        steps.append(graph.add("buffersink"))
        graph.link_nodes(*steps).configure()
        stream: Any = None

        def write() -> None:
            nonlocal stream
            while True:
                try:
                    frame = graph.pull()
                except (av.error.BlockingIOError, av.error.EOFError):
                    return
                if stream is None:
                    stream = writer.add_stream(attack.codec, rate=rate, options=dict(attack.options))
                    stream.width, stream.height = frame.width, frame.height
                    stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "bgr8"}.get(attack.codec, "yuv420p")
                    stream.codec_context.time_base = frame.time_base
                    stream.codec_context.thread_count = 1
                if frame.format.name != stream.pix_fmt:
                    frame = frame.reformat(format=stream.pix_fmt)
                writer.mux(stream.encode(frame))

        for frame in reader.decode(video):
            graph.push(frame)
            write()
        graph.push(None)
        write()
        writer.mux(stream.encode(None))
