"""What is taken at once of a blob with many runs is what taking one after the other comes to."""

from collections.abc import Callable
from typing import Final

import numpy as np
import pytest
from bitarray import bitarray
from hypothesis import given
from hypothesis import strategies as st

from blobstore.drivers.blocking import BlockingDriver
from blobstore.format.descriptors import RUNS_HEAD_SIZE, THIN_PROV, Flags
from blobstore.format.geometry import Geometry, blob_id_of
from blobstore.fsck import extent_checks, ownership_checks
from blobstore.fsck.examine import Examination, examine
from blobstore.fsck.finding import KEPT_PER_INVARIANT, Finding, Findings, Severity
from blobstore.fsck.ownership_checks import Claims, Ownership
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.fsck.segments import Segments, runs_of
from blobstore.fsck.spans import spans_of, touching
from blobstore.metadata.blob_reader import MAX_CLUSTERS
from blobstore.metadata.page_arrays import Numbers
from blobstore.metadata.store_state import DeviceTraits
from blobstore.units import PageIndex
from tests.proof.forge import Forge, flags, runs

CLUSTERS: Final = 600
GEOMETRY: Final = Geometry.compute(
    size_bytes=CLUSTERS * 4096, cluster_size=4096, page_size=4096, io_unit_size=512, md_pages=40
)
LOWEST: Final = GEOMETRY.md_clusters
MANY_RUNS: Final = 40

sound_runs = st.tuples(st.integers(LOWEST, CLUSTERS - 90), st.integers(1, 90))
any_runs = st.tuples(
    st.sampled_from((0, 1, LOWEST - 1, LOWEST, CLUSTERS - 1, CLUSTERS, CLUSTERS + 1, 0xFFFF_FFFF))
    | st.integers(0, CLUSTERS),
    st.sampled_from((0, 1, CLUSTERS, CLUSTERS + 1, MAX_CLUSTERS - 9, MAX_CLUSTERS, 0xFFFF_FFFF))
    | st.integers(0, 9),
)
lists_of_runs = st.lists(sound_runs | any_runs, max_size=MANY_RUNS)
spans = st.lists(
    st.integers(0, CLUSTERS - 1).flatmap(
        lambda first: st.tuples(st.just(first), st.integers(1, min(90, CLUSTERS - first)))
    ),
    max_size=MANY_RUNS,
)


def columns(rows: list[tuple[int, ...]], width: int) -> Numbers:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def encoded(pairs: list[tuple[int, int]]) -> bytes:
    return runs(*pairs)[RUNS_HEAD_SIZE:]


def read(pairs: list[tuple[int, int]], piece: int, invalid: int) -> ParsedBlob:
    """Read runs, so many at a time."""
    blob = ParsedBlob(blob_id_of(PageIndex(7)), PageIndex(7), flags=Flags(invalid))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(extent_checks, "PIECE", piece)
        extent_checks.read_runs(GEOMETRY, blob, encoded(pairs))
    return blob


@given(lists_of_runs, st.sampled_from((0, THIN_PROV)))
def test_runs_are_read_alike_together_and_one_by_one(
    pairs: list[tuple[int, int]], invalid: int
) -> None:
    one_by_one = read(pairs, 1, invalid)
    assert read(pairs, 5, invalid) == read(pairs, MANY_RUNS, invalid) == one_by_one


@given(st.lists(sound_runs | st.tuples(st.just(0), st.integers(1, 9)), max_size=9))
def test_sound_runs_are_the_clusters_that_they_name(pairs: list[tuple[int, int]]) -> None:
    blob = read(pairs, MANY_RUNS, THIN_PROV)
    found = {
        index + step: first + step for index, first, count in blob.segments for step in range(count)
    }
    numbers = [first and first + step for first, count in pairs for step in range(count)]
    assert found == {index: cluster for index, cluster in enumerate(numbers) if cluster}
    assert blob.cluster_count == len(numbers)
    assert not blob.findings.kept


@pytest.mark.parametrize("room", [0, 1, 5])
@pytest.mark.parametrize("pair", [(1, 2), (20, 0), (1, 0), (0, 0), (1, CLUSTERS)])
def test_what_there_is_no_room_for_is_counted(room: int, pair: tuple[int, int]) -> None:
    earlier = {(n, Severity.ERROR): KEPT_PER_INVARIANT - room for n in (29, 34)}
    found = []
    for piece in (1, MANY_RUNS):
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(extent_checks, "PIECE", piece)
            blob = ParsedBlob(
                blob_id_of(PageIndex(7)), PageIndex(7), findings=Findings(earlier=earlier)
            )
            extent_checks.read_runs(GEOMETRY, blob, encoded([pair, (200, 0), (3, 4)] * 3))
        found.append((blob.findings.kept, blob.findings.counts))
    assert found[0] == found[1]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 3))), st.integers(0))
def test_segments_are_joined_alike_at_once_and_in_turn(
    gaps: list[tuple[int, int, int]], cut: int
) -> None:
    rows, index, cluster = [], 0, 100
    for gap, step, count in gaps:
        rows.append((index + gap, cluster + step, count))
        index, cluster = index + gap + count, cluster + step + count
    in_turn, at_once = Segments(), Segments()
    for row in rows:
        in_turn.add(*row)
    cut %= len(rows) + 1
    for part in (rows[:cut], rows[cut:]):
        at_once.extend(*columns([*part], 3).T)
    assert at_once == in_turn


def blob_of(number: int, claimed: list[tuple[int, int]]) -> ParsedBlob:
    blob = ParsedBlob(blob_id_of(PageIndex(number)), PageIndex(number))
    for place, (first, count) in enumerate(claimed):
        blob.segments.add(place * CLUSTERS, first, count)
    return blob


def owned_by(blobs: list[ParsedBlob]) -> Ownership:
    found = Ownership(GEOMETRY)
    for blob in blobs:
        found.take_clusters(blob.segments)
    return found


@given(st.lists(spans, max_size=4))
def test_what_is_claimed_twice_is_contested(claims: list[list[tuple[int, int]]]) -> None:
    found = owned_by([blob_of(number, claimed) for number, claimed in enumerate(claims)])
    times = [int(cluster < LOWEST) for cluster in range(CLUSTERS)]
    for first, count in (span for claimed in claims for span in claimed):
        for cluster in range(first, first + count):
            times[cluster] += 1
    assert found.clusters == bitarray([n > 0 for n in times])
    assert found.contested_clusters == bitarray([n > 1 for n in times])


@given(spans, spans)
def test_spans_that_touch_set_bits_are_found(
    asked: list[tuple[int, int]], marked: list[tuple[int, int]]
) -> None:
    bits = bitarray(CLUSTERS, endian="little")
    for first, count in marked:
        bits[first : first + count] = True
    found = touching(bits, *columns([*asked], 2).T)
    assert found.tolist() == [
        n for n, (at, count) in enumerate(asked) if bits[at : at + count].any()
    ]


@pytest.mark.parametrize("chunk_bits", [8, 64, 1 << 19])
@given(marked=spans, length=st.integers(1, CLUSTERS))
def test_the_runs_of_set_bits_are_those_of_their_numbers(
    chunk_bits: int, marked: list[tuple[int, int]], length: int
) -> None:
    bits = bitarray(CLUSTERS, endian="little")
    for first, count in marked:
        bits[first : first + count] = True
    del bits[length:]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("blobstore.fsck.spans._CHUNK_BITS", chunk_bits)
        found = [
            run
            for firsts, counts in spans_of(bits)
            for run in zip(firsts.tolist(), counts.tolist(), strict=True)
        ]
    assert found == list(runs_of(bits.search(True)))


def claims_of(blobs: list[ParsedBlob], take: Callable[[Claims, ParsedBlob], None]) -> list[Finding]:
    claims = Claims(owned_by(blobs))
    for blob in blobs:
        take(claims, blob)
    return list(claims.findings())


def take_in_turn(claims: Claims, blob: ParsedBlob) -> None:
    """Note every contested part of a segment as long as there was room before it."""
    contested = claims._ownership.contested_clusters
    for _index, first, count in blob.segments:
        if len(claims._spans) < ownership_checks._KEPT_SPANS:
            parts = runs_of(n for n in range(first, first + count) if contested[n])
            claims._spans += [(at, at + length, blob.blob_id) for at, length in parts]


@given(st.lists(spans, max_size=4), st.integers(1, 12))
def test_claims_that_are_not_kept_are_such_that_nobody_reads(
    claimed: list[list[tuple[int, int]]], kept: int
) -> None:
    blobs = [blob_of(number, parts) for number, parts in enumerate(claimed)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ownership_checks, "_KEPT_SPANS", kept)
        assert claims_of(blobs, Claims.take) == claims_of(blobs, take_in_turn)


@given(
    st.lists(st.tuples(st.integers(20, 22), st.sampled_from(list(Severity))), max_size=30),
    st.integers(0, 30),
)
def test_findings_taken_over_are_those_that_follow(
    kinds: list[tuple[int, Severity]], cut: int
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("blobstore.fsck.finding.KEPT_PER_INVARIANT", 4)
        in_turn, taken_over = Findings(), Findings()
        for number, (invariant, severity) in enumerate(kinds):
            in_turn.add(invariant, f"{number}", severity=severity)
        for part in (slice(0, cut), slice(cut, None)):
            parts = Findings(earlier=taken_over.counts)
            for number, (invariant, severity) in list(enumerate(kinds))[part]:
                parts.add(invariant, f"{number}", severity=severity)
            taken_over.take_over(parts)
        assert list(taken_over) == list(in_turn)
        assert taken_over.error_count == sum(s is Severity.ERROR for _i, s in kinds)


def examined(forge: Forge) -> Examination:
    device = forge.device(read_only=True)
    return BlockingDriver(device).run(examine(DeviceTraits(device.size_bytes)))


@pytest.mark.parametrize("clean", [pytest.param(True, id="clean"), pytest.param(False, id="dirty")])
def test_of_many_broken_blobs_little_is_kept(clean: bool) -> None:
    forge = Forge(md_len=40, cluster_count=CLUSTERS, cluster_size=4096, clean=clean)
    for root in range(30):
        forge.root(root, flags(0) + runs(*[(1, 2)] * 490))
    seen = examined(forge)
    assert seen.findings.counts[34, Severity.ERROR] == 30 * 490
    assert sum(found.invariant == 34 for found in seen.findings.kept) == KEPT_PER_INVARIANT
    assert seen.view is not None
    broken = seen.view.broken.values()
    assert sum(len(blob.findings.kept) for blob in broken) <= KEPT_PER_INVARIANT
    assert all(len(blob.segments) + len(blob.lost) <= 1 for blob in broken)
