"""Finished results of a long run, kept on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Rows:
    """Rows in a file of JSON lines, keyed by some of their columns, so that an interrupted run resumes where it stopped."""

    def __init__(self, path: Path, *key: str) -> None:
        self.path, self.key = path, key
        lines = path.read_text().splitlines() if path.is_file() else []
        self.rows = {self._of(row): row for row in map(json.loads, lines)}

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
