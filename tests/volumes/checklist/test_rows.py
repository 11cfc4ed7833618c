"""The checklist itself is complete."""

from tests.volumes.checklist.rows import INTERNAL, count, names_of_tests, rows


def test_every_row_has_a_test_of_its_name_or_a_reason() -> None:
    with_a_test, internal, missing = count()
    assert missing == []
    assert with_a_test + internal == len(rows()) == 60


def test_no_row_has_both_and_every_reason_is_for_a_row() -> None:
    assert set(INTERNAL) <= set(rows()) - set(names_of_tests())
