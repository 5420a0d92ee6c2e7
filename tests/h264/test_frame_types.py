"""Frame types follow the content."""

from __future__ import annotations

import torch
from helpers import natural

from diffcodec.h264.lookahead import CostEstimator


def moving(speed: int, frames: int = 8) -> torch.Tensor:
    """Luma ``[frames, 64, 96]`` of a picture that moves."""
    big = (natural(1, 1, 64, 96 + speed * frames)[0, 0].mean(0) * 255).round()
    return torch.stack([big[:, speed * i : speed * i + 96] for i in range(frames)])


def test_types_follow_content() -> None:
    still = moving(0)
    assert CostEstimator(still).frame_types([range(8)], 3) == ["IbBbPBbP"]
    assert CostEstimator(still).frame_types([range(8), [0, 1], [0]], 3)[1:] == ["IP", "I"]
    assert CostEstimator(still).frame_types([range(5)], 0) == ["IPPPP"]
    noise = torch.rand(8, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    assert set(CostEstimator(noise).frame_types([range(8)], 3)[0]) == {"I"}  # every frame a scene of its own
    cut = torch.cat([still[:4], 255 - moving(1).roll(30, 1)[:4].flip(2)])
    letters = CostEstimator(cut).frame_types([range(8)], 3)[0]
    assert letters[3:5] == "PI"
    jump = moving(0).clone()
    jump[1::2] = (255 - still[1::2]).flip(1)  # two scenes in turns: only frames two apart are alike
    assert "P" not in CostEstimator(jump, use_satd=False).frame_types([range(8)], 3)[0][1::2].replace("P", "", 1)
