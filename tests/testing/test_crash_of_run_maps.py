"""Power failures where every map of runs, also a short one, makes its leaves on demand."""

import subprocess
import sys
from typing import Final

EXPLORER: Final = """
from blobstore.alloc import extent_map
from tests.proof import crash

assert extent_map._LONGEST_LEAF
extent_map._LONGEST_LEAF = 0
raise SystemExit(crash.main(["--states", "3000", "--jobs", "1"]))
"""


def test_no_state_is_bad_whatever_length_the_maps_of_runs_have() -> None:
    """The explorer forks, which a test process with threads may not."""
    ended = subprocess.run(
        [sys.executable, "-c", EXPLORER], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    assert " 0 bad," in ended.stdout
