"""Where the process of an attached store is found."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_the_last_place_that_is_removed_takes_the_programs_directory_with_it(runtime: Path) -> None:
    first, second = Place.of_store("a.img"), Place.of_store("b.img")
    for place in (first, second):
        place.make()
    first.remove()
    assert list(runtime.glob("*/*")) == [Path(second.directory)]
    second.remove()
    assert list(runtime.iterdir()) == []


def test_what_else_is_in_the_programs_directory_stays(runtime: Path) -> None:
    place = Place.of_store("a.img")
    place.make()
    (runtime / "blobstore/other").write_text("kept")
    place.remove()
    assert list(runtime.glob("*/*")) == [runtime / "blobstore/other"]


def test_directories_that_an_attach_is_about_to_use_are_not_removed(runtime: Path) -> None:
    place = Place.of_store("a.img")
    with place.alone():
        place.remove()
        assert os.path.isdir(place.files)
    place.remove()
    assert list(runtime.iterdir()) == []


def test_an_attach_that_fails_leaves_no_directory(runtime: Path) -> None:
    with pytest.raises(BlobstoreError), Place.of_store("a.img").alone():
        raise BlobstoreError("the process could not start")
    assert list(runtime.iterdir()) == []


def test_a_killed_processs_socket_is_cleared_and_one_that_an_attach_starts_is_not(
    runtime: Path,
) -> None:
    place = Place.of_store("a.img")
    place.make()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(place.socket)
    with place.alone():
        place.clear_if_dead()
        assert os.path.exists(place.socket)
    place.clear_if_dead()
    assert list(runtime.iterdir()) == []


def test_an_attach_survives_that_directories_are_removed_while_it_makes_them(runtime: Path) -> None:
    def come_and_go(store: str) -> None:
        place = Place.of_store(store)
        for _time in range(40):
            with place.alone():
                assert os.path.isdir(place.files)
            place.remove()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(come_and_go, f"{number % 2}.img") for number in range(4)]:
            done.result()
    assert list(runtime.iterdir()) == []
