"""The stress of threads and tasks: it finds nothing, and it would find what is wrong."""

from pathlib import Path

import pytest

from blobstore import Blob
from tests.proof.stress import Usage, stress


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "workers", "steps"), [("threads", 8, 80), ("tasks", 60, 30)])
def test_what_many_workers_read_is_what_their_models_say(
    kind: str, workers: int, steps: int, tmp_path: Path
) -> None:
    assert stress(kind, tmp_path, workers=workers, steps=steps) == []


def test_a_blob_that_reads_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Blob.read
    monkeypatch.setattr(Blob, "read", lambda *given: read(*given).replace(b"\0", b"x"))
    (first, *_others) = stress("threads", tmp_path, workers=2, steps=20)
    assert "WrongContentError" in first


def test_descriptors_and_memory_that_grow_are_found() -> None:
    assert Usage(5, 1 << 30).grown_to(Usage(5, 1 << 30)) == []
    assert len(Usage(5, 1 << 30).grown_to(Usage(6, 2 << 30))) == 2
