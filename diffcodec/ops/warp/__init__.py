"""Bilinear motion compensation."""
