"""The truth: encoders through PyAV and libjpeg through Pillow, with a choice of stand-in gradients."""

from .av_codec import ENCODERS, RealCodec
from .jpeg import RealJPEG

__all__ = ["ENCODERS", "RealCodec", "RealJPEG"]
