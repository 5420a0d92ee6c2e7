"""Layers as data, and back."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import natural
from test_contract import LAYERS

import diffcodec as dc
from diffcodec import config


class Shift(dc.Layer):
    """A layer of somebody else's."""

    def __init__(self, by: float = 0.1, *, also: object = None) -> None:
        super().__init__()
        self.by = by

    def distort(self, video, draw):  # type: ignore[no-untyped-def]
        return video + self.by


def half(step: int) -> float:
    return 0.5


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_every_layer_comes_back_from_its_description(make: Callable[[], dc.Layer]) -> None:
    layer = make()
    data = json.loads(json.dumps(layer.config()))
    again = dc.build(data)
    assert type(again) is type(layer)
    assert again.config() == layer.config()
    if not isinstance(layer, dc.CompNet):  # its weights are drawn
        x = natural(2, 3, 24, 32)
        draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
        assert torch.equal(again(x, draw), layer(x, draw))


@pytest.mark.parametrize(
    "layer",
    [
        dc.DiffJPEG(dc.Choice([30, 50, 90], [1, 2, 1])),
        dc.GaussianNoise(dc.Ramp(0.0, 0.1, 10, 20)),
        dc.GaussianNoise(dc.Ramp((0.0, 0.1), (0.1, 0.3), 10, 20)),
        dc.FrameDrop(dc.Steps({0: 0.1, 100: (0.2, 0.5)})),
        dc.FrameDrop(half),
        dc.DiffH264(crf=torch.tensor([20.0, 30.0]), preset="veryfast", options={"aq-mode": 0}, tune="film"),
        dc.DiffH264(23, gop=dc.h264.Gop("IPPP"), fps="30000/1001"),
        dc.DiffH264(model="revmark", motion=dc.motion.BlockMotion(block=16), rounding=dc.rounding.soft),
        dc.DiffH264(model="revmark", motion=dc.motion.SPyNet(levels=2)),
        dc.DiffJPEG(50, gradient=dc.slopes.Expected("gaussian", 5.0)),
        dc.RealCodec("libx264", crf=(18, 34), preset="ultrafast", gradient=dc.DiffH264(preset="ultrafast")),
        dc.RandomDistortion([dc.Identity(), dc.FrameDrop()], dc.Ramp([1, 0], [1, 3], 0, 10), per="sample"),
        dc.RandomDistortion([dc.Identity(), dc.Compose([dc.Flip(1.0), torch.nn.Identity()])], dc.Steps({0: [1, 0], 9: [1, 1]})),
        Shift(0.2),
    ],
    ids=repr,
)
def test_strengths_schedules_and_objects_come_back(layer: dc.Layer) -> None:
    again = dc.build(json.loads(json.dumps(layer.config())))
    assert again.config() == layer.config()
    for step in (0, 15, 200):
        draws = [one.sample((2, 4, 3, 16, 16), torch.Generator().manual_seed(step), step=step) for one in (layer, again)]
        torch.testing.assert_close(draws[0], draws[1], atol=0, rtol=0)


def test_copies_keep_what_they_were_made_with() -> None:
    layer = dc.Compose([dc.DiffJPEG((20, 40)), dc.DiffH264(30)])
    for one in (pickle.loads(pickle.dumps(layer)), layer.at(quality=25)):
        assert one.config()["layers"][1] == layer.config()["layers"][1]
    assert layer.at(quality=25).config()["layers"][0]["quality"] == 25
    assert layer.config()["layers"][0]["quality"] == [20, 40]


def test_signatures_are_those_of_the_layers() -> None:
    assert list(inspect.signature(dc.FrameDrop).parameters) == ["p", "keep_length", "backend"]
    assert list(inspect.signature(Shift).parameters) == ["by", "also"]
    assert not inspect.signature(dc.Identity).parameters


def test_what_differs_from_the_defaults_is_kept() -> None:
    for codec in (dc.RealCodec("libx264", crf=22, gradient=None), dc.RealJPEG(50, gradient=None)):
        assert dc.build(codec.config()).gradient is None
    assert dc.DiffJPEG().config()["quality"] == 75
    assert dc.RandomDistortion([dc.DiffH264()]).at(crf=40).config()["layers"][0]["crf"] == 40
    data = dc.DiffJPEG(dc.Choice(np.arange(30, 90, 20))).config()  # type: ignore[arg-type]
    assert json.loads(json.dumps(data)) == data
    assert config.parse("x264:crf=08-34")[1]["crf"] == (8, 34)


def test_what_has_no_name_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"FrameDrop\.p: .*lambda.* has no name that it can be imported by"):
        dc.FrameDrop(lambda step: 0.5).config()
    with pytest.raises(TypeError, match="weights of its own"):
        dc.Compose([torch.nn.Linear(2, 2)]).config()
    for module in (torch.nn.Dropout(0.9), torch.nn.AvgPool2d(3, 1, 1), torch.nn.Sequential(torch.nn.ReLU())):
        with pytest.raises(TypeError, match="does not keep its arguments"):
            dc.Compose([module]).config()


def test_strings() -> None:
    assert config.parse("jpeg:quality=50,subsampling=4:4:4") == ("jpeg", {"quality": 50, "subsampling": "4:4:4"})
    assert config.parse("jpeg:quality=(10,90),rounding=soft") == ("jpeg", {"quality": (10, 90), "rounding": "soft"})
    assert config.parse("x264:crf=18-34.5,preset=medium")[1] == {"crf": (18, 34.5), "preset": "medium"}
    assert config.parse("x264:crf=28|34|40")[1]["crf"] == dc.Choice([28, 34, 40])
    assert config.parse("Hue:turn=-0.1-0.2")[1]["turn"] == (-0.1, 0.2)
    assert config.parse("GaussianNoise:sigma=1e-3")[1]["sigma"] == 1e-3
    assert config.parse("libvpx-vp9:crf=36,preset='4'") == ("libvpx-vp9", {"crf": 36, "preset": "4"})
    assert "'slow'" in repr(dc.build("libx264:crf=30", preset="slow"))
    assert "'fast'" in repr(dc.build("libx264:crf=30,preset=fast", preset="slow"))
    assert isinstance(dc.build(f"{__name__}:Shift:by=0.3"), Shift)
    assert dc.build(f"{__name__}:Shift:by=0.3").config() == {"name": f"{__name__}:Shift", "by": 0.3}
    layer = dc.Flip()
    assert dc.build(layer) is layer
    assert config.parse("Foo:a=[(1,2),(3,4)],b='x,y',c={1: (2,3)}")[1] == {"a": [(1, 2), (3, 4)], "b": "x,y", "c": {1: (2, 3)}}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("h264", "did you mean 'x264'"),
        ("x265:crf=28", "did you mean 'libx265'"),
        ("framedrop", "did you mean 'FrameDrop'"),
        ("GausianNoise", "did you mean 'GaussianNoise'"),
        ("jpeg:colour=1", "colour"),
        ("jpeg:quality", "expected name:option=value"),
        ("x264:crf=99", "got 99"),
        ("no.such.module:Thing", "cannot be imported"),
        ("torch.nn:Identity", "is a Identity, not a layer"),
        ({"crf": 23}, "with 'name', got one with 'crf'"),
        ({"name": "FrameDrop", "p": {"choice": []}}, r"FrameDrop\.p: Choice expected at least one"),
        ({"name": "FrameDrop", "p": {"ramp": [0, 1], "begin": 3}}, "'begin' cannot be combined with 'ramp'"),
        ({"name": "RandomDistortion", "layers": ["FrameDrop", "DiffJPEG:quality=0"]}, "quality expected to lie"),
        (["x264", "jpeg"], "several layers are a RandomDistortion or a Compose"),
        ({"augs": {"stable_diffusion_vae": 1}}, "'stable_diffusion_vae' has no layer here"),
        ({"augs": {"identity": 0}}, "every share is 0"),
        ({"augs": ["jpeg"]}, "augs expected a mapping"),
        ({"augs": {"jpeg": 1}, "augs_params": {"jpeg": {"max_qualty": 50}}}, "jpeg has no 'max_qualty'; it takes min_quality"),
        ({"augs": {"jpeg": 1}, "augs_params": {"jepg": {}}}, "'jepg' is not in augs"),
        ({"augs": {"jpeg": 1}, "aug_params": {}}, "'aug_params' is no key"),
        ({"a": {"func": "x.JPEG", "args": [0.5]}}, "args expected a mapping"),
        ({"name": "FrameDrop", "p": {"ramp": 5}}, r"ramp expected \[first, last\]"),
        ({"name": "FrameDrop", "p": {"steps": [1, 2]}}, "steps expected a mapping"),
        (
            {"name": "RandomDistortion", "layers": ["none", "jpeg"], "weights": {"ramp": [[1], [1]], "start": 0, "stop": 9}},
            "2 numbers, one per layer",
        ),
        ({"augs": {"identity": 1}, "masks": {"kind": "mixed"}}, "masks of kind 'mixed'"),
        ({"a": {"func": "x.overlay_text"}}, "'overlay_text' has no layer here"),
        ({"a": {"func": "x.JPEG", "args": {"quality": [50], "passthrough": [1]}}}, "JPEG expected values of one argument"),
        ({"a": {"func": "x.H264_Crop", "args": {"xargs": [5]}}}, "int"),
        ({"augs": {"identity": 1}, "masks": "none"}, "'str' object"),
        ({"augs": {"identity": 1}, "num_augs": None}, "NoneType"),
        ({"augs": {"rotate": 1}, "augs_params": {"rotate": {"min_angle": "a"}}}, "'a'"),
        ({"name": "FrameDrop", "p": {"values": "ab"}}, r"FrameDrop\.p: values expected a list of numbers, got 'ab'"),
        ({"name": "FrameDrop", "p": {"values": [None]}}, "values expected a list of numbers"),
        ({"name": "FrameDrop", "p": {"steps": {"x": 1}}}, r"FrameDrop\.p: steps expected whole numbers, got 'x'"),
        ({"name": "FrameDrop", "p": {"choice": [[0.1, 0.2]]}}, "Choice expected numbers"),
    ],
)
def test_wrong_descriptions_are_named(spec: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dc.build(spec)  # type: ignore[arg-type]


def test_files(tmp_path: Path) -> None:
    mixture = {"name": "RandomDistortion", "layers": ["x264:crf=18-34", {"name": "FrameDrop", "p": "0.2-0.5"}], "weights": [3, 1]}
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps(mixture))
    assert dc.build(path).config() == dc.build(str(path)).config() == dc.build(mixture).config()
    assert dc.build(mixture).config()["layers"][1]["p"] == [0.2, 0.5]
    path.write_text("{")
    with pytest.raises(ValueError, match=r"mixture\.json: no JSON"):
        dc.build(path)
    yaml = pytest.importorskip("yaml")
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump(mixture))
    assert dc.build(path).config() == dc.build(mixture).config()
    path.write_text("a: [")
    with pytest.raises(ValueError, match="no YAML"):
        dc.build(path)
    with pytest.raises(FileNotFoundError):
        dc.build(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="or a file of them"):
        dc.build_all("x264")


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("shift", f"{__name__}:Shift", config.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == config.GROUP else [])
    assert isinstance(dc.build("shift:by=0.5"), Shift)


# as VideoSeal's configs/all_augs_v3.yaml has it
VIDEOSEAL = {
    "masks": {"kind": "none"},
    "augs": {
        "identity": 1, "jpeg": 1, "resize": 1, "crop": 1, "rotate": 1, "hflip": 1, "perspective": 1, "gaussian_blur": 1, "median_filter": 1,
        "brightness": 1, "contrast": 1, "saturation": 1, "hue": 1, "h264": 1, "h265": 1, "stable_diffusion_vae": 0,
    },
    "augs_params": {
        "resize": {"min_size": 0.7, "max_size": 1.5},
        "crop": {"min_size": 0.5, "max_size": 1.0},
        "rotate": {"min_angle": -10, "max_angle": 10, "do90": True},
        "perspective": {"min_distortion_scale": 0.1, "max_distortion_scale": 0.5},
        "jpeg": {"min_quality": 40, "max_quality": 80},
        "gaussian_blur": {"min_kernel_size": 3, "max_kernel_size": 17},
        "median_filter": {"min_kernel_size": 3, "max_kernel_size": 7},
        "brightness": {"min_factor": 0.5, "max_factor": 2},
        "contrast": {"min_factor": 0.5, "max_factor": 2.0},
        "saturation": {"min_factor": 0.5, "max_factor": 2},
        "hue": {"min_factor": -0.1, "max_factor": 0.1},
        "h264": {"min_crf": 28, "max_crf": 40},
        "h265": {"min_crf": 28, "max_crf": 40},
    },
}  # fmt: skip


def test_videoseals_form() -> None:
    layer = dc.build(VIDEOSEAL)
    assert isinstance(layer, dc.RandomDistortion)
    data = {one["name"]: one for one in layer.config()["layers"]}
    assert data["DiffH264"]["crf"] == [28, 40]
    assert data["GaussianBlur"]["sigma"] == [0.8, 2.9]
    assert len(layer.layers) == 15
    named = dc.build_all(VIDEOSEAL)
    x = natural(1, 2, 32, 48)
    for name, one in named.items():
        y = one(x, generator=torch.Generator().manual_seed(0))
        assert y.shape == x.shape, name
    two = dc.build(VIDEOSEAL | {"num_augs": 2})
    assert isinstance(two, dc.Compose)
    assert two(x).shape == x.shape
    old = dc.build({"augs": {"video_compression": 1}, "augs_params": {"video_compression": {"crf_values": [28, 34, 40, 46]}}})
    assert old.config()["layers"][0]["crf"] == {"choice": [28, 34, 40, 46]}
    other = dc.build({"augs": {"video_compression": 1}, "augs_params": {"video_compression": {"codec": "libx265"}}})
    assert isinstance(other.layers[0], dc.RealCodec)
    assert other.config()["layers"][0]["crf"]["choice"] == [28, 34, 40, 46]
    with pytest.warns(UserWarning, match="h264rgb has no simulator"):
        dc.build({"augs": {"h264rgb": 1}})


def test_omnisealbenchs_list() -> None:
    spec = {
        "HorizontalFlip": {"func": "omnisealbench.attacks.geometric.HorizontalFlip"},
        "Rotate": {"func": "omnisealbench.attacks.geometric.Rotate", "args": {"angle": [10, 90]}},
        "Perspective": {"func": "omnisealbench.attacks.geometric.Perspective", "args": {"distortion_scale": [0.5]}},
        "GaussianBlur": {"func": "omnisealbench.attacks.valuemetric.GaussianBlur", "args": {"kernel_size": [9]}},
        "Grayscale": {"func": "omnisealbench.attacks.valuemetric.Grayscale"},
        "brightness": {"func": "omnisealbench.attacks.image_effects.adjust_brightness", "args": {"brightness_factor": [0.5]}},
        "H264": {"func": "omnisealbench.attacks.video.H264", "args": {"crf": [23, 50]}, "device": "cpu"},
        "VP9": {"func": "omnisealbench.attacks.video.VP9", "args": {"crf": [-1]}},
        "H264_Crop_Brightness0": {"func": "omnisealbench.attacks.mixed_video.H264_Crop_Brightness", "args": {"xargs": [[23, 0.71, 0.5]]}},
    }
    layers = dc.build_all(spec)
    assert list(layers)[:3] == ["HorizontalFlip", "Rotate angle=10", "Rotate angle=90"]
    assert len(layers) == 11
    x = natural(1, 2, 32, 48)
    for name, layer in layers.items():
        assert layer(x).shape == x.shape, name
    assert layers["GaussianBlur kernel_size=9"].config()["sigma"] == 1.7
    mixed = layers["H264_Crop_Brightness0 [23, 0.71, 0.5]"].config()["layers"]
    assert [one["name"] for one in mixed] == ["DiffH264", "RandomCrop", "Brightness"]
    assert math.isclose(float(layers["brightness brightness_factor=0.5"](x).mean() / x.mean()), 0.5, rel_tol=1e-5)
    assert isinstance(dc.build(spec), dc.RandomDistortion)


def test_lists_in_descriptions() -> None:
    """A description knows no batch: two numbers are a range, more are an error that names both cures."""
    for spec in ({"name": "DiffJPEG", "quality": [30, 90]}, "DiffJPEG:quality=30-90", "DiffJPEG:quality=[30, 90]"):
        assert dc.build(spec).quality.value == (30, 90)
    for spec in ({"name": "DiffJPEG", "quality": [30, 50, 95]}, "DiffJPEG:quality=[30, 50, 95]"):
        with pytest.raises(ValueError, match=r"quality=\[30, 50, 95\]: a range is a list of two numbers.*'choice'.*'values'"):
            dc.build(spec)
    steps = dc.build({"name": "DiffJPEG", "quality": {"steps": {"0": [30, 90], "9": {"choice": [30, 90]}}}})
    assert dc.build(steps.config()).config() == steps.config()
    each = dc.build({"name": "DiffJPEG", "quality": {"values": [30, 90]}})
    assert each.sample((2, 3, 8, 8))["quality"].tolist() == [30, 90]
    assert dc.DiffJPEG([30, 90]).config() == each.config()
    assert dc.build("DiffJPEG", quality=[30, 90]).sample((2, 3, 8, 8))["quality"].tolist() == [30, 90]
