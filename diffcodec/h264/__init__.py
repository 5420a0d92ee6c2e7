"""H.264: the differentiable simulators."""

from .codec import DiffH264
from .gop import Gop, middle, pattern
from .guide import Guide
from .habits import PRESETS, Constants, Preset, calibration
from .revmark import REVMarkH264
from .x264 import X264H264

__all__ = [
    "PRESETS",
    "X264H264",
    "Constants",
    "DiffH264",
    "Gop",
    "Guide",
    "Preset",
    "REVMarkH264",
    "calibration",
    "middle",
    "pattern",
]
