"""Space on the host is there once it was given: whoever waits for it goes on."""

from bitarray import bitarray
from hypothesis import given
from hypothesis import strategies as st

from blobstore.metadata.host_space import give_space, has_space
from blobstore.metadata.store_state import DeviceTraits, StoreState
from blobstore.store.init import InitOptions, plan_empty
from blobstore.testing.alone import run_alone
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.units import MIB, PageIndex

PAGES = 256


def store_with(used: set[int], *, has_root_at_zero: bool, backed: PageIndex | None) -> StoreState:
    """Return a store in a file, of which these metadata pages are in use."""
    traits = DeviceTraits(size_bytes=8 * MIB, is_sparse=True)
    store = plan_empty(traits, InitOptions(cluster_size=16384, md_pages=PAGES))
    bits = bitarray(PAGES, endian="little")
    bits[list(used | ({0} if has_root_at_zero else set()))] = True
    store.pages.used[:] = bits
    store.pages.free_count = bits.count(0)
    store.used_ids[0] = has_root_at_zero
    store.backed_pages = backed
    return store


@given(
    used=st.sets(st.integers(0, PAGES - 1)) | st.just(set(range(PAGES))),
    has_root_at_zero=st.booleans(),
    backed=st.none() | st.integers(0, PAGES).map(PageIndex),
    wanted=st.integers(0, PAGES + 10),
)
def test_what_was_asked_for_has_its_space_afterwards(
    used: set[int], has_root_at_zero: bool, backed: PageIndex | None, wanted: int
) -> None:
    store = store_with(used, has_root_at_zero=has_root_at_zero, backed=backed)
    run_alone(give_space(store, wanted), SimulatedDisk(bytes(8 * MIB)))
    assert has_space(store, wanted)
    assert store.backed_pages is not None
    free_below = store.backed_pages - store.pages.used.count(1, 0, store.backed_pages)
    assert free_below >= wanted or store.backed_pages == PAGES or not wanted
