"""Random trees of snapshots and clones, for properties of what is built on them."""

from typing import Final, TypeAlias

from hypothesis import strategies as st

from blobstore import Blob, Blobstore, BlobstoreError, MemoryDevice
from blobstore.api.store_handle import device_below
from blobstore.backup.snapshot_identity import take_snapshot

CLUSTER: Final = 4096
OUTSIDE: Final = b"outside"
OUTSIDE_SIZE: Final = 5 * CLUSTER

Change: TypeAlias = tuple[str, int, int, int]
"""A kind of change, which blob it happens to, a place, and a length in clusters."""

_KINDS: Final = (
    "create",
    "create runs",
    "create large",
    "create outside",
    "write",
    "write",
    "write",
    "zero",
    "unmap",
    "snapshot",
    "snapshot",
    "snapshot",
    "clone",
    "resize",
    "rollback",
    "parent",
    "inflate",
    "decouple",
)

CHANGES: Final = st.lists(
    st.tuples(st.sampled_from(_KINDS), st.integers(0, 9), st.integers(0, 11), st.integers(1, 4)),
    min_size=8,
    max_size=40,
)


def new_store() -> Blobstore:
    """Make a store that knows one external snapshot, of a few clusters."""
    store = Blobstore.create(MemoryDevice(4 << 20), cluster_size=CLUSTER, md_pages=128)
    outside = MemoryDevice(OUTSIDE_SIZE)
    outside.write(0, [b"outside" * (OUTSIDE_SIZE // 7)])
    store.register_external(OUTSIDE, outside)
    return store


def copy_of(store: Blobstore) -> Blobstore:
    """Open a copy of a store as it is on its device now."""
    device = device_below(store)
    copy = MemoryDevice(device.size_bytes)
    copy.write(0, [device.read(0, device.size_bytes)])
    opened = Blobstore.open(copy)
    opened.register_external(OUTSIDE, MemoryDevice(OUTSIDE_SIZE))
    return opened


def grow(store: Blobstore, changes: list[Change]) -> list[Blob]:
    """Make the changes that are possible; return all blobs, open, in the order of their making."""
    blobs = [store.create_blob(8 * CLUSTER, thin=True)]
    for number, (kind, which, place, length) in enumerate(changes):
        blob = blobs[which % len(blobs)]
        try:
            made = _change(store, blob, kind, place, length, number, blobs)
        except BlobstoreError:
            continue  # read-only, no parent, no such range: not possible just then
        if made is not None:
            blobs.append(made)
    return blobs


def _change(
    store: Blobstore,
    blob: Blob,
    kind: str,
    place: int,
    length: int,
    number: int,
    blobs: list[Blob],
) -> Blob | None:
    start = place * CLUSTER
    if blob.size > 600 * CLUSTER:
        start += 506 * CLUSTER  # around the border between two leaves
    if kind == "create":
        return store.create_blob(place * CLUSTER, thin=place % 3 > 0)
    if kind == "create runs":
        return store.create_blob(place * CLUSTER, thin=True, extent_table=False)
    if kind == "create large":
        return store.create_blob((600 + place) * CLUSTER, thin=True)
    if kind == "create outside":
        return store.create_blob(place * CLUSTER, external_snapshot=OUTSIDE)
    if kind == "write":
        blob.write(bytes([1 + number]) * (length * CLUSTER - number), start)
    elif kind == "zero":
        blob.write_zeroes(start, length * CLUSTER)
    elif kind == "unmap":
        blob.unmap(start, length * CLUSTER)
    elif kind == "snapshot":
        return take_snapshot(blob, now=number)
    elif kind == "clone":
        return blob.clone()
    elif kind == "resize":
        blob.resize(place * CLUSTER)
    elif kind == "rollback":
        blob.rollback(blobs[place % len(blobs)].id)
    elif kind == "parent":
        blob.set_parent(blobs[place % len(blobs)].id)
    elif kind == "inflate":
        blob.inflate()
    else:
        blob.decouple()
    return None
