"""Marked blobs of images made to hurt: what deciding about them costs, and what they keep."""

from contextlib import suppress

import pytest

from blobstore import Blobstore, BlobstoreError
from blobstore.format.descriptors import HAS_EXTENT_TABLE, HAS_INTERNAL_XATTRS, THIN_PROV
from blobstore.format.geometry import blob_id_of
from blobstore.metadata.page_reader import PageReader
from blobstore.units import PageIndex
from tests.proof.forge import Forge, clone_of, extents, flags, table, xattr

HEAD = flags(THIN_PROV | HAS_EXTENT_TABLE | HAS_INTERNAL_XATTRS)
BLOBS, PAGES = 60, 450


def sharing(name: str, *, clean: bool) -> Forge:
    """Forge blobs whose chains name others, and lead to the same extent pages."""
    forge = Forge(clean=clean, md_len=2 * BLOBS + PAGES + 8, cluster_count=8192)
    entries = [(2 * BLOBS + number, 1) for number in range(PAGES)]
    for root in range(0, 2 * BLOBS, 2):
        partner = blob_id_of(PageIndex((root + 2) % (2 * BLOBS))).to_bytes(8, "little")
        forge.chain(root, HEAD + xattr(name, partner, internal=True), table(PAGES * 512, *entries))
    for number in range(PAGES):
        forge.put(2 * BLOBS + number, 0, extents(number * 512, [0] * 512))
    return forge


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "dirty"])
@pytest.mark.parametrize("name", ["SNAP", "SNAPTMP", "SNAPRM"])
def test_pages_that_many_blobs_lead_to_are_read_a_bounded_number_of_times_to_open(
    monkeypatch: pytest.MonkeyPatch, name: str, clean: bool
) -> None:
    fetched: list[int] = []
    fetch = PageReader.fetch

    async def counted(reader: PageReader, page: PageIndex) -> bytes:
        fetched.append(page)
        return await fetch(reader, page)

    monkeypatch.setattr(PageReader, "fetch", counted)
    forge = sharing(name, clean=clean)
    with Blobstore.open(forge.device(read_only=True)) as store, suppress(BlobstoreError):
        store.open_blob(blob_id_of(PageIndex(0)))
    assert len(fetched) < BLOBS * PAGES // 2


def test_a_marked_blob_that_shares_a_page_keeps_its_root_page_in_a_store_that_is_forced_open() -> (
    None
):
    forge = Forge(clean=False)
    forge.root(0, clone_of(2, name="SNAPTMP"), table(2, (9, 1)))
    forge.root(2, clone_of(0), table(2, (0, 1)))
    forge.root(5, flags(), table(2, (9, 1)))
    forge.put(9, 5, extents(0, [40, 41]))
    lost = blob_id_of(PageIndex(0))
    with Blobstore.open(forge.device(), force=True) as store:
        assert lost in store.errors
        for _number in range(3):
            with store.create_blob() as blob:
                assert blob.id != lost
        assert lost in store.blob_ids()
