"""External snapshots from the command line."""

from pathlib import Path

import pytest

from tests.cli.conftest import CLUSTER
from tests.cli.runner import run, run_here, unchanged
from tests.golden.images import load_image, manifest
from tests.replay import pattern

GOLDEN_ID = "pat:42:524288:4096"
GOLDEN_SIZE = 524288


@pytest.mark.parametrize("name", ["esnap_clean", "esnap_dirty"])
def test_clones_of_an_external_snapshot_read_as_the_original_reads_them(
    name: str, tmp_path: Path
) -> None:
    path, outside = tmp_path / "disk.img", tmp_path / "outside"
    path.write_bytes(load_image(name))
    # The original's pattern device goes on beyond its size, where one clone reads it.
    outside.write_bytes(pattern(42, 12 * CLUSTER))
    same = unchanged(path), unchanged(outside)
    blobs = manifest(name)["expected_after_load"]["state"]["blobs"]
    done = run("list", path, "--sha256", "--external", f"{GOLDEN_ID}={outside}", "--json")
    found = {blob["id"]: blob["sha256"] for blob in done.json["blobs"]}
    assert found == {blob["id"]: blob["sha256"] for blob in blobs}
    assert all(question() for question in same)


def test_an_id_can_be_given_in_hex(tmp_path: Path) -> None:
    path, outside = tmp_path / "disk.img", tmp_path / "outside"
    path.write_bytes(load_image("esnap_clean"))
    outside.write_bytes(pattern(42, GOLDEN_SIZE))
    external = f"hex:{GOLDEN_ID.encode().hex()}={outside}"
    done = run_here(
        "read", path, "0x100000000", "--length", "4K", "--external", "x=" + str(outside),
        "--external", external,
    )  # fmt: skip
    assert done.stdout == pattern(42, 4096)


def test_without_it_a_clone_is_listed_and_cannot_be_read_where_it_holds_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(load_image("esnap_clean"))
    shown = run_here("show", path, "0x100000000", "--json").json
    assert bytes.fromhex(shown["external_snapshot"]).decode() == GOLDEN_ID
    done = run_here("read", path, "0x100000000", "--length", "1", "--json")
    assert done.error["errno"] == "ENOTSUP"


def test_create_makes_a_clone_of_one_and_writes_do_not_reach_it(
    empty: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"p" * 2 * CLUSTER)
    same = unchanged(outside)
    made = run(
        "create", empty, "edited", "--size", "128K", "--external-snapshot", "hex:00ff", "--json"
    ).json["id"]
    external = ("--external", f"hex:00ff={outside}")
    assert run_here("write", empty, str(made), *external, stdin=b"new").status == 0
    done = run_here("read", empty, str(made), *external)
    assert done.stdout == b"new" + b"p" * (2 * CLUSTER - 3)
    assert same()
    shown = run_here("show", empty, str(made), "--json").json
    assert (shown["thin"], shown["clone"], shown["external_snapshot"]) == (True, True, "00ff")


def test_a_path_that_is_not_there_is_an_error_and_leaves_the_store_alone(empty: Path) -> None:
    same = unchanged(empty)
    done = run_here("create", empty, "--size", "1M", "--external", "x=/no/such", "--json")
    assert done.error["errno"] == "ENOENT"
    assert same()


def test_an_id_that_is_no_hex_is_a_usage_error(empty: Path) -> None:
    done = run_here("create", empty, "--size", "1M", "--external-snapshot", "hex:0", "--json")
    assert (done.status, done.error["errno"]) == (2, "EINVAL")
