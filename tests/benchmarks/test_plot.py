"""The gallery shows what there is."""

import inspect

import pytest

import diffcodec as dc

plot = pytest.importorskip("benchmarks.plot")
UNSEEN = {
    "Layer",
    "Codec",
    "Identity",
    "RandomDistortion",
    "Compose",
    "CompNet",
}  # bases, mixtures, nothing to see, or what it was fitted to


def test_every_codec_and_attack_is_in_the_gallery() -> None:
    layers = {n for n in dc.__all__ if inspect.isclass(getattr(dc, n)) and issubclass(getattr(dc, n), dc.Layer)}
    assert {title.partition("(")[0] for title in plot.GALLERY} == layers - UNSEEN
