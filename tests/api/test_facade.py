"""The public face: what it shows, and what it refuses before the core sees it."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from blobstore import (
    Blob,
    BlobInfo,
    Blobstore,
    BusyError,
    ClosedError,
    InvalidArgumentError,
    StoreInfo,
)
from blobstore.testing.internals import core_of, state_of

CLUSTER = 64 * 1024


@pytest.fixture
def store() -> Blobstore:
    return Blobstore.create("memory:4MiB", cluster_size=CLUSTER, md_pages=64)


@pytest.mark.parametrize("kind", [Blobstore, Blob])
def test_what_the_facade_and_the_core_share_is_not_public(kind: type) -> None:
    inner = {"run", "abandon", "forget", "state", "core", "channels", "pins", "device", "driver"}
    assert not inner & {name for name in dir(kind) if not name.startswith("_")}


def test_info_is_a_property_of_stores_and_of_blobs(store: Blobstore) -> None:
    assert isinstance(store.info, StoreInfo)
    assert isinstance(store.create_blob().info, BlobInfo)


def test_a_store_knows_the_name_of_its_device(store: Blobstore) -> None:
    assert store.device_name.startswith("memory")


def test_used_clusters_are_those_of_the_metadata_and_of_all_blobs(store: Blobstore) -> None:
    metadata = store.info.total_clusters - store.info.data_clusters
    assert store.used_clusters() == [(0, metadata)]
    store.create_blob(2 * CLUSTER)
    assert store.used_clusters() == [(0, metadata + 2)]


def test_a_closed_store_and_a_closed_blob_refuse_with(store: Blobstore) -> None:
    blob = store.create_blob()
    blob.close()
    with pytest.raises(ClosedError), blob:
        pass
    store.close()
    with pytest.raises(ClosedError), store:
        pass


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(
            lambda _store: Blobstore.create("memory:4MiB", clear="sometimes"),
            "clear: expected one of 'unmap', 'zeroes', 'none', got 'sometimes'",
            id="clear",
        ),
        pytest.param(
            lambda store: store.create_blob(clear_method=4),
            "clear_method: expected one of 0, 1, 2, 3, got 4",
            id="clear_method",
        ),
        pytest.param(
            lambda store: store.create_blob(clear_method="zeroes"),
            "clear_method: expected one of 0, 1, 2, 3, got 'zeroes'",
            id="clear_method as text",
        ),
    ],
)
def test_a_wrong_member_of_an_enum_names_the_argument(
    store: Blobstore, call: Callable[[Blobstore], Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        call(store)


def test_a_handle_that_is_closed_twice_counts_once(store: Blobstore) -> None:
    first = store.create_blob()
    second = store.open_blob(first.id)
    first.close()
    first.close()
    assert state_of(second).open_count == 1


def test_unload_refuses_while_a_blob_is_open_and_close_does_not(store: Blobstore) -> None:
    store.create_blob()
    with pytest.raises(BusyError):
        store.unload()
    assert not store.closed
    store.close()
    assert core_of(store).super_block.clean
