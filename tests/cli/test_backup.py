"""diff, du, send, receive, copy, prune."""

from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run, run_here, unchanged
from tests.cli.schema import DIFF, USAGE, conforms


def test_diff_lists_the_parts_in_which_two_blobs_differ(image: Image) -> None:
    run_here("snapshot", image.path, "beta", "monday")
    run_here("write", image.path, "beta", "--offset", str(5 * CLUSTER), stdin=b"tuesday")
    run_here("write", image.path, "beta", "--offset", str(6 * CLUSTER), stdin=b"tuesday")
    same = unchanged(image.path)
    done = run("diff", image.path, "monday", "beta", "--json")
    assert conforms(done.json, DIFF)
    assert done.json == {"ranges": [[5 * CLUSTER, 2 * CLUSTER]]}
    shown = run_here("diff", image.path, "beta", "monday")
    assert shown.text == f"OFFSET  LENGTH\n{5 * CLUSTER}  {2 * CLUSTER}\n"
    assert run_here("diff", image.path, "beta", "beta").text == ""
    assert same()


def test_du_shows_what_each_blob_uses_and_would_free(image: Image) -> None:
    run_here("write", image.path, "beta", "--offset", "0", stdin=b"monday")
    run_here("snapshot", image.path, "beta", "monday")
    run_here("write", image.path, "beta", "--offset", "0", stdin=b"tuesday")
    same = unchanged(image.path)
    done = run("du", image.path, "--json")
    assert conforms(done.json, USAGE)
    alpha, beta, monday = (
        {name: size // CLUSTER for name, size in entry.items() if type(size) is int}
        for entry in done.json["blobs"]
    )
    del alpha["id"], beta["id"], monday["id"]
    assert alpha == {"size": 4, "refer": 4, "own": 4, "shared": 0, "freed": 4, "by_snapshots": 0}
    assert beta == {"size": 16, "refer": 2, "own": 1, "shared": 1, "freed": 1, "by_snapshots": 1}
    assert monday == {"size": 16, "refer": 2, "own": 2, "shared": 1, "freed": 1}
    (only,) = run_here("du", image.path, "beta", "--json").json["blobs"]
    assert only == done.json["blobs"][1]
    shown = run_here("du", image.path, "monday").text.splitlines()
    assert shown[0].split("  ")[0] == "ID"
    assert [cell.strip() for cell in shown[1].split("  ") if cell.strip()][1:] == [
        "1 MiB", "128 KiB", "128 KiB", "64 KiB", "64 KiB", "-", "monday",
    ]  # fmt: skip
    assert same()
