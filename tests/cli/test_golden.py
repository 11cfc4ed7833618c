"""What `list` and `dump` say of images the original wrote, next to what the original says."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import run, unchanged
from tests.golden.images import golden_dump, load_image, manifest

IMAGES = [
    "clones_of_clones_clean",
    "clear_methods_dirty",
    "mix_bl4096_cs64k_dirty",
    "mix_bl512_cs256k_clean",
    "snapchain_et1_bl4096_clean",
    "thin_rle_holes_clean",
    "unknown_flag_invalid_clean",
    "xattrs_spill_et0_dirty",
]
SAME_NAME = [
    "id",
    "clones",
    "parent",
    "extent_pages",
    *(f"{kind}_flags" for kind in ("invalid", "data_ro", "md_ro")),
]
OTHER_NAME = {
    "clusters": "num_clusters",
    "allocated_clusters": "num_allocated_clusters",
    "thin": "is_thin",
    "read_only": "is_read_only",
    "snapshot": "is_snapshot",
    "clone": "is_clone",
    "extent_table": "use_extent_table",
    "extents": "cluster_runs",
    "metadata_pages": "md_pages",
    "sha256": "sha256",
}
CLEAR_METHODS = ["default", "none", "unmap", "zeroes"]


def expected_entry(blob: dict[str, Any], cluster_size: int) -> dict[str, Any]:
    """Say in our words what the original says of a blob."""
    if "open_rc" in blob:
        return {"id": blob["id"]}
    return {
        **{name: blob[name] for name in SAME_NAME},
        **{ours: blob[theirs] for ours, theirs in OTHER_NAME.items()},
        "size": blob["num_clusters"] * cluster_size,
        "clear_method": CLEAR_METHODS[blob["clear_method"]],
        "external_snapshot": None,
        "xattrs": dict(blob["xattrs"]),
        "internal_xattrs": dict(blob["internal_xattrs"]),
    }


@pytest.mark.parametrize("name", IMAGES)
def test_the_list_of_an_image_is_what_the_original_sees(name: str, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(load_image(name))
    same = unchanged(path)
    state = manifest(name)["expected_after_load"]["state"]
    found = run("list", path, "--long", "--sha256", "--json").json["blobs"]
    for entry in found:
        if "error" in entry:
            del entry["error"]
    assert found == [expected_entry(blob, state["cluster_size"]) for blob in state["blobs"]]
    assert same()


@pytest.mark.parametrize(
    "name", ["mix_bl4096_cs64k_dirty", "mix_bl512_cs256k_clean", "xattrs_spill_et0_dirty"]
)
def test_the_dump_of_an_image_is_the_originals_whatever_blocks_its_device_had(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(load_image(name))
    assert run("dump", path).stdout == golden_dump(name)


def test_the_info_of_an_image_is_what_the_original_sees(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(load_image("mix_bl512_cs256k_clean"))
    state = manifest("mix_bl512_cs256k_clean")["expected_after_load"]["state"]
    found = run("info", path, "--json").json
    assert found.pop("data_clusters") == state["total_data_clusters"]
    assert found.pop("blobs") == len(state["blobs"])
    assert found.pop("free_md_pages") == state["md_len"] - state["used_md_pages"]
    known = {name: value for name, value in found.items() if name in state}
    assert known == {name: state[name] for name in known}
    assert sorted(set(found) - set(known)) == ["clean", "size", "version"]
