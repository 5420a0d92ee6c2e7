"""JPEG: tables, the differentiable codec, and HiDDeN's masks."""

from ..slopes import Expected
from .codec import DiffJPEG
from .masks import JPEGDrop, JPEGMask
from .tables import CHROMA, LUMA, quality_tables, scale_table

__all__ = ["CHROMA", "LUMA", "DiffJPEG", "Expected", "JPEGDrop", "JPEGMask", "quality_tables", "scale_table"]
