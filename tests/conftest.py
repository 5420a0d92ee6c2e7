"""Shared inputs. Nothing outside the repository is needed; DIFFCODEC_CLIPS=DIR adds tests on real clips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is not said: the default is to change
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run in Triton's interpreter; it and diffcodec read this when they are imported

from helpers import natural

import diffcodec as dc

settings.register_profile(
    "diffcodec",
    deadline=None,
    max_examples=20,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("diffcodec")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a kernel forgets to write is NaN, or 255."""
    new_empty, empty_like = Tensor.new_empty, torch.empty_like

    def spoilt(x: Tensor) -> Tensor:
        return x.fill_(float("nan") if x.is_floating_point() else 255)

    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: spoilt(new_empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: spoilt(empty_like(*a, **k)))


@pytest.fixture
def video() -> Tensor:
    return natural(2)


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real file of 40 frames, 64 x 80, 25 fps."""
    path = tmp_path_factory.mktemp("clips") / "moving.mp4"
    dc.write_video(path, natural(1, 40, 64, 80)[0], fps=25)
    return path


@pytest.fixture(scope="session")
def real_clips() -> list[Path]:
    folder = os.environ.get("DIFFCODEC_CLIPS")
    if not folder:
        pytest.skip("set DIFFCODEC_CLIPS to a folder of clips")
    return sorted(Path(folder).glob("*.*"))
