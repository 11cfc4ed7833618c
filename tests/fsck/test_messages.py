"""What is wrong is said as it is, by `check` and by the error of whoever opens the blob."""

import pytest

from blobstore import Blobstore, CorruptError, check
from tests.fsck.stores import device_of
from tests.proof.corruptions.sample import LAYOUTS, sample


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_an_extent_page_without_entries_is_said_that_it_has_none(layout: int) -> None:
    image = sample(layout).image()
    (page, *_others) = image.extent_pages("thin")
    image.put_extent_page(page, 0, [])
    broken, thin = bytes(image.data), image.names["thin"]
    (finding,) = [
        each for each in check(device_of(broken, layout)).findings if each.invariant == 31
    ]
    assert finding.message == f"blob {thin:#x}: its extent page {page} has no entries"
    with (
        Blobstore.open(device_of(broken, layout), read_only=True) as store,
        pytest.raises(CorruptError, match=f"extent page {page} has no entries"),
    ):
        store.open_blob(thin)
