"""Sizes as people write them."""

import pytest

from blobstore import InvalidArgumentError
from blobstore.units import GIB, KIB, MIB, TIB, exact_size, format_size, parse_size


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
def test_what_exact_size_writes_is_read_again(size: int) -> None:
    assert parse_size(exact_size(size)) == size


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (64 * KIB, "64 KiB"),
        (96 * MIB, "96 MiB"),
        (1000 * MIB, "1000 MiB"),
        (1536 * MIB, "1.5 GiB"),
        (1280 * MIB, "1.25 GiB"),
        (32448 * KIB, "31.7 MiB"),
        (62500 * KIB, "61.0 MiB"),
        (2094592 * KIB, "2.0 GiB"),
        (9536744 * MIB, "9.1 TiB"),
        (1023 * KIB + 1000, "1.0 MiB"),
        (1024 * MIB - 1, "1.0 GiB"),
        (5000 * TIB, "5000 TiB"),
    ],
)
def test_a_size_is_written_as_a_person_says_it_exactly_if_it_is_round(
    size: int, shown: str
) -> None:
    assert format_size(size) == shown


@pytest.mark.parametrize("size", [*range(1000, 1_100_000, 997), *(3**n for n in range(6, 30))])
def test_a_size_that_is_not_round_is_written_to_a_tenth_of_its_unit(size: int) -> None:
    unit = parse_size("1 " + format_size(size).partition(" ")[2])
    assert abs(parse_size(format_size(size)) - size) <= unit // 20 + 1
