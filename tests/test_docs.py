"""What README and manual show: code that runs as it stands, links that lead somewhere, every public name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from helpers import natural

import diffcodec as dc
import revmark_ref
import revmark_ref.cli
from diffcodec import cli

ROOT = Path(__file__).parents[1]
API = [ROOT / "docs" / "api.rst", *sorted((ROOT / "docs" / "api").glob("*.rst"))]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst")), *API[1:]]


def blocks(path: Path, language: str) -> list[str]:
    """Code blocks of a page, in order."""
    text = path.read_text()
    if path.suffix == ".md":
        return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:(?:   .*)?\n)+)", text, re.MULTILINE)
    return [re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in found]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages speak of: my.mp4 and videos/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    for name in ("my.mp4", "videos/a.mp4", "videos/b.mp4"):
        dc.write_video(tmp_path / name, natural(1, 32, 144, 144)[0], fps=25, crf=20, preset="ultrafast")
    return tmp_path


def names() -> dict[str, object]:
    """Names that the how-to page assumes to be defined."""
    video = natural(2, 6, 32, 48)
    return {
        "dc": dc, "torch": torch, "video": video, "message": torch.randint(2, (2, 8)).float(), "loader": [video] * 2,
        "encoder": lambda v, m: v, "decoder": lambda v: v.mean((1, 2, 3, 4))[:, None].expand(-1, 8), "criterion": torch.nn.functional.mse_loss,
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_code_runs(path: Path, place: Path) -> None:
    scope = names()
    for block in blocks(path, "python"):
        torch.manual_seed(0)
        exec(compile(block, str(path), "exec"), scope)


@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, "console") or blocks(p, "sh")], ids=lambda p: p.name)
def test_commands_are_understood(path: Path) -> None:
    parsers = {"diffcodec": cli._parser(), "revmark": revmark_ref.cli._parser()}
    seen = 0
    for block in blocks(path, "console") + blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and words[0] in parsers:
                parsers[words[0]].parse_args(words[1:])
                seen += 1
    assert seen or "diffcodec " not in "".join(blocks(path, "console"))


def test_links_of_the_readme_lead_to_files() -> None:
    text = (ROOT / "README.md").read_text()
    address = re.search(r'^Repository = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert address
    raw = address[1].replace("github.com", "raw.githubusercontent.com")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 8
    for link in links:
        base = f"{raw}/main/" if link.startswith(raw) else f"{address[1]}/blob/main/"
        assert link.startswith(base), link  # absolute: they hold on the package index
        assert (ROOT / link.removeprefix(base)).exists(), link
    assert text.count("\n") <= 150


@pytest.mark.parametrize("package", [dc, revmark_ref], ids=lambda p: p.__name__)
def test_every_public_name_is_in_the_api(package: object) -> None:
    """Documented by a directive of a page of the API, not only mentioned."""
    documented = "\n".join(re.findall(r"^\.\. auto.*\n(?:   :members:.*)?", "\n".join(p.read_text() for p in API), re.MULTILINE))
    missing = [n for n in package.__all__ if not re.search(rf"\b{n}\b", documented)]
    assert not missing


def test_every_page_of_the_api_is_listed() -> None:
    listed = re.findall(r"^   api/(\w+)$", API[0].read_text(), re.MULTILINE)
    assert sorted(listed) == [p.stem for p in API[1:]]


@pytest.mark.parametrize("path", PAGES[1:], ids=lambda p: p.name)
def test_code_fits_the_page(path: Path) -> None:
    """At 1300 px the manual's column holds 120 characters of code."""
    lines = [line for language in ("python", "console", "sh", "text") for block in blocks(path, language) for line in block.splitlines()]
    assert [line for line in lines if len(line) > 120] == []
