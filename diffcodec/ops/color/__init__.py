"""Colour conversion of video codecs."""
