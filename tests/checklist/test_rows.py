"""The checklist itself is complete."""

import subprocess
import sys

from tests.checklist.rows import NOT_APPLICABLE, count, names_of_tests, rows
from tests.shared import CHECKOUT


def test_every_row_has_a_test_of_its_name_or_a_reason() -> None:
    with_a_test, not_applicable, missing = count()
    assert missing == []
    assert with_a_test + not_applicable == len(rows()) == 100


def test_no_row_has_both_and_every_reason_is_for_a_row() -> None:
    assert set(NOT_APPLICABLE) <= set(rows()) - set(names_of_tests())


def test_the_program_counts_all_rows() -> None:
    command = [sys.executable, "-m", "tests.checklist"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        "98 tested, 2 not applicable, of 100",
    )
