"""Broken pages and chains: invariants 16 to 24."""

from blobstore.format.descriptors import XATTR, ExtentPage, Flags
from blobstore.format.geometry import blob_id_of
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_HEAD_SIZE, MASK_PAGES
from blobstore.format.page import NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.fsck.finding import Severity
from blobstore.units import BlobId, PageIndex
from tests.descriptors import encode_descriptors
from tests.proof.corruptions.catalogue import Place, corruption
from tests.proof.corruptions.image import StoreImage


def _put_stranger(
    image: StoreImage, blob_id: BlobId, *, sequence: int, body: bytes | None = None
) -> PageIndex:
    """Write a sound page that nobody names to a free place."""
    page = image.free_pages[0]
    content = encode_descriptors([Flags()]) if body is None else body
    image.put_bytes(page, MetadataPage(blob_id, sequence, content, NO_PAGE).encode())
    return page


@corruption(16, 22)
def _blob_id_marked_for_the_page_of_another(image: StoreImage) -> Place:
    page = _put_stranger(image, image.names["thick"], sequence=0)
    image.mark(MASK_PAGES, page, True)
    image.mark(MASK_BLOB_IDS, page, True)
    return Place(page=page)


@corruption(16, 22, touches=("sparse",))
def _root_that_names_another_place(image: StoreImage) -> Place:
    image.rewrite(image.root("sparse"), blob_id=blob_id_of(image.free_pages[0]))
    return Place(page=image.root("sparse"))


@corruption(16, 22, touches=("thin",))
def _root_with_a_sequence(image: StoreImage) -> Place:
    image.rewrite(image.root("thin"), sequence=1)
    return Place(page=image.root("thin"))


@corruption(17, 22, touches=("thick",))
def _root_with_a_wrong_crc(image: StoreImage) -> Place:
    image.flip(image.root("thick"), PAGE_SIZE - 400)
    return Place(page=image.root("thick"))


@corruption(17, 22, touches=("thick",), dirty=True)
def _root_overwritten_with_what_no_program_writes_in_a_dirty_store(image: StoreImage) -> Place:
    image.put_bytes(image.root("thick"), b"\xa5" * PAGE_SIZE)
    return Place(page=image.root("thick"))


@corruption(17, 23, touches=("attributed",))
def _chain_page_with_a_wrong_crc(image: StoreImage) -> Place:
    page = image.chain("attributed")[2]
    image.flip(page, 2000)
    return Place(page=page)


@corruption(17, touches=("thin",))
def _extent_page_with_a_wrong_crc(image: StoreImage) -> Place:
    page = image.extent_pages("thin")[0]
    image.flip(page, 2000)
    return Place(page=page)


@corruption(18, 23, touches=("attributed",))
def _chain_page_with_another_sequence(image: StoreImage) -> Place:
    page = image.chain("attributed")[2]
    image.rewrite(page, sequence=5)
    return Place(page=page)


@corruption(18, 23, touches=("attributed",))
def _chain_page_of_another_blob(image: StoreImage) -> Place:
    page = image.chain("attributed")[1]
    image.rewrite(page, blob_id=image.names["thick"])
    return Place(page=page)


@corruption(19, 23, touches=("runs",))
def _root_that_leads_outside(image: StoreImage) -> Place:
    image.rewrite(image.root("runs"), next_page=image.geometry.md_len)
    return Place(blob=image.names["runs"])


@corruption(19, 23, touches=("attributed",))
def _chain_that_leads_outside(image: StoreImage) -> Place:
    image.rewrite(image.chain("attributed")[-1], next_page=NO_PAGE - 1)
    return Place(blob=image.names["attributed"])


@corruption(20, 23, touches=("attributed",))
def _chain_that_runs_in_a_circle(image: StoreImage) -> Place:
    chain = image.chain("attributed")
    image.rewrite(chain[-1], next_page=chain[1])
    return Place(blob=image.names["attributed"])


@corruption(20, 23, touches=("sealed",))
def _root_that_leads_to_itself(image: StoreImage) -> Place:
    image.rewrite(image.root("sealed"), next_page=image.root("sealed"))
    return Place(blob=image.names["sealed"])


@corruption(18, 20, 23, touches=("attributed", "runs"))
def _page_in_two_chains(image: StoreImage) -> None:
    image.rewrite(image.root("runs"), next_page=image.chain("attributed")[1])


@corruption(21, touches=("thick",))
def _root_with_a_descriptor_beyond_its_end(image: StoreImage) -> Place:
    _overrun(image, image.root("thick"))
    return Place(blob=image.names["thick"])


@corruption(21, touches=("attributed",))
def _chain_page_with_a_descriptor_beyond_its_end(image: StoreImage) -> Place:
    _overrun(image, image.chain("attributed")[1])
    return Place(blob=image.names["attributed"])


@corruption(21, touches=("thin",), dirty=True)
def _root_with_an_endless_descriptor(image: StoreImage) -> Place:
    _overrun(image, image.root("thin"), length=0xFFFF_FFFF)
    return Place(blob=image.names["thin"])


def _overrun(image: StoreImage, page: PageIndex, length: int = PAGE_SIZE) -> None:
    """Make the page's first descriptor an attribute that is too long for it."""
    head = bytes([XATTR]) + length.to_bytes(4, "little")
    image.patch_page(page, image.descriptors_offset(page), head)


@corruption(22, 17, dirty=True, touches=("runs",))
def _lost_root_of_a_dirty_store(image: StoreImage) -> Place:
    image.flip(image.root("runs"), PAGE_SIZE - 400)
    return Place(blob=image.names["runs"])


@corruption(22, 17, dirty=True, touches=("old", "middle", "origin", "clone"))
def _lost_root_of_a_snapshot(image: StoreImage) -> Place:
    image.flip(image.root("old"), PAGE_SIZE - 400)
    return Place(blob=image.names["old"])


@corruption(22, 17, dirty=True, touches=("sealed",))
def _lost_root_beside_masks_of_an_earlier_time(image: StoreImage) -> Place:
    """The masks are those of the last unload, and name a blob that was deleted since."""
    pages, clusters = image.geometry.md_len, image.geometry.total_clusters
    lengths = {MASK_PAGES: pages, MASK_CLUSTERS: clusters, MASK_BLOB_IDS: pages}
    for kind, length in lengths.items():
        at = image.mask_offset(kind)
        image.data[at : at + MASK_HEAD_SIZE] = bytes([kind]) + length.to_bytes(4, "little")
    for kind in (MASK_PAGES, MASK_BLOB_IDS):
        image.mark(kind, image.free_pages[0], True)
    image.flip(image.root("sealed"), PAGE_SIZE - 400)
    return Place(blob=image.names["sealed"])


@corruption(23, 17, touches=("attributed",))
def _chain_page_of_zeroes(image: StoreImage) -> Place:
    image.put_bytes(image.chain("attributed")[2], bytes(PAGE_SIZE))
    return Place(blob=image.names["attributed"])


@corruption(23, 17, dirty=True, touches=("attributed",))
def _chain_page_of_zeroes_in_a_dirty_store(image: StoreImage) -> Place:
    image.put_bytes(image.chain("attributed")[-1], bytes(PAGE_SIZE))
    return Place(blob=image.names["attributed"])


@corruption(24, 12, mode="leaks", severity=Severity.LEAK)
def _chain_page_of_nobody(image: StoreImage) -> Place:
    page = _put_stranger(image, image.names["runs"], sequence=1)
    image.mark(MASK_PAGES, page, True)
    return Place(page=page)


@corruption(24, 12, mode="leaks", severity=Severity.LEAK)
def _extent_page_of_nobody(image: StoreImage) -> Place:
    body = encode_descriptors([ExtentPage(0, bytes(4))])
    page = _put_stranger(image, image.names["thick"], sequence=0, body=body)
    image.mark(MASK_PAGES, page, True)
    return Place(page=page)


@corruption(24, mode=None, severity=Severity.NOTE, dirty=True)
def _chain_page_left_by_a_power_cut(image: StoreImage) -> Place:
    return Place(page=_put_stranger(image, image.names["runs"], sequence=1))
