"""Tests of the kernels on the GPU of this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TESTS = ("tests/ops/test_ops.py", "tests/test_backend.py", "tests/h264/test_encoder.py")
WORDS = "PASSED|FAILED|ERROR|SKIPPED"


def run_tests(out: Path, seconds: float) -> dict[str, Any]:
    """Run the tests if pytest is installed, in parallel if pytest-xdist is; their output is written to ``out``.

    Returns:
        Numbers of tests that passed, failed and so on, and the names of those that failed, even if the run was stopped after ``seconds``.
    """
    if importlib.util.find_spec("pytest") is None:
        return {"ran": False, "why": "pytest is not installed"}
    parallel = ["-n", str(max(1, (os.cpu_count() or 1) - 4))] if importlib.util.find_spec("xdist") is not None else []
    how = ["-vv", "-p", "no:benchmark", "-W", "default", "--tb=short", *parallel]  # warnings of the installed torch are not errors
    path = out / "gpu_tests.log"
    with path.open("w") as log, subprocess.Popen([sys.executable, "-m", "pytest", *how, *TESTS], stdout=log, stderr=log, cwd=ROOT) as tests:
        try:
            tests.wait(seconds)
        except subprocess.TimeoutExpired:
            tests.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                tests.wait(30)
            tests.kill()
    ended: dict[str, str] = {}
    for a, first, second, b in re.findall(rf"^(?:\[gw.*?({WORDS}) (tests/.*)|(tests/.*?) ({WORDS})\b)", path.read_text(), re.MULTILINE):
        ended[first or second] = (a or b).lower()
    counts = {w.lower(): list(ended.values()).count(w.lower()) for w in WORDS.split("|")}
    found = {"ran": True, "to_the_end": tests.returncode in (0, 1), **counts}
    found["not_passed"] = [name for name, word in ended.items() if word in ("failed", "error")]
    print(found, flush=True)
    return found
