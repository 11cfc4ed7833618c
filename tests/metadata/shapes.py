"""Roots of every kind."""

from typing import Final

from blobstore.format.descriptors import HAS_EXTENT_TABLE, HAS_INTERNAL_XATTRS, THIN_PROV
from tests.proof.forge import clone_of, flags, runs, table, xattr

CLONE: Final = THIN_PROV | HAS_INTERNAL_XATTRS
TABLED: Final = THIN_PROV | HAS_EXTENT_TABLE
NO_TABLE_CLONE: Final = flags(CLONE) + xattr("SNAP", (7 << 32).to_bytes(8, "little"), internal=True)

SHAPES: Final[dict[str, bytes]] = {
    "nothing": flags(),
    "nothing, without a table": flags(THIN_PROV),
    "nothing, thick": flags(0),
    "an empty table": flags() + table(0),
    "an empty table that promises clusters": flags() + table(700),
    "an empty table without the flag": flags(THIN_PROV) + table(0),
    "absent pages": flags() + table(700, (0, 2)),
    "absent pages without the flag": flags(THIN_PROV) + table(700, (0, 2)),
    "fewer clusters than the pages have": flags() + table(5, (0, 2)),
    "a run of no clusters": flags(THIN_PROV) + runs((0, 700)),
    "a run in spite of the flag": flags(TABLED) + runs((0, 3)),
    "two runs of no clusters": flags(THIN_PROV) + runs((0, 3), (0, 4)),
    "a clone with a run": NO_TABLE_CLONE + runs((0, 3)),
    "a clone of nothing": NO_TABLE_CLONE,
    "a clone": clone_of(3) + table(2, (0, 1)),
    "a snapshot": clone_of(3, data_ro=1) + table(2, (0, 1)),
    "a base": flags(TABLED, 1, 2) + table(2, (0, 1)),
    "names": flags() + xattr("name", b"v") + xattr("\udcff", b"") + table(2, (0, 1)),
    "names around a parent": clone_of(3) + xattr("name", b"vol") + table(2, (0, 1)),
    "more than a sector": flags() + xattr("long", bytes(600)) + table(2, (0, 1)),
    "just a sector": flags() + xattr("long", bytes(504 - 29 - 21 - 13)) + table(2, (0, 1)),
    "a run of clusters": flags(0) + runs((1200, 3)),
    "two runs": flags(THIN_PROV) + runs((0, 3), (1200, 1)),
    "runs that continue each other": flags(0) + runs((1203, 3), (1206, 1), (1208, 2)),
    "a clone with a run of its own": NO_TABLE_CLONE + runs((0, 3), (1210, 1), (0, 2), (0, 1)),
    "an own page": flags() + table(2, (61, 1)),
    "more runs than a leaf has room for": flags(THIN_PROV) + runs((1212, 1), (0, 512)),
    "a run outside": flags(0) + runs((1, 3)),
    "a run of none": flags(THIN_PROV) + runs((0, 0)),
    "a run of nothing": flags(THIN_PROV) + runs((1200, 0)),
    "an absent run in a thick blob": flags(0) + runs((0, 3)),
    "a run that is too long": flags(THIN_PROV) + runs((0, (1 << 26) + 1)),
    "a run and a table": flags(THIN_PROV) + runs((0, 3)) + table(0),
    "a run without a pair": flags(THIN_PROV) + b"\1\0\0\0\0",
    "a page that two name": flags() + table(2, (60, 1)),
    "a page that two name, too": flags() + table(2, (60, 1)),
    "a page that is none": flags() + table(2, (62, 1)),
    "padding": flags() + b"\0\3\0\0\0abc" + table(2, (0, 1)),
    "an unknown flag": flags(1 << 40) + table(0),
    "an unknown kind": flags() + b"\x63\1\0\0\0x",
}
