"""The real encoders: what each takes, what it ignores, and how its packets are counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..video import X264_PRESETS


@dataclass(frozen=True)
class Encoder:
    """How one encoder is configured.

    Attributes:
        decoder: PyAV's name of the decoder of its streams.
        crf: smallest and largest CRF.
        presets: allowed presets.
        default_preset: preset used by default.
        preset_option: option that takes the preset.
        payload: function from a packet to the number of its bytes that carry the picture, without stream headers.
        guide: whether the decoder exports the coding decisions (:class:`~diffcodec.h264.Guide`).
        fixed: options always given: one thread, so that results do not depend on the machine, and no log output.
        params: the encoder's own option string, into which ``fixed`` and the caller's options are joined.
        least: smallest height and width that is coded safely; smaller frames are padded and cropped back.
        integer: whether CRFs are whole numbers (the encoder truncates others silently).
        profiles: profiles for 8-bit 4:2:0.
        tunes: allowed tunes; empty where the encoder itself refuses those that it does not know.
        realtime: presets that differ from the one before them with ``deadline=realtime`` only.
        lacks: arguments of :class:`~diffcodec.RealCodec` that it has nothing for, and what to do instead.
        generic: those of ffmpeg's options for all codecs (:data:`GENERIC`) that it takes notice of, as measured
            (``tests/real/test_encoders.py``). ffmpeg accepts the others for every codec, without effect.
        flags: those of the option ``flags``.
        ignored: options of its own that have no effect as it is run here.
    """

    decoder: str
    crf: tuple[float, float]
    presets: tuple[str, ...]
    default_preset: str
    preset_option: str
    payload: Callable[[bytes], int]
    guide: bool = False
    fixed: dict[str, str] = field(default_factory=dict)
    params: str = ""
    least: int = 2
    integer: bool = False
    profiles: tuple[str, ...] = ("main",)
    tunes: tuple[str, ...] = ()
    realtime: tuple[str, ...] = ()
    lacks: Mapping[str, str] = field(default_factory=dict)
    generic: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()


def _nal_units(data: bytes) -> list[bytes]:
    """NAL units of an Annex B byte stream (ITU-T H.264, B.1), without start codes."""
    starts = [m.end() for m in re.finditer(b"\x00\x00\x01", data)]
    ends = [s - 3 for s in starts[1:]] + [len(data)]
    return [data[s:e].rstrip(b"\x00") for s, e in zip(starts, ends)]


def _h264_payload(data: bytes) -> int:
    """Bytes of coded slices: NAL types 1 and 5. Parameter sets and SEI are 9 to 43 % of very short clips."""
    return sum(len(n) for n in _nal_units(data) if n and n[0] & 31 in (1, 5))


def _hevc_payload(data: bytes) -> int:
    """Bytes of coded slices: VCL NAL types 0..31."""
    return sum(len(n) for n in _nal_units(data) if n and (n[0] >> 1) & 63 < 32)


def _av1_payload(data: bytes) -> int:
    """Bytes of OBUs of type frame header (3), tile group (4), frame (6) (AV1 specification, 5.3)."""
    total = at = 0
    while at < len(data):
        header, start = data[at], at
        at += 2 if header & 4 else 1
        size = shift = 0
        if header & 2:  # obu_has_size_field: leb128
            while True:
                byte = data[at]
                at += 1
                size |= (byte & 127) << shift
                shift += 7
                if not byte & 128:
                    break
        else:
            size = len(data) - at
        at += size
        if (header >> 3) & 15 in (3, 4, 6):
            total += at - start
    return total


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: ffmpeg's options for all codecs (libavcodec/options_table.h), by which it takes an option for known whether or not the encoder looks at it.
GENERIC = _names(
    """
    b ab bt flags flags2 export_side_data time_base g ar cutoff frame_size frame_number delay qcomp qblur qmin qmax qdiff bf b_qfactor codec_tag bug
    strict b_qoffset err_detect has_b_frames block_align rc_override_count maxrate minrate bufsize i_qfactor i_qoffset dct lumi_mask tcplx_mask
    scplx_mask p_mask dark_mask idct ec bits_per_coded_sample aspect sar debug dia_size last_pred pre_dia_size subq me_range global_quality
    slice_flags mbd rc_init_occupancy threads dc nssew skip_top skip_bottom profile level lowres cmp subcmp mbcmp ildctcmp precmp mblmin mblmax
    skip_loop_filter skip_idct skip_frame bidir_refine keyint_min refs trellis mv0_threshold compression_level bits_per_raw_sample ch_layout
    rc_max_vbv_use rc_min_vbv_use color_primaries color_trc colorspace color_range chroma_sample_location alpha_mode log_level_offset slices
    thread_type audio_service_type request_sample_fmt pkt_timebase sub_charenc sub_charenc_mode apply_cropping skip_alpha field_order
    dump_separator codec_whitelist pixel_format video_size max_pixels max_samples hwaccel_flags extra_hw_frames discard_damaged_percentage
    side_data_prefer_packet
    """
)
_H26X = _names("g qcomp qmin qmax qdiff bf b_qfactor i_qfactor aspect sar rc_init_occupancy profile keyint_min refs chroma_sample_location")

#: Encoders by PyAV's name: libx264, libx265, libvpx-vp9, libsvtav1.
ENCODERS: dict[str, Encoder] = {
    "libx264": Encoder(
        "h264", (0, 51), X264_PRESETS, "medium", "preset", _h264_payload, guide=True, params="x264-params", profiles=("baseline", "main", "high"),
        generic=_H26X | {"subq", "me_range", "level", "cmp", "trellis", "slices"}, flags=frozenset(("cgop", "ildct")),
    ),
    # x265 4.2 was seen to corrupt memory at 18 x 34 and to refuse frames below 16 x 16
    "libx265": Encoder(
        "hevc", (0, 51), X264_PRESETS, "medium", "preset", _hevc_payload,
        fixed={"log-level": "none", "pools": "none", "frame-threads": "1"}, params="x265-params", least=64,
        generic=_H26X, flags=frozenset(("cgop",)),
    ),
    "libvpx-vp9": Encoder(
        "vp9", (0, 63), tuple(map(str, range(9))), "4", "cpu-used", len, fixed={"row-mt": "0"}, integer=True, profiles=("0",),
        tunes=("psnr", "ssim"), realtime=("6", "7", "8"),
        lacks={"bframes": "VP9 has no B frames; leave it out"},
        generic=_names("g qmin qmax minrate rc_init_occupancy profile level"),
        # alternative references and what is decided for them need two passes
        ignored=_names(
            "arnr-maxframes arnr-strength arnr-type arnr_max_frames arnr_strength arnr_type corpus-complexity enable-tpl noise-sensitivity"
            " vp8flags"
        ),
    ),
    "libsvtav1": Encoder(
        "libdav1d", (1, 63), tuple(map(str, range(12))), "8", "preset", _av1_payload,
        fixed={"lp": "1"}, params="svtav1-params", least=64, integer=True, profiles=("main", "0"), tunes=("0", "1", "2", "3"),
        lacks={
            "bframes": "its prediction structure is set by options={'svtav1-params': 'pred-struct=1'} (without later frames) or hierarchical-levels",
            "bufsize": "its cap of a CRF has no buffer; give maxrate alone",
        },
        generic=_names("g qmin qmax profile level chroma_sample_location"),
    ),
}  # fmt: skip

# Options that would silently undo the arguments, change what the picture means, or write files
_PICTURE = (
    "it would change the meaning of the decoded picture: frames are coded in 8 bits, 4:2:0, BT.601, limited range; convert the video before"
)
_OURS = (
    dict.fromkeys(("crf", "preset", "cpu-used", "speed", "fps"), "use the argument of RealCodec")
    | dict.fromkeys(("b", "ab", "maxrate", "bufsize"), "use the arguments bitrate, maxrate and bufsize of RealCodec")
    | dict.fromkeys(("vbv-maxrate", "vbv-bufsize"), "use the arguments maxrate and bufsize of RealCodec")
    | dict.fromkeys(
        ("qp", "bitrate", "lossless", "time_base", "framerate", "rc", "tbr", "mbr"), "RealCodec codes at constant CRF or bitrate, at constant fps"
    )
    | dict.fromkeys(("threads", "pools", "frame-threads", "lp", "row-mt"), "one thread per clip keeps results the same on every machine")
    | dict.fromkeys(
        ("pix_fmt", "pixel_format", "color_range", "colorspace", "color_primaries", "color_trc", "range", "fullrange", "colormatrix", "colorprim",
         "transfer", "input-csp", "output-csp", "input-depth", "output-depth", "color-range", "matrix-coefficients", "color-primaries",
         "transfer-characteristics", "color-format", "crop-rect", "s", "video_size", "lowres"),
        _PICTURE,
    )
    | dict.fromkeys(("pass", "stats", "passlogfile", "2pass", "multi-pass-opt-analysis", "csv", "analysis-save", "dump-yuv"), "one pass, no files")
)  # fmt: skip
_PARAMS = ("x264-params", "x264opts", "x265-params", "svtav1-params")  # options that hold the encoder's own
REFUSED = re.compile(r"error parsing|unknown option|invalid (?:value|option)|bad value|not found", re.IGNORECASE)  # in an encoder's log


def check_options(encoder: str, options: Mapping[str, str]) -> None:
    """Refuse options by ffmpeg's name that are not the caller's to set, or that the encoder would pass over.

    Raises:
        ValueError: the first such option.
    """
    spec = ENCODERS[encoder]
    inner = [p.partition("=")[::2] for key in _PARAMS for p in options.get(key, "").split(":")]
    for name, value in [*options.items(), *inner]:
        if name in _OURS:
            raise ValueError(f"options holds {name}={value!r}, which is not free: {_OURS[name]}")
        if name == "flags" and "pass" in value:
            raise ValueError(f"options holds {name}={value!r}, which is not free: {_OURS['pass']}")
        if name == "profile" and value not in spec.profiles:
            raise ValueError(f"options holds profile={value!r}; {encoder} codes 8-bit 4:2:0 in {', '.join(spec.profiles)}")
    for name, value in options.items():
        if name == "tune" and spec.tunes and value not in spec.tunes:
            raise ValueError(f"{encoder} has no tune {value!r}: expected {' or '.join(map(repr, spec.tunes))}")
        own = f"its own options go into {spec.params}" if spec.params else f"ffmpeg -h encoder={encoder} lists its own options"
        if (name in GENERIC and name not in spec.generic | {"flags"}) or name in spec.ignored:
            raise ValueError(f"{encoder} ignores the option {name}={value!r}: leave it out ({own})")
        if name == "flags" and (left := sorted(set(re.findall(r"\w+", value)) - spec.flags)):
            raise ValueError(f"{encoder} ignores flags={', '.join(left)}: leave them out ({own})")


def limits_of_rate(encoder: str, bitrate: bool, maxrate: float | str | None, bufsize: float | str | None) -> None:
    """Refuse limits of the rate that an encoder would pass over.

    Raises:
        ValueError: one of both is missing where they belong together, or the encoder has no such limit.
    """
    given = f"maxrate={maxrate!r}, bufsize={bufsize!r}"
    if "bufsize" in ENCODERS[encoder].lacks:
        if bufsize is not None:
            raise ValueError(f"{encoder} has no bufsize, got {given}: {ENCODERS[encoder].lacks['bufsize']}")
        if maxrate is not None and bitrate:
            raise ValueError(f"{encoder} has a limit of the rate with crf only, got a bitrate and {given}: leave maxrate out")
    elif (maxrate is None) != (bufsize is None):
        raise ValueError(f"maxrate and bufsize belong together, got {given}")
    if encoder == "libvpx-vp9" and maxrate is not None and not (isinstance(maxrate, str) and float(maxrate[:-1]) == 1):
        raise ValueError(
            f"{encoder} in one pass has no limit above the bitrate, got {given}: maxrate='1x' with a bitrate (constant bitrate), or leave both out"
        )
