"""Packed attributes: a mapping in its order, in about as many bytes as on disk."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.format.packed_xattrs import FEW, PackedXattrs, packed_if_many

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5)


@given(st.dictionaries(st.one_of(NAMES, st.just("SNAP"), st.just("\udcff")), st.binary(max_size=9)))
def test_packed_attributes_are_the_same_mapping(xattrs: dict[str, bytes]) -> None:
    packed = PackedXattrs(xattrs, known=("SNAP", "EXTSNAP"))
    assert packed == xattrs
    assert list(packed.items()) == list(xattrs.items())
    assert list(packed) == list(xattrs)
    assert len(packed) == len(xattrs)
    assert packed.unpacked() == xattrs
    assert [packed[name] for name in xattrs] == list(xattrs.values())
    assert packed.get("no such name") is None
    with pytest.raises(KeyError, match="EXTSNAP"):
        packed["EXTSNAP"]


def test_only_many_attributes_are_packed() -> None:
    many = {f"{number:x}": b"" for number in range(FEW + 1)}
    few = dict(list(many.items())[:FEW])
    assert packed_if_many(few) is few
    assert isinstance(packed_if_many(many), PackedXattrs)


def test_hundreds_of_small_attributes_take_less_than_a_page() -> None:
    xattrs = {f"{number:x}": b"" for number in range(370)}
    tracemalloc.start()
    packed = PackedXattrs(xattrs)
    now, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(packed) == 370
    assert now < 4096


def test_attributes_are_found_by_name_whether_known_or_not() -> None:
    packed = PackedXattrs({"a": b"1", "SNAP": b"22", "b": b""}, known=("SNAP", "SNAPRM"))
    assert [packed[name] for name in ("a", "SNAP", "b")] == [b"1", b"22", b""]
    assert ("SNAPRM" in packed, "c" in packed) == (False, False)
    assert (list(packed), len(packed)) == (["a", "SNAP", "b"], 3)
    assert list(packed.items()) == [("a", b"1"), ("SNAP", b"22"), ("b", b"")]
