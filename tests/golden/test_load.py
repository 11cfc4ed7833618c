"""Every golden image through the library: what the original sees in it, or what is right.

Where this project deliberately differs from the original, `DIFFERENCES` says in
which image, under which name of docs/COMPATIBILITY.md, and what is right there.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from blobstore import (
    Blob,
    Blobstore,
    BlobstoreError,
    CorruptError,
    NoSpaceError,
    ReadOnlyError,
    UnsupportedError,
    WrongTypeError,
    dump,
    grow,
)
from blobstore.format.page import PAGE_SIZE
from tests import matrix
from tests.golden.images import IMAGE_NAMES, golden_dump, load_image, manifest
from tests.replay import (
    COMPACT,
    SECTOR,
    ReplayDevice,
    blob_facts,
    know_externals,
    pattern,
    pieces_of,
    store_facts,
)
from tests.shared import CHECKOUT

Facts = dict[str, Any]

ENOMEM: Final = 12
EINVAL: Final = 22
IO_UNIT: Final = 4096
CLUSTER: Final = 65536


def blob_id(page: int) -> int:
    return 0x1_0000_0000 + page


@dataclass(frozen=True)
class Difference:
    """What is right for an image where the original is not followed.

    `store` and `blobs` replace single facts of the manifest. `twin` names the
    image whose facts hold where the original recorded none. Of a blob in
    quarantine nothing but the errno is known, and the store is read-only.
    `unload_differs` tells that unload leaves other metadata than the original.
    """

    rows: tuple[str, ...]
    store: Facts = field(default_factory=dict)
    blobs: dict[int, Facts] = field(default_factory=dict)
    twin: str | None = None
    quarantined: tuple[int, ...] = ()
    unload_differs: bool = True


def lost_root(page: int, store: Facts, **more: Any) -> Difference:
    """Return the difference of an image that has a root with a wrong crc.

    The original takes the page for free, and hands out the blob's clusters.
    """
    return Difference(("lost-root",), store, quarantined=(blob_id(page),), **more)


def overlay(*parts: tuple[int, int, int]) -> str:
    """Return the hash of six clusters to which (seed, io unit, count) were written in turn."""
    content = bytearray(6 * CLUSTER)
    for seed, first, count in parts:
        at, length = first * IO_UNIT, count * IO_UNIT
        content[at : at + length] = pattern(seed, length, offset=at)
    return hashlib.sha256(content).hexdigest()


def longer_than_its_snapshot() -> Difference:
    """Return what is right for a clone of 12 clusters of an external snapshot of 8.

    The device that the original was given goes on beyond its size. It is read there for
    unallocated clusters, which is zeroes here, and was read for the last, allocated one.
    """
    content = bytearray(pattern(42, 12 * CLUSTER))
    content[8 * CLUSTER : 11 * CLUSTER] = bytes(3 * CLUSTER)
    at, length = 190 * IO_UNIT, 2 * IO_UNIT
    content[at : at + length] = pattern(5, length, offset=at)
    facts = {"sha256": hashlib.sha256(content).hexdigest()}
    return Difference(
        ("end-of-external-snapshot",), blobs={blob_id(9): facts}, unload_differs=False
    )


def middle_snapshot_removed(*, table: bool) -> Difference:
    """Return what is right where the original dies when it loads.

    Of the chain a -> s1 -> s0 the middle snapshot was being deleted: a names
    s0 as its parent already and has taken over what s1 owned, so the delete
    has happened. s0 is as it was, and a reads as it did: the pattern of seed 1,
    then 2 in its second cluster, then 3 at the beginning of the third.
    """
    a, s0 = blob_id(0), blob_id(2 if table else 1)
    flags = 4 if table else 0
    neither = {
        "num_clusters": 6,
        "num_io_units": 96,
        "is_esnap_clone": False,
        "md_ro_flags": 0,
        "clear_method": 0,
        "use_extent_table": table,
    }
    clone = {
        "id": a,
        "num_allocated_clusters": 2,
        "is_thin": True,
        "is_snapshot": False,
        "is_clone": True,
        "is_read_only": False,
        "parent": s0,
        "parent_snapshot": s0,
        "clones": [],
        "invalid_flags": 3 | flags,
        "data_ro_flags": 0,
        "data_ro": False,
        "md_ro": False,
        "md_pages": [0],
        "extent_pages": [5] if table else [],
        "cluster_runs": [[0, 1], [23, 2], [0, 3]],
        "xattrs": [["name", b"orig".hex()]],
        "internal_xattrs": [["SNAP", s0.to_bytes(8, "little").hex()]],
        "sha256": overlay((1, 0, 96), (2, 16, 16), (3, 32, 4)),
    }
    snapshot = {
        "id": s0,
        "num_allocated_clusters": 6,
        "is_thin": False,
        "is_snapshot": True,
        "is_clone": False,
        "is_read_only": True,
        "parent": None,
        "parent_snapshot": None,
        "clones": [a],
        "invalid_flags": flags,
        "data_ro_flags": 1,
        "data_ro": True,
        "md_ro": True,
        "md_pages": [s0 & 0xFF],
        "extent_pages": [1] if table else [],
        "cluster_runs": [[17, 6]],
        "xattrs": [],
        "internal_xattrs": [],
        "sha256": overlay((1, 0, 96)),
    }
    # Eight clusters are owned; beside the roots, two pages of extents where there are tables.
    return Difference(
        ("removed-snapshot-in-chain",),
        {
            "free_clusters": 231,
            "used_md_pages": 4 if table else 2,
            "used_cluster_bits": 25,
            "blobs": {a: neither | clone, s0: neither | snapshot},
        },
        twin="pf_snapcreate_et0_n00of05",
    )


DIFFERENCES: Final[dict[str, Difference]] = {
    # Blob a (page 0, clusters 17 to 19) is lost; b, c and d are as the original says.
    "bad_md_crc_dirty": lost_root(0, {"used_md_pages": 4}),
    # The first sector of the root is new, the rest old: neither state can be trusted. The one
    # blob of the store is lost, so the manifest has none.
    "pf_resize_down_et0_n01of03_torn512": lost_root(0, {"used_md_pages": 1}),
    "pf_resize_up_et0_n01of02_torn512": lost_root(0, {"used_md_pages": 1}),
    # The origin is lost; the half-made snapshot stays as it is, for the repair.
    "pf_snapcreate_et0_n03of05_torn512": Difference(
        ("lost-root",),
        {"used_md_pages": 2},
        quarantined=(blob_id(0),),
    ),
    "pf_snapcreate_et1_n03of05_torn512": Difference(
        ("lost-root",),
        {"used_md_pages": 3},
        quarantined=(blob_id(0),),
    ),
    # The snapshot's root is lost, so its clone cannot be opened: its parent is there, and bad.
    "pf_snapdelete_et0_n01of06_torn512": lost_root(
        1, {"used_md_pages": 2}, blobs={blob_id(0): {"open_rc": -EINVAL}}
    ),
    "pf_snapdelete_et1_n01of08_torn512": lost_root(
        2, {"used_md_pages": 3}, blobs={blob_id(0): {"open_rc": -EINVAL}}
    ),
    # The snapshot is lost, but the clone had taken over everything before.
    "pf_snapdelete_et0_n03of06_torn512": lost_root(1, {"used_md_pages": 2}),
    # The clone is lost; the snapshot keeps its marker.
    "pf_snapdelete_et1_n03of08_torn512": lost_root(0, {"used_md_pages": 3}),
    # What the clean image says, but for what a cannot say: only b's clusters and pages count.
    "bad_extent_page_crc_dirty": Difference(
        ("bad-extent-page",),
        {"free_clusters": 237, "used_md_pages": 3, "used_cluster_bits": 19},
        twin="bad_extent_page_crc_clean",
        quarantined=(blob_id(0),),
    ),
    # One blob, its extent page torn: nothing of it can be known but its id.
    "pf_resize_down_et1_n01of04_torn512": Difference(
        ("bad-extent-page",),
        {"used_md_pages": 1},
        twin="pf_resize_down_et0_n01of03_torn512",
        quarantined=(blob_id(0),),
    ),
    "pf_resize_up_et1_n01of03_torn512": Difference(
        ("bad-extent-page",),
        {"used_md_pages": 1},
        twin="pf_resize_up_et0_n01of02_torn512",
        quarantined=(blob_id(0),),
    ),
    # What the clean image says, without a's clusters.
    "unknown_descriptor_dirty": Difference(
        ("unknown-descriptor",),
        {"free_clusters": 236, "used_cluster_bits": 20},
        twin="unknown_descriptor_clean",
        quarantined=(blob_id(0),),
    ),
    # A page of the chain is torn. The original lists the blob too, but goes on writing.
    "pf_delete_et0_n01of04_torn512": Difference(("broken-chain",), quarantined=(blob_id(0),)),
    "pf_delete_et1_n01of05_torn512": Difference(("broken-chain",), quarantined=(blob_id(0),)),
    # The chain is zeroed, the root not: the delete is finished, and the store is empty.
    "pf_delete_et0_n02of04": Difference(("half-deleted",), {"used_md_pages": 0, "blobs": {}}),
    "pf_delete_et1_n02of05": Difference(("half-deleted",), {"used_md_pages": 0, "blobs": {}}),
    # One blob of three clusters, and 239 clusters for data: 236 are free. The original itself
    # says so when it loads the store a second time.
    "pf_recover_n00of06": Difference(
        ("recovery-counts-once",), {"free_clusters": 236}, unload_differs=False
    ),
    "pf_recover_n02of06": Difference(
        ("recovery-counts-once",), {"free_clusters": 236}, unload_differs=False
    ),
    "pf_recover_n04of06": Difference(
        ("recovery-counts-once",), {"free_clusters": 236}, unload_differs=False
    ),
    # One blob with six clusters: 233 are free, the removed snapshot's cluster 18 among them.
    "pf_snapdelete_et0_n04of06": Difference(
        ("removed-snapshot",), {"free_clusters": 233, "used_cluster_bits": 23}
    ),
    # The same, and the removed snapshot's extent page is free as well.
    "pf_snapdelete_et1_n04of08": Difference(
        ("removed-snapshot", "recovery-counts-once"),
        {"free_clusters": 233, "used_cluster_bits": 23, "used_md_pages": 2},
    ),
    "pf_snapdelete_mid_et0_n04of05": middle_snapshot_removed(table=False),
    "pf_snapdelete_mid_et1_n04of07": middle_snapshot_removed(table=True),
    # 0x100000005 is a clone of it, though it cannot be opened: with the clone forgotten the
    # snapshot could be deleted below it.
    "snapchain_resize_clean": Difference(
        ("clone-that-cannot-be-opened", "refused-blob-stops-writing"),
        blobs={blob_id(2): {"is_snapshot": True, "clones": [blob_id(5)]}},
        unload_differs=False,
    ),
    # Its facts are the original's; see the test of the row.
    "bad_used_cluster_mask_clean": Difference(
        ("refused-blob-stops-writing",), unload_differs=False
    ),
    "cbug_delsnap_shrunk_clone_et1_clean": Difference(
        ("refused-blob-stops-writing",), unload_differs=False
    ),
    # The original reads wrong contents; the right ones were recorded before the store was closed.
    "cbug_cs48k_default_load_clean": Difference(("any-cluster-size",), unload_differs=False),
    "cbug_cs48k_default_load_dirty": Difference(("any-cluster-size",), unload_differs=False),
    "v2_bl512_clean": Difference(("io-unit-above-block",), unload_differs=False),
    "v2_bl512_dirty": Difference(("io-unit-above-block",), unload_differs=False),
    "v3old_bl512_clean": Difference(("io-unit-above-block",), unload_differs=False),
    "v3old_bl512_dirty": Difference(("io-unit-above-block",), unload_differs=False),
    # Refused before anything is written; the store is the one of 16 MiB that it was.
    "grow_dirty_refused": Difference(("grow-of-a-dirty-store",), unload_differs=False),
    "esnap_clean": longer_than_its_snapshot(),
    "esnap_dirty": longer_than_its_snapshot(),
}

GROW_REFUSED: Final = "grow_dirty_refused"
# Rows that are not about one image; the tests further down show them.
OTHER_ROWS: Final = (
    "dump-of-old-stores",
    "conversion-needs-pages",
    "untouched-unload",
    "recovery-in-memory",
)
ROWS: Final = {row for found in DIFFERENCES.values() for row in found.rows} | set(OTHER_ROWS)

REFUSED: Final = {
    name: -load["rc"]
    for name in IMAGE_NAMES
    if (load := manifest(name)["expected_after_load"].get("load")) and load["rc"]
    if name not in DIFFERENCES
}
LOADABLE: Final = [name for name in IMAGE_NAMES if name not in REFUSED and name != GROW_REFUSED]
QUARANTINED: Final = [
    name for name in LOADABLE if name in DIFFERENCES and DIFFERENCES[name].quarantined
]
REFUSING: Final = [
    name for name, found in DIFFERENCES.items() if "refused-blob-stops-writing" in found.rows
]
# The rest is the same through any device; these are the kinds of images there are.
THROUGH_FILES: Final = sorted({*LOADABLE[::9], *QUARANTINED, *REFUSING, "grow_pending"})


# --- what is right ---------------------------------------------------------------------------


def expected(name: str) -> Facts:
    """Return what is right for an image: the manifest's facts, differences applied."""
    difference = DIFFERENCES.get(name, Difference(()))
    source = difference.twin or name
    state = manifest(source)["expected_after_load"]["state"]
    blobs = {blob["id"]: expected_blob(source, blob) for blob in state["blobs"]}
    for key, facts in difference.blobs.items():
        blobs[key] = blobs.get(key, {}) | facts
    for key in difference.quarantined:
        blobs[key] = {"id": key, "open_rc": -EINVAL}
    facts = {key: state[key] for key in STORE_FACTS} | {"blobs": dict(sorted(blobs.items()))}
    return facts | difference.store | {"quarantined": list(difference.quarantined)}


STORE_FACTS: Final = (
    "cluster_size",
    "page_size",
    "io_unit_size",
    "free_clusters",
    "total_data_clusters",
    "total_clusters",
    "max_growable_size",
    "md_start",
    "md_len",
    "bstype",
    "super_blob",
    "used_md_pages",
    "used_cluster_bits",
)


def expected_blob(name: str, facts: Facts) -> Facts:
    if "open_rc" in facts:
        return facts
    # Whether an external snapshot is missing is known to those who register them.
    wanted = {key: value for key, value in facts.items() if key != "is_degraded"}
    return wanted | {"sha256": expected_hash(name, facts)}


def expected_hash(name: str, facts: Facts) -> str:
    if "sha256" in facts:
        return str(facts["sha256"])
    # What the original said before it closed the store; the dirty image was made in the same way.
    twin = name.removesuffix("_dirty").removesuffix("_clean") + "_clean"
    (state,) = (step for step in manifest(twin)["script_results"] if step["cmd"] == "state")
    (hashed,) = (blob["sha256"] for blob in state["blobs"] if blob["id"] == facts["id"])
    return str(hashed)


# --- what the library says -------------------------------------------------------------------


def device_of(name: str, *, atomic_write_size: int = COMPACT) -> ReplayDevice:
    """Return a memory device with the image, which its closing does not empty."""
    block_size = manifest(name)["geometry"]["blocklen"]
    return ReplayDevice.of(
        load_image(name), block_size=block_size, atomic_write_size=atomic_write_size
    )


def file_of(name: str, directory: Path) -> Path:
    """Write the image to a sparse file."""
    image = load_image(name)
    path = directory / "image"
    with path.open("wb") as file:
        file.truncate(len(image))
        for at, piece in pieces_of(image):
            file.seek(at)
            file.write(piece)
    return path


def load_options(name: str) -> Facts:
    """Return what the manifest's command asks for beside loading."""
    words = dict(word.split("=") for word in manifest(name)["load_command"].split()[1:])
    options: Facts = {}
    if "bstype" in words:
        options["bstype"] = words["bstype"].encode()
    if "force_recover" in words:
        options["force_recovery"] = words["force_recover"] == "1"
    return options


def must_grow(name: str) -> bool:
    return bool(manifest(name)["load_command"] == "grow")


def open_image(name: str, source: ReplayDevice | Path, **options: Any) -> Blobstore:
    """Do what the manifest's command says."""
    if must_grow(name) and name != GROW_REFUSED:
        grow(source, atomic_write_size=options.get("atomic_write_size"))
    return Blobstore.open(source, **load_options(name), **options)


def describe(store: Blobstore, *, contents: bool = True) -> Facts:
    if contents:
        know_externals(store)
    facts = store_facts(store)
    blobs = {key: describe_blob(store, key, contents=contents) for key in store.blob_ids()}
    return facts | {"blobs": blobs, "quarantined": sorted(store.errors)}


def describe_blob(store: Blobstore, key: int, *, contents: bool) -> Facts:
    try:
        blob = store.open_blob(key)
    except BlobstoreError as error:
        return {"id": key, "open_rc": -error.errno}
    with blob:
        facts = blob_facts(store, blob)
        return facts | {"sha256": content_hash(blob)} if contents else facts


def content_hash(blob: Blob) -> str:
    return hashlib.sha256(blob.read(blob.size)).hexdigest()


def without_hashes(facts: Facts) -> Facts:
    blobs = facts["blobs"].items()
    stripped = {id_: {k: v for k, v in blob.items() if k != "sha256"} for id_, blob in blobs}
    return facts | {"blobs": stripped}


# --- loading ---------------------------------------------------------------------------------


def test_every_image_is_loaded_or_refused() -> None:
    assert len(IMAGE_NAMES) == 271
    assert sorted([*LOADABLE, *REFUSED, GROW_REFUSED]) == IMAGE_NAMES
    assert set(DIFFERENCES) <= {*LOADABLE, GROW_REFUSED}


@pytest.mark.parametrize("name", LOADABLE)
def test_loading_gives_the_listed_state_and_contents(name: str) -> None:
    device = device_of(name)
    store = open_image(name, device)
    assert must_grow(name) or device.change_count == 0  # the row recovery-in-memory
    assert describe(store) == expected(name)
    store.close()
    if is_left_alone(name):
        assert device.change_count == 0  # the row untouched-unload
    check_metadata_after_unload(name, device)
    with Blobstore.open(device) as again:
        assert again.info.clean == (name not in QUARANTINED)
        assert describe(again, contents=False) == without_hashes(expected(name))


def is_left_alone(name: str) -> bool:
    """Tell whether the store is clean, and its command asks for nothing but loading it."""
    is_plain = not must_grow(name) and "force_recovery" not in load_options(name)
    return is_plain and bool(manifest(name)["expected_after_load"]["before_load"]["clean"])


def check_metadata_after_unload(name: str, device: ReplayDevice) -> None:
    """Compare what an unload left with what the original leaves."""
    after = manifest(name)["expected_after_load"].get("after_load_unload")
    image, content = load_image(name), device.content()
    if name in QUARANTINED:
        assert content == image
        return
    metadata_bytes = (after or {"md_bytes": 0x104000})["md_bytes"]
    assert content[metadata_bytes:] == image[metadata_bytes:]
    if name in DIFFERENCES and DIFFERENCES[name].unload_differs:
        assert after is None or hash_of(content[:metadata_bytes]) != after["md_sha256"]
    elif manifest(name)["md_bytes_deterministic"]:
        assert hash_of(content[:metadata_bytes]) == after["md_sha256"]


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", LOADABLE)
def test_the_blobs_that_can_be_opened_are_those_the_original_iterates(name: str) -> None:
    found = [blob["id"] for blob in expected(name)["blobs"].values() if "open_rc" not in blob]
    twin = DIFFERENCES[name].twin if name in DIFFERENCES else None
    if twin is None:
        assert found == manifest(name)["expected_after_load"]["iterate"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_original_refuses_to_load_is_refused_with_its_errno(name: str) -> None:
    kind = WrongTypeError if name == "bad_bstype_clean" else CorruptError
    for atomic_write_size in (COMPACT, SECTOR):
        device = device_of(name, atomic_write_size=atomic_write_size)
        with pytest.raises(kind) as caught:
            open_image(name, device)
        assert caught.value.errno == REFUSED[name]
        assert device.change_count == 0


@pytest.mark.parametrize("name", [name for name in LOADABLE if not must_grow(name)])
def test_a_read_only_open_sees_the_same_and_changes_nothing(name: str) -> None:
    device = device_of(name, atomic_write_size=SECTOR)
    with open_image(name, device, read_only=True) as store:
        assert store.read_only
        assert describe(store, contents=False) == without_hashes(expected(name))
        with pytest.raises(ReadOnlyError):
            store.create_blob()
    assert device.change_count == 0
    assert device.content() == load_image(name)


@pytest.mark.parametrize("name", LOADABLE)
def test_the_state_is_the_same_on_a_device_with_sectors(name: str) -> None:
    device = device_of(name, atomic_write_size=SECTOR)
    with open_image(name, device) as store:
        assert describe(store, contents=False) == without_hashes(expected(name))
    with Blobstore.open(device) as again:
        assert describe(again) == expected(name)


@pytest.mark.parametrize("name", THROUGH_FILES)
@pytest.mark.parametrize("atomic_write_size", [SECTOR, COMPACT])
def test_a_file_gives_the_same_state_and_contents(
    name: str, atomic_write_size: int, tmp_path: Path
) -> None:
    path = file_of(name, tmp_path)
    with open_image(name, path, atomic_write_size=atomic_write_size) as store:
        assert describe(store) == expected(name)
    with Blobstore.open(path, read_only=True) as again:
        assert describe(again) == expected(name)


# --- the dump --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_the_library_dumps_every_image_as_the_original_does(name: str) -> None:
    device = device_of(name)
    text = dump(device)
    if manifest(name)["dump_rc"] == "exit -6":  # the row dump-of-old-stores
        assert text.startswith(b'Signature: "SPDKBLOB" (OK)\nVersion: ')
    else:
        assert text == golden_dump(name)
    if name in LOADABLE:
        with Blobstore.open(device, read_only=True) as store:
            assert store.dump() == text
    assert device.change_count == 0


# --- changing --------------------------------------------------------------------------------


# Its metadata region is full: see the test of its own.
FULL: Final = "md_full_dirty"
CHANGEABLE: Final = [name for name in LOADABLE if name not in {*QUARANTINED, *REFUSING, FULL}]


@matrix.in_turn(
    ("name", "atomic_write_size"),
    {name: name for name in CHANGEABLE},
    {"compact": COMPACT, "sector": SECTOR},
)
def test_a_change_leaves_all_other_blobs_as_they_were(name: str, atomic_write_size: int) -> None:
    device = device_of(name, atomic_write_size=atomic_write_size)
    wanted = expected(name)["blobs"]
    with open_image(name, device) as store:
        changed = change_first_writable(store, wanted)
        created = store.create_blob(xattrs={"made": b"here"}).id
    with Blobstore.open(device) as again:
        found = describe(again)["blobs"]
    assert created not in wanted
    assert found.pop(created)["xattrs"] == [["made", b"here".hex()]]
    if changed is not None:
        assert found[changed]["xattrs"] == [*wanted[changed]["xattrs"], ["touched", "01"]]
        wanted = wanted | {changed: wanted[changed] | changeable_facts(found[changed])}
    assert found == wanted


def test_a_full_metadata_region_has_no_page_for_converting_a_root_that_needs_more() -> None:
    wanted = expected(FULL)["blobs"]
    first, second = list(wanted)[:2]
    for atomic_write_size in (COMPACT, SECTOR):
        device = device_of(FULL, atomic_write_size=atomic_write_size)
        with Blobstore.open(device) as store:
            with store.open_blob(first) as blob:  # two long attributes: one page more, and a copy
                if atomic_write_size == COMPACT:
                    blob.set_xattr("touched", b"\x01")
                else:
                    with pytest.raises(NoSpaceError, match="metadata page") as caught:
                        blob.set_xattr("touched", b"\x01")
                    assert caught.value.errno == ENOMEM
                    assert "touched" not in blob.xattrs
            with store.open_blob(second) as blob:
                blob.set_xattr("touched", b"\x01")
        with Blobstore.open(device) as again:
            found = describe(again)["blobs"]
        touched = {key for key, facts in found.items() if ["touched", "01"] in facts["xattrs"]}
        assert touched == ({first, second} if atomic_write_size == COMPACT else {second})
        for key in touched:
            wanted_now = wanted[key] | changeable_facts(found[key])
            assert found[key] == wanted_now
        assert {k: f for k, f in found.items() if k not in touched} == {
            k: f for k, f in wanted.items() if k not in touched
        }


def change_first_writable(store: Blobstore, blobs: dict[int, Facts]) -> int | None:
    for key, facts in blobs.items():
        if "open_rc" not in facts and not facts["md_ro"]:
            with store.open_blob(key) as blob:
                blob.set_xattr("touched", b"\x01")
                blob.sync_md()
            return key
    return None


def changeable_facts(facts: Facts) -> Facts:
    """Return what one more attribute may change: it, and where the chain lies."""
    return {key: facts[key] for key in ("xattrs", "md_pages")}


@pytest.mark.parametrize("name", QUARANTINED)
@pytest.mark.parametrize("atomic_write_size", [COMPACT, SECTOR])
def test_a_store_with_a_blob_in_quarantine_refuses_every_change(
    name: str, atomic_write_size: int
) -> None:
    device = device_of(name, atomic_write_size=atomic_write_size)
    with open_image(name, device) as store:
        assert store.read_only
        with pytest.raises(ReadOnlyError, match="quarantine"):
            store.create_blob()
        with pytest.raises(ReadOnlyError, match="quarantine"):
            store.set_super_blob(None)
        for key, facts in expected(name)["blobs"].items():
            with pytest.raises(ReadOnlyError, match="quarantine"):
                store.delete_blob(key)
            if "open_rc" not in facts:
                with store.open_blob(key) as blob, pytest.raises(ReadOnlyError, match="quarantine"):
                    blob.set_xattr("touched", b"\x01")
    assert device.change_count == 0


@pytest.mark.parametrize("name", QUARANTINED)
def test_force_opens_a_store_for_writing_though_a_blob_is_in_quarantine(name: str) -> None:
    device = device_of(name)
    with open_image(name, device, force=True) as store:
        assert sorted(store.errors) == list(DIFFERENCES[name].quarantined)
        created = store.create_blob().id
    with Blobstore.open(device) as again:
        assert created in again.blob_ids()
        assert set(again.blob_ids()) >= set(expected(name)["blobs"])


@pytest.mark.parametrize("name", REFUSING)
def test_a_blob_whose_cluster_is_marked_free_stops_all_writing(name: str) -> None:
    device = device_of(name)
    with open_image(name, device) as store:
        was_read_only = store.read_only
        bad = [key for key, facts in expected(name)["blobs"].items() if "open_rc" in facts]
        for key in bad:
            with pytest.raises(CorruptError) as caught:
                store.open_blob(key)
            assert caught.value.errno == EINVAL
        assert (was_read_only, store.read_only) == (False, True)
        with pytest.raises(ReadOnlyError, match="owns a cluster"):
            store.create_blob()
    assert device.change_count == 0


# --- single rows -----------------------------------------------------------------------------


def test_a_dirty_store_is_not_grown_and_not_written_to() -> None:
    device = device_of(GROW_REFUSED)
    with pytest.raises(BlobstoreError, match="not clean") as caught:
        grow(device)
    assert caught.value.errno == 5
    assert device.change_count == 0
    with Blobstore.open(device) as store:
        assert (store.info.size, store.free_clusters) == (16 << 20, 235)
        assert [blob["cluster_runs"] for blob in describe(store)["blobs"].values()] == [[[17, 4]]]


@pytest.mark.parametrize("atomic_write_size", [COMPACT, SECTOR])
def test_an_open_store_grows_as_a_closed_one_does(atomic_write_size: int) -> None:
    device = device_of("grow_pending", atomic_write_size=atomic_write_size)
    with Blobstore.open(device) as store:
        assert store.free_clusters == 235
        assert store.grow().free_clusters == 363
    with Blobstore.open(device) as again:
        assert describe(again) == expected("grow_pending")


def test_the_clone_of_a_missing_external_snapshot_cannot_be_read_where_it_owns_nothing() -> None:
    with Blobstore.open(device_of("esnap_clean")) as store, store.open_blob(blob_id(0)) as clone:
        assert clone.info.external_snapshot == b"pat:42:524288:4096"
        assert clone.read(3 * IO_UNIT, CLUSTER + IO_UNIT) == pattern(
            1, 3 * IO_UNIT, offset=CLUSTER + IO_UNIT
        )
        with pytest.raises(UnsupportedError, match="external snapshot"):
            clone.read(IO_UNIT, 0)
        with pytest.raises(UnsupportedError, match="external snapshot"):
            clone.write(b"x", 0)


def test_a_forced_recovery_rebuilds_masks_that_are_wrong() -> None:
    device = device_of("bad_used_cluster_mask_clean")
    Blobstore.open(device, force_recovery=True).close()
    with Blobstore.open(device) as store:
        found = describe(store)
        assert [key for key, facts in found["blobs"].items() if "open_rc" in facts] == []
        created = store.create_blob(CLUSTER).id
    with Blobstore.open(device) as again:
        blobs = describe(again)["blobs"]
    assert blobs.pop(created)["cluster_runs"] not in [b["cluster_runs"] for b in blobs.values()]
    assert blobs == found["blobs"]


def test_the_original_counts_right_when_it_loads_a_recovered_store_again() -> None:
    for name, difference in DIFFERENCES.items():
        if difference.rows == ("recovery-counts-once",):
            assert manifest(name)["second_load_state"]["free_clusters"] == 236
            assert difference.store == {"free_clusters": 236}


def test_a_finished_delete_leaves_nothing_of_the_root() -> None:
    for name in ("pf_delete_et0_n02of04", "pf_delete_et1_n02of05"):
        device = device_of(name)
        open_image(name, device).close()
        content = device.content()
        md_start = expected(name)["md_start"] * PAGE_SIZE
        metadata = content[md_start : md_start + expected(name)["md_len"] * PAGE_SIZE]
        assert not any(metadata[:PAGE_SIZE])


# --- the document ----------------------------------------------------------------------------


def documented_rows() -> dict[str, str]:
    """Return the differences that docs/COMPATIBILITY.md lists, and the tests that each names."""
    text = (CHECKOUT / "docs" / "COMPATIBILITY.md").read_text()
    section = text.split("## Deliberate differences")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|.*\| ([^|]*) \|$", section, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_every_difference_seen_in_an_image_is_a_row_of_the_document() -> None:
    tested = {row for row, test in documented_rows().items() if Path(__file__).name in test}
    assert tested == ROWS


def test_every_row_of_the_document_names_test_functions_that_are_there() -> None:
    for row, cell in documented_rows().items():
        for named in cell.split(", "):
            found = re.fullmatch(r"`(tests/[a-z0-9_/]+\.py)::(test_\w+)`", named)
            assert found is not None, (row, named)
            assert f"def {found[2]}(" in (CHECKOUT / found[1]).read_text(), (row, named)
