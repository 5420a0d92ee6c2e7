"""The gallery shows what there is."""

import inspect

import pytest

import diffcodec as dc
from diffcodec import report

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


@pytest.fixture(scope="module")
def clip():
    return report.load_clip(report.demo_clips()[0], 8, 128).video[None]


@pytest.mark.parametrize("title", [t for t in plot.GALLERY if t not in ("FrameDrop", "FrameInsert")])  # these leave most frames as they are
def test_strengths_look_different(title: str, clip) -> None:
    frames = [frame for _, frame in plot.through(title, clip)]
    for i, frame in enumerate(frames):
        assert all((frame - other).abs().mean() > 1e-3 for other in frames[:i])
