"""Where the process of an attached store is found."""

import pytest

from blobstore import BlobstoreError
from blobstore.attach.attach_place import Place


def test_whoever_may_not_make_the_directory_is_told_that_attach_needs_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/sys/kernel")  # even root makes no directory there
    place = Place.of_store("disk.img")
    with pytest.raises(BlobstoreError, match="attach needs root") as refused, place.alone():
        pass
    assert isinstance(refused.value, PermissionError)
