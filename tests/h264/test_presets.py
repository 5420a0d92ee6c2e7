"""Presets and stored constants."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import natural

import diffcodec as dc
from diffcodec.h264.options import habits
from diffcodec.h264.presets import FAMILIES, PRESETS, Constants, FittedTo, calibration, constants_of


def test_constants_are_stored() -> None:
    for family in FAMILIES:
        stored = calibration(family)
        constants = Constants.from_dict(stored["constants"])
        assert json.loads(json.dumps(constants.to_dict())) == stored["constants"]
        assert constants.quant.trellis is not None
        for weight in (constants.quant.trellis.intra, constants.quant.trellis.inter):  # x264's own are 1
            assert abs(weight - 1) < 0.15
        assert abs(constants.qp) < 0.2
    with pytest.raises(ValueError, match="fastest"):
        calibration("fastest")
    with pytest.raises(TypeError, match="colour"):
        Constants.from_dict(Constants().to_dict() | {"colour": 1})


def settings_of(**asked: Any) -> tuple[dict[str, Any], Constants]:
    """A layer's arguments and constants as ``benchmarks.calibrate`` writes them for these."""
    fitted = FittedTo("libx264", asked.get("preset", "medium"), {k: v for k, v in asked.items() if k != "preset"})
    return asked, replace(constants_of(PRESETS["medium"]), qp=0.1, fitted_to=fitted)


def test_constants_serve_the_settings_they_were_fitted_to(tmp_path: Path) -> None:
    asked, constants = settings_of(tune="grain")
    file = tmp_path / "grain.json"
    entry = {"name": "libx264", "preset": "medium", "options": {"tune": "grain"}}
    file.write_text(json.dumps({"encoder": entry, "constants": replace(constants, fitted_to=None).to_dict()}))
    assert Constants.load(file) == constants == Constants.from_dict(json.loads(json.dumps(constants.to_dict())))
    layer = dc.DiffH264(23, constants=constants, **asked)
    assert "constants=Constants(libx264, preset=medium, tune=grain)" in repr(layer)
    assert "constants" not in repr(dc.DiffH264(23, **asked))
    x = natural(1, 3, 32, 48)
    for same in (dc.build(layer.config()), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert same.constants == constants
        assert repr(same) == repr(layer)
        assert torch.equal(same(x), layer(x))
    assert not torch.equal(dc.DiffH264(23, **asked)(x), layer(x))
    dc.RandomDistortion([layer, dc.DiffH264(30)])(x)
    # settings count, not their spelling
    dc.DiffH264(23, options={"tune": "grain"}, constants=constants)
    dc.DiffH264(23, preset=habits("medium", tune="grain"), constants=constants)


@pytest.mark.parametrize(
    "asked",
    [{}, {"tune": "film"}, {"preset": "fast", "tune": "grain"}, {"tune": "grain", "bframes": 1}, {"tune": "grain", "options": {"aq-strength": 2}}],
    ids=str,
)  # fmt: skip
def test_constants_of_other_settings_are_an_error(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"fitted to libx264, preset=medium, tune=grain: give") as said:
        dc.DiffH264(23, constants=settings_of(tune="grain")[1], **asked)
    for name, value in asked.items():
        assert f"{name}={value!r}" in str(said.value)
    assert "\n" not in str(said.value)


def test_constants_of_another_encoder_preset_or_made_by_hand() -> None:
    stored = Constants.from_dict(calibration("ultrafast")["constants"])
    with pytest.raises(ValueError, match=r"preset='medium'\) got constants fitted to libx264, preset=ultrafast:"):
        dc.DiffH264(23, constants=stored)
    assert "Constants(libx264, preset=ultrafast)" in repr(dc.DiffH264(23, "ultrafast", constants=stored))
    hevc = replace(
        stored, fitted_to=FittedTo("libx265", "medium", {"x265-params": "sao=0", "bf": 3})
    )  # what the model lacks is in the constants
    assert dc.DiffH264(23, constants=hevc).constants is hevc
    own = dc.DiffH264(23, tune="film", constants=Constants(qp=0.3))  # of any settings
    assert "constants=Constants(custom)" in repr(own)
    assert dc.build(own.config()).constants == own.constants


def test_files_of_constants(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps({"constants": Constants().to_dict()}))
    assert Constants.load(file).fitted_to is None
    for text in ("[]", "{}", "no json", '{"constants": {"quant": {"colour": 1}, "rate": {}}}'):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"old\.json is no file of constants"):
            Constants.load(file)
