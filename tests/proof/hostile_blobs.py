"""Hostile blobs: chains, extents, relations and attributes that no store should have.

Every function forges one store; its name says what is wrong with it.
"""

from collections.abc import Callable
from typing import Final

from blobstore.alloc.leaves import LEAF_SHIFT
from blobstore.format.descriptors import (
    EXTERNAL_SNAPSHOT,
    FLAGS,
    HAS_INTERNAL_XATTRS,
    INTERNAL_XATTR,
    RUNS,
    THIN_PROV,
    XATTR,
)
from blobstore.format.page import BODY_SIZE
from blobstore.metadata.blob_reader import MAX_CLUSTERS
from tests.proof.forge import (
    THIN_TABLE,
    Forge,
    clone_of,
    extents,
    flags,
    raw,
    runs,
    table,
    xattr,
)

Build = Callable[[Forge], None]

_U32_MAX: Final = 0xFFFF_FFFF
_U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF
_PLAIN: Final = flags(THIN_PROV)
_MARKED: Final = HAS_INTERNAL_XATTRS | THIN_TABLE


def _roots(*bodies: bytes, following: int = _U32_MAX) -> Build:
    """Forge neighbouring roots."""

    def build(forge: Forge) -> None:
        for number, body in enumerate(bodies):
            forge.root(number, body, following=following)

    return build


def _chain(*bodies: bytes) -> Build:
    return lambda forge: forge.chain(0, *bodies)


def _loop(length: int, back_to: int) -> Build:
    """Forge a chain of so many pages whose last one leads back."""

    def build(forge: Forge) -> None:
        forge.chain(0, *[_PLAIN, *[b""] * (length - 1)])
        forge.put(length - 1, 0, b"", sequence=length - 1, following=back_to)

    return build


def _two_roots_one_chain(forge: Forge) -> None:
    forge.root(0, _PLAIN, following=2)
    forge.root(1, _PLAIN, following=2)
    forge.put(2, 0, xattr("k", b"v"), sequence=1)


def _roots_lead_to_each_other(forge: Forge) -> None:
    forge.root(0, _PLAIN, following=1)
    forge.root(1, _PLAIN, following=0)


def _tiny_descriptors(body: bytes, pages: int) -> Build:
    """Forge a chain whose pages are full of the same small descriptor."""

    def build(forge: Forge) -> None:
        forge.md_len = pages + 8
        forge.cluster_count = 4096
        count = 4000 // len(body)
        forge.chain(0, _PLAIN + body * count, *[body * count] * (pages - 1))

    return build


def _full_of(body: bytes, head: bytes = _PLAIN) -> Build:
    """Forge a thousand roots that are full of one small descriptor."""

    def build(forge: Forge) -> None:
        forge.md_len, forge.cluster_count = 1008, 4096
        for number in range(1000):
            forge.root(number, head, body * ((BODY_SIZE - len(head)) // len(body)))

    return build


def _table_with_page(page_body: bytes, *, following: int = _U32_MAX, sequence: int = 0) -> Build:
    """Forge a blob whose extent page says this."""

    def build(forge: Forge) -> None:
        forge.root(0, flags(), table(512, (1, 1)))
        forge.put(1, 0, page_body, following=following, sequence=sequence)

    return build


def _same_extent_page_a_thousand_times(forge: Forge) -> None:
    entries = [(9, 1)] * 480
    forge.chain(0, flags() + table(480 * 512, *entries), *[table(480 * 512, *entries)] * 4)
    forge.put(9, 0, extents(0, [0] * 512))


def _extent_pages_name_each_other(forge: Forge) -> None:
    forge.root(0, flags(), table(1024, (1, 1), (2, 1)))
    forge.put(1, 0, extents(0, [0] * 512), following=2)
    forge.put(2, 0, extents(512, [0] * 512), following=1)


def _two_blobs_one_extent_page(forge: Forge) -> None:
    for root in (0, 1):
        forge.root(root, flags(), table(2, (2, 1)))
    forge.put(2, 0, extents(0, [40, 41]))


def _many_blobs_one_table(forge: Forge) -> None:
    """Forge blobs that all name the same extent pages: n times n readings, if nothing bounds it."""
    blobs, pages = 64, 450
    forge.md_len = blobs + pages + 8
    forge.cluster_count = 4096
    entries = [(blobs + number, 1) for number in range(pages)]
    for root in range(blobs):
        forge.root(root, flags(), table(pages * 512, *entries))
    for number in range(pages):
        forge.put(blobs + number, 0, extents(number * 512, [0] * 512))


def _many_chains_one_table(name: str) -> Build:
    """Forge blobs that name others and the same extent pages, none of it in their roots."""

    def build(forge: Forge) -> None:
        blobs, pages = 600, 450
        forge.md_len = 2 * blobs + pages + 8
        forge.cluster_count = 8192
        entries = [(2 * blobs + number, 1) for number in range(pages)]
        for root in range(0, 2 * blobs, 2):
            other = (1 << 32 | (root + 2) % (2 * blobs)).to_bytes(8, "little")
            head = flags(_MARKED) + xattr(name, other, internal=True)
            forge.chain(root, head, table(pages * 512, *entries))
        for number in range(pages):
            forge.put(2 * blobs + number, 0, extents(number * 512, [0] * 512))

    return build


def _table_names_a_root(forge: Forge) -> None:
    forge.root(0, flags(), table(512, (1, 1)))
    forge.root(1, flags(), table(512, (1, 1)))


def _absent_bomb_in_every_root(marker: bytes) -> Build:
    """Forge as many of the largest empty blobs as there are pages."""

    def build(forge: Forge) -> None:
        for root in range(1, forge.md_len):
            forge.root(root, marker, table(MAX_CLUSTERS, (0, MAX_CLUSTERS >> LEAF_SHIFT)))

    return build


def _runs_in_every_root(shift: int) -> Build:
    """Forge roots full of runs, each root's so many clusters behind those of the one before."""

    def build(forge: Forge) -> None:
        forge.md_len, forge.cluster_size, forge.cluster_count = 1008, 4096, 4096
        for root in range(1000):
            first = 1100 + shift * root
            forge.root(root, flags(0), runs(*[(first + 4 * n, 3) for n in range(490)]))

    return build


def _thousand_extent_pages_alike(forge: Forge) -> None:
    forge.md_len, forge.cluster_size, forge.cluster_count = 2008, 4096, 4096
    for root in range(1000):
        forge.root(root, flags(), table(512, (1000 + root, 1)))
        forge.put(1000 + root, root, extents(0, [2100 + 2 * n for n in range(512)]))


def _huge_blobs_with_a_page_each(forge: Forge) -> None:
    """Forge a chain of the largest blobs, each with its first extent page alone."""
    count = 1000
    forge.md_len, forge.cluster_count = 2 * count + 8, 4096
    absent = (0, (MAX_CLUSTERS >> LEAF_SHIFT) - 1)
    for number in range(count):
        head = clone_of(number - 1, data_ro=1) if number else flags(data_ro=1)
        forge.root(number, head, table(MAX_CLUSTERS, (count + number, 1), absent))
        forge.put(count + number, number, extents(0, [3000 + number] + [0] * 511))


def _chain_of_runs_far_apart(forge: Forge) -> None:
    """Forge snapshots whose runs name a leaf each: 2 KiB for 16 bytes, if all are made."""
    count, each = 1000, 240
    forge.md_len, forge.cluster_size, forge.cluster_count = count + 8, 4096, 1 << 18
    for number in range(count):
        head = clone_of(number - 1, invalid=THIN_PROV, data_ro=1) if number else flags(THIN_PROV, 1)
        forge.root(number, head, runs(*_far_apart(2000 + each * number, each)))


def _blob_of_runs_far_apart(forge: Forge) -> None:
    pages, each = 500, 240
    forge.md_len, forge.cluster_size, forge.cluster_count = pages + 8, 4096, 1 << 18
    bodies = [runs(*_far_apart(2000 + each * number, each)) for number in range(pages)]
    forge.chain(0, _PLAIN + bodies[0], *bodies[1:])


def _far_apart(first: int, count: int) -> list[tuple[int, int]]:
    """Return runs of one cluster, each the only one in its leaf."""
    return [run for n in range(count) for run in ((first + n, 1), (0, (1 << LEAF_SHIFT) - 1))]


def _blob_of_reversed_runs(forge: Forge) -> None:
    """Forge a blob of nothing but runs of one cluster, in an order that merges none."""
    pages, each = 500, 490
    forge.md_len, forge.cluster_size, forge.cluster_count = pages + 8, 4096, 1 << 18
    top = (1 << 18) - 1
    bodies = [runs(*[(top - each * number - n, 1) for n in range(each)]) for number in range(pages)]
    forge.chain(0, flags(0) + bodies[0], *bodies[1:])


def _run_of_2_24_clusters(forge: Forge) -> None:
    forge.cluster_size, forge.cluster_count = 4096, (1 << 24) + (1 << 12)
    forge.root(0, flags(0), runs((1 << 12, 1 << 24)))


def _run_named_500_times(forge: Forge) -> None:
    forge.cluster_size, forge.cluster_count, forge.md_len = 4096, 1 << 20, 64
    forge.root(0, _PLAIN, runs(*[(1 << 10, (1 << 20) - (1 << 10))] * 490))


def _parents(*parents: int) -> Build:
    """Forge read-only clones, each of the blob with the root given in its place."""
    return _roots(*[clone_of(parent, data_ro=1) + table(1, (0, 1)) for parent in parents])


def _markers(name: str, *partners: int) -> Build:
    return _roots(*[clone_of(partner, name=name) + table(1, (0, 1)) for partner in partners])


def _marker_value(name: str, value: bytes) -> Build:
    body = flags(_MARKED) + xattr(name, value, internal=True) + table(1, (0, 1))
    return _roots(body, flags() + table(1, (0, 1)))


def _external(value: bytes | None, flag: int = EXTERNAL_SNAPSHOT, more: bytes = b"") -> Build:
    named = b"" if value is None else xattr("EXTSNAP", value, internal=True)
    return _roots(flags(_MARKED | flag) + named + more + table(2, (0, 1)))


CHAINS: Final[dict[str, Build]] = {
    "root leads to itself": _loop(1, 0),
    "chain leads to its root": _loop(2, 0),
    "chain of two pages in a loop": _loop(3, 1),
    "chain of sixty pages in a loop": _loop(60, 1),
    "roots lead to each other": _roots_lead_to_each_other,
    "two roots share a chain": _two_roots_one_chain,
    "chain leads outside": _roots(_PLAIN, following=64),
    "chain leads far outside": _roots(_PLAIN, following=_U32_MAX - 1),
    "chain leads to zeroes": _roots(_PLAIN, following=40),
    "1000 roots full of unknown kinds": _full_of(b"".join(raw(n) for n in range(7, 249))),
    "1000 roots full of flags of no bytes": _full_of(raw(FLAGS)),
    "many tiny paddings": _tiny_descriptors(raw(0, b"\0"), 512),
    "many empty unknown descriptors": _tiny_descriptors(raw(200), 512),
    "many tiny runs": _tiny_descriptors(runs((0, 1)), 512),
    "many empty tables": _tiny_descriptors(table(7), 512),
    "many flags": _tiny_descriptors(flags(), 512),
    "descriptor of 2^32-1 bytes": _roots(_PLAIN + raw(XATTR, length=_U32_MAX)),
    "descriptor one byte too long": _roots(_PLAIN + raw(XATTR, length=4072 - 29 - 5 + 1)),
    "unknown descriptor of 2^32-1 bytes": _roots(_PLAIN + raw(99, length=_U32_MAX)),
    "padding of 2^32-1 bytes": _roots(_PLAIN + raw(0, length=_U32_MAX)),
    "unknown descriptor": _roots(_PLAIN + raw(77, b"what")),
    "two flags": _roots(_PLAIN + _PLAIN),
    "flags of no bytes": _roots(raw(FLAGS)),
    "flags of 23 bytes": _roots(raw(FLAGS, bytes(23))),
    "flags of 25 bytes": _roots(raw(FLAGS, bytes(25))),
    "no flags": _roots(xattr("k", b"v")),
    "unknown flags": _roots(flags(1 << 40), flags(0, 1 << 40), flags(0, 0, 1 << 40)),
    "all flags": _roots(flags(_U64_MAX, _U64_MAX, _U64_MAX)),
}  # fmt: skip

EXTENTS: Final[dict[str, Build]] = {
    "allocated run of 2^32-1 clusters": _roots(flags(0) + runs((16, _U32_MAX))),
    "unallocated run of 2^32-1 clusters": _roots(_PLAIN + runs((0, _U32_MAX))),
    "unallocated run of 2^31 clusters": _roots(_PLAIN + runs((0, 1 << 31))),
    "largest unallocated run": _roots(_PLAIN + runs((0, MAX_CLUSTERS))),
    "largest absent run": _roots(
        flags() + table(MAX_CLUSTERS, (0, MAX_CLUSTERS >> LEAF_SHIFT))
    ),
    "unallocated runs of 2^37 clusters": _roots(_PLAIN + runs(*[(0, (1 << 31) - 1)] * 64)),
    "run of no clusters": _roots(_PLAIN + runs((20, 0), (0, 0))),
    "runs of 3 bytes": _roots(_PLAIN + raw(RUNS, b"abc")),
    "runs of no bytes": _roots(_PLAIN + raw(RUNS)),
    "run beyond the end": _roots(flags(0) + runs((250, 7))),
    "run in the metadata": _roots(flags(0) + runs((1, 2))),
    "overlapping runs": _roots(flags(0) + runs((40, 10), (45, 10))),
    "two blobs share a run": _roots(*[flags(0) + runs((40, 10))] * 2),
    "one run named 490 times": _run_named_500_times,
    "1000 snapshots of runs far apart": _chain_of_runs_far_apart,
    "runs far apart in 500 pages": _blob_of_runs_far_apart,
    "reversed runs in 500 pages": _blob_of_reversed_runs,
    "run of 2^24 clusters": _run_of_2_24_clusters,
    "hole in a thick blob": _roots(flags(0) + runs((0, 4), (40, 1))),
    "runs and a table": _roots(flags() + runs((40, 1)) + table(1)),
    "table of 2^64-1 clusters": _roots(flags() + table(_U64_MAX)),
    "absent run of 2^32-1 pages": _roots(flags() + table(_U64_MAX, (0, _U32_MAX))),
    "absent run of 2^22 pages": _roots(flags() + table(1 << 31, (0, 1 << 22))),
    "absent runs of 2^40 pages": _roots(flags() + table(_U64_MAX, *[(0, _U32_MAX)] * 400)),
    "absent bomb in every root": _absent_bomb_in_every_root(flags()),
    "marked absent bomb in every root": _absent_bomb_in_every_root(clone_of(70, name="SNAPTMP")),
    "1000 roots with the same 490 runs": _runs_in_every_root(0),
    "1000 roots with overlapping runs": _runs_in_every_root(1),
    "1000 extent pages alike": _thousand_extent_pages_alike,
    "a page in every huge table": _huge_blobs_with_a_page_each,
    "table entries of no pages": _roots(flags() + table(5, *[(0, 0)] * 400, (1, 0))),
    "table with different counts": _chain(flags() + table(4, (0, 1)), table(5, (0, 1))),
    "table of 7 bytes": _roots(flags() + raw(5, bytes(7))),
    "table names a page outside": _roots(flags() + table(1, (64, 1))),
    "table names page 2^32-1": _roots(flags() + table(1, (_U32_MAX, 1))),
    "table names a run of pages": _roots(flags() + table(1024, (1, 2))),
    "table names its own root": _roots(*[flags() + table(512, (1, 1))] * 2),
    "table names another root": _table_names_a_root,
    "table names an empty page": _roots(flags() + table(512, (9, 1))),
    "same extent page a thousand times": _same_extent_page_a_thousand_times,
    "two blobs share an extent page": _two_blobs_one_extent_page,
    "64 blobs share 450 extent pages": _many_blobs_one_table,
    "600 clones share 450 extent pages": _many_chains_one_table("SNAP"),
    "600 marked blobs share 450 extent pages": _many_chains_one_table("SNAPTMP"),
    "extent pages lead to each other": _extent_pages_name_each_other,
    "extent page of another range": _table_with_page(extents(512, [0] * 512)),
    "extent page without clusters": _table_with_page(extents(0, [])),
    "extent page of 513 clusters": _table_with_page(extents(0, [0] * 513)),
    "extent page of 6 bytes": _table_with_page(raw(6, b"abcdef")),
    "extent page with a sequence": _table_with_page(extents(0, [40]), sequence=7),
    "extent page with an attribute": _table_with_page(extents(0, [40]) + xattr("k", b"v")),
    "extent page names the metadata": _table_with_page(extents(0, [2, 3])),
    "extent page names the end": _table_with_page(extents(0, [256])),
    "extent page names 2^32-1": _table_with_page(extents(0, [_U32_MAX])),
    "extent page names a cluster twice": _table_with_page(extents(0, [40, 40])),
}  # fmt: skip

RELATIONS: Final[dict[str, Build]] = {
    "own parent": _parents(0),
    "parents of each other": _parents(1, 0),
    "sixty parents in a circle": _parents(*[(n + 1) % 60 for n in range(60)]),
    "parent in a circle": _parents(1, 2, 1),
    "parent is nowhere": _parents(33),
    "parent is outside": _parents(5000),
    "parent of 7 bytes": _marker_value("SNAP", bytes(7)),
    "parent of no bytes": _marker_value("SNAP", b""),
    "parent is id 0": _marker_value("SNAP", bytes(8)),
    "parent is the largest id": _marker_value("SNAP", b"\xff" * 8),
    "parent can be written to": _roots(flags() + table(1, (0, 1)), clone_of(0) + table(1, (0, 1))),
    "thick clone": _roots(
        flags(HAS_INTERNAL_XATTRS) + xattr("SNAP", bytes(8), internal=True) + runs((40, 1))
    ),
    **{
        f"{name} names {what}": _markers(name, *partners)
        for name in ("SNAPTMP", "SNAPRM")
        for what, partners in {
            "itself": [0], "its partner, and back": [1, 0], "a circle": [1, 2, 0],
            "nothing": [44], "a page outside": [9999],
        }.items()
    },
    **{
        f"{name} of {len(value)} bytes": _marker_value(name, value)
        for name in ("SNAPTMP", "SNAPRM")
        for value in (b"", b"1234567", b"m" * 3000)
    },
    "both markers": _roots(
        clone_of(1, name="SNAPTMP")
        + xattr("SNAPRM", (1 << 32 | 2).to_bytes(8, "little"), internal=True),
        clone_of(0) + table(1, (0, 1)),
        clone_of(0) + table(1, (0, 1)),
    ),
    "EXTSNAP of no bytes": _external(b""),
    "EXTSNAP of 1 byte": _external(b"x"),
    "EXTSNAP of 4000 bytes": _external(b"/etc/passwd\0".ljust(3900, b"x")),
    "EXTSNAP without its flag": _external(b"outside", 0),
    "flag without EXTSNAP": _external(None),
    "EXTSNAP and SNAP": _external(b"outside", more=xattr("SNAP", bytes(8), internal=True)),
}  # fmt: skip

ATTRIBUTES: Final[dict[str, Build]] = {
    "name longer than its attribute": _roots(_PLAIN + raw(XATTR, b"\x40\x00\x01\x00abc")),
    "name of 65535 bytes": _roots(_PLAIN + raw(XATTR, b"\xff\xff\x00\x00abc")),
    "value of 65535 bytes": _roots(_PLAIN + raw(XATTR, b"\x01\x00\xff\xffabc")),
    "lengths of an attribute wrap": _roots(_PLAIN + raw(XATTR, b"\xff\xff\x05\x00abcd")),
    "attribute of 3 bytes": _roots(_PLAIN + raw(XATTR, b"abc")),
    "attribute of no bytes": _roots(_PLAIN + raw(INTERNAL_XATTR)),
    "attribute without name": _roots(_PLAIN + xattr("", b"v")),
    "attribute without value": _roots(_PLAIN + xattr("k", b"")),
    "name with a NUL": _roots(_PLAIN + xattr("k\0k", b"v")),
    "name that is no UTF-8": _roots(_PLAIN + raw(XATTR, b"\x02\x00\x01\x00\xff\xfev")),
    "name with terminal codes": _roots(_PLAIN + xattr("\x1b[2J\n", b"\x1b[31m")),
    "same name twice": _roots(_PLAIN + xattr("k", b"1") + xattr("k", b"2")),
    "same internal name twice": _roots(
        flags(_MARKED) + xattr("SNAP", bytes(8), internal=True) * 2
    ),
    "1000 roots full of attributes of no bytes": _full_of(raw(XATTR)),
    "1000 roots full of the same attribute": _full_of(xattr("k", b"")),
    "1000 roots with lying attributes and one cluster": _full_of(
        raw(XATTR, b"\x40\x00\x01\x00"), _PLAIN + runs((3000, 1))
    ),
    "1000 marked roots with lying attributes": _full_of(
        raw(XATTR), clone_of(0, name="SNAPTMP", invalid=THIN_PROV)
    ),
    "thousands of attributes": lambda forge: forge.chain(
        0, _PLAIN, *[b"".join(xattr(f"{p}.{n}", b"v") for n in range(200)) for p in range(62)]
    ),
}  # fmt: skip

HOSTILE_BLOBS: Final = CHAINS | EXTENTS | RELATIONS | ATTRIBUTES
