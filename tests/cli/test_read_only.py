"""Commands that only look leave every byte of a store as it is, a dirty one's too."""

from pathlib import Path

import pytest

from blobstore import Blobstore
from tests.cli.conftest import Image
from tests.cli.runner import run, unchanged

LOOKING = {
    "info": ["info", "{store}"],
    "list": ["list", "{store}"],
    "list in full": ["list", "{store}", "--long", "--sha256", "--json"],
    "show": ["show", "{store}", "{blob}"],
    "read": ["read", "{store}", "{blob}"],
    "export": ["export", "{store}", "{blob}", "{file}"],
    "xattr list": ["xattr", "list", "{store}", "{blob}"],
    "xattr get": ["xattr", "get", "{store}", "{blob}", "name"],
    "map": ["map", "{store}"],
    "map as SVG": ["map", "{store}", "--svg", "{file}"],
    "direct": ["list", "{store}", "--sha256", "--direct"],
    "external": ["info", "{store}", "--external", "id={store}"],
    "a shell": ["shell", "{store}", "--read-only"],
    "dump": ["dump", "{store}"],
    "forced": ["list", "{store}", "--force", "--atomic-write", "4096"],
}


@pytest.mark.parametrize("arguments", LOOKING.values(), ids=LOOKING)
def test_looking_changes_nothing(
    arguments: list[str], image: Image, dirty_image: Image, tmp_path: Path
) -> None:
    for number, store in enumerate((image, dirty_image)):
        names = {"store": store.path, "blob": store.thin, "file": tmp_path / f"out{number}"}
        same = unchanged(store.path)
        done = run(*(argument.format(**names) for argument in arguments))
        assert (done.status, done.stderr) == (0, "")
        assert same()


def test_a_shell_that_only_looks_changes_nothing_either(image: Image, dirty_image: Image) -> None:
    script = f"list --sha256\nmap\ndump\nread {image.thin}\nxattr list {image.thin}\n".encode()
    same = unchanged(image.path)
    done = run("shell", image.path, stdin=script)
    assert (done.status, done.stderr) == (0, "")
    assert same()
    same = unchanged(dirty_image.path)
    done = run("shell", dirty_image.path, "--read-only", stdin=script)
    assert (done.status, done.stderr) == (0, "")
    assert same()


def test_looking_needs_no_right_to_write(image: Image) -> None:
    image.path.chmod(0o444)
    assert run("list", image.path).status == 0


def test_two_can_look_at_once(image: Image) -> None:
    with Blobstore.open(image.path, read_only=True):
        assert run("list", image.path).status == 0
