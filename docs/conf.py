"""Sphinx configuration. Tables come from benchmarks/results at build time."""

import argparse
import re
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import diffcodec.cli  # noqa: E402
import revmark_ref.cli  # noqa: E402
from benchmarks import plot, tables  # noqa: E402

project = "diffcodec"
author = "the diffcodec authors"
copyright = "2026, the diffcodec authors"
release = version = diffcodec.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"
html_theme = "furo"
html_title = f"diffcodec {release}"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_custom_sections = [("Shape", "notes_style"), ("Item", "notes_style")]
html_static_path = ["_static"]
html_css_files = ["tables.css"]
exclude_patterns = ["_build", "_generated"]
sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "min_reported_time": 0,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
}
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")

generated = Path(__file__).parent / "_generated"
generated.mkdir(exist_ok=True)
for name, table in tables.TABLES.items():
    (generated / f"{name}.txt").write_text(tables.rst(table()))
plot.write(generated)


def commands(parser: argparse.ArgumentParser, prog: str) -> str:
    """The help of a command and of its verbs, as literal blocks."""
    out = [f"{prog}\n{'-' * len(prog)}\n"]
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for title, one in [(prog, parser), *((f"{prog} {name}", p) for name, p in verbs.choices.items())]:
        text = "\n".join("   " + line for line in one.format_help().rstrip().splitlines())
        out.append(f"{title}\n{'~' * len(title)}\n" * (one is not parser) + f"\n.. code-block:: text\n\n{text}\n")
    return "\n".join(out)


def changelog(text: str) -> str:
    """Markdown of the changelog as reStructuredText."""
    out = []
    for line in text.splitlines():
        if line.startswith("## "):
            out += [line[3:], "-" * len(line[3:])]
        elif not line.startswith("# "):
            out.append(re.sub(r"`([^`]+)`", r"``\1``", line))
    return "\n".join(out)


(generated / "cli.txt").write_text(commands(diffcodec.cli._parser(), "diffcodec") + "\n" + commands(revmark_ref.cli._parser(), "revmark"))
(generated / "changelog.txt").write_text(changelog((ROOT / "CHANGELOG.md").read_text()))
