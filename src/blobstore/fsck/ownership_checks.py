"""The owners of metadata pages and clusters, and places with two owners (34 to 36)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import Final

import numpy as np
from bitarray import bitarray

from blobstore.format.geometry import Geometry
from blobstore.fsck.finding import Finding, Severity
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.fsck.segments import PIECE, Segments, name_run
from blobstore.fsck.spans import SHORT, are_apart, set_short, touching
from blobstore.metadata.batch_decoding import SinglePageBlobs
from blobstore.metadata.page_arrays import Numbers
from blobstore.units import BlobId, PageIndex

_FEW_SEGMENTS: Final = 16
"""Up to this many are taken faster one after the other than at once."""


class Ownership:
    """What is owned so far; what is claimed a second time is contested."""

    def __init__(self, geometry: Geometry) -> None:
        self.pages = bitarray(geometry.md_len, endian="little")
        self.clusters = bitarray(geometry.total_clusters, endian="little")
        self.clusters[: geometry.md_clusters] = True
        self.contested_pages = bitarray(geometry.md_len, endian="little")
        self.contested_clusters = bitarray(geometry.total_clusters, endian="little")

    def take_single_page(self, blobs: SinglePageBlobs) -> None:
        """Take single-page blobs; none of them shares anything with another."""
        for at in range(0, len(blobs.pages), PIECE):
            self.pages[blobs.pages[at : at + PIECE].tolist()] = True
        self.clusters |= blobs.clusters

    def take_pages(self, pages: Iterable[PageIndex]) -> None:
        """Take a blob's pages, its root among them."""
        for page in pages:
            if self.pages[page]:
                self.contested_pages[page] = True
            self.pages[page] = True

    def take_clusters(self, segments: Segments) -> None:
        """Take a blob's clusters; the caller has left out what is outside of the store."""
        if len(segments) <= _FEW_SEGMENTS:
            for _index, first, count in segments:
                self._take_span(first, count)
        else:
            for firsts, counts in segments.spans():
                self._take_spans(firsts, counts)

    def _take_span(self, first: int, count: int) -> None:
        end = first + count
        if self.contested_clusters.find(0, first, end) < 0:
            return
        if self.clusters.find(1, first, end) >= 0:
            self.contested_clusters[first:end] |= self.clusters[first:end]
        self.clusters[first:end] = True

    def _take_spans(self, firsts: Numbers, counts: Numbers) -> None:
        """Take the short ones at once, unless some of them overlap each other."""
        order = np.argsort(firsts, kind="stable")
        firsts, counts = firsts[order], counts[order]
        is_short = counts <= SHORT
        short = firsts[is_short], counts[is_short]
        if are_apart(*short):
            set_short(self.clusters, self.contested_clusters, *short)
            firsts, counts = firsts[~is_short], counts[~is_short]
        for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
            self._take_span(first, count)

    def has_contested(self, segments: Segments) -> bool:
        """Tell whether any of these clusters was claimed a second time."""
        contested = self.contested_clusters
        return any(contested.find(1, first, first + count) >= 0 for _, first, count in segments)

    def release_clusters(self, segments: Segments) -> None:
        """Withdraw the claims of a blob."""
        for _index, first, count in segments:
            self.clusters[first : first + count] = False

    @property
    def is_contested(self) -> bool:
        """Tell whether anything was claimed twice."""
        return self.contested_pages.any() or self.contested_clusters.any()


_KEPT_SPANS: Final = 4096
_NAMED_OWNERS: Final = 8


class Claims:
    """The claims to contested places, for the second pass, once a contested place is known.

    A bounded number of claims is kept; more claims would add no information.
    """

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._pages: defaultdict[int, list[BlobId]] = defaultdict(list)
        self._spans: list[tuple[int, int, BlobId]] = []

    def take(self, blob: ParsedBlob) -> None:
        """Note what of the contested this blob claims."""
        for page in (blob.root, *blob.metadata_pages):
            if self._ownership.contested_pages[page]:
                self._pages[page].append(blob.blob_id)
        if len(self._spans) < _KEPT_SPANS:
            self._take_spans(blob)

    @property
    def is_full(self) -> bool:
        """Tell whether nothing that is to come could be noted."""
        has_pages = self._ownership.contested_pages.any()
        return len(self._spans) >= _KEPT_SPANS and not has_pages

    def _take_spans(self, blob: ParsedBlob) -> None:
        contested = self._ownership.contested_clusters
        for first, count in _touching(contested, blob.segments):
            if len(self._spans) >= _KEPT_SPANS:
                return
            runs = _runs_in(contested, first, first + count)
            room = _KEPT_SPANS - len(self._spans)
            self._spans += [(*run, blob.blob_id) for run in islice(runs, room)]
            self._spans += [(*run, blob.blob_id) for run in self._known_among(runs)]

    def _known_among(self, runs: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield those that are known to be claimed: no claims but these are noted any more."""
        run = next(runs, None)
        if run is None:
            return
        known = bitarray(len(self._ownership.clusters), endian="little")
        for first, end, _blob_id in self._spans:
            known[first:end] = True
        yield from (run for run in chain((run,), runs) if known.find(1, *run) >= 0)

    def findings(self) -> Iterator[Finding]:
        """Report shared places, one finding for each run of places with the same owners."""
        for page, owners in sorted(self._pages.items()):
            message = _say_page(page, owners)
            yield Finding(36, Severity.ERROR, message, blob=owners[-1], page=PageIndex(page))
        for first, end, owners in _shared(self._spans):
            message = _say_clusters(first, end, owners)
            yield Finding(35, Severity.ERROR, message, blob=owners[-1], cluster=first)

    def by_owner(self) -> Iterator[tuple[BlobId, str]]:
        """Yield each owner of places that several blobs own, and which places, in words."""
        for page, owners in sorted(self._pages.items()):
            if len(set(owners)) > 1:
                yield from ((owner, _say_page(page, owners)) for owner in owners)
        for first, end, owners in _shared(self._spans):
            if len(set(owners)) > 1:
                yield from ((owner, _say_clusters(first, end, owners)) for owner in owners)


def _say_page(page: int, owners: Sequence[BlobId]) -> str:
    return f"page {page} belongs to {_names(owners)}"


def _say_clusters(first: int, end: int, owners: Sequence[BlobId]) -> str:
    verb = "belongs" if end - first == 1 else "belong"
    return f"{name_run('cluster', first, end - first)} {verb} to {_names(owners)}"


def _touching(bits: bitarray, segments: Segments) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of the segments that may have a set bit; of many only those that do."""
    if len(segments) <= _FEW_SEGMENTS:
        yield from zip(segments.clusters, segments.counts, strict=True)
        return
    for firsts, counts in segments.spans():
        at = touching(bits, firsts, counts)
        yield from zip(firsts[at].tolist(), counts[at].tolist(), strict=True)


def _runs_in(bits: bitarray, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of the runs of set bits in a range."""
    at = bits.find(1, start, end)
    while at >= 0:
        stop = bits.find(0, at, end)
        stop = end if stop < 0 else stop
        yield at, stop
        at = bits.find(1, stop, end)


def _shared(spans: Sequence[tuple[int, int, BlobId]]) -> Iterator[tuple[int, int, list[BlobId]]]:
    """Cut overlapping spans at each other's ends; yield the parts that have several owners."""
    begins: defaultdict[int, list[BlobId]] = defaultdict(list)
    ends: defaultdict[int, list[BlobId]] = defaultdict(list)
    for first, end, blob_id in spans:
        begins[first].append(blob_id)
        ends[end].append(blob_id)
    owners: list[BlobId] = []
    last: tuple[int, int, list[BlobId]] | None = None
    for at, following in pairwise(sorted({*begins, *ends})):
        for blob_id in ends[at]:
            owners.remove(blob_id)
        owners += begins[at]
        if last is not None and last[1] == at and last[2] == owners:
            last = (last[0], following, last[2])
            continue
        if last is not None and len(last[2]) > 1:
            yield last
        last = (at, following, list(owners))
    if last is not None and len(last[2]) > 1:
        yield last


def _names(owners: Sequence[BlobId]) -> str:
    if all(owner == owners[0] for owner in owners):
        return f"blob {owners[0]:#x} in {len(owners)} places"
    names = [f"{owner:#x}" for owner in owners[:_NAMED_OWNERS]]
    if len(owners) > _NAMED_OWNERS:
        return f"blobs {', '.join(names)} and {len(owners) - _NAMED_OWNERS} more"
    return f"blobs {', '.join(names[:-1])} and {names[-1]}"
