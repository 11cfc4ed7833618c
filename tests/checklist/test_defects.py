"""The defects of the original, each with its script: here the right thing happens.

Numbers, names and scripts are those of reference/defects-of-the-original.md.
"""

import hashlib
import re
from collections.abc import Iterable

import pytest

from blobstore import Blobstore, dump
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.testing.internals import core_of
from tests.golden.images import IMAGE_NAMES
from tests.golden.test_load import describe, device_of, expected, open_image
from tests.replay import COMPACT, SECTOR, Replay, Result, pattern
from tests.shared import shared

CLUSTER = 65536
BLOCK = 4096
EIO, EINVAL, ENOENT = 5, 22, 2


@pytest.fixture(params=[0, 1], ids=["runs", "table"])
def et(request: pytest.FixtureRequest) -> int:
    """Whether blobs have extent tables."""
    found: int = request.param
    return found


@pytest.fixture(params=[COMPACT, SECTOR], ids=["compact", "sector"])
def replay(request: pytest.FixtureRequest) -> Replay:
    """A store of 16 MiB with clusters of 64 KiB."""
    replay = Replay(atomic_write_size=request.param)
    perform(replay, "dev mem=1 size=16777216 blocklen=4096", "init cluster_sz=65536")
    return replay


def perform(replay: Replay, *lines: str) -> list[Result]:
    """Perform lines that must not fail."""
    results = [replay.run(line) for line in lines]
    assert [(line, found["rc"]) for line, found in zip(lines, results, strict=True)] == [
        (line, 0) for line in lines
    ]
    return results


def reloaded(replay: Replay, *, close: Iterable[str] = ()) -> dict[int, Result]:
    """Unload and load the store, check that its masks add up, and return what is in it."""
    perform(replay, *(f"close {name}" for name in close), "unload", "load")
    state = replay.run("state")
    check_ownership(replay.the_store(), state)
    return {blob["id"]: blob for blob in state["blobs"]}


def check_ownership(store: Blobstore, state: Result) -> None:
    """See that no cluster and no page is owned twice, and none is used without an owner."""
    blobs = state["blobs"]
    clusters = [
        first + step for blob in blobs for first, n in blob["cluster_runs"] if first
        for step in range(n)
    ]  # fmt: skip
    pages = [page for blob in blobs for page in blob["md_pages"]]
    pages += [page for blob in blobs for page in blob["extent_pages"] if page]
    assert len(set(clusters)) == len(clusters)
    assert len(set(pages)) == len(pages)
    assert state["used_md_pages"] == len(pages)
    assert state["used_cluster_bits"] == len(clusters) + core_of(store).geometry.md_clusters


def sha256(content: bytes | bytearray) -> str:
    return hashlib.sha256(content).hexdigest()


def check_images(pattern: str) -> None:
    """Load images of the original: what is expected of them is in tests/golden/test_load.py."""
    names = [name for name in IMAGE_NAMES if re.fullmatch(pattern, name)]
    assert names
    for name in names:
        device = device_of(name)
        with open_image(name, device) as store:
            assert describe(store) == expected(name)
            free = store.free_clusters
        with Blobstore.open(device) as again:
            assert again.free_clusters == free


def test_01_snapshot_of_a_blob_with_an_unsynced_shrink(replay: Replay, et: int) -> None:
    perform(
        replay,
        f"create as=a num_clusters=10 et={et}",
        "open a",
        "write a 0 160 1",
        "resize a 3",
        "snapshot a as=s",
    )
    blobs = reloaded(replay, close=["a"])
    for name, allocated in (("a", 0), ("s", 3)):
        blob = blobs[replay.names[name]]
        assert (blob["num_clusters"], blob["num_allocated_clusters"]) == (3, allocated)
        assert blob["sha256"] == sha256(pattern(1, 3 * CLUSTER))


def test_02_delete_of_a_snapshot_whose_clone_was_grown(replay: Replay, et: int) -> None:
    perform(
        replay,
        f"create as=a num_clusters=4 et={et}",
        "open a",
        "write a 0 64 1",
        "snapshot a as=s",
        "resize a 10",
        "sync a",
        "write a 144 16 2",
        "delete s",
    )
    (blob,) = reloaded(replay, close=["a"]).values()
    content = pattern(1, 4 * CLUSTER) + bytes(5 * CLUSTER)
    content += pattern(2, CLUSTER, offset=9 * CLUSTER)
    assert (blob["num_clusters"], blob["sha256"]) == (10, sha256(content))


def test_03_delete_of_a_snapshot_whose_clone_was_shrunk(replay: Replay, et: int) -> None:
    perform(
        replay,
        f"create as=a num_clusters=10 et={et}",
        "open a",
        "write a 0 160 1",
        "snapshot a as=s",
        "resize a 4",
        "sync a",
        "delete s",
    )
    (blob,) = reloaded(replay, close=["a"]).values()
    assert (blob["num_clusters"], blob["num_allocated_clusters"]) == (4, 4)
    assert blob["sha256"] == sha256(pattern(1, 4 * CLUSTER))
    check_images(r"cbug_delsnap_(shrunk|grown)_clone_.*|snapchain_resize_.*")


@pytest.mark.parametrize("act", ["decouple", "inflate"])
def test_04_decouple_of_a_clone_that_was_grown(replay: Replay, et: int, act: str) -> None:
    perform(
        replay,
        f"create as=a num_clusters=4 et={et}",
        "open a",
        "write a 0 64 1",
        "snapshot a as=s",
        "clone s as=c",
        "open c",
        "resize c 12",
        "sync c",
        f"{act} c",
    )
    blob = reloaded(replay, close=["a", "c"])[replay.names["c"]]
    assert blob["parent"] is None
    assert blob["num_allocated_clusters"] == (4 if act == "decouple" else 12)
    assert blob["sha256"] == sha256(pattern(1, 4 * CLUSTER) + bytes(8 * CLUSTER))


def test_05_cluster_size_that_is_no_power_of_two() -> None:
    replay = Replay()
    perform(
        replay,
        "dev mem=1 size=16777216 blocklen=4096",
        "init cluster_sz=49152",
        "create as=a num_clusters=5",
        "open a",
        "write a 0 60 1",
    )
    (blob,) = reloaded(replay, close=["a"]).values()
    assert blob["sha256"] == sha256(pattern(1, 5 * 49152))
    check_images(r"cbug_cs48k_.*|cs48k_.*")


def test_06_io_unit_larger_than_the_devices_block() -> None:
    check_images(r"(v1|v2|v3old)_bl512_.*")


def test_07_recovery_of_a_removed_snapshot_that_has_a_parent() -> None:
    check_images(r"pf_snapcreate2_.*_n03.*|pf_snapdelete_mid_.*_n0[345].*")


def test_08_recovery_counts_shared_clusters_once() -> None:
    check_images(
        r"pf_snapcreate_big_.*_n03of05|pf_snapcreate_et\d_n03of\d\d|pf_snapdelete_et.*of\d\d"
    )


def test_09_interrupted_delete_of_a_snapshot_leaves_no_cluster_with_two_owners(et: int) -> None:
    script = (
        "dev mem=1 size=16777216 blocklen=4096",
        "init cluster_sz=65536",
        f"create as=a num_clusters=4 et={et}",
        "open a",
        "write a 0 64 1",
        "snapshot a as=s",
        "write a 16 16 2",
        "close a",
    )
    for count in range(100):
        replay = Replay()
        perform(replay, *script, f"powerfail n={count} mode=drop")
        replay.run("delete s")
        is_whole = bool(replay.the_device().changes_left)
        perform(replay, "crash", "powerfail mode=off", "load")
        state = replay.run("state")
        check_ownership(replay.the_store(), state)
        contents = {blob["id"]: blob["sha256"] for blob in state["blobs"]}
        if replay.names["s"] in contents:
            assert contents[replay.names["s"]] == sha256(pattern(1, 4 * CLUSTER))
            perform(replay, "delete a", "create as=b num_clusters=8", "open b", "write b 0 128 3")
            snapshot = reloaded(replay, close=["b"])[replay.names["s"]]
            assert snapshot["sha256"] == sha256(pattern(1, 4 * CLUSTER))
        if is_whole:
            break
    check_images(r"pf_snapdelete_(mid_)?et1_.*")


def test_10_interrupted_delete_of_a_blob_with_a_chain_can_be_finished() -> None:
    for name in (name for name in IMAGE_NAMES if re.fullmatch(r"pf_delete_.*_n02of\d\d", name)):
        with open_image(name, device_of(name)) as store:
            assert store.blob_ids() == []
            assert core_of(store).pages.used.count() == 0
    script = ("create as=a num_clusters=2", "open a", "set_xattr a x @1:4000", "close a")
    for count in range(50):
        replay = Replay()
        perform(replay, "dev mem=1 size=16777216 blocklen=4096", "init cluster_sz=65536", *script)
        perform(replay, f"powerfail n={count} mode=drop")
        replay.run("delete a")
        is_whole = bool(replay.the_device().changes_left)
        perform(replay, "crash", "powerfail mode=off", "load")
        check_ownership(replay.the_store(), replay.run("state"))
        if replay.the_store().blob_ids():
            perform(replay, "delete a")
        assert reloaded(replay) == {}
        if is_whole:
            break


def test_11_a_failed_sync_is_not_forgotten(replay: Replay) -> None:
    perform(replay, "create as=a num_clusters=1", "open a", "set_xattr a k 00")
    perform(replay, "powerfail n=0 mode=fail")
    assert replay.run("sync a")["rc"] == -EIO
    perform(replay, "powerfail mode=off")
    assert replay.run("sync a")["rc"] == -EIO
    assert replay.run("close a")["rc"] in (0, -EIO)
    perform(replay, "crash", "load")
    assert replay.run("state")["blobs"][0]["xattrs"] == []


def test_12_a_failed_create_leaks_no_clusters(replay: Replay) -> None:
    free = replay.the_store().free_clusters
    perform(replay, "powerfail n=0 mode=fail")
    assert replay.run("create as=a num_clusters=5")["rc"] == -EIO
    perform(replay, "powerfail mode=off", "crash", "load")
    assert replay.run("bsinfo")["free_clusters"] == free
    assert replay.run("create as=b num_clusters=1000")["rc"] == -28
    assert replay.run("create as=b num_clusters=3 xattrs=n:")["rc"] == -EINVAL
    assert replay.run("bsinfo")["free_clusters"] == free
    check_ownership(replay.the_store(), replay.run("state"))


def test_13_grow_of_a_dirty_store_writes_nothing(replay: Replay) -> None:
    perform(replay, "create as=a num_clusters=3", "crash", "devsize 33554432")
    before = replay.the_device().content()
    assert replay.run("grow")["rc"] == -EIO
    assert replay.the_device().content() == before
    perform(replay, "load", "unload", "grow")
    assert replay.run("bsinfo")["total_clusters"] == 512


def test_14_dump_of_old_stores() -> None:
    names = [name for name in IMAGE_NAMES if re.match(r"(v1|v2|v3old)_", name)]
    assert names
    for name in names:
        text = dump(device_of(name))
        assert text.startswith(b'Signature: "SPDKBLOB" (OK)\n')
        assert text.count(b"Root Page") + text.count(b"Allocated Extent") > 1


def test_15_clone_while_the_device_drops_writes(et: int) -> None:
    for count in range(50):
        replay = Replay()
        perform(
            replay,
            "dev mem=1 size=16777216 blocklen=4096",
            "init cluster_sz=65536",
            f"create as=a num_clusters=2 et={et}",
            "open a",
            "write a 0 32 1",
            "snapshot a as=s",
            f"powerfail n={count} mode=drop",
        )
        made = replay.run("clone s as=c")
        is_whole = bool(replay.the_device().changes_left)
        assert made["rc"] in (0, -ENOENT, -EINVAL)
        perform(replay, "crash", "powerfail mode=off", "load")
        check_ownership(replay.the_store(), replay.run("state"))
        if is_whole:
            assert replay.run("get_clones s")["clones"] == sorted([replay.names["a"], made["id"]])
            return
    raise AssertionError("the clone is never made")


@pytest.mark.parametrize("offset", [2**64 - 1, 2**63, 2**52])
def test_16_offset_and_length_that_overflow(replay: Replay, offset: int) -> None:
    perform(replay, "create as=a num_clusters=2", "open a")
    for line in ("read a {} 1", "write a {} 1 7", "unmap a {} 1", "write_zeroes a {} 2"):
        assert replay.run(line.format(offset))["rc"] == -EINVAL


def test_17_set_read_only_twice(replay: Replay) -> None:
    perform(replay, "create as=a num_clusters=2", "open a", "set_ro a", "sync a")
    before = replay.the_device().change_count
    perform(replay, "set_ro a", "sync a", "close a")
    assert replay.the_device().change_count == before


@pytest.mark.parametrize("how", ["md_page_size=16384", ""])
def test_18_metadata_pages_above_4096_are_zero_behind_the_first_4096_bytes(how: str) -> None:
    replay = Replay()
    phys = "" if how else "phys=16384"
    perform(replay, f"dev mem=1 size=16777216 blocklen=4096 {phys}".strip())
    dirty = replay.the_device()
    dirty.write(0, [b"\xdd" * dirty.size_bytes])
    perform(
        replay,
        f"init cluster_sz=65536 {how}".strip(),
        "create as=a num_clusters=3",
        "open a",
        "set_xattr a x @1:4000",
    )
    perform(replay, "sync a", "snapshot a as=s", "close a", "unload")
    super_block = SuperBlock.decode(dirty.read(0, SUPER_BLOCK_SIZE))
    assert super_block.md_page_size == 16384
    for page in range(super_block.md_start, super_block.md_start + super_block.md_len):
        assert not any(dirty.read(page * 16384 + 4096, 16384 - 4096))


def test_19_an_error_while_the_mask_of_blob_ids_is_read_is_told(replay: Replay) -> None:
    perform(replay, "create as=a", "unload", "load", "unload")
    codes = []
    for count in range(20):
        perform(replay, f"readfail n={count}")
        codes.append(replay.run("load")["rc"])
        if codes[-1] == 0:
            break
    assert len(codes) > 4
    assert codes == [-EIO] * (len(codes) - 1) + [0]


def test_20_a_thin_write_to_a_store_with_large_pages_that_was_loaded_without_options() -> None:
    replay = Replay()
    perform(
        replay,
        "dev mem=1 size=16777216 blocklen=4096",
        "init cluster_sz=65536 md_page_size=16384",
        "create as=t num_clusters=6 thin=1 et=1",
        "unload",
        "load",
        "open t",
        "write t 20 4 2",
    )
    (blob,) = reloaded(replay, close=["t"]).values()
    content = bytearray(6 * CLUSTER)
    content[20 * BLOCK : 24 * BLOCK] = pattern(2, 4 * BLOCK, offset=20 * BLOCK)
    assert blob["sha256"] == sha256(content)


def test_every_defect_has_a_test_of_its_number() -> None:
    text = shared("reference/defects-of-the-original.md").read_text()
    numbers = [int(found) for found in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    tests = [name for name in globals() if re.match(r"test_\d\d_", name)]
    assert numbers == [int(name[5:7]) for name in tests] == list(range(1, 21))
