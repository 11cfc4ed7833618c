"""The fixtures of the checklist: every test runs in every configuration."""

from collections.abc import Iterator

import pytest

from blobstore import Blob, Blobstore
from blobstore.testing.internals import core_of
from tests.checklist.bench import CONFIGURATIONS, Bench


@pytest.fixture(params=CONFIGURATIONS, ids=lambda configuration: configuration.name)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A device without a store; what is on it in the end must add up."""
    bench = Bench(request.param)
    yield bench
    bench.check()


@pytest.fixture
def store(bench: Bench) -> Iterator[Blobstore]:
    """An empty store."""
    store = bench.create()
    yield store
    if not store.closed and core_of(store).poison is None:
        store.close()


@pytest.fixture
def blob(bench: Bench, store: Blobstore) -> Blob:
    """An open, thick blob of four clusters."""
    return bench.blob(store, 4)
