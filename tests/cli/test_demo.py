"""The demo is a real check: whatever is lost or invented makes it fail."""

import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from blobstore import Blobstore, BlobstoreError
from blobstore.cli.commands.demo import report
from blobstore.cli.demo.tarball import make_source
from blobstore.cli.demo.tour import Tour
from blobstore.cli.demo.victim import Promise
from tests.cli.runner import run

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
Damage = Callable[[Path, Promise], None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(bytes(range(1, 256)) * 12345)
    return path


def flip_byte_at(image: Path, blob_id: int, offset: int) -> None:
    """Change one byte of a blob's content, behind the store's back."""
    with Blobstore.open(image, read_only=True) as store, store.open_blob(blob_id) as blob:
        index, start = divmod(offset, store.cluster_size)
        clusters = [
            cluster for first, count in blob.info.extents for cluster in range(first, first + count)
        ]
        place = clusters[index] * store.cluster_size + start
    with image.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


def first_blob(image: Path) -> int:
    with Blobstore.open(image, read_only=True) as store:
        return store.blob_ids()[0]


def lose_first_acknowledged_byte(image: Path, promise: Promise) -> None:
    flip_byte_at(image, promise.blob_id, 0)


def lose_last_acknowledged_byte(image: Path, promise: Promise) -> None:
    flip_byte_at(image, promise.blob_id, promise.length - 1)


def lose_byte_of_first_blob(image: Path, promise: Promise) -> None:
    flip_byte_at(image, first_blob(image), 1234567)


def invent_bytes(image: Path, promise: Promise) -> None:
    """Write what nobody else wrote behind what was acknowledged."""
    with Blobstore.open(image) as store, store.open_blob(promise.blob_id) as blob:
        blob.write(b"\xdd", blob.size // 65536 * 65536 - 65536)


def forget_last_flush(image: Path, promise: Promise) -> None:
    """Take back the allocations of the second half of what was acknowledged."""
    with Blobstore.open(image) as store, store.open_blob(promise.blob_id) as blob:
        start = promise.length // 2 // 65536 * 65536
        blob.unmap(start, blob.size - start)


def delete_blob(image: Path, promise: Promise) -> None:
    with Blobstore.open(image) as store:
        store.delete_blob(promise.blob_id)


def test_nothing_is_lost(tmp_path: Path, source: Path) -> None:
    tour = Tour(tmp_path)
    tour.run(source)
    assert tour.problems == []
    assert [blob.xattrs["name"] for blob in tour.blobs] == [b"imported", b"killed"]
    assert tour.store is not None
    assert tour.store.clean
    assert report(tour, as_json=True) == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_first_acknowledged_byte, "acknowledged bytes 0 to .* are lost"),
        (lose_last_acknowledged_byte, "acknowledged bytes .* are lost"),
        (lose_byte_of_first_blob, "sha256 [0-9a-f]+, expected [0-9a-f]+"),
        (forget_last_flush, "acknowledged bytes .* are lost"),
        (invent_bytes, "were never written"),
    ],
)
def test_what_is_lost_or_invented_is_noticed_and_the_status_is_1(
    tmp_path: Path, source: Path, damage: Damage, message: str
) -> None:
    tour = Tour(tmp_path, after_kill=damage)
    tour.run(source)
    assert any(re.search(message, problem) for problem in tour.problems)
    assert report(tour, as_json=False) == 1


def test_a_blob_that_is_gone_is_noticed(tmp_path: Path, source: Path) -> None:
    with pytest.raises(BlobstoreError, match="no such blob"):
        Tour(tmp_path, after_kill=delete_blob).run(source)


def test_a_store_that_nobody_left_dirty_proves_nothing(tmp_path: Path, source: Path) -> None:
    def unload(image: Path, _promise: Promise) -> None:
        Blobstore.open(image).close()

    tour = Tour(tmp_path, after_kill=unload)
    tour.run(source)
    assert tour.problems == ["store: clean after the kill, expected a dirty one"]


def test_the_command_takes_a_file_and_shows_every_step(source: Path) -> None:
    done = run("demo", source)
    assert (done.status, done.stderr) == (0, "")
    assert len(re.findall(r"^ *[0-9.]+ ms  ", done.text, re.MULTILINE)) == 5
    assert "SIGKILL after" in done.text
    assert done.text.endswith("all that was acknowledged is there\n")


def test_the_command_without_a_file_imports_the_standard_library() -> None:
    done = run("demo", "--json").json
    assert (done["ok"], done["problems"]) == (True, [])
    assert done["store"]["clean"]
    assert done["blobs"][0]["size"] > 5 * MIB
    assert all(step["seconds"] >= 0 for step in done["steps"])
    assert len(done["steps"]) == 6


def test_the_command_takes_even_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert run("demo", tmp_path / "empty").status == 0


def test_the_command_refuses_what_is_no_file(tmp_path: Path) -> None:
    assert run("demo", tmp_path, "--json").error["errno"] == "EINVAL"


def test_the_source_is_a_tar_of_the_standard_library(tmp_path: Path) -> None:
    make_source(tmp_path / "tar")
    with tarfile.open(tmp_path / "tar") as archive:
        names = archive.getnames()
    assert {"os.py", "json/decoder.py"} <= set(names)
    assert not [name for name in names if "site-packages" in name or name.startswith("/")]
