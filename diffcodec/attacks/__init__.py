"""Attacks as layers: temporal, geometric and photometric, and mixtures of them."""

from .compose import Compose, Identity, RandomDistortion, revmark_distortion
from .photometric import Brightness, ColorDither, Contrast, Hue, Saturation
from .spatial import Flip, GaussianBlur, GaussianNoise, MedianFilter, Perspective, RandomCrop, Resize, Rotate
from .temporal import FrameAverage, FrameDrop, FrameInsert, FrameRate, FrameSwap

__all__ = [
    "Brightness",
    "ColorDither",
    "Compose",
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
    "MedianFilter",
    "Perspective",
    "RandomCrop",
    "RandomDistortion",
    "Resize",
    "Rotate",
    "Saturation",
    "revmark_distortion",
]
