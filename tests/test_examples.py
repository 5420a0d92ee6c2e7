"""The examples in docstrings run, and the public layers have some."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import diffcodec as dc
import revmark_ref

MODULES = [
    m.name
    for package in (dc, revmark_ref)
    for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not m.name.endswith((".triton", ".cases"))
]


def examples(module: str) -> list[doctest.DocTest]:
    return [t for t in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module)) if t.examples]


@pytest.mark.parametrize("module", [m for m in MODULES if ">>>" in inspect.getsource(importlib.import_module(m))])
def test_examples(module: str) -> None:
    tests = examples(module)
    assert tests
    for test in tests:
        torch.manual_seed(0)
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        output: list[str] = []
        runner.run(test, out=output.append)
        assert runner.failures == 0, f"{test.name}\n{''.join(output)}"


@pytest.mark.parametrize("name", [n for n in dc.__all__ if inspect.isclass(getattr(dc, n)) and issubclass(getattr(dc, n), dc.Layer)])
def test_every_layer_has_one(name: str) -> None:
    if name != "Codec":
        assert ">>>" in (getattr(dc, name).__doc__ or ""), name
