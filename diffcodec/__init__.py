"""Differentiable codecs and attacks for training watermarks that survive real compression.

Video is ``[B, T, 3, H, W]``, RGB in [0, 1], floating point; images ``[B, 3, H, W]``. Every layer is an ``nn.Module`` from video to video.
"""

from . import _start  # noqa: F401  # isort: skip  # first: it handles Ctrl-C while the other imports take seconds
from . import attacks, blocks, color, derivatives, fidelity, media, metrics, motion, rounding, transform
from .adapt import adapt
from .attacks import *
from .backend import backends
from .checks import validate
from .clips import Clips
from .coded import Coded
from .config import build, build_all
from .h264 import DiffH264
from .images import read_image
from .jpeg import DiffJPEG, JPEGDrop, JPEGMask
from .layer import Codec, Layer
from .proxy import CompNet
from .real import RealCodec, RealJPEG
from .strength import Choice, Ramp, Steps
from .video import VideoError, read_video, video_info, write_video

__version__ = "0.1.0"

__all__ = [
    "Choice",
    "Clips",
    "Codec",
    "Coded",
    "CompNet",
    "DiffH264",
    "DiffJPEG",
    "JPEGDrop",
    "JPEGMask",
    "Layer",
    "Ramp",
    "RealCodec",
    "RealJPEG",
    "Steps",
    "VideoError",
    "adapt",
    "attacks",
    "backends",
    "blocks",
    "build",
    "build_all",
    "color",
    "derivatives",
    "fidelity",
    "media",
    "metrics",
    "motion",
    "read_image",
    "read_video",
    "rounding",
    "transform",
    "validate",
    "video_info",
    "write_video",
]
__all__ += attacks.__all__
