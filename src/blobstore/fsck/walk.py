"""A walk through a blob's pages that continues after every error (CRASH-SAFETY 5: 16 to 38).

`metadata.blob_reader` refuses a blob at the first error. The walk records every error
and keeps everything that is sound. Nothing is trusted: every index is checked, and
every loop is bounded by the region or by the pages read.
"""

import struct
from collections.abc import Mapping
from typing import Final

from blobstore.errors import CorruptError
from blobstore.format.descriptors import (
    EXTENT_PAGE,
    EXTENT_TABLE,
    FLAGS,
    FLAGS_SIZE,
    HAS_EXTENT_TABLE,
    HEADER,
    INTERNAL_XATTR,
    KNOWN_DATA_RO,
    KNOWN_INVALID,
    KNOWN_MD_RO,
    PADDING,
    PAIR_SIZE,
    RUNS,
    TABLE_HEAD_SIZE,
    XATTR,
    XATTR_OVERHEAD,
    decode_flags,
    decode_name,
    split_extent_table,
    split_runs,
    split_xattr,
    too_long,
)
from blobstore.format.geometry import Geometry, root_of
from blobstore.format.page import BODY_SIZE, HEAD, NO_PAGE, PAGE_SIZE, TAIL, has_right_crc
from blobstore.fsck.extent_checks import TolerantFetch, read_runs, read_table
from blobstore.fsck.finding import Findings, Severity
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.fsck.segments import counted
from blobstore.metadata.blob_reader import MAX_CLUSTERS, Revisits
from blobstore.metadata.blob_state import SNAP, SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL
from blobstore.units import BlobId, PageIndex

_ID_SIZE: Final = 8
_NAMES_OF_IDS: Final = (SNAP, SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL)

_INVARIANT_OF_KIND: Final = {
    FLAGS: 25,
    XATTR: 27,
    INTERNAL_XATTR: 27,
    RUNS: 29,
    EXTENT_TABLE: 30,
    EXTENT_PAGE: 31,
}

_FLAGS_BODY_SIZE: Final = FLAGS_SIZE - HEADER.size
_COUNT_SIZE: Final = TABLE_HEAD_SIZE - HEADER.size
_XATTR_HEAD: Final = struct.Struct("<HH")
assert _XATTR_HEAD.size == XATTR_OVERHEAD - HEADER.size


class _Chain:
    """What the descriptors have said so far, before the extents are followed.

    `uncounted` are findings beyond those that are kept, by the invariants of which
    there is no room for more: the words for a page full of them are not needed.
    """

    def __init__(self) -> None:
        self.has_flags = False
        self.runs: bytearray | None = None
        self.table: list[tuple[int, int]] | None = None
        self.table_count = 0
        self.is_complete = True
        self.unknown_kinds: dict[int, None] = {}
        self.uncounted: dict[int, int] = {}


async def walk_blob(
    geometry: Geometry,
    blob_id: BlobId,
    fetch: TolerantFetch,
    *,
    version: int,
    misplaced: Mapping[PageIndex, PageIndex] | None = None,
    revisits: Revisits | None = None,
    earlier: Findings | None = None,
) -> ParsedBlob:
    """Read all that can be read of the blob whose root the id names.

    The caller has checked that the id names a page of the region. `version` is the store's: the
    oldest have no flags; `misplaced` extent pages say nothing of their blob. A caller that walks
    all blobs bounds the `revisits`. Such a caller needs no more findings than there is room for
    after the `earlier` ones.
    """
    blob = ParsedBlob(blob_id, root_of(blob_id), misplaced=misplaced or {})
    if earlier is not None:
        blob.findings.earlier = earlier.counts
    chain = _Chain()
    await _walk_chain(geometry, blob, chain, fetch)
    for invariant, count in chain.uncounted.items():
        blob.findings.count_more(count, invariant)
    _check_flags(blob, chain, version)
    _check_kinds(blob, chain)
    _check_ids(blob)
    if chain.table is not None and chain.runs is not None:
        blob.add(28, "both kinds of extents in one blob", page=blob.root)
        if not blob.flags.invalid & HAS_EXTENT_TABLE:
            chain.table = None
    if chain.table is not None:
        await read_table(geometry, blob, chain.table, chain.table_count, fetch, revisits)
        _lose_the_rest(blob, chain)
    elif chain.runs is not None:
        read_runs(geometry, blob, chain.runs)
    _check_thickness(blob)
    return blob


def _check_thickness(blob: ParsedBlob) -> None:
    """Record holes of a thick blob, except those whose clusters are only unknown."""
    holes = blob.cluster_count - blob.segments.cluster_count - blob.lost.place_count
    if blob.is_root_sound and holes > 0 and not blob.is_thin:
        blob.add(37, f"a thick blob with {holes} of {blob.cluster_count} clusters missing")


def _lose_the_rest(blob: ParsedBlob, chain: _Chain) -> None:
    """Count what the table promised and a broken chain did not show."""
    missing = chain.table_count - blob.cluster_count
    if not chain.is_complete and 0 < missing <= MAX_CLUSTERS - blob.cluster_count:
        blob.lost.add(blob.cluster_count, missing)
        blob.cluster_count = chain.table_count


async def _walk_chain(
    geometry: Geometry, blob: ParsedBlob, chain: _Chain, fetch: TolerantFetch
) -> None:
    """Follow the chain up to its end or to the first page that is not one of this blob's."""
    data = await fetch(blob.root)
    if data is None or not has_right_crc(data):
        blob.is_root_sound = False
        what = "cannot be read" if data is None else "has a wrong checksum"
        blob.add(17, f"its root page {blob.root} {what}", page=blob.root)
        blob.add(22, "lost: what it owns is not known for sure", page=blob.root)
        if data is None:
            blob.is_root_foreign = True
            return
    if not _is_own_root(blob, data):
        return
    at, seen = blob.root, {blob.root}
    while True:
        _take_body(blob, chain, data[HEAD.size : HEAD.size + BODY_SIZE], at)
        (following, _crc) = TAIL.unpack_from(data, PAGE_SIZE - TAIL.size)
        if following == NO_PAGE:
            return
        at = PageIndex(following)
        problem = _problem_of_link(geometry, at, seen)
        if problem is None:
            found = await fetch(at)
            problem = _problem_of_page(found, blob, at, len(seen))
            if problem is None and found is not None:
                data = found
                seen.add(at)
                blob.chain.append(at)
                continue
        assert problem is not None
        _break_chain(blob, chain, *problem, page=at)
        return


def _is_own_root(blob: ParsedBlob, data: bytes) -> bool:
    """Tell whether the page says anything of this blob, and record what does not fit."""
    blob_id, sequence, _reserved = HEAD.unpack_from(data)
    if (blob_id, sequence) == (blob.blob_id, 0):
        return True
    if blob.is_root_sound:
        found = f"blob {blob_id:#x} sequence {sequence}" if any(data) else "only zeroes"
        blob.add(16, f"its root page {blob.root} holds {found}", page=blob.root)
        blob.add(22, "lost: what it owns is not known for sure", page=blob.root)
    blob.is_root_sound = False
    blob.is_root_foreign = blob_id != blob.blob_id
    return not blob.is_root_foreign


def _break_chain(
    blob: ParsedBlob, chain: _Chain, invariant: int, message: str, *, page: PageIndex
) -> None:
    chain.is_complete = False
    if blob.is_root_sound:
        blob.add(invariant, message, page=page)
        length = counted(len(blob.chain) + 1, "page")
        blob.add(23, f"its chain breaks off after {length}", page=page)


def _problem_of_link(
    geometry: Geometry, at: PageIndex, seen: set[PageIndex]
) -> tuple[int, str] | None:
    if at >= geometry.md_len:
        return 19, f"its chain leads to page {at}, outside of {geometry.md_len} pages"
    if at in seen:
        return 20, f"its chain comes back to page {at}"
    return None


def _problem_of_page(
    data: bytes | None, blob: ParsedBlob, at: PageIndex, sequence: int
) -> tuple[int, str] | None:
    if data is None:
        return 17, f"page {at} of its chain cannot be read"
    if not has_right_crc(data):
        return 17, f"page {at} of its chain has a wrong checksum"
    blob_id, found, _reserved = HEAD.unpack_from(data)
    if blob_id != blob.blob_id or found != sequence:
        return 18, (
            f"page {at} of its chain: blob {blob_id:#x} sequence {found}, "
            f"expected {blob.blob_id:#x} sequence {sequence}"
        )
    return None


def _take_body(blob: ParsedBlob, chain: _Chain, body: bytes, at: PageIndex) -> None:
    """Take the descriptors of one page, up to one that cannot be told from the next."""
    place = f"page {at}"
    uncounted, unknown_kinds = chain.uncounted, chain.unknown_kinds
    start, end = HEADER.size, len(body)
    while start <= end:
        kind, length = HEADER.unpack_from(body, start - HEADER.size)
        if kind == PADDING and length == 0:
            return
        if length > end - start:
            blob.add(21, too_long(kind, length, end - start, place=place).message, page=at)
            chain.is_complete = False
            return
        invariant = _INVARIANT_OF_KIND.get(kind)
        if invariant is None:
            if kind != PADDING and kind not in unknown_kinds:
                unknown_kinds[kind] = None
        elif invariant in uncounted and _is_wrong(blob, chain, kind, body, start, length):
            uncounted[invariant] += 1
        else:
            _take(blob, chain, kind, body[start : start + length], at, place)
        start += length + HEADER.size


def _is_wrong(
    blob: ParsedBlob, chain: _Chain, kind: int, body: bytes, start: int, length: int
) -> bool:
    """Tell whether all that would come of taking a descriptor is one more finding.

    An extent page's content always is; a table that disagrees about the whole is taken.
    """
    if kind in (XATTR, INTERNAL_XATTR):
        return _is_wrong_xattr(_xattrs_of(blob, kind), body, start, length)
    if kind == RUNS:
        return length == 0 or length % PAIR_SIZE > 0
    if kind == FLAGS:
        return chain.has_flags or length != _FLAGS_BODY_SIZE
    if kind == EXTENT_TABLE:
        return length < _COUNT_SIZE or length % PAIR_SIZE > 0
    return True


def _is_wrong_xattr(table: dict[str, bytes], body: bytes, start: int, length: int) -> bool:
    if length < _XATTR_HEAD.size:
        return True
    name_length, value_length = _XATTR_HEAD.unpack_from(body, start)
    if name_length == 0 or _XATTR_HEAD.size + name_length + value_length != length:
        return True
    start += _XATTR_HEAD.size
    name = body[start : start + name_length]
    return b"\0" in name or decode_name(name) in table


def _take(
    blob: ParsedBlob, chain: _Chain, kind: int, content: bytes, at: PageIndex, place: str
) -> None:
    """Take a descriptor of a known kind, or record why it cannot be used."""
    try:
        problem = _problem_of(blob, chain, kind, content, place)
    except CorruptError as error:
        problem = error.message
    if problem is not None:
        invariant = _INVARIANT_OF_KIND[kind]
        blob.add(invariant, problem, page=at)
        if blob.findings.room_for(invariant) == 0:
            chain.uncounted.setdefault(invariant, 0)


def _problem_of(
    blob: ParsedBlob, chain: _Chain, kind: int, content: bytes, place: str
) -> str | None:
    """Take what a descriptor says; return what is wrong with it, or raise that.

    Of two that are wrong alike the second changes nothing: `_is_wrong` tells which is one.
    """
    if kind in (XATTR, INTERNAL_XATTR):
        return _take_xattr(_xattrs_of(blob, kind), content, place)
    if kind == RUNS:
        chain.runs = bytearray() if chain.runs is None else chain.runs
        split_runs(content, place=place)
        chain.runs += content
        return None
    if kind == FLAGS:
        return _take_flags(blob, chain, content, place)
    if kind == EXTENT_TABLE:
        return _take_table(chain, content, place)
    return f"{place} of its chain holds an extent page's content"


def _take_flags(blob: ParsedBlob, chain: _Chain, content: bytes, place: str) -> str | None:
    if chain.has_flags:
        return f"{place}: two flags descriptors"
    chain.has_flags = True
    blob.flags = decode_flags(content, place=place)
    return None


def _xattrs_of(blob: ParsedBlob, kind: int) -> dict[str, bytes]:
    return blob.internal_xattrs if kind == INTERNAL_XATTR else blob.xattrs


def _take_xattr(table: dict[str, bytes], content: bytes, place: str) -> str | None:
    name, value = split_xattr(content, place=place)
    if name in table or not name or "\0" in name:
        return f"{place}: xattr name {name!r} is empty, not unique or has a NUL"
    table[name] = value
    return None


def _take_table(chain: _Chain, content: bytes, place: str) -> str | None:
    """Take one part of an extent table, even where it disagrees about the whole."""
    cluster_count, entries = split_extent_table(content, place=place)
    if chain.table is None:
        chain.table, chain.table_count = [], cluster_count
    chain.table += entries
    if cluster_count == chain.table_count:
        return None
    return f"{place}: extent table of {cluster_count} clusters, expected {chain.table_count}"


def _check_flags(blob: ParsedBlob, chain: _Chain, version: int) -> None:
    if not chain.has_flags and version > 2 and blob.is_root_sound:
        blob.add(25, "no flags descriptor", severity=Severity.NOTE, page=blob.root)
    flags = blob.flags
    for name, found, known in (
        ("invalid", flags.invalid, KNOWN_INVALID),
        ("data_ro", flags.data_ro, KNOWN_DATA_RO),
        ("md_ro", flags.md_ro, KNOWN_MD_RO),
    ):
        if found & ~known:
            blob.add(
                26,
                f"unknown {name} flags {found & ~known:#x}: a newer version wrote it",
                severity=Severity.NOTE,
                page=blob.root,
            )


def _check_kinds(blob: ParsedBlob, chain: _Chain) -> None:
    """Record descriptors of unknown types; a newer version announces its own by a flag."""
    if chain.unknown_kinds:
        is_announced = blob.flags.invalid & ~KNOWN_INVALID
        kinds = ", ".join(map(str, chain.unknown_kinds))
        blob.add(
            26,
            f"unknown descriptors {kinds}",
            severity=Severity.NOTE if is_announced else Severity.ERROR,
            page=blob.root,
        )


def _check_ids(blob: ParsedBlob) -> None:
    """Look at the internal attributes that hold a blob's id."""
    for name in _NAMES_OF_IDS:
        value = blob.internal_xattrs.get(name)
        is_stale = name == SNAP and blob.has_external_flag
        if value is not None and len(value) != _ID_SIZE and not is_stale:
            blob.add(27, f"{name} has {len(value)} bytes, expected {_ID_SIZE}", page=blob.root)
