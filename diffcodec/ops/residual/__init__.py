"""Residual coding, with trellis."""
