"""A short form of ``make fuzz``."""

from __future__ import annotations

import pytest

pytest.importorskip("av")
from benchmarks import fuzz


@pytest.mark.parametrize(("part", "count"), [("layers", 600), ("mixtures", 150), ("files", 30), ("encodes", 60), ("kills", 3)])
def test_nothing_fails_and_nothing_is_silent(part: str, count: int) -> None:
    found = fuzz.run({part: count}, seed=1, minutes=10)[part]
    assert found["tried"] == count
    assert not found["failed"], found["examples"]
