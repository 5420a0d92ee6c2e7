"""Motion estimators (one per file) and motion compensation.

An estimator is any callable ``(current, reference) -> flow``: frames ``[N, 3, H, W]`` in [0, 1], flow ``[N, 2, H, W]`` in pixels (x, y).
"""

from .block import BlockMotion, NoMotion
from .spynet import SPyNet
from .warp import warp

__all__ = ["BlockMotion", "NoMotion", "SPyNet", "warp"]
