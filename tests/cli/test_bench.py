"""bench: what it measures, and that it leaves the store as it was."""

import mmap
from pathlib import Path

import pytest

from blobstore import Blobstore, VolumeStore
from blobstore.cli.commands.bench import page_aligned
from blobstore.device.ring import address_of
from tests.cli.conftest import Image
from tests.cli.runner import run, run_here
from tests.cli.schema import BENCH, conforms


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.img"
    with Blobstore.create(path, size="16MiB", cluster_size="64KiB") as store:
        store.create_blob("64KiB", name="kept").write(b"kept")
    return path


@pytest.mark.parametrize("direct", [[], ["--direct"]])
def test_bench_measures_and_leaves_the_store_as_it_was(large: Path, direct: list[str]) -> None:
    before = run("list", large, "--json").json
    found = run_here("bench", large, "--size", "4MiB", "--seconds", "0.02", "--json", *direct).json
    assert conforms(found, BENCH)
    assert (found["size"], found["direct"]) == (4 << 20, bool(direct))
    assert all(row["requests"] > 0 and row["microseconds"] > 0 for row in found["rows"])
    assert run("list", large, "--json").json == before
    assert run("check", large).status == 0
    with Blobstore.open(large, read_only=True) as store:
        assert store.open_blob(name="kept").read(4) == b"kept"


def test_bench_uses_memory_that_direct_requests_take_without_a_copy() -> None:
    assert address_of(page_aligned(1 << 20)) % mmap.PAGESIZE == 0


def test_bench_prints_a_line_for_each_kind_of_request(large: Path) -> None:
    lines = run("bench", large, "--size", "4MiB", "--seconds", "0.02").text.splitlines()
    assert lines[0].split() == ["work", "us", "each", "MiB/s"]
    assert [line[:34].strip() for line in lines[1:]] == [
        "random read, 4 KiB",
        "random read, 4 KiB, 256 at once",
        "random write, 4 KiB",
        "random write, 4 KiB, 256 at once",
        "sequential read, 1 MiB",
        "sequential write, 1 MiB",
        "write of 4 KiB and flush",
    ]


def test_bench_measures_a_volume_store_too(tmp_path: Path) -> None:
    path = tmp_path / "vms.img"
    VolumeStore.create(path, name="vms", size="32MiB", cluster_size="64KiB").close()
    assert run("bench", path, "--size", "4MiB", "--seconds", "0.02").status == 0
    with VolumeStore.open(path, read_only=True) as vms:
        assert len(vms) == 0


def test_bench_without_room_fails_and_leaves_no_blob(image: Image) -> None:
    before = run("list", image.path, "--json").json
    assert run("bench", image.path, "--size", "1GiB", "--json").error["errno"] == "ENOSPC"
    assert run("list", image.path, "--json").json == before
