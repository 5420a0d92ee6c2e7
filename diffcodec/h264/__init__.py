"""H.264: the differentiable simulators."""

from .codec import DiffH264
from .gop import Gop
from .guide import Guide
from .revmark import REVMarkH264
from .x264 import X264H264

__all__ = ["X264H264", "DiffH264", "Gop", "Guide", "REVMarkH264"]
