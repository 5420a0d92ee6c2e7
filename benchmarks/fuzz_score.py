"""Results of the parts of ``benchmarks.fuzz``."""

from __future__ import annotations

import collections
from typing import Any


class Score:
    """Numbers of trials and failures, counts by kind, and examples of failures."""

    def __init__(self) -> None:
        self.tried = self.failed = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self.examples: list[str] = []

    def add(self, *kinds: str) -> None:
        self.tried += 1
        self.counts.update(kinds)

    def fail(self, what: str) -> None:
        self.failed += 1
        if len(self.examples) < 20:
            self.examples.append(what)

    def to_dict(self) -> dict[str, Any]:
        return {"tried": self.tried, "failed": self.failed, "counts": dict(sorted(self.counts.items())), "examples": self.examples}
