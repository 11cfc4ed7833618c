"""What every call answers when it is refused, next to the original's answers.

The scripts and the original's answers are in reference/error-codes.json. Where
this project answers something else, `DIFFERENCES` says at which line, under
which name of docs/COMPATIBILITY.md, and what the right answer is.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from blobstore import (
    BusyError,
    CorruptError,
    DeviceError,
    ExistsError,
    InvalidArgumentError,
    NoSpaceError,
    NotFoundError,
    PoisonedError,
    ReadOnlyError,
    WrongTypeError,
)
from tests.golden.test_load import documented_rows
from tests.replay import COMMANDS, COMPACT, SECTOR, Line, Replay
from tests.shared import shared

Facts = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """A line whose answer is not the original's; `facts` replace its own, None drops one."""

    row: str
    facts: Facts = field(default_factory=dict)
    performed: bool = True


def refused(row: str, errno: int, **facts: Any) -> Difference:
    """Return the difference of a line that fails here, and answers nothing else."""
    return Difference(row, {"rc": -errno, **facts})


EIO: Final = 5
ENOENT: Final = 2
ENOMEM: Final = 12
EINVAL: Final = 22
EILSEQ: Final = 84

NO_SUCH_OPTION: Final = Difference("no-queue-depths", performed=False)
NO_SIZE_AT_LOAD: Final = Difference("layout-options-at-load", performed=False)

# Lines are counted from 0.
DIFFERENCES: Final[dict[str, dict[int, Difference]]] = {
    "init_errors": {
        6: NO_SUCH_OPTION,
        9: Difference("metadata-that-fits", performed=False),
        # A device with blocks of 500 bytes is refused before there is a store.
        16: refused("block-size", EINVAL),
        17: Difference("block-size", performed=False),
    },
    "load_errors": {9: NO_SUCH_OPTION, 10: NO_SUCH_OPTION, 11: NO_SIZE_AT_LOAD},
    "blob_errors": {
        # What the sync gave back, a page and 235 clusters, is free after the next flush.
        30: Difference("free-after-commit", {"used_md_pages": 3, "used_cluster_bits": 256}),
        # Page 0 was the deleted blob's, and is not claimable yet: the next one is.
        42: Difference("free-after-commit", {"id": 0x1_0000_0001}),
        # The extent page is placed when the blob is synced, not when the cluster is written.
        47: Difference(
            "allocations-with-the-sync",
            {"id": 0x1_0000_0001, "md_pages": [1], "extent_pages": [0] * 196},
        ),
    },
    "xattr_errors": {},
    "snapshot_errors": {},
    "set_parent_errors": {
        21: Difference(
            "one-parent",
            {"internal_xattrs": [["EXTSNAP", b"pat:1:262144:4096".hex()]]},
        ),
    },
    "shallow_copy": {
        # What the copy to a device with blocks of 4096 gives as well: see line 8.
        11: Difference(
            "shallow-copy-blocks",
            {
                "sha256": "2630a3821bce273bfc703dd23327eb3356e23a23f02285b76dcac9ffd5d0a705",
                "blocks": 128,
            },
        ),
    },
    "super": {
        10: refused("delete-clears-super", ENOENT, id=None),
        12: Difference("delete-clears-super", {"super_blob": None}),
        13: refused("delete-clears-super", ENOENT, id=None),
    },
    "nospace": {
        21: Difference("allocations-with-the-sync", {"used_md_pages": 1}),
        # The root, the extent page that was the snapshot's, and a page that is free after the
        # next flush; the cluster that the unmap gave back is committed by the next sync.
        28: Difference("free-after-commit", {"used_md_pages": 3, "used_cluster_bits": 16}),
        # Of twelve pages ten are in use; the last two are promised to the blob that is not synced
        # yet, for a new place of its extent page.
        39: refused("promised-pages", ENOMEM, id=None),
    },
    "grow": {
        # The device has lost its second half meanwhile.
        10: Difference("unload-of-a-shrunk-device", {"rc": 0, "free": None}),
        11: refused("unload-of-a-shrunk-device", EILSEQ, free=None),
        12: Difference("unload-of-a-shrunk-device", {"free": None}),
        13: Difference("unload-of-a-shrunk-device", {"rc": 0}),
    },
    "eio": {
        # After the failed sync nothing more is changed, in memory or on the device.
        11: refused("poisoning", EIO),
        14: Difference("poisoning", {"xattrs": []}),
        # The refused create took nothing, so nothing leaks.
        15: Difference("poisoning", {"free": 233}),
        16: Difference(
            "poisoning",
            {"free": 233, "free_clusters": 233, "used_md_pages": 3, "used_cluster_bits": 23},
        ),
        17: refused("poisoning", EIO, free=233),
        18: Difference("poisoning", {"rc": 0, "free": 233}),
    },
}

# From here on the original answers for a store that it could not unload.
ENDS: Final = {"grow": 14}
# Rows that no script shows; the tests further down do.
OTHER_ROWS: Final = ("offset-overflow", "read-only-twice")
ROWS: Final = {*OTHER_ROWS} | {
    found.row for lines in DIFFERENCES.values() for found in lines.values()
}

# Beside what is counted of the device: facts that nothing here corresponds to. A super blob that
# is not set is an error, and no id; which blobs are opened while loading is nobody's business.
NOT_COMPARED: Final = {"cmd", "devops", "err", "crc32c", "is_degraded", "loaded"}


@cache
def sections() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shared("reference/error-codes.json").read_bytes())
    return found


def lines_of(section: str) -> list[tuple[str, Facts]]:
    """Return the lines of a section that both know the answer of."""
    found = sections()[section]
    return list(zip(found["script"], found["results"], strict=False))[: ENDS.get(section)]


def wanted_facts(section: str, number: int, answer: Facts) -> Facts:
    difference = DIFFERENCES[section].get(number, Difference(""))
    facts = {key: value for key, value in answer.items() if key not in NOT_COMPARED}
    facts |= difference.facts
    if facts["rc"]:
        # A refused call tells why, and nothing else.
        facts = {key: facts[key] for key in ("rc", "free") if key in facts}
    return {key: value for key, value in facts.items() if key != "free" or value is not None}


def test_every_section_is_replayed() -> None:
    assert sorted(DIFFERENCES) == sorted(sections())
    commands = {
        Line.parse(line).command for found in sections().values() for line in found["script"]
    }
    assert commands <= set(COMMANDS)


@pytest.mark.parametrize("section", DIFFERENCES)
def test_every_call_answers_as_the_original_does(section: str) -> None:
    replay = Replay(atomic_write_size=COMPACT)
    for number, (line, answer) in enumerate(lines_of(section)):
        difference = DIFFERENCES[section].get(number)
        if difference is not None and not difference.performed:
            continue
        found = replay.run(line)
        wanted = wanted_facts(section, number, answer)
        compared = {key: found.get(key) for key in wanted}
        assert (number, line, compared) == (number, line, wanted)
        assert ("free" in found) == ("free" in wanted)


@pytest.mark.parametrize("section", DIFFERENCES)
def test_on_a_device_with_sectors_the_calls_answer_the_same(section: str) -> None:
    compact, sectors = Replay(atomic_write_size=COMPACT), Replay(atomic_write_size=SECTOR)
    for number, (line, _answer) in enumerate(lines_of(section)):
        difference = DIFFERENCES[section].get(number)
        if difference is None or difference.performed:
            found, other = compact.run(line), sectors.run(line)
            assert (number, found["rc"], found.get("free")) == (
                number,
                other["rc"],
                other.get("free"),
            )


def test_the_kind_of_an_error_says_what_its_number_means() -> None:
    wanted = {
        ("load_errors", 1): CorruptError,
        ("load_errors", 4): WrongTypeError,
        ("blob_errors", 2): NotFoundError,
        ("blob_errors", 14): InvalidArgumentError,
        ("blob_errors", 24): NoSpaceError,
        ("blob_errors", 31): BusyError,
        ("blob_errors", 40): NoSpaceError,
        ("xattr_errors", 26): ReadOnlyError,
        ("snapshot_errors", 5): InvalidArgumentError,
        ("snapshot_errors", 6): NotFoundError,
        ("snapshot_errors", 19): BusyError,
        ("set_parent_errors", 10): ExistsError,
        ("set_parent_errors", 11): InvalidArgumentError,
        ("set_parent_errors", 22): ExistsError,
        ("shallow_copy", 5): ReadOnlyError,
        ("nospace", 22): NoSpaceError,
        ("eio", 12): PoisonedError,
        ("eio", 13): PoisonedError,
    }
    for section in DIFFERENCES:
        replay = Replay()
        for number, (line, _answer) in enumerate(lines_of(section)):
            difference = DIFFERENCES[section].get(number)
            if difference is None or difference.performed:
                error = replay.run(line).get("error")
                if (section, number) in wanted:
                    assert type(error) is wanted.pop((section, number))
    assert not wanted


@pytest.mark.parametrize("offset", [2**64 - 1, 2**64 - 4096, 2**63, 2**52 - 1])
def test_an_offset_whose_end_does_not_fit_into_64_bits_is_refused(offset: int) -> None:
    replay = opened("create as=a num_clusters=4")
    for command in ("read a {} 1", "write a {} 1 7", "write_zeroes a {} 1", "unmap a {} 1"):
        assert replay.run(command.format(offset))["rc"] == -EINVAL


def test_making_a_read_only_blob_read_only_again_writes_nothing() -> None:
    replay = opened("create as=a num_clusters=4")
    for line in ("set_ro a", "sync a"):
        assert replay.run(line)["rc"] == 0
    before = replay.the_device().change_count
    for line in ("set_ro a", "sync a", "close a"):
        assert replay.run(line)["rc"] == 0
    assert replay.the_device().change_count == before


@pytest.mark.parametrize("command", ["write_zeroes a 0 -1", "unmap a 0 -1", "unmap a 1 -1"])
def test_a_negative_length_is_refused(command: str) -> None:
    assert opened("create as=a num_clusters=4").run(command)["rc"] == -EINVAL


@pytest.mark.parametrize("wanted", [-1, 2**64])
def test_a_super_blob_that_is_no_id_is_refused_and_the_store_goes_on(wanted: int) -> None:
    store = opened("create as=a").the_store()
    with pytest.raises(InvalidArgumentError, match="64 bits"):
        store.set_super_blob(wanted)
    store.set_super_blob(7)
    assert store.super_blob == 7


def test_a_type_that_is_set_on_an_unchanged_store_is_there_when_it_is_loaded_again() -> None:
    replay = opened("create as=a")
    for line in ("close a", "unload", "load"):
        assert replay.run(line)["rc"] == 0
    replay.the_store().set_type(b"NEW")
    for line in ("unload", "load bstype=NEW"):
        assert replay.run(line)["rc"] == 0


def test_a_blob_that_fails_to_close_does_not_hide_its_error_behind_a_busy_store() -> None:
    replay = opened("create as=a num_clusters=4")
    store = replay.the_store()

    def fail_to_close() -> None:
        with store:
            for line in ("set_xattr a k 00", "powerfail n=0 mode=fail"):
                replay.run(line)
            replay.blob("a").close()

    with pytest.raises(DeviceError, match="told to"):
        fail_to_close()
    assert store.closed


def opened(create: str) -> Replay:
    replay = Replay()
    script = ("dev mem=1 size=16777216 blocklen=4096", "init cluster_sz=65536", create, "open a")
    assert [replay.run(line)["rc"] for line in script] == [0, 0, 0, 0]
    return replay


def test_every_difference_seen_in_a_script_is_a_row_of_the_document() -> None:
    tested = {row for row, test in documented_rows().items() if Path(__file__).name in test}
    assert tested == ROWS
