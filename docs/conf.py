"""Sphinx configuration. Tables come from benchmarks/results at build time."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import diffcodec  # noqa: E402
from benchmarks import plot, tables  # noqa: E402

project = "diffcodec"
author = "the diffcodec authors"
copyright = "2026, the diffcodec authors"
release = version = diffcodec.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = f"diffcodec {release}"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_custom_sections = [("Shape", "notes_style"), ("Item", "notes_style")]
exclude_patterns = ["_build"]

generated = Path(__file__).parent / "_generated"
generated.mkdir(exist_ok=True)
for name, table in tables.TABLES.items():
    (generated / f"{name}.txt").write_text(tables.rst(table()))
plot.write(generated)
