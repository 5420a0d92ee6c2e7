"""From CRF to QP."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffcodec.h264 import rate_control


def test_adaptive_offset_is_neutral_at_its_energy() -> None:
    x = torch.full((1, 16, 16), 100.0)
    x[:, ::2] += 2 * np.sqrt(22_000 / 256)
    chroma = torch.full((1, 2, 8, 8), 128.0)
    assert rate_control.aq_offset(x, chroma).item() == pytest.approx(0, abs=0.01)
    flat = torch.full((1, 16, 16), 100.0)
    assert rate_control.aq_offset(flat, chroma).item() == pytest.approx(-15.0, abs=0.01)


def test_crf_to_qp() -> None:
    crf = torch.tensor([22.0])
    assert rate_control.frame_qp_mbtree(crf, 25).item() == pytest.approx(27.4)
    for fps, more in ((15, 3.6), (24, 5.3), (30, 6.0), (60, 8.4), (120, 10.2)):
        assert rate_control.frame_qp_mbtree(crf, fps).item() - 22 == pytest.approx(more, abs=0.05)
