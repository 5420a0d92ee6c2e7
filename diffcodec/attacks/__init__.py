"""Attacks as layers: on time, geometry and colour, and mixtures of them."""

from .compose import Identity, RandomDistortion, revmark_distortion
from .photometric import Brightness, ColorDither, Contrast, Hue, Saturation
from .spatial import Flip, GaussianBlur, GaussianNoise, RandomCrop, Resize, Rotate
from .temporal import FrameAverage, FrameDrop, FrameInsert, FrameRate, FrameSwap

__all__ = [
    "Brightness",
    "ColorDither",
    "Contrast",
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
    "RandomCrop",
    "RandomDistortion",
    "Resize",
    "Rotate",
    "Saturation",
    "revmark_distortion",
]
