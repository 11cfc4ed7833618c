"""Who owns which metadata page and which cluster, and what has two owners (34 to 36)."""

from collections import defaultdict
from collections.abc import Iterable

from bitarray import bitarray

from blobstore.format.geometry import Geometry
from blobstore.fsck.finding import Finding, Severity
from blobstore.fsck.seen import SeenBlob
from blobstore.fsck.segments import Segments, name_run, runs_of
from blobstore.metadata.survey import Numbers, PlainBlobs
from blobstore.units import BlobId, PageIndex


class Ownership:
    """What is owned so far; what is claimed a second time is put down as contested."""

    def __init__(self, geometry: Geometry) -> None:
        self.pages = bitarray(geometry.md_len, endian="little")
        self.clusters = bitarray(geometry.total_clusters, endian="little")
        self.clusters[: geometry.md_clusters] = True
        self.contested_pages = bitarray(geometry.md_len, endian="little")
        self.contested_clusters = bitarray(geometry.total_clusters, endian="little")

    def take_plain(self, plain: PlainBlobs) -> None:
        """Take plain blobs; none of them shares anything with another."""
        _set(self.pages, plain.pages)
        _set(self.clusters, plain.clusters)

    def take_pages(self, pages: Iterable[PageIndex]) -> None:
        """Take a blob's pages, its root among them."""
        for page in pages:
            if self.pages[page]:
                self.contested_pages[page] = True
            self.pages[page] = True

    def take_clusters(self, segments: Segments) -> None:
        """Take a blob's clusters; the caller has left out what is outside of the store."""
        for _index, first, count in segments:
            end = first + count
            if self.clusters[first:end].any():
                self.contested_clusters[first:end] |= self.clusters[first:end]
            self.clusters[first:end] = True

    def release_clusters(self, segments: Segments) -> None:
        """Take back what a blob claimed."""
        for _index, first, count in segments:
            self.clusters[first : first + count] = False

    @property
    def is_contested(self) -> bool:
        """Tell whether anything was claimed twice."""
        return self.contested_pages.any() or self.contested_clusters.any()


def _set(bits: bitarray, numbers: Numbers) -> None:
    bits[numbers.tolist()] = True


class Claims:
    """Who claims what is contested: for the second look, once it is known that something is."""

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._pages: defaultdict[int, list[BlobId]] = defaultdict(list)
        self._clusters: defaultdict[int, list[BlobId]] = defaultdict(list)

    def take(self, blob: SeenBlob) -> None:
        """Note what of the contested this blob claims."""
        for page in (blob.root, *blob.metadata_pages):
            if self._ownership.contested_pages[page]:
                self._pages[page].append(blob.blob_id)
        for _index, first, count in blob.segments:
            part = self._ownership.contested_clusters[first : first + count]
            for at in part.search(True):
                self._clusters[first + at].append(blob.blob_id)

    def findings(self) -> Iterable[Finding]:
        """Say who shares what, one finding for each run of places with the same owners."""
        for page in sorted(self._pages):
            owners = _names(self._pages[page])
            yield Finding(
                36,
                Severity.ERROR,
                f"page {page} belongs to {owners}",
                blob=self._pages[page][-1],
                page=PageIndex(page),
            )
        for owners_of, numbers in _by_owners(self._clusters).items():
            for first, count in runs_of(iter(numbers)):
                what = name_run("cluster", first, count)
                verb = "belongs" if count == 1 else "belong"
                yield Finding(
                    35,
                    Severity.ERROR,
                    f"{what} {verb} to {_names(owners_of)}",
                    blob=owners_of[-1],
                    cluster=first,
                )


def _by_owners(owners: dict[int, list[BlobId]]) -> dict[tuple[BlobId, ...], list[int]]:
    grouped: defaultdict[tuple[BlobId, ...], list[int]] = defaultdict(list)
    for number in sorted(owners):
        grouped[tuple(owners[number])].append(number)
    return grouped


def _names(owners: Iterable[BlobId]) -> str:
    names = [f"{owner:#x}" for owner in owners]
    if len(set(names)) == 1:
        return f"blob {names[0]} in {len(names)} places"
    return f"blobs {', '.join(names[:-1])} and {names[-1]}"
