"""A model of the original's reader: what its load, recovery and open accept (FORMAT 6).

It shares the codecs of `format` and nothing else with this project's own
reader. It never tears, writes or guesses: it only says whether the original
would load the image, and which blobs it would then open.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from blobstore.errors import BlobstoreError, CorruptError
from blobstore.format.chain import ChainContent, decode_chain, pack_chain
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    KNOWN_INVALID,
    THIN_PROV,
    Flags,
    Xattr,
    decode_extent_page,
    split_descriptors,
)
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.format.page import NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.testing.expectation import FoundStore
from blobstore.units import PageIndex

_MARKERS = frozenset({"SNAPTMP", "SNAPRM"})


@dataclass(slots=True)
class OriginalBlob:
    """A blob as the original opens it."""

    clusters: list[int]
    xattrs: dict[str, bytes]


@dataclass(slots=True)
class OriginalStore:
    """What the original has after a load: blobs that open, and ids that do not."""

    blobs: dict[int, OriginalBlob] = field(default_factory=dict)
    has_marker: bool = False
    broken: dict[int, str] = field(default_factory=dict)


def load_as_original(image: bytes) -> OriginalStore:
    """Recover the image as the original does.

    An image with a marker is not judged further than that it can be read.

    Raises:
        CorruptError: It gives up on the whole store.
    """
    super_block = SuperBlock.decode(image[:SUPER_BLOCK_SIZE])
    geometry = Geometry.of(super_block, device_size=len(image))
    store = OriginalStore()
    claims: list[tuple[OriginalBlob, ChainContent]] = []
    for number in range(geometry.md_len):
        root = PageIndex(number)
        page = _page(geometry, image, root)
        if page is None or page.sequence != 0 or page.blob_id != blob_id_of(root):
            continue
        blob_id = blob_id_of(root)
        try:
            bodies = _follow(geometry, image, page)
        except CorruptError as error:
            store.broken[blob_id] = error.message
            continue
        content = decode_chain(bodies, place=f"{blob_id:#x}")
        if content.unknown_kinds:
            raise CorruptError("the original gives up at an unknown descriptor")
        blob = OriginalBlob(_clusters(geometry, image, content), content.xattrs)
        store.has_marker |= not _MARKERS.isdisjoint(content.internal_xattrs)
        store.blobs[blob_id] = blob
        claims.append((blob, content))
    owned: set[int] = set()
    for blob, content in [] if store.has_marker else claims:
        _claim(geometry, blob, content, owned)
    return store


def _page(geometry: Geometry, image: bytes, at: PageIndex) -> MetadataPage | None:
    offset = geometry.page_offset(at)
    try:
        return MetadataPage.decode(image[offset : offset + PAGE_SIZE], at=at)
    except CorruptError:
        return None


def _follow(geometry: Geometry, image: bytes, page: MetadataPage) -> list[bytes]:
    bodies = [page.body]
    while page.next_page != NO_PAGE:
        following = _page(geometry, image, page.next_page)
        if following is None or len(bodies) > geometry.md_len:
            raise CorruptError(f"chain breaks at page {page.next_page}")
        page = following
        bodies.append(page.body)
    return bodies


def _clusters(geometry: Geometry, image: bytes, content: ChainContent) -> list[int]:
    if content.table is None:
        return [
            first + step if first else 0
            for first, count in content.runs or []
            for step in range(count)
        ]
    clusters: list[int] = []
    for page, count in content.table:
        if page:
            clusters += _extent_page(geometry, image, PageIndex(page), len(clusters))
        else:
            clusters += [0] * (512 * count)
    if content.table and not content.table[-1][0]:
        del clusters[content.table_cluster_count :]
    return clusters


def _extent_page(geometry: Geometry, image: bytes, at: PageIndex, count: int) -> list[int]:
    page = _page(geometry, image, at)
    if page is None or page.sequence != 0 or page.next_page != NO_PAGE:
        raise CorruptError(f"the original gives up at extent page {at}")
    (kind, view), *_rest = split_descriptors(page.body, place=f"page {at}")
    extents = decode_extent_page(view, place=f"page {at}")
    if kind != EXTENT_PAGE or extents.first != count:
        raise CorruptError(f"the original gives up at extent page {at}")
    return list(memoryview(extents.clusters).cast("I"))


def _claim(geometry: Geometry, blob: OriginalBlob, content: ChainContent, owned: set[int]) -> None:
    flags = content.flags.invalid if content.flags else 0
    if flags & ~KNOWN_INVALID:
        return
    for cluster in blob.clusters:
        if cluster == 0 and not flags & THIN_PROV:
            raise CorruptError("an unallocated cluster in a thick blob")
        if cluster >= geometry.total_clusters:
            raise CorruptError(f"cluster {cluster} lies outside of the store")
        if cluster and cluster in owned:
            raise CorruptError(f"the original counts cluster {cluster} twice")
        owned.add(cluster)


def rewrite_roots(image: bytes) -> bytes:
    """Rewrite every root in the original's layout, as it would if it changed each blob.

    The image is a dirty one: chain pages that are not needed any more are
    zeroed, and no mask says so.
    """
    super_block = SuperBlock.decode(image[:SUPER_BLOCK_SIZE])
    geometry = Geometry.of(super_block, device_size=len(image))
    content = bytearray(image)
    for number in range(geometry.md_len):
        root = PageIndex(number)
        page = _page(geometry, image, root)
        if page is not None and page.sequence == 0 and page.blob_id == blob_id_of(root):
            _rewrite_chain(geometry, content, root)
    return bytes(content)


def _rewrite_chain(geometry: Geometry, content: bytearray, root: PageIndex) -> None:
    places, bodies = _pages_of(geometry, bytes(content), root)
    found = decode_chain(bodies, place=f"page {root}")
    packed = pack_chain(
        flags=found.flags or Flags(),
        xattrs=[
            *(Xattr(name, value) for name, value in found.xattrs.items()),
            *(Xattr(name, value, True) for name, value in found.internal_xattrs.items()),
        ],
        runs=found.runs,
        table=None if found.table is None else (found.table_cluster_count, found.table),
    )
    following = [*places[1 : len(packed)], NO_PAGE]
    for sequence, (at, body, next_page) in enumerate(zip(places, packed, following, strict=False)):
        page = MetadataPage(blob_id_of(root), sequence, body, next_page)
        offset = geometry.page_offset(at)
        content[offset : offset + PAGE_SIZE] = page.encode()
    for at in places[len(packed) :]:
        offset = geometry.page_offset(at)
        content[offset : offset + PAGE_SIZE] = bytes(PAGE_SIZE)


def _pages_of(
    geometry: Geometry, image: bytes, root: PageIndex
) -> tuple[list[PageIndex], list[bytes]]:
    places: list[PageIndex] = []
    bodies: list[bytes] = []
    at = root
    while at != NO_PAGE:
        page = _page(geometry, image, at)
        if page is None or len(places) > geometry.md_len:
            raise CorruptError(f"chain breaks at page {at}")
        places.append(at)
        bodies.append(page.body)
        at = page.next_page
    return places, bodies


def original_problem(
    image: bytes, found: FoundStore, *, excused: Collection[int] = ()
) -> str | None:
    """Say where the original would see something else than what was found, or None.

    `excused` are blobs that were cut in the middle of a conversion that needs
    a copy: no order of writes keeps those readable for it. Nor does one keep it
    from counting clusters twice in the middle of a snapshot's creation or deletion.
    """
    try:
        store = load_as_original(image)
    except BlobstoreError as error:
        return f"the original does not load it: {error}"
    if store.has_marker:
        return None
    for blob_id, blob in found.blobs.items():
        seen = store.blobs.get(blob_id)
        if blob_id in excused:
            continue
        if seen is None:
            return f"the original does not open blob {blob_id:#x}: {store.broken.get(blob_id)}"
        if len(seen.clusters) != blob.meta.cluster_count or seen.xattrs != dict(blob.meta.xattrs):
            return f"the original sees another blob {blob_id:#x}"
    extra = sorted((set(store.blobs) | set(store.broken)) - set(found.blobs))
    return f"the original sees a blob {extra[0]:#x}" if extra else None
