"""Install the wheel into an empty environment and use it there: ``python tests/wheel_check.py DIST TORCH``. Run by ``make wheel``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

CODE = """
import sys, torch, diffcodec as dc, revmark_ref
native = dc.backends()["native"]
assert native.runs == (sys.argv[1] == "native"), native
video = torch.rand(1, 3, 3, 32, 32)
assert dc.revmark_distortion()(video).shape == video.shape
coded = dc.RealCodec(crf=30, gradient=dc.DiffH264()).encode(video.requires_grad_(True))
coded.video.sum().backward()
assert coded.bits.item() > 0 and dc.RealJPEG(50)(video).shape == video.shape
dc.write_video("clip.mp4", torch.rand(9, 3, 64, 64))
print("the wheel works", dc.__version__, native.why)
"""
NO_COMPILER = {"PATH": "/nonexistent", "HOME": "/tmp"}


def main() -> None:
    dist, torch = Path(sys.argv[1]), sys.argv[2]
    (wheel,), (pure,) = dist.glob("*.whl"), (dist / "without-compiler").glob("*.whl")
    assert "-py3-none-" in wheel.name, f"one wheel for every Python was expected, got {wheel.name}"
    assert not wheel.name.endswith("-any.whl"), f"the wheel holds no native code: {wheel.name}"
    assert pure.name.endswith("-py3-none-any.whl"), f"built without a compiler: {pure.name}"
    names = zipfile.ZipFile(wheel).namelist()
    stray = [n for n in names if not n.startswith(("diffcodec/", "revmark_ref/", "diffcodec-"))]
    assert not stray, f"the wheel carries {stray}"
    assert not [n for n in names if n.endswith((".cpp", ".h"))], "the wheel carries sources of native code"
    assert {"diffcodec/py.typed", "revmark_ref/py.typed"} <= set(names), "the wheel's types are not marked"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, torch, "numpy"], check=True)
        subprocess.run([*pip, wheel.resolve()], check=True)
        subprocess.run([python, "-c", CODE, "native"], check=True, cwd=folder, env=NO_COMPILER)
        subprocess.run([*pip, "--force-reinstall", "--no-deps", pure.resolve()], check=True)
        done = subprocess.run([python, "-c", CODE, "torch alone"], check=True, cwd=folder, env=NO_COMPILER, capture_output=True, text=True)
        print(done.stdout, end="")
        assert done.stderr.count("native code does not run") == 1, f"one line of log was expected: {done.stderr}"
        subprocess.run([*pip, "--force-reinstall", "--no-deps", wheel.resolve()], check=True)
        downstream = Path(__file__).parent / "downstream" / "use.py"
        mypy = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--python-executable",
            python,
            "--config-file",
            "",
            "--cache-dir",
            Path(folder) / "mypy",
        ]
        subprocess.run([*mypy, downstream], check=True, cwd=folder)
        command = Path(folder) / "bin" / "diffcodec"
        subprocess.run([command, "fidelity", "clip.mp4", "--size", "32", "--crf", "30", "--no-picture"], check=True, cwd=folder)
        refused = subprocess.run([command, "fidelity"], cwd=folder, capture_output=True, text=True, check=False)
        assert refused.returncode == 2, refused
        assert "diffcodec[demo]" in refused.stderr, refused.stderr


if __name__ == "__main__":
    main()
