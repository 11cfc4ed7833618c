from uuid import UUID

import pytest

from blobstore.errors import CorruptError, InvalidArgumentError
from blobstore.volumes.identity import (
    check_name,
    decode_store_identity,
    decode_uuid,
    decode_volume_name,
    store_xattrs,
    volume_xattrs,
)

ID = UUID("a9959197-b5e2-4f2d-8095-251ffb6985a5")
TEXT = b"a9959197-b5e2-4f2d-8095-251ffb6985a5\0"


def test_a_new_volume_has_a_name_of_64_bytes_then_its_uuid() -> None:
    xattrs = volume_xattrs("db", ID)
    assert list(xattrs.items()) == [("name", b"db" + bytes(62)), ("uuid", TEXT)]
    assert decode_volume_name(xattrs) == "db"
    assert decode_uuid(xattrs["uuid"]) == ID


def test_a_store_has_its_uuid_then_a_name_with_one_nul() -> None:
    xattrs = store_xattrs("vms", ID)
    assert list(xattrs.items()) == [("uuid", TEXT), ("name", b"vms\0")]
    assert decode_store_identity(xattrs, place="blob") == ("vms", ID)


@pytest.mark.parametrize("name", ["a", "x" * 63, "a/b c", "ä" * 31, "\udcff"])
def test_names_of_1_to_63_bytes_are_taken_whatever_the_bytes_are(name: str) -> None:
    assert 1 <= len(check_name(name)) <= 63


@pytest.mark.parametrize("name", ["", "x" * 64, "ä" * 32, "a\0b"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="expected 1 to 63 without NUL"):
        check_name(name)


@pytest.mark.parametrize(
    "value",
    [None, b"", TEXT[:-2], TEXT[:-1] + b"x", b"x" * 36 + b"\0", TEXT + b"\0",
     b"{a9959197b5e24f2d8095251ffb6985a5}" + b"  \0"],
)  # fmt: skip
def test_a_damaged_uuid_is_none_of_a_volume_and_an_error_of_a_store(value: bytes | None) -> None:
    assert decode_uuid(value) is None
    xattrs = {"name": b"vms\0"} | ({} if value is None else {"uuid": value})
    with pytest.raises(CorruptError, match="store uuid") as caught:
        decode_store_identity(xattrs, place="blob")
    assert caught.value.errno_name == "EINVAL"


def test_a_uuid_without_its_nul_is_taken() -> None:
    assert decode_uuid(TEXT[:-1]) == ID


def test_a_uuid_in_upper_case_is_the_same() -> None:
    assert decode_uuid(TEXT.upper()) == ID


@pytest.mark.parametrize("name", [None, bytes(65)])
def test_a_store_without_a_name_that_fits_is_refused(name: bytes | None) -> None:
    xattrs = {"uuid": TEXT} | ({} if name is None else {"name": name})
    with pytest.raises(CorruptError, match="store name"):
        decode_store_identity(xattrs, place="blob")
