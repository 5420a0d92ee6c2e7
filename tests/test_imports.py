"""The simulators and attacks run with torch and numpy alone."""

import subprocess
import sys
import textwrap
from pathlib import Path

from helpers import natural

import diffcodec as dc
from revmark_ref import data

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"av", "PIL", "matplotlib", "triton", "rich", "skvideo", "torch_dct", "scipy"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED + textwrap.dedent(code)], capture_output=True, text=True, timeout=300)


def test_every_simulator_and_attack_runs_without_optional_packages() -> None:
    result = run(
        """
        import torch, diffcodec as dc
        v = torch.rand(2, 3, 3, 16, 16)
        layers = [cls() for cls in (dc.DiffJPEG, dc.JPEGMask, dc.JPEGDrop, dc.DiffH264, dc.CompNet, *(getattr(dc, n) for n in dc.attacks.__all__
                  if n not in ("Compose", "RandomDistortion", "revmark_distortion")))]
        layers += [dc.revmark_distortion(), dc.RandomDistortion([dc.Flip()]), dc.Compose([dc.Flip()]), dc.adapt(dc.Flip())]
        layers += [dc.DiffH264(model="revmark", motion=dc.motion.SPyNet(2))]
        for layer in layers:
            x = v.clone().requires_grad_(True)
            layer(x).sum().backward()
            assert x.grad.isfinite().all()
        assert len(layers) > 20
        print("ran", len(layers))
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("ran")


def test_real_codecs_say_what_is_missing() -> None:
    result = run(
        """
        import diffcodec as dc
        try:
            dc.RealCodec()
        except ImportError as error:
            assert "pip install av" in str(error), error
        else:
            raise SystemExit("no error")
        """
    )
    assert result.returncode == 0, result.stderr


def test_import_is_light() -> None:
    code = "import sys, diffcodec; print([m for m in ('av', 'PIL', 'matplotlib', 'triton', 'rich', 'torch._dynamo.eval_frame') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    loaded = eval(result.stdout)
    plain = subprocess.run([sys.executable, "-c", code.replace(", diffcodec", ", torch")], capture_output=True, text=True, timeout=120)
    assert loaded == eval(plain.stdout)


def test_public_names_exist_and_are_documented() -> None:
    import diffcodec as dc

    for name in dc.__all__:
        assert getattr(dc, name).__doc__, name
    assert len(dc.__all__) == len(set(dc.__all__))


def test_revmark_trains_from_a_packed_file_without_pyav(tmp_path: Path) -> None:
    for i in range(2):  # one to train on, one to validate on
        dc.write_video(tmp_path / f"{i}.mp4", natural(1, 12, 48, 48, seed=i)[0])
    data.pack(tmp_path, tmp_path / "a.clips")
    code = BLOCKED.replace('"PIL", ', "").replace('"rich", ', "") + textwrap.dedent(
        f"""
        from revmark_ref.cli import main
        status = main(["train", "--data", {str(tmp_path / "a.clips")!r}, "--out", {str(tmp_path / "run")!r}, "--preset", "paper", "--steps", "2",
                       "--batch", "1", "--bits", "8", "--distortion", "revmark", "--set", "height=32", "width=32", "hidden=16", "validate_every=2"])
        assert status == 0
        assert "av" not in sys.modules
        """
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "validation/simulated_22" in result.stdout
