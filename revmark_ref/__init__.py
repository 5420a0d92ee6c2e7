"""REVMark (Zhang et al., ACM MM 2023) built from diffcodec parts: train, evaluate, embed, extract.

Example:
    >>> from revmark_ref import load, embed, extract
    >>> net, config = load("base")
    >>> embed(net, "in.mp4", "out.mp4", message="0123456789abcdef")
    >>> extract(net, "out.mp4").message
    '0123456789abcdef'
"""

import diffcodec  # noqa: F401  # first: Ctrl-C during the imports below then leaves no traceback

from .apply import detect, embed, extract
from .checkpoint import CheckpointError
from .config import PRESETS, Config, Model, Training
from .framing import MessageError
from .model import Detector, Discriminator, REVMark
from .predict import Prediction, UnreadableError
from .run import Plan
from .train import train
from .weights import load, load_detector

__all__ = [
    "PRESETS",
    "CheckpointError",
    "Config",
    "Detector",
    "Discriminator",
    "MessageError",
    "Model",
    "Plan",
    "Prediction",
    "REVMark",
    "Training",
    "UnreadableError",
    "detect",
    "embed",
    "extract",
    "load",
    "load_detector",
    "train",
]
