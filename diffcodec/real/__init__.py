"""Real codecs: encoders through PyAV and libjpeg through Pillow, with a choice of surrogate gradients."""

from .av_codec import ENCODERS, RealCodec
from .jpeg import RealJPEG

__all__ = ["ENCODERS", "RealCodec", "RealJPEG"]
