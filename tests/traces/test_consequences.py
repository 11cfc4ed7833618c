"""What follows from a row of the document is known to the replayer, and nothing else is excused.

The answers are this project's own, given without write-through: changes then wait for a sync, as
they do in the original. Where the original goes on otherwise, the answers are changed by hand.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from blobstore.testing.internals import core_of
from tests.replay import COMPACT, Replay
from tests.traces.comparison import Comparison, Verdict

Facts = dict[str, Any]

START = ("dev mem=1 size=67108864 blocklen=4096", "init cluster_sz=16384")
GEOMETRY = {"size": 67108864, "blocklen": 4096, "cluster_sz": 16384}


def answers_to(script: Sequence[str]) -> list[Facts]:
    """Return what the original answers, as far as this project does the same.

    What is free only after the next flush is free there at once.
    """
    replay = Replay(atomic_write_size=COMPACT, write_through=False)
    answers: list[Facts] = []
    for line in script:
        answers.append(replay.run(line))
        if "used_md_pages" in answers[-1]:
            core = core_of(replay.the_store())
            answers[-1]["used_md_pages"] -= core.pages.pending_count
            answers[-1]["used_cluster_bits"] -= core.clusters.pending_count
    return answers


def verdict_on(script: Sequence[str], answers: Sequence[Facts]) -> Verdict:
    trace = {
        "geometry": GEOMETRY,
        "script": list(script),
        "results": list(answers),
        "final_image_sha256": "",
        "final_md_sha256": "",
    }
    return Comparison("made", trace, atomic_write_size=COMPACT).run()


def changed(answers: Sequence[Facts], number: int, change: Callable[[Facts], Facts]) -> list[Facts]:
    """Return the answers with one of them changed."""
    return [change(answer) if at == number else answer for at, answer in enumerate(answers)]


def assert_excused(script: Sequence[str], answers: Sequence[Facts], row: str) -> None:
    verdict = verdict_on(script, answers)
    assert [str(mismatch) for mismatch in verdict.mismatches] == []
    assert verdict.rows[row]


def assert_noticed(script: Sequence[str], answers: Sequence[Facts], key: str) -> None:
    """A difference that does not follow from a row is still one."""
    assert [mismatch.key for mismatch in verdict_on(script, answers).mismatches] == [key]


@pytest.mark.parametrize("table", [0, 1])
def test_a_chain_that_a_write_has_synced_is_longer_until_the_original_syncs(table: int) -> None:
    script = (
        *START,
        f"create as=a num_clusters=4 thin=0 et={table} clear=default",
        "open a",
        "set_xattr a first @1:3000",
        "set_xattr a second @2:3000",
        "write a 0 4 1",
        "info a",
        "bsinfo",
        "sync a",
        "info a",
        "bsinfo",
    )
    answers = answers_to(script)
    assert [len(answers[at]["md_pages"]) for at in (7, 10)] == [1, 2]
    assert_excused(script, answers, "write-through-syncs")
    more = changed(answers, 7, lambda facts: facts | {"md_pages": [0, 1, 2]})
    assert_noticed(script, more, "md_pages")
    more = changed(answers, 8, lambda facts: facts | {"used_md_pages": 9})
    assert_noticed(script, more, "used_md_pages")
    late = changed(answers, 10, lambda facts: facts | {"md_pages": [0]})
    assert_noticed(script, late, "md_pages")


def test_what_a_shrink_cut_off_is_released_by_a_write_until_the_original_syncs() -> None:
    script = (
        *START,
        "create as=a num_clusters=1100 thin=1 et=1 clear=default",
        "open a",
        "write a 0 4 1",
        "write a 4200 4 2",
        "sync a",
        "resize a 100",
        "write a 0 4 3",
        "bsinfo",
        "sync a",
        "bsinfo",
    )
    assert_excused(script, answers_to(script), "write-through-syncs")


def test_a_blob_is_read_only_from_a_write_on_where_the_original_waits_for_the_sync() -> None:
    script = (
        *START,
        "create as=a num_clusters=4 thin=0 et=1 clear=default",
        "open a",
        "set_ro a",
        "write a 0 4 1",
        "write a 4 4 1",
    )
    answers = answers_to(script)
    assert [answer["rc"] for answer in answers] == [0] * 7
    verdict = verdict_on(script, answers)
    assert (verdict.mismatches, verdict.ended_by) == ([], "write-through-syncs")


def test_what_a_shrink_cut_off_is_back_in_the_original_with_its_extent_page() -> None:
    script = (
        *START,
        "create as=a num_clusters=1100 thin=1 et=1 clear=default",
        "open a",
        "write a 0 4 1",
        "write a 4200 4 2",
        "sync a",
        "resize a 100",
        "resize a 1100",
        "sync a",
        "bsinfo",
        "sync a",
        "bsinfo",
    )
    answers = answers_to(script)
    for at in range(8, len(script)):
        answers[at]["free"] -= 1
    for at in (10, 12):
        answers[at]["free_clusters"] = answers[at]["free"]
        answers[at]["used_cluster_bits"] += 1
        answers[at]["used_md_pages"] += 1
    assert_excused(script, answers, "shrink-is-final")
    more = changed(answers, 12, lambda facts: facts | {"used_md_pages": 9})
    assert_noticed(script, more, "used_md_pages")


def test_an_empty_blob_whose_table_did_not_fit_has_neither_table_nor_flag_in_the_original() -> None:
    script = (
        *START,
        "create as=a num_clusters=0 thin=1 et=1 clear=default xattrs=k:@1:4028",
        "open a",
        "close a",
        "state",
        "open a",
        "resize a 1100",
        "write a 0 4 1",
        "write a 4200 4 1",
        "sync a",
        "info a",
        "bsinfo",
    )
    answers = answers_to(script)
    (blob,) = answers[5]["blobs"]
    assert blob["use_extent_table"]
    assert blob["invalid_flags"] & 4
    blob |= {"use_extent_table": False, "invalid_flags": blob["invalid_flags"] & ~4}
    runs = {"use_extent_table": False, "extent_pages": [], "md_pages": [0, 1]}
    answers[11] |= runs | {"invalid_flags": answers[11]["invalid_flags"] & ~4}
    answers[12]["used_md_pages"] = 2
    assert_excused(script, answers, "table-that-did-not-fit")
    more = changed(answers, 12, lambda facts: facts | {"used_md_pages": 9})
    assert_noticed(script, more, "used_md_pages")
    more = changed(answers, 11, lambda facts: facts | {"invalid_flags": 8})
    assert_noticed(script, more, "invalid_flags")
