"""Benchmarks that need machines or hours of their own, gone through in small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
pytest.importorskip("triton")


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks.gpu", *args], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_benchmark_without_a_gpu_says_so() -> None:
    done = run("--only", "FrameDrop")
    assert done.returncode
    assert "needs a CUDA device" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="rehearsed where there is no GPU")
def test_gpu_benchmark_can_be_rehearsed() -> None:
    done = run("--rehearse", "--only", "FrameDrop")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FrameDrop(0.5) forward" in done.stdout
