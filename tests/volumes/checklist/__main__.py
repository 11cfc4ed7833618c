"""`python -m tests.volumes.checklist`: how many rows are tested; 1 if one is missing."""

import sys

from tests.volumes.checklist.rows import INTERNAL, count, rows

with_a_test, internal, missing = count()
lines = [f"{with_a_test} tested, {internal} internal, of {len(rows())}"]
lines += [f"    {name}: internal: {reason}" for name, reason in INTERNAL.items()]
lines += [f"missing: {name}" for name in missing]
sys.stdout.write("\n".join([*lines, ""]))
sys.exit(bool(missing) or with_a_test + internal != len(rows()))
