"""Real codecs: encoders through PyAV and libjpeg through Pillow, with a choice of surrogate gradients."""

from .av_codec import RealCodec
from .encoders import ENCODERS
from .jpeg import RealJPEG

__all__ = ["ENCODERS", "RealCodec", "RealJPEG"]
