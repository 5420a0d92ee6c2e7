"""Attacks that are a single pass over the video."""
