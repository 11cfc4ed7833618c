"""Chains: what a blob's pages say together, and how content is packed into pages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import CorruptError
from blobstore.format.chain import ChainContent, ChainPacker, ChainSize, decode_chain, pack_chain
from blobstore.format.descriptors import (
    FLAGS_SIZE,
    RUNS_HEAD_SIZE,
    TABLE_HEAD_SIZE,
    ExtentPage,
    ExtentTable,
    Flags,
    Runs,
    Xattr,
)
from blobstore.format.page import BODY_SIZE
from blobstore.format.pairs import PackedPairs
from blobstore.format.root import SECTOR_CAPACITY
from tests.descriptors import Descriptor, Padding, Unknown, decode_descriptors, encode_descriptors

Pairs = list[tuple[int, int]]

capacities = st.sampled_from([BODY_SIZE, SECTOR_CAPACITY])
pair_counts = st.integers(0, 2200) | st.sampled_from([0, 1, 59, 507, 508, 509, 1014, 1016])


@st.composite
def xattr_lists(draw: st.DrawFn) -> list[Xattr]:
    sizes = draw(st.lists(st.integers(0, 600) | st.integers(0, 4058), max_size=6))
    # The last one is steered so that every room from 0 to 30 bytes is met.
    steered = draw(st.none() | st.integers(0, 30))
    xattrs = [Xattr(f"key{n}", b"v" * size, n % 3 == 2) for n, size in enumerate(sizes)]
    if steered is not None:
        xattrs.append(Xattr("last", b"l" * (BODY_SIZE - FLAGS_SIZE - 13 - steered)))
    return xattrs


def pairs_of(count: int) -> Pairs:
    return [(number + 1, 1) for number in range(count)]


def one_page(*descriptors: Descriptor) -> list[bytes]:
    return [encode_descriptors(descriptors)]


def shape_of(bodies: list[bytes]) -> list[list[tuple[str, int]]]:
    """Name every descriptor of every page, with its size."""
    return [
        [
            (type(item).__name__, len(item.encode()))
            for item in decode_descriptors(body, place="chain")
        ]
        for body in bodies
    ]


def leaving(room: int, *, capacity: int = BODY_SIZE) -> list[Xattr]:
    """Return an xattr that leaves so much room behind the flags in the root."""
    return [Xattr("x", bytes(capacity - FLAGS_SIZE - 10 - room))]


# --- reading -------------------------------------------------------------------------------


def test_a_chain_is_read_over_all_its_pages() -> None:
    content = decode_chain(
        [
            encode_descriptors([Flags(5), Xattr("b", b"1"), Padding(b"?"), Xattr("a", b"")]),
            encode_descriptors([Xattr("a", b"2", True), ExtentTable(600, ((9, 1),))]),
            encode_descriptors([Unknown(77, b"!"), ExtentTable(600, ((0, 3),))]),
        ],
        place="blob",
    )
    assert content == ChainContent(
        flags=Flags(5),
        xattrs={"b": b"1", "a": b""},
        internal_xattrs={"a": b"2"},
        table=PackedPairs.of([(9, 1), (0, 3)]),
        table_cluster_count=600,
        unknown_kinds={77: None},
    )
    assert list(content.xattrs) == ["b", "a"]


def test_runs_of_several_pages_are_joined() -> None:
    pages = one_page(Runs(((17, 2),))) + one_page(Runs(((0, 1), (30, 4))))
    assert decode_chain(pages, place="blob").runs == [(17, 2), (0, 1), (30, 4)]


def test_an_empty_chain_says_nothing() -> None:
    assert decode_chain([bytes(BODY_SIZE)], place="blob") == ChainContent()


def test_an_empty_table_is_not_the_same_as_none() -> None:
    assert decode_chain(one_page(ExtentTable(0, ())), place="blob").table == []


@pytest.mark.parametrize(
    ("descriptors", "message"),
    [
        pytest.param([Flags(), Flags()], "two flags descriptors", id="flags twice"),
        pytest.param(
            [Xattr("a", b""), Xattr("a", b"")], "'a' is empty, not unique", id="name twice"
        ),
        pytest.param(
            [Xattr("a", b"", True), Xattr("a", b"", True)], "'a' is empty", id="internal name twice"
        ),
        pytest.param([Xattr("", b"")], "name '' is empty", id="no name"),
        pytest.param([Xattr("a\0b", b"")], "has a NUL", id="NUL in a name"),
        pytest.param([Runs(((1, 1),)), ExtentTable(1, ())], "both kinds", id="runs, then a table"),
        pytest.param([ExtentTable(1, ()), Runs(((1, 1),))], "both kinds", id="a table, then runs"),
        pytest.param([ExtentPage(0, b"")], "both kinds of extents", id="extent page in a chain"),
        pytest.param(
            [ExtentTable(5, ()), ExtentTable(6, ())], "of 6 clusters, expected 5", id="two counts"
        ),
        pytest.param(
            [ExtentTable(0, ()), ExtentTable(6, ())],
            "of 6 clusters, expected 0",
            id="count after 0",
        ),
    ],
)
@pytest.mark.parametrize("pages", [1, 2])
def test_a_chain_that_contradicts_itself_is_refused_on_one_page_and_on_two(
    descriptors: list[Descriptor], message: str, pages: int
) -> None:
    bodies = (
        [encode_descriptors(descriptors)]
        if pages == 1
        else [descriptor.encode() for descriptor in descriptors]
    )
    with pytest.raises(CorruptError, match=f"^blob: .*{message}") as caught:
        decode_chain(bodies, place="blob")
    assert caught.value.errno == 22


@given(st.lists(st.binary(max_size=100), max_size=4))
def test_random_bodies_are_read_or_refused_and_nothing_else(bodies: list[bytes]) -> None:
    try:
        content = decode_chain(bodies, place="blob")
    except CorruptError:
        return
    assert content.runs is None or content.table is None


# --- packing -------------------------------------------------------------------------------


def test_a_new_thick_blob_fits_into_its_root() -> None:
    bodies = pack_chain(flags=Flags(4), xattrs=[Xattr("n", b"v")], table=(3, [(9, 1)]))
    assert bodies == one_page(Flags(4), Xattr("n", b"v"), ExtentTable(3, ((9, 1),)))


def test_a_blob_without_extents_of_either_kind_has_no_descriptor_for_them() -> None:
    assert pack_chain(flags=Flags(), xattrs=[]) == one_page(Flags())


def test_a_blob_of_0_clusters_has_no_run_but_a_table_without_entries() -> None:
    assert pack_chain(flags=Flags(), xattrs=[], runs=[]) == one_page(Flags())
    table = pack_chain(flags=Flags(4), xattrs=[], table=(0, []))
    assert table == one_page(Flags(4), ExtentTable(0, ()))


@pytest.mark.parametrize("capacity", [BODY_SIZE, SECTOR_CAPACITY])
def test_an_empty_table_is_left_out_where_fewer_than_13_bytes_are_left(capacity: int) -> None:
    def shape(room: int) -> list[list[tuple[str, int]]]:
        xattrs = leaving(room, capacity=capacity)
        return shape_of(
            pack_chain(flags=Flags(), xattrs=xattrs, table=(0, []), root_capacity=capacity)
        )

    root = [("Flags", 29), ("Xattr", capacity - 29 - 13)]
    assert shape(13) == [[*root, ("ExtentTable", 13)]]
    assert shape(12) == [[root[0], ("Xattr", capacity - 29 - 12)]]


@pytest.mark.parametrize("room", range(13, 21))
def test_the_tables_header_is_written_even_where_no_entry_fits_behind_it(room: int) -> None:
    bodies = pack_chain(flags=Flags(), xattrs=leaving(room), table=(700, [(9, 1), (8, 1)]))
    last = [decode_descriptors(body, place="chain")[-1] for body in bodies]
    assert last == [ExtentTable(700, ()), ExtentTable(700, ((9, 1), (8, 1)))]


@pytest.mark.parametrize("room", range(13))
def test_a_table_with_entries_begins_a_page_where_its_header_does_not_fit(room: int) -> None:
    bodies = pack_chain(flags=Flags(), xattrs=leaving(room), table=(700, [(9, 1)]))
    assert [len(page) for page in shape_of(bodies)] == [2, 1]
    assert bodies[1] == ExtentTable(700, ((9, 1),)).encode()


def test_every_part_of_a_table_names_the_whole_count() -> None:
    entries = pairs_of(1100)
    bodies = pack_chain(flags=Flags(), xattrs=[], table=(1100 * 512, entries))
    parts = [decode_descriptors(body, place="chain")[-1] for body in bodies]
    assert [part.cluster_count for part in parts if isinstance(part, ExtentTable)] == [
        1100 * 512
    ] * 3
    assert [len(part.entries) for part in parts if isinstance(part, ExtentTable)] == [503, 507, 90]


@pytest.mark.parametrize("room", range(13))
def test_runs_begin_a_page_where_fewer_than_13_bytes_are_left(room: int) -> None:
    bodies = pack_chain(flags=Flags(), xattrs=leaving(room), runs=[(17, 3)])
    assert bodies[1] == Runs(((17, 3),)).encode()


@pytest.mark.parametrize(("room", "here"), [(13, 1), (20, 1), (21, 2), (28, 2), (29, 3)])
def test_as_many_runs_as_fit_are_written_before_a_page_is_begun(room: int, here: int) -> None:
    bodies = pack_chain(flags=Flags(), xattrs=leaving(room), runs=pairs_of(5))
    assert shape_of(bodies)[0][-1] == ("Runs", 5 + 8 * here)
    assert shape_of(bodies)[1] == [("Runs", 5 + 8 * (5 - here))]


def test_no_empty_page_follows_runs_that_end_with_their_page() -> None:
    full = (BODY_SIZE - FLAGS_SIZE - RUNS_HEAD_SIZE) // 8
    assert len(pack_chain(flags=Flags(), xattrs=[], runs=pairs_of(full))) == 1
    assert len(pack_chain(flags=Flags(), xattrs=[], runs=pairs_of(full + 1))) == 2


def test_an_xattr_stays_whole_and_begins_a_page_where_it_does_not_fit() -> None:
    fits, large = leaving(20)[0], Xattr("y", bytes(12))
    assert [len(page) for page in shape_of(pack_chain(flags=Flags(), xattrs=[fits, large]))] == [
        2,
        1,
    ]
    exact = Xattr("y", bytes(10))
    assert [len(page) for page in shape_of(pack_chain(flags=Flags(), xattrs=[fits, exact]))] == [3]


def test_an_xattr_too_large_for_a_sector_root_goes_to_the_next_page() -> None:
    bodies = pack_chain(
        flags=Flags(), xattrs=[Xattr("x", bytes(600))], runs=[(1, 1)], root_capacity=504
    )
    assert shape_of(bodies) == [[("Flags", 29)], [("Xattr", 610), ("Runs", 13)]]


def test_the_largest_xattr_fills_a_page() -> None:
    largest = Xattr("x", bytes(BODY_SIZE - 10))
    assert shape_of(pack_chain(flags=Flags(), xattrs=[largest]))[1] == [("Xattr", BODY_SIZE)]


def test_an_xattr_that_no_page_can_hold_is_not_packed() -> None:
    with pytest.raises(AssertionError, match="a descriptor of 4073 bytes"):
        ChainPacker(BODY_SIZE).put(Xattr("x", bytes(BODY_SIZE - 9)).encode())


@given(xattr_lists(), pair_counts, capacities, st.sampled_from(["runs", "table"]))
def test_a_packed_chain_is_read_as_it_was_meant_and_its_size_was_known(
    xattrs: list[Xattr], count: int, capacity: int, kind: str
) -> None:
    pairs = pairs_of(count)
    bodies = pack_chain(
        flags=Flags(7),
        xattrs=xattrs,
        runs=pairs if kind == "runs" else None,
        table=(count * 512, pairs) if kind == "table" else None,
        root_capacity=capacity,
    )
    assert len(bodies[0]) <= capacity
    assert all(0 < len(body) <= BODY_SIZE for body in bodies)

    content = decode_chain(bodies, place="blob")
    assert content.flags == Flags(7)
    assert list(content.xattrs.items()) == [(x.name, x.value) for x in xattrs if not x.internal]
    assert list(content.internal_xattrs) == [x.name for x in xattrs if x.internal]
    assert ((content.runs if kind == "runs" else content.table) or []) == pairs

    size = ChainSize.before_extents(xattrs, root_capacity=capacity)
    head_size = RUNS_HEAD_SIZE if kind == "runs" else TABLE_HEAD_SIZE
    assert size.pages_with_pairs(count, head_size=head_size) == len(bodies)


@pytest.mark.parametrize("head_size", [RUNS_HEAD_SIZE, TABLE_HEAD_SIZE])
@pytest.mark.parametrize("capacity", [BODY_SIZE, SECTOR_CAPACITY])
@pytest.mark.parametrize("room", range(40))
def test_the_size_is_exact_whatever_room_the_xattrs_leave(
    room: int, capacity: int, head_size: int
) -> None:
    xattrs = leaving(room, capacity=capacity)
    size = ChainSize.before_extents(xattrs, root_capacity=capacity)
    assert size == ChainSize(page_count=1, room=room)
    for count in (0, 1, 2, 3, 4, 507, 508, 509, 512, 1013, 1014, 1015, 1016, 1017):
        pairs = pairs_of(count)
        bodies = pack_chain(
            flags=Flags(),
            xattrs=xattrs,
            runs=pairs if head_size == RUNS_HEAD_SIZE else None,
            table=(count, pairs) if head_size == TABLE_HEAD_SIZE else None,
            root_capacity=capacity,
        )
        assert size.pages_with_pairs(count, head_size=head_size) == len(bodies)
