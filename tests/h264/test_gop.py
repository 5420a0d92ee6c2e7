"""GOPs as plain data."""

from __future__ import annotations

import re

import pytest

from diffcodec.h264.frame_types import undecided
from diffcodec.h264.gop import Gop, group, middle, pattern


def test_patterns() -> None:
    assert pattern(8, 3) == "IbBbPBbP"
    assert pattern(1, 3) == "I"
    assert pattern(4, 0) == "IPPP"
    assert group(1) == "b"
    gop = Gop("IbBbPBbP")
    assert list(gop.steps()) == [[0], [4], [2, 7], [1, 3, 5], [6]]
    assert gop.past(3) == (2,)
    assert gop.future(3) == (4,)
    assert Gop("IPPPP", references=3).past(4) == (3, 2, 1)
    assert middle(8, 3, 3) == ("IbBbPbBbP", 1, 0)
    assert middle(8, 3, 1) == ("IbBbPbBbPbBbP", 3, 2)
    assert middle(3, 0, 0) == ("IPPP", 1, 0)
    inside = Gop(*middle(8, 3, 1))
    assert len(inside) == 8
    assert inside.letters == "bPbBbPbB"
    coded = {i for step in inside.steps() for i in step}
    assert 1 not in coded  # a B frame before the window that nothing needs
    assert {0, 2, 12} <= coded
    for wrong, words in (("", "string"), ("PI", "first"), ("IPx", "IPx"), ("Ib", "last")):
        with pytest.raises(ValueError, match=words):
            Gop(wrong)
    with pytest.raises(ValueError, match="leave nothing"):
        Gop("IP", before=1, after=1)


def test_undecided_gops() -> None:
    gop = undecided(8, 2, 3, references=3)
    assert (len(gop), gop.before, gop.after, gop.references) == (8, 2, 3, 3)
    assert gop.letters == "?" * 8
    for wrong in ("I?P", "?", "I??P"):
        with pytest.raises(ValueError, match=re.escape(repr(wrong))):
            Gop(wrong)
