"""What a repair loses changes snapshots: no backup takes them for their copies any more."""

import io
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from blobstore import (
    Blob,
    Blobstore,
    CorruptError,
    InvalidArgumentError,
    NoSpaceError,
    NotFoundError,
    Volume,
    VolumeStore,
    check,
    repair,
    undo,
)
from blobstore.backup import receive, send, take_snapshot
from blobstore.backup.any_store import AnyStore
from blobstore.backup.receiving import unfinished_receipts
from blobstore.backup.snapshot_identity import identity_of
from blobstore.backup.tree_copy import copy_blobs, whole_store
from blobstore.format.geometry import root_of
from blobstore.testing.crash_states import Limits, crash_contents
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import SimulatedDisk
from tests.cli.runner import run

CLUSTER = 65536
SIZE = 8 * CLUSTER
NAMES = ("below", "monday", "tuesday", "branch")


@dataclass
class Source:
    """A store with a chain of snapshots, and a vault with a copy of each."""

    kind: type[Blobstore] | type[VolumeStore]
    path: Path
    vault: Path
    identities: dict[str, UUID | None]

    def open(self) -> AnyStore:
        return self.kind.open(self.path)

    def open_vault(self) -> AnyStore:
        return self.kind.open(self.vault)


@pytest.fixture(params=[Blobstore, VolumeStore])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    path, vault = tmp_path / "s.img", tmp_path / "v.img"
    with _created(request.param, path) as store, _created(request.param, vault) as copies:
        if isinstance(store, VolumeStore):
            disk: Blob = store.create_volume("disk", SIZE, thin=True)
        else:
            disk = store.create_blob(SIZE, thin=True, name="disk")
        before: Blob | None = None
        for number, name in enumerate(NAMES[:3]):
            disk.write(name.encode() * 100, number * CLUSTER)
            before = copied(take_snapshot(disk, name), copies, before)
        monday = find(store, "monday")
        with monday.clone("side") as side:
            copied(take_snapshot(side, "branch"), copies, monday)
        page = store.info.md_start + root_of(monday.id)
        identities = identities_in(store)
    lose(path, page)
    return Source(request.param, path, vault, identities)


def lose(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * page)
        file.write(bytes(4096))


def _created(kind: type[Blobstore] | type[VolumeStore], path: Path) -> AnyStore:
    if issubclass(kind, VolumeStore):
        return kind.create(path, name="vms", size="16MiB", cluster_size=CLUSTER)
    return kind.create(path, size="16MiB", cluster_size=CLUSTER)


def find(store: AnyStore, name: str) -> Blob:
    return store.open_blob(next(i.blob_id for i in store.list_blobs() if i.name == name))


def copied(snapshot: Blob, target: AnyStore, base: Blob | None) -> Blob:
    stream = io.BytesIO()
    send(snapshot, stream, base=base)
    stream.seek(0)
    receive(target, stream).close()
    return snapshot


def identities_in(store: AnyStore) -> dict[str, UUID | None]:
    found = {info.name: info for info in store.list_blobs() if info.data_read_only}
    return {name: identity_of(found[name]) for name in NAMES if name in found}


def test_a_salvaged_snapshot_and_those_above_it_are_no_base(source: Source) -> None:
    report = repair(source.path, "all")
    assert sum("no base of incremental streams" in line for line in report.repaired) == 2
    with source.open() as store:
        wednesday = take_snapshot(find(store, "disk"), "wednesday")
        for name in ("tuesday", "branch"):
            with pytest.raises(InvalidArgumentError, match="by another parent or by a repair"):
                send(wednesday, io.BytesIO(), base=find(store, name))
        salvaged = next(info for info in store.list_blobs() if info.salvaged)
        with pytest.raises(InvalidArgumentError, match="no identity"):
            send(wednesday, io.BytesIO(), base=store.open_blob(salvaged.blob_id))
        assert identities_in(store)["below"] == source.identities["below"] is not None
    assert check(source.path).clean


def test_the_command_refuses_such_a_base_and_nothing_is_received(source: Source) -> None:
    run("check", source.path, "--repair", "all")
    run("snapshot", source.path, "disk", "wednesday")
    sent = run("send", source.path, "wednesday", "--from", "tuesday")
    assert (sent.status, sent.stdout) == (1, b"")
    assert "its content has changed since it was taken" in sent.stderr


def test_a_snapshot_that_is_sent_whole_after_the_repair_is_a_base_again(source: Source) -> None:
    repair(source.path, "all")
    with source.open() as store, source.open_vault() as vault:
        disk = find(store, "disk")
        base: Blob | None = None
        for name in ("wednesday", "thursday"):
            disk.write(name.encode(), 5 * CLUSTER)
            base = copied(take_snapshot(disk, name), vault, base)
            assert find(vault, name).read(SIZE) == base.read(SIZE)


def test_undo_restores_the_identities(source: Source) -> None:
    before = source.path.read_bytes()
    report = repair(source.path, "all")
    assert report.undo is not None
    assert source.path.read_bytes() != before
    undo(source.path, report.undo)
    assert source.path.read_bytes() == before


def test_a_copied_tree_has_no_identities_that_the_repair_removed(source: Source) -> None:
    repair(source.path, "all")
    with source.open() as store, _created(Blobstore, source.path.with_suffix(".copy")) as other:
        copy_blobs(store, other, whole_store(store))
        assert identities_in(other)["below"] == source.identities["below"]
        assert identities_in(other)["tuesday"] is None


def test_a_vault_whose_base_was_salvaged_goes_on_with_no_difference_to_it(source: Source) -> None:
    stream, target = io.BytesIO(), source.path.with_suffix(".target")
    target.write_bytes(source.vault.read_bytes())
    with source.open_vault() as vault:
        with find(vault, "tuesday").clone("next") as disk:
            disk.write(b"w" * CLUSTER, 3 * CLUSTER)
            disk.write(b"w" * CLUSTER, 5 * CLUSTER)
            send(take_snapshot(disk, "wednesday"), stream, base=find(vault, "tuesday"), level=0)
        page = vault.info.md_start + root_of(find(vault, "monday").id)
    with source.kind.open(target) as store, pytest.raises(CorruptError):
        receive(store, io.BytesIO(stream.getvalue()[: CLUSTER + CLUSTER // 2]))
    lose(target, page)
    repair(target, "all")
    with source.kind.open(target) as store:
        assert len([*unfinished_receipts(store)]) == 1
        with pytest.raises(NotFoundError, match="which is not here"):
            receive(store, io.BytesIO(stream.getvalue()))


def test_a_snapshot_without_room_for_more_metadata_loses_its_identity(tmp_path: Path) -> None:
    path = tmp_path / "s.img"
    with VolumeStore.create(
        path, name="vms", size="8MiB", cluster_size=CLUSTER, md_pages=24, atomic_write_size=4096
    ) as store:
        disk = store.create_volume("disk", SIZE, thin=True)
        page = store.info.md_start + root_of(disk.snapshot("monday").id)
        _snapshot_with_full_root(store, disk)
        with suppress(NoSpaceError):
            for number in count():
                store.create_volume(f"{number}", 0)
    lose(path, page)
    repaired = repair(path, "all", atomic_write_size=4096).repaired
    assert any("no base of incremental streams" in line for line in repaired)
    assert check(path, atomic_write_size=4096).clean
    with VolumeStore.open(path, atomic_write_size=4096) as store:
        assert store["tuesday"].xattrs["filling"].startswith(b"x")
        assert identity_of(store["tuesday"].info) is None


def _snapshot_with_full_root(store: VolumeStore, disk: Volume) -> None:
    """Make the snapshot `tuesday` with as many attributes as one page holds."""
    least, most = 0, 4000
    while least < most:
        size = (least + most + 1) // 2
        free = store.info.free_md_pages
        with disk.snapshot("tuesday", xattrs={"filling": b"x" * size}) as snapshot:
            is_too_much = free - store.info.free_md_pages > 1
            blob_id = snapshot.id
        store.delete_volume(blob_id)
        least, most = (least, size - 1) if is_too_much else (size, most)
    disk.snapshot("tuesday", xattrs={"filling": b"x" * least})


@pytest.mark.slow
@pytest.mark.parametrize("atomic", [512, 4096])
def test_no_power_failure_in_a_repair_leaves_a_loss_with_the_old_identity(
    atomic: int, tmp_path: Path
) -> None:
    path, undo_path = tmp_path / "s.img", tmp_path / "undo"
    with Blobstore.create(
        path, size="1MiB", cluster_size=16384, md_pages=32, atomic_write_size=atomic
    ) as store:
        disk = store.create_blob(4 * 16384, thin=True)
        disk.write(b"data")
        monday, tuesday = take_snapshot(disk), take_snapshot(disk)
        ids, page = (monday.id, tuesday.id), store.info.md_start + root_of(monday.id)
    lose(path, page)
    before = path.read_bytes()
    recorded = SimulatedDisk(before, atomic_write_size=atomic)
    repair(SimulatedDevice(recorded), "all", undo=undo_path)
    limits, seen = Limits(subsets=8, samples=4, atomic=atomic), set()
    for state, content in crash_contents(before, recorded.events, limits, rng=Random(1)):
        left = SimulatedDisk(content, atomic_write_size=atomic)
        try:
            with Blobstore.open(SimulatedDevice(left), read_only=True) as store:
                infos = {info.blob_id: info for info in store.list_blobs()}
        except CorruptError:
            undo(SimulatedDevice(left), undo_path)
            assert left.content == before, state
            seen.add("cut off")
            continue
        is_salvaged = ids[0] in infos and infos[ids[0]].salvaged
        assert is_salvaged == (identity_of(infos[ids[1]]) is None), state
        seen.add("repaired" if is_salvaged else "as before")
    assert seen == {"cut off", "repaired", "as before"}
