"""Intra prediction and the choice of modes."""
