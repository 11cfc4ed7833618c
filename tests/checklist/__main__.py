"""`python -m tests.checklist`: how many rows of the checklist are tested; 1 if one is missing."""

import sys

from tests.checklist.rows import NOT_APPLICABLE, count, rows

with_a_test, not_applicable, missing = count()
lines = [f"{with_a_test} tested, {not_applicable} not applicable, of {len(rows())}"]
lines += [f"    {name}: {reason}" for name, reason in NOT_APPLICABLE.items()]
lines += [f"missing: {name}" for name in missing]
sys.stdout.write("\n".join([*lines, ""]))
sys.exit(bool(missing) or with_a_test + not_applicable != len(rows()))
