"""map: on a terminal, without colours, as SVG, as JSON; and the picture in the README."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from blobstore import Blobstore
from tests.cli.conftest import CLUSTER
from tests.cli.runner import Terminal, run, run_here
from tests.cli.schema import MAP, conforms
from tests.golden.images import load_image
from tests.shared import CHECKOUT

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A store with a snapshot that has two clones, one of them grown, and a thick blob."""
    path = tmp_path / "family.img"
    with Blobstore.create(path, size=32 * CLUSTER, cluster_size=CLUSTER, md_pages=32) as store:
        vol0 = store.create_blob(8 * CLUSTER, thin=True, xattrs={"name": b"vol0"})
        vol0.write(b"x" * 4 * CLUSTER)
        with vol0.snapshot(xattrs={"name": b"a<&>\x1b[31m\xff"}) as snapshot:
            snapshot.clone().write(b"y" * CLUSTER, CLUSTER)
        vol0.write(b"z" * CLUSTER, 2 * CLUSTER)
        vol0.resize(10 * CLUSTER)
        store.create_blob(2 * CLUSTER, xattrs={"name": b"thick"})
    return path


PICTURE = """\
family.img: 32 clusters of 64 KiB; a letter is one

 0  ###AAAACBDD.....................

#  metadata: 3 clusters
.  free: 21 clusters

A  a<&>\\x1b[31m\\xff  0x100000002  snapshot thin  4 of 8   [AAAA....]
B  ├─ vol0           0x100000000  clone thin     1 of 10  [AABA......]
C  └─ -              0x100000003  clone thin     1 of 8   [ACAA....]
D  thick             0x100000004  thick          2 of 2   [DD]
"""


def test_without_a_terminal_it_is_letters(family: Path) -> None:
    assert run("map", family, environment={"COLUMNS": "80"}).text == PICTURE


def test_on_a_terminal_it_has_colours_and_says_the_same(family: Path) -> None:
    with Terminal("map", family, environment={"COLUMNS": "80", "NO_COLOR": ""}) as terminal:
        status, shown = terminal.end()
    assert status == 0
    assert COLOUR.search(shown)
    lines = [line.rstrip() for line in COLOUR.sub("", shown).splitlines()]
    assert lines == PICTURE.splitlines()


def test_no_color_means_no_colours(family: Path) -> None:
    with Terminal("map", family, environment={"COLUMNS": "80"}) as terminal:
        _status, shown = terminal.end()
    assert shown.replace("\r\n", "\n") == PICTURE


@pytest.mark.parametrize("columns", [20, 50, 300])
def test_the_clusters_are_as_wide_as_the_terminal_lets_them(
    family: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run_here("map", family).text.splitlines()
    rows = [line[4:] for line in lines[2 : lines.index("#  metadata: 3 clusters") - 1]]
    assert max(map(len, rows)) <= columns
    assert "".join(rows) == "###AAAACBDD....................."


def test_a_letter_is_many_clusters_of_a_large_store(tmp_path: Path) -> None:
    path = tmp_path / "large.img"
    with Blobstore.create(path, size=4096 * CLUSTER, cluster_size=CLUSTER) as store:
        store.create_blob(1001 * CLUSTER).write(b"x")
    lines = run_here("map", path).text.splitlines()
    assert "a letter is 4 of them" in lines[0]
    rows = "".join(line[6:] for line in lines[2:18])
    assert len(rows) == 1024
    assert re.fullmatch(r"#*a?A{249,250}a?\.+", rows)


def test_as_json_every_cluster_has_an_owner_once(family: Path) -> None:
    found = run("map", family, "--json").json
    assert conforms(found, MAP)
    at = 0
    for part in found["runs"]:
        assert part["first"] == at
        at += part["count"]
    assert at == found["total_clusters"] == 32
    assert [part["owner"] for part in found["runs"]] == [
        "metadata", 0x100000002, 0x100000003, 0x100000000, 0x100000004, "free",
    ]  # fmt: skip
    assert [(each["id"], each["depth"], each["parent"]) for each in found["tree"]] == [
        (0x100000002, 0, None), (0x100000000, 1, 0x100000002), (0x100000003, 1, 0x100000002),
        (0x100000004, 0, None),
    ]  # fmt: skip
    assert found["tree"][0]["name"] == "a<&>\x1b[31m\\xff"


def test_the_svg_is_xml_with_a_square_for_every_cluster_and_a_line_for_every_blob(
    family: Path, tmp_path: Path
) -> None:
    done = run("map", family, "--svg", tmp_path / "map.svg")
    assert (done.status, done.stdout, done.stderr) == (0, b"", "")
    picture = ElementTree.parse(tmp_path / "map.svg").getroot()
    tips = [tip.text or "" for tip in picture.iterfind(f"{SVG}rect/{SVG}title")]
    assert [int(tip.split(":")[0]) for tip in tips] == list(range(32))
    assert tips[2:5] == ["2: metadata", "3: a<&>\\x1b[31m\\xff", "4: a<&>\\x1b[31m\\xff"]
    texts = [text.text for text in picture.iterfind(f"{SVG}text")]
    assert {"family.img", "metadata, 3", "free, 21", "vol0", "0x100000004"} <= {*texts}
    assert len([*picture.iterfind(f"{SVG}path")]) == 2  # from the snapshot to its clones
    title = picture.find(f"{SVG}title")
    assert title is not None
    assert title.text == "The clusters of family.img, and the blobs that own them"


def test_the_svg_goes_to_standard_output_too_and_is_the_same_each_time(family: Path) -> None:
    first = run_here("map", family, "--svg", "-")
    assert first.text.startswith("<svg ")
    assert run_here("map", family, "--svg", "-") == first


def test_json_can_be_had_beside_the_svg(family: Path, tmp_path: Path) -> None:
    done = run_here("map", family, "--svg", tmp_path / "map.svg", "--json")
    assert conforms(done.json, MAP)
    assert (tmp_path / "map.svg").exists()


def test_a_store_of_many_blobs_and_a_long_chain_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "many.img"
    with Blobstore.create(path, size=2048 * CLUSTER, cluster_size=CLUSTER) as store:
        blob = store.create_blob(4 * CLUSTER, thin=True)
        for _number in range(40):
            blob.write(b"x", CLUSTER)
            blob.snapshot().close()
        for _number in range(30):
            store.create_blob(CLUSTER).close()
    text = run_here("map", path).text
    assert len(text.splitlines()) == 5 + 16 + 1 + 71
    assert "\n*  " in text  # there are fewer letters than blobs
    picture = ElementTree.fromstring(run_here("map", path, "--svg", "-").text)
    assert "and 7 more" in [each.text for each in picture.iterfind(f"{SVG}text")]


def test_an_external_snapshot_and_a_store_without_blobs_are_drawn(
    tmp_path: Path, empty: Path
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(load_image("esnap_clean"))
    assert "clone thin (external)           1 of 8   [~A~~~~~~]" in run_here("map", path).text
    assert "an external snapshot" in run_here("map", path, "--svg", "-").text
    assert run_here("map", empty).text.splitlines()[-1].startswith(".  free")
    assert "Blobs" not in run_here("map", empty, "--svg", "-").text


def test_clusters_of_a_blob_that_cannot_be_opened_are_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(load_image("bad_md_crc_clean"))
    text = run_here("map", path).text
    assert "?  in use, by no blob that can be opened:" in text
    assert "\n!  0x" in text
    assert 'class="unknown"' in run_here("map", path, "--svg", "-").text


def test_the_picture_in_the_readme_is_what_its_script_makes(tmp_path: Path) -> None:
    script = CHECKOUT / "docs" / "make_map.py"
    subprocess.run([sys.executable, script, tmp_path / "map.svg"], check=True)
    made = (tmp_path / "map.svg").read_bytes()
    assert made == (CHECKOUT / "docs" / "map.svg").read_bytes()


def test_a_picture_replaces_nothing_but_a_picture(family: Path, tmp_path: Path) -> None:
    before = family.read_bytes()
    for victim in (family, tmp_path):
        done = run_here("map", family, "--svg", victim)
        assert done.status == 1
        assert "exists and holds no SVG" in done.stderr or ": a directory" in done.stderr
    assert family.read_bytes() == before
    picture = tmp_path / "map.svg"
    for _twice in range(2):
        assert run_here("map", family, "--svg", picture).status == 0
    picture.write_bytes(b"")
    assert run_here("map", family, "--svg", picture).status == 0
    assert ElementTree.parse(picture).getroot().tag == f"{SVG}svg"


def test_a_picture_and_json_cannot_both_be_standard_output(family: Path) -> None:
    assert run_here("map", family, "--svg", "-", "--json").status == 2
