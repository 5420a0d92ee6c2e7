"""Finished results of a long run, kept on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def belongs(work: Path, **to: Any) -> None:
    """Check that what a folder holds was measured on the same things; an empty folder is marked with them.

    Raises:
        ValueError: it was measured on others.
    """
    work.mkdir(parents=True, exist_ok=True)
    mark = work / "of.json"
    if not mark.is_file():
        mark.write_text(json.dumps(to))
    found = json.loads(mark.read_text())
    if wrong := [name for name in to | found if to.get(name) != found.get(name)]:
        raise ValueError(f"{work} holds results for other {', '.join(wrong)}: choose another --work, or empty it")


class Rows:
    """Rows in a file of JSON lines, keyed by some of their columns, so that an interrupted run resumes where it stopped."""

    def __init__(self, path: Path, *key: str) -> None:
        self.path, self.key = path, key
        text = path.read_text() if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a row that was being written when the run was killed
            path.write_text(whole)
        self.rows = {self._of(row): row for row in map(json.loads, whole.splitlines())}

    def _of(self, row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[k] for k in self.key)

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self.rows

    def __getitem__(self, key: tuple[Any, ...]) -> dict[str, Any]:
        return self.rows[key]

    def add(self, row: dict[str, Any]) -> None:
        self.rows[self._of(row)] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
