"""Attacks of one pass over the video."""
