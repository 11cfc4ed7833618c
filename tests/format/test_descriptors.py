"""Descriptors: encoded, decoded, and refused where they lie."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blobstore.errors import CorruptError
from blobstore.format.descriptors import (
    ExtentPage,
    ExtentTable,
    Flags,
    Runs,
    Xattr,
    decode_name,
    encode_name,
    split_descriptors,
)
from blobstore.format.page import BODY_SIZE
from tests.descriptors import Descriptor, Padding, Unknown, decode_descriptors, encode_descriptors

u32 = st.integers(0, 0xFFFF_FFFF)
u64 = st.integers(0, 0xFFFF_FFFF_FFFF_FFFF)
pairs = st.tuples(u32, u32)
names = st.binary(max_size=20).map(decode_name)
descriptors: st.SearchStrategy[Descriptor] = st.one_of(
    st.builds(Flags, u64, u64, u64),
    st.builds(Xattr, names, st.binary(max_size=40), st.booleans()),
    st.builds(Runs, st.lists(pairs, min_size=1, max_size=8).map(tuple)),
    st.builds(ExtentTable, u64, st.lists(pairs, max_size=8).map(tuple)),
    st.builds(ExtentPage, u32, st.integers(0, 512).map(lambda count: b"\1\2\3\4" * count)),
    st.builds(Padding, st.binary(min_size=1, max_size=30)),
    st.builds(Unknown, st.integers(7, 255), st.binary(max_size=30)),
)


@pytest.mark.parametrize(
    ("descriptor", "encoded"),
    [
        (Padding(b"\7\7"), "00 02000000 0707"),
        (Runs(((0x11, 3), (0, 2))), "01 10000000 11000000 03000000 00000000 02000000"),
        (Xattr("ab", b"\1\2\3"), "02 09000000 0200 0300 6162 010203"),
        (Flags(1, 2, 3), "03 18000000 0100000000000000 0200000000000000 0300000000000000"),
        (Xattr("S", b"", internal=True), "04 05000000 0100 0000 53"),
        (ExtentTable(5, ((9, 1),)), "05 10000000 0500000000000000 09000000 01000000"),
        (ExtentTable(0, ()), "05 08000000 0000000000000000"),
        (ExtentPage(512, b"\x11\0\0\0"), "06 08000000 00020000 11000000"),
        (Unknown(77, b"\xff"), "4d 01000000 ff"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_each_descriptor_has_its_bytes(descriptor: Descriptor, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    assert descriptor.encode() == data
    assert decode_descriptors(data, place="page 0") == [descriptor]


@given(st.lists(descriptors, max_size=8))
def test_what_was_encoded_is_decoded_the_same(wanted: list[Descriptor]) -> None:
    data = encode_descriptors(wanted)
    assert decode_descriptors(data, place="page 0") == wanted
    assert decode_descriptors(memoryview(data + bytes(5)), place="page 0") == wanted


@given(st.builds(Xattr, names, st.binary(max_size=40), st.booleans()))
def test_the_size_of_an_xattr_is_known_before_it_is_encoded(xattr: Xattr) -> None:
    assert xattr.encoded_size == len(xattr.encode())


@given(st.binary())
def test_a_name_of_any_bytes_survives_being_text(name: bytes) -> None:
    assert encode_name(decode_name(name)) == name


def test_an_end_mark_hides_stale_bytes() -> None:
    body = Padding(b"x").encode() + bytes(5) + b"\3\xff\xff\xff\xff stale"
    assert decode_descriptors(body, place="page 0") == [Padding(b"x")]


@pytest.mark.parametrize("left", [0, 1, 2, 3, 4])
def test_a_page_also_ends_where_no_header_fits(left: int) -> None:
    body = Unknown(9, b"x").encode() + b"\xff" * left
    assert decode_descriptors(body, place="page 0") == [Unknown(9, b"x")]


def test_an_unknown_descriptor_may_be_empty_and_ends_nothing() -> None:
    wanted: list[Descriptor] = [Unknown(200, b""), Flags()]
    assert decode_descriptors(encode_descriptors(wanted), place="page 0") == wanted


def test_a_descriptor_may_end_with_the_page() -> None:
    body = Unknown(9, bytes(BODY_SIZE - 5)).encode()
    assert [len(view) for _kind, view in split_descriptors(body, place="page 0")] == [4067]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param("03 01000000", "descriptor 3 of 1 bytes, but 0 are left", id="past the end"),
        pytest.param("4d ffffffff 00", "77 of 4294967295 bytes, but 1 are left", id="length lies"),
        pytest.param("00 02000000 00", "descriptor 0 of 2 bytes, but 1", id="padding past the end"),
        pytest.param("03 17000000" + "00" * 23, "flags of 23 bytes, expected 24", id="short flags"),
        pytest.param("03 19000000" + "00" * 25, "flags of 25 bytes, expected 24", id="long flags"),
        pytest.param("03 00000000", "flags of 0 bytes, expected 24", id="no flags"),
        pytest.param("02 03000000 000000", "xattr of 3 bytes", id="xattr without lengths"),
        pytest.param("02 04000000 0100 0000", "name 1 and value 0", id="name past the end"),
        pytest.param("04 05000000 0100 0100 41", "name 1 and value 1", id="value past the end"),
        pytest.param("02 06000000 0100 0000 41 42", "name 1 and value 0", id="bytes left over"),
        pytest.param("02 04000000 ffff ffff", "name 65535 and value 65535", id="lengths lie"),
        pytest.param("01 00000000", "extents of 0 bytes", id="no run"),
        pytest.param("01 0c000000" + "00" * 12, "extents of 12 bytes", id="half a run"),
        pytest.param("05 00000000", "extent table of 0 bytes", id="table without a count"),
        pytest.param("05 07000000" + "00" * 7, "extent table of 7 bytes", id="half a count"),
        pytest.param("05 0c000000" + "00" * 12, "extent table of 12 bytes", id="half an entry"),
        pytest.param("06 00000000", "extent page of 0 bytes", id="page without a place"),
        pytest.param("06 06000000" + "00" * 6, "extent page of 6 bytes", id="half a cluster"),
        pytest.param("06 08080000" + "00" * 2056, "extent page of 2056 bytes", id="513 clusters"),
    ],
)
def test_a_descriptor_that_does_not_add_up_is_refused_with_its_place(
    data: str, message: str
) -> None:
    with pytest.raises(CorruptError, match=f"^page 3: .*{message}") as caught:
        decode_descriptors(bytes.fromhex(data), place="page 3")
    assert caught.value.errno == 22


@given(st.binary(max_size=200))
@example(b"\x02\x00\x00\x00\x00")
def test_random_bytes_are_decoded_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        found = decode_descriptors(data, place="page 0")
    except CorruptError:
        return
    assert data.startswith(encode_descriptors(found))


@given(st.lists(descriptors, min_size=1, max_size=5), st.data())
def test_a_truncated_body_is_decoded_up_to_there_or_refused(
    wanted: list[Descriptor], data: st.DataObject
) -> None:
    whole = encode_descriptors(wanted)
    cut = data.draw(st.integers(0, len(whole)))
    try:
        found = decode_descriptors(whole[:cut], place="page 0")
    except CorruptError:
        return
    assert found == wanted[: len(found)]


@given(st.lists(descriptors, min_size=1, max_size=5), st.data())
def test_a_body_with_one_byte_changed_is_decoded_or_refused(
    wanted: list[Descriptor], data: st.DataObject
) -> None:
    body = bytearray(encode_descriptors(wanted))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_descriptors(body, place="page 0")
    except CorruptError:
        return
    assert bytes(body).startswith(encode_descriptors(found))
