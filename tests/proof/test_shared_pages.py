"""Blobs that all name the same extent pages: looking at them all stays linear."""

from itertools import cycle
from typing import Final

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.api.check import check
from blobstore.errors import BlobstoreError
from blobstore.format.geometry import Geometry
from blobstore.metadata.blob_reader import Revisits
from blobstore.testing.internals import core_of
from blobstore.units import BlobId
from tests.proof.hostile import forged

SHARED: Final = "64 blobs share 450 extent pages"
BLOBS: Final = 64
PAGES: Final = 450
READ_AGAIN: Final = 4096


def geometry_of(pages: int) -> Geometry:
    return Geometry.compute(
        size_bytes=(2 * pages + 256) * 4096,
        cluster_size=4096,
        page_size=4096,
        io_unit_size=512,
        md_pages=pages,
    )


@pytest.mark.parametrize("pages", [16, READ_AGAIN + 100])
def test_pages_may_be_read_by_others_once_in_all_and_a_small_one_oftener(pages: int) -> None:
    revisits = Revisits(geometry_of(pages))
    readers = cycle([BlobId(1 << 32), BlobId(1 << 32 | 1)])
    assert all(revisits.may_read(page, BlobId(1 << 32 | 2)) for page in range(pages))
    again = max(pages, READ_AGAIN)
    assert all(revisits.may_read(0, next(readers)) for number in range(again))
    assert not revisits.may_read(0, next(readers))


def test_a_blob_may_read_its_own_pages_as_often_as_it_likes() -> None:
    revisits = Revisits(geometry_of(16))
    assert all(revisits.may_read(3, BlobId(1 << 32)) for _ in range(3 * READ_AGAIN))


def test_a_check_follows_a_shared_table_only_so_often_and_says_so() -> None:
    report = check(forged(SHARED, clean=True).device(read_only=True))
    given_up = [found for found in report.findings if "as many other blobs do" in found.message]
    assert {found.invariant for found in given_up} == {36}
    assert len(given_up) == BLOBS - 1 - READ_AGAIN // PAGES


@pytest.mark.parametrize("clean", [pytest.param(True, id="clean"), pytest.param(False, id="dirty")])
def test_a_list_gives_shared_tables_up_as_well(clean: bool) -> None:
    with Blobstore.open(
        forged(SHARED, clean=clean).device(read_only=True), read_only=True
    ) as store:
        entries = list(store.list_blobs())
    errors = [str(entry.error) for entry in entries if entry.error is not None]
    assert len(entries) == BLOBS
    assert sum("belongs to many blobs" in message for message in errors) > BLOBS / 2


def test_a_blob_that_is_opened_by_itself_is_read_however_many_share_it() -> None:
    with Blobstore.open(forged(SHARED, clean=True).device(read_only=True), read_only=True) as store:
        for blob_id in store.blob_ids():
            with store.open_blob(blob_id) as blob:
                assert blob.read(1) == b"\0"


def test_an_error_kept_by_recovery_keeps_no_page_alive() -> None:
    device = forged(SHARED, clean=False).device(read_only=True)
    with Blobstore.open(device, read_only=True) as store:
        kept = list(core_of(store).errors.values())
    assert len(kept) == BLOBS - 1
    assert all(isinstance(error, BlobstoreError) for error in kept)
    assert all(error.__traceback__ is None and error.__context__ is None for error in kept)
