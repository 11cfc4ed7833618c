"""Broken descriptors that nobody will read about are counted as if they had been decoded."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import CorruptError
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    EXTENT_TABLE,
    FLAGS,
    INTERNAL_XATTR,
    PADDING,
    RUNS,
    THIN_PROV,
    XATTR,
    decode_extent_table,
    decode_flags,
    decode_xattr,
    split_descriptors,
    split_runs,
)
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.fsck import walk
from blobstore.fsck.examine import examine
from blobstore.fsck.finding import KEPT_PER_INVARIANT, Findings, Severity
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.metadata.store_state import DeviceTraits
from blobstore.units import PageIndex
from tests.proof.forge import Forge, flags, raw, runs, table, xattr

GEOMETRY: Final = Geometry.compute(
    size_bytes=600 * 4096, cluster_size=4096, page_size=4096, io_unit_size=512, md_pages=40
)
INVARIANTS: Final = {FLAGS: 25, XATTR: 27, INTERNAL_XATTR: 27, RUNS: 29, EXTENT_TABLE: 30}

names = st.sampled_from(("", "a", "b", "\0", "a\0", "\udcff", "\udc80b", "\u20ac"))
attributes = st.builds(xattr, names, st.binary(max_size=2), internal=st.booleans())
small_bodies = st.binary(max_size=9) | st.lists(
    st.sampled_from((0, 1, 2, 4, 255)), max_size=25
).map(bytes)
descriptors = (
    attributes
    | st.builds(raw, st.integers(0, 9) | st.integers(0, 255), small_bodies)
    | st.builds(raw, st.just(XATTR), small_bodies, length=st.integers(0, 9))
    | st.builds(flags, st.integers(0, 31))
    | st.builds(table, st.integers(0, 2), st.tuples(st.just(0), st.integers(0, 2)))
    | st.builds(runs, st.tuples(st.integers(100, 600), st.integers(0, 2)))
)
pages = st.lists(st.lists(descriptors, max_size=30).map(b"".join), min_size=1, max_size=3)


def take_in_turn(blob: ParsedBlob, chain: walk._Chain, body: bytes, at: PageIndex) -> None:
    """Decode one after the other, and put down what each of them raises."""
    try:
        for kind, view in split_descriptors(body, place=f"page {at}"):
            try:
                decode(blob, chain, kind, bytes(view), f"page {at}")
            except CorruptError as error:
                blob.add(INVARIANTS.get(kind, 31), error.message, page=at)
    except CorruptError as error:
        blob.add(21, error.message, page=at)
        chain.is_complete = False


def decode(blob: ParsedBlob, chain: walk._Chain, kind: int, body: bytes, place: str) -> None:
    if kind == FLAGS:
        if chain.has_flags:
            raise CorruptError(f"{place}: two flags descriptors")
        chain.has_flags = True
        blob.flags = decode_flags(body, place=place)
    elif kind in (XATTR, INTERNAL_XATTR):
        found = decode_xattr(body, internal=kind == INTERNAL_XATTR, place=place)
        xattrs = blob.internal_xattrs if found.internal else blob.xattrs
        if found.name in xattrs or not found.name or "\0" in found.name:
            what = f"xattr name {found.name!r} is empty, not unique or has a NUL"
            raise CorruptError(f"{place}: {what}")
        xattrs[found.name] = found.value
    elif kind == RUNS:
        chain.runs = bytearray() if chain.runs is None else chain.runs
        split_runs(body, place=place)
        chain.runs += body
    elif kind == EXTENT_TABLE:
        decode_table(chain, body, place)
    elif kind == EXTENT_PAGE:
        raise CorruptError(f"{place} of its chain holds an extent page's content")
    elif kind != PADDING:
        chain.unknown_kinds[kind] = None


def decode_table(chain: walk._Chain, body: bytes, place: str) -> None:
    part = decode_extent_table(body, place=place)
    if chain.table is None:
        chain.table, chain.table_count = [], part.cluster_count
    chain.table.extend(part.entries)
    if part.cluster_count != chain.table_count:
        what = f"extent table of {part.cluster_count} clusters, expected {chain.table_count}"
        raise CorruptError(f"{place}: {what}")


def walked(bodies: list[bytes], earlier: Findings | None) -> ParsedBlob:
    forge = Forge()
    forge.chain(0, *bodies)

    async def fetch(page: PageIndex) -> bytes | None:
        return forge.packed.get(page)

    root = blob_id_of(PageIndex(0))
    walking = walk.walk_blob(GEOMETRY, root, fetch, version=3, earlier=earlier)
    return BlockingDriver(forge.device(read_only=True)).run(walking)


@given(pages, st.integers(0, 4), st.booleans())
def test_findings_are_those_of_decoding_one_after_the_other(
    bodies: list[bytes], room: int, has_earlier: bool
) -> None:
    counts = {(n, Severity.ERROR): 4 - room for n in (25, 27, 29, 30, 31)}
    earlier = Findings(counts=counts) if has_earlier else None
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("blobstore.fsck.finding.KEPT_PER_INVARIANT", 4)
        at_once = walked(bodies, earlier)
        monkeypatch.setattr(walk, "_take_body", take_in_turn)
        in_turn = walked(bodies, earlier)
    assert at_once == in_turn
    assert list(at_once.findings.counts) == list(in_turn.findings.counts)


@pytest.mark.parametrize(
    ("body", "invariant"),
    [
        pytest.param(raw(XATTR), 27, id="attributes of no bytes"),
        pytest.param(raw(INTERNAL_XATTR, b"abc"), 27, id="attributes of 3 bytes"),
        pytest.param(raw(XATTR, b"\x40\x00\x01\x00abc"), 27, id="names that are too long"),
        pytest.param(xattr("", b""), 27, id="names that are empty"),
        pytest.param(xattr("k\0", b""), 27, id="names with a NUL"),
        pytest.param(xattr("k", b""), 27, id="the same name again and again"),
        pytest.param(raw(FLAGS), 25, id="flags of no bytes"),
        pytest.param(flags(THIN_PROV), 25, id="the same flags again and again"),
        pytest.param(raw(RUNS), 29, id="runs of no bytes"),
        pytest.param(raw(EXTENT_TABLE, bytes(9)), 30, id="tables of 9 bytes"),
        pytest.param(raw(EXTENT_PAGE), 31, id="extent pages in a chain"),
    ],
)
def test_what_nobody_will_read_about_is_not_decoded(
    body: bytes, invariant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    take = walk._take

    def count(*arguments: object) -> None:
        nonlocal taken
        taken += 1
        take(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(walk, "_take", count)
    forge = Forge()
    per_page = 4000 // len(body)
    for root in range(50):
        forge.root(root, flags(THIN_PROV), body * per_page)
    device = forge.device(read_only=True)
    seen = BlockingDriver(device).run(examine(DeviceTraits(device.size_bytes)))
    counted = seen.findings.counts[invariant, Severity.ERROR]
    assert counted in (50 * per_page, 50 * (per_page - 1))
    assert len([f for f in seen.findings.kept if f.invariant == invariant]) == KEPT_PER_INVARIANT
    assert taken <= KEPT_PER_INVARIANT + 3 * 50
