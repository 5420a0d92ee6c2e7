"""Presets and stored constants."""

from __future__ import annotations

import json

import pytest

from diffcodec.h264.presets import FAMILIES, Constants, calibration


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
