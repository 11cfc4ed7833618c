"""Sizes as people write them."""

import pytest

from blobstore import InvalidArgumentError
from blobstore.units import GIB, KIB, MIB, TIB, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (65536, 65536),
        ("65536", 65536),
        ("512B", 512),
        ("64K", 64 * KIB),
        ("64KiB", 64 * KIB),
        ("64 KiB", 64 * KIB),
        ("10g", 10 * GIB),
        ("10gib", 10 * GIB),
        ("2T", 2 * TIB),
        ("1.5G", 3 * GIB // 2),
        ("1.5GiB", 3 * GIB // 2),
        ("0.5k", 512),
        ("0.1K", 102),
        ("9007199254740993.5K", 9007199254740993 * KIB + 512),
    ],
)
def test_units_are_powers_of_1024_in_any_case_and_take_fractions(
    text: int | str, expected: int
) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1KB", 1000),
        ("1kB", 1000),
        ("5MB", 5_000_000),
        ("1.5gb", 1_500_000_000),
        ("2TB", 2 * 10**12),
    ],
)
def test_units_that_end_in_b_alone_are_powers_of_1000_as_in_coreutils(
    text: str, expected: int
) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "K",
        "1.5",
        "1.5B",
        ".5K",
        "1.K",
        "1,5G",
        "12X",
        "1KiBs",
        "-1",
        "1e3",
        "1Kb b",
        -1,
        "9" * 5000,
    ],
)
def test_what_is_no_size_is_refused(text: int | str) -> None:
    with pytest.raises(InvalidArgumentError, match="size"):
        parse_size(text)


@pytest.mark.parametrize("size", [0, 1, 1000, 512, KIB, 3 * MIB, 5 * GIB, TIB])
def test_what_format_size_writes_is_read_again(size: int) -> None:
    assert parse_size(format_size(size)) == size
