"""H.264: the differentiable simulators."""

from .codec import DiffH264
from .revmark import REVMarkH264

__all__ = ["DiffH264", "REVMarkH264"]
