"""Differentiable codecs and attacks for training watermarks that survive real compression.

Video is ``[B, T, 3, H, W]``, RGB in [0, 1], floating point; images ``[B, 3, H, W]``. Every layer is an ``nn.Module`` from video to video.
"""

from . import _start  # noqa: F401  # isort: skip  # first: it is for the seconds that the rest takes
from . import attacks, blocks, color, fidelity, media, metrics, motion, rounding, transform
from .adapt import adapt
from .attacks import (
    Brightness,
    ColorDither,
    Contrast,
    Flip,
    FrameAverage,
    FrameDrop,
    FrameInsert,
    FrameRate,
    FrameSwap,
    GaussianBlur,
    GaussianNoise,
    Hue,
    Identity,
    RandomCrop,
    RandomDistortion,
    Resize,
    Rotate,
    Saturation,
    revmark_distortion,
)
from .checks import validate
from .coded import Coded
from .h264 import DiffH264
from .jpeg import DiffJPEG, JPEGDrop, JPEGMask
from .layer import Codec, Layer
from .proxy import CompNet
from .real import RealCodec, RealJPEG
from .strength import Choice, Ramp
from .video import Clips, VideoError, read_image, read_video, video_info, write_video

__version__ = "0.1.0"

__all__ = [
    "Brightness",
    "Choice",
    "Clips",
    "Codec",
    "Coded",
    "ColorDither",
    "CompNet",
    "Contrast",
    "DiffH264",
    "DiffJPEG",
    "Flip",
    "FrameAverage",
    "FrameDrop",
    "FrameInsert",
    "FrameRate",
    "FrameSwap",
    "GaussianBlur",
    "GaussianNoise",
    "Hue",
    "Identity",
    "JPEGDrop",
    "JPEGMask",
    "Layer",
    "Ramp",
    "RandomCrop",
    "RandomDistortion",
    "RealCodec",
    "RealJPEG",
    "Resize",
    "Rotate",
    "Saturation",
    "VideoError",
    "adapt",
    "attacks",
    "blocks",
    "color",
    "fidelity",
    "media",
    "metrics",
    "motion",
    "read_image",
    "read_video",
    "revmark_distortion",
    "rounding",
    "transform",
    "validate",
    "video_info",
    "write_video",
]
