"""map --html: the page as text, and as headless Chromium shows it."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from blobstore import Blobstore
from blobstore.cli.picture.inherited import inherited_clusters
from blobstore.cli.picture.ownership_map import map_store
from tests.cli.conftest import CLUSTER
from tests.cli.runner import run_here
from tests.golden.images import load_image
from tests.shared import CHECKOUT

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\">&amp;$name"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A snapshot with a hostile name, its two clones, and a thick blob."""
    path = tmp_path / "family.img"
    with Blobstore.create(path, size=64 * CLUSTER, cluster_size=CLUSTER, md_pages=32) as store:
        vol0 = store.create_blob(8 * CLUSTER, thin=True, name="vol0")
        vol0.write(b"x" * 4 * CLUSTER)
        with vol0.snapshot(HOSTILE) as snapshot:
            snapshot.clone("web").write(b"y" * CLUSTER, CLUSTER)
        vol0.write(b"z" * CLUSTER, 2 * CLUSTER)
        vol0.resize(10 * CLUSTER)
        store.create_blob(2 * CLUSTER, name="thick")
    return path


def page_of(path: Path) -> str:
    done = run_here("map", path, "--html", "-")
    assert (done.status, done.stderr) == (0, "")
    return done.text


def show(page: str, directory: Path, *, probe: str = "", options: tuple[str, ...] = ()) -> str:
    """Return the document as it is after the page, and a script of ours, have run."""
    assert CHROMIUM is not None
    if probe:
        page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
        page = page.replace("</body>", f"<script>{probe}</script></body>")
    file = directory / "shown.html"
    file.write_text(page, encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--window-size=1200,900", f"--user-data-dir={directory}/profile", *options, "--dump-dom",
        file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=300, check=True)
    return done.stdout.decode()


def result_of(document: str) -> Any:
    found = re.search(r"<title>(.*?)</title>", document)
    assert found is not None
    return json.loads(unescape(found[1]))


def test_the_page_needs_no_network_and_is_the_same_each_time(family: Path) -> None:
    page = page_of(family)
    assert page == page_of(family)
    assert "://" not in page
    assert not re.search(r"(?:src|href)=", page.replace("src=x", ""))
    assert "default-src 'none'" in page


def test_a_name_is_text_in_the_table_and_in_the_numbers(family: Path) -> None:
    page = page_of(family)
    assert "<img" not in page.replace("\\u003cimg", "")
    assert page.count("</script>") == 2
    found = re.search(r'<script id="data"[^>]*>(.*?)</script>', page)
    assert found is not None
    data = json.loads(found[1])
    assert [blob["name"] for blob in data["blobs"]] == [HOSTILE, "vol0", "web", "thick"]
    assert [blob["parent"] for blob in data["blobs"]] == [-1, 0, 0, -1]
    assert sum(data["runs"][::2]) == data["total"] == 64


def test_the_table_tells_own_space_from_what_is_read_from_parents(family: Path) -> None:
    rows = re.findall(r"<tr aria-level.*?</tr>", page_of(family))
    cells = [[re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?</td>", row)] for row in rows]
    assert [row[4:6] for row in cells] == [
        ["256 KiB", "0 B"], ["64 KiB", "192 KiB"], ["64 KiB", "192 KiB"], ["128 KiB", "0 B"],
    ]  # fmt: skip
    assert [re.findall(r'aria-level="(\d)"', row) for row in rows] == [["1"], ["2"], ["2"], ["1"]]


def test_what_several_parents_hold_is_counted_once_and_not_beyond_the_end(tmp_path: Path) -> None:
    with Blobstore.create(tmp_path / "a", size="8MiB", cluster_size=CLUSTER) as store:
        blob = store.create_blob(8 * CLUSTER, thin=True)
        for first in (0, 1, 2, 6):
            blob.write(b"x" * 2 * CLUSTER, first * CLUSTER)
            blob.snapshot().close()
        blob.resize(7 * CLUSTER)
        blob.write(b"x", 3 * CLUSTER)
        found = inherited_clusters(map_store(store))
        assert list(found.values()) == [0, 1, 2, 4, 4]  # of 0 to 3, 6 and 7 it sees 0, 1, 2, 6


def test_blobs_that_cannot_be_opened_and_external_snapshots_are_named(tmp_path: Path) -> None:
    for name, text in (
        ("bad_md_crc_clean", "Blobs that cannot be opened"),
        ("esnap_clean", "an external snapshot"),
    ):
        (tmp_path / name).write_bytes(load_image(name))
        assert text in page_of(tmp_path / name)


def test_a_store_without_blobs_has_no_table(empty: Path) -> None:
    assert '<section aria-labelledby="blobs" hidden>' in page_of(empty)


def test_a_page_replaces_nothing_but_a_page(family: Path, tmp_path: Path) -> None:
    before = family.read_bytes()
    assert "exists and holds no page" in run_here("map", family, "--html", family).stderr
    assert family.read_bytes() == before
    for _twice in range(2):
        assert run_here("map", family, "--html", tmp_path / "map.html").status == 0
    assert run_here("map", family, "--html", "-", "--svg", "-").status == 2
    assert run_here("map", family, "--html", "-", "--json").status == 2


PROBE = """
const found = {};
const box = canvas.getBoundingClientRect();
const over = (cluster, type) => canvas.dispatchEvent(new PointerEvent(type, {
  clientX: box.left + left + (cluster % columns + 0.5) * scale().pitch,
  clientY: box.top + 4 + (Math.floor(cluster / columns) + 0.5) * scale().pitch, bubbles: true}));
const press = (at, key) => at.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
found.images = document.images.length;
found.names = rows.map((row) => row.querySelector(".text").textContent);
over(3, "pointermove"); found.first = tip.textContent.split("\\n");
over(0, "pointermove"); found.metadata = tip.textContent;
over(63, "pointermove"); found.free = tip.textContent;
over(8, "click"); found.selected = rows.map((row) => row.ariaSelected); found.marks = marks;
press(rows[0], "ArrowLeft"); found.folded = rows.map((row) => row.hidden);
press(rows[0], "ArrowRight"); press(rows[0], "ArrowDown");
found.focused = rows.indexOf(document.activeElement);
press(view, "End"); found.spoken = spoken.textContent;
press(view, "Escape"); found.none = rows.filter((row) => row.ariaSelected === "true").length;
found.level = level; press(view, "-"); found.smaller = level; press(view, "0"); found.fit = level;
document.getElementById("find").value = "WEB"; showRows();
found.searched = rows.map((row) => row.hidden);
document.title = JSON.stringify(found);
"""


@needs_chromium
@pytest.mark.slow
def test_pointer_and_keyboard_tell_owners_zoom_select_and_walk_the_tree(
    family: Path, tmp_path: Path
) -> None:
    found = result_of(show(page_of(family), tmp_path, probe=PROBE))
    assert found["images"] == 0
    assert found["names"] == [HOSTILE, "vol0", "web", "thick"]
    assert found["first"] == [
        "cluster 3", f"{HOSTILE}  0x100000002", "snapshot thin", "cluster 0 of 8 of the blob",
        "also read by vol0, web",
    ]  # fmt: skip
    assert found["metadata"] == "cluster 0\nmetadata"
    assert found["free"] == found["spoken"] == "cluster 63\nfree"
    assert found["selected"] == ["false", "true", "false", "false"]
    assert found["marks"] == [[3, 5, False], [6, 7, False], [8, 9, True]]
    assert found["folded"] == [False, True, True, False]
    assert (found["focused"], found["none"]) == (1, 0)
    assert found["smaller"] == found["level"] - 1 == found["fit"] - 1
    assert found["searched"] == [True, True, False, True]


COLOURS = """
drawNow();
const at = (x, y) => [...canvas.getContext("2d").getImageData(x, y, 1, 1).data.slice(0, 3)];
document.title = JSON.stringify([getComputedStyle(document.body).backgroundColor, at(2, 2),
  at(left + 5, 10), document.documentElement.scrollWidth <= innerWidth]);
"""


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 500])
@pytest.mark.parametrize(
    ("scheme", "ground", "used"),
    [("1", [255, 255, 255], [110, 119, 129]), ("0", [13, 17, 23], [132, 141, 151])],
    ids=["light", "dark"],
)
def test_light_and_dark_wide_and_narrow_it_is_drawn_and_fits(
    family: Path, tmp_path: Path, width: int, scheme: str, ground: list[int], used: list[int]
) -> None:
    options = (f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},900")
    found = result_of(show(page_of(family), tmp_path, probe=COLOURS, options=options))
    assert found == [f"rgb({', '.join(map(str, ground))})", ground, used, True]


@needs_chromium
@pytest.mark.slow
def test_the_policy_of_the_page_lets_its_own_script_run(family: Path, tmp_path: Path) -> None:
    document = show(page_of(family), tmp_path)
    assert '<span id="scale" class="soft">a square is a cluster</span>' in document


SPEED = """
const began = performance.now();
for (let time = 0; time < 10; time++) drawNow();
const drawing = (performance.now() - began) / 10;
const then = performance.now();
for (let time = 0; time < 10; time++) { select(time % 2); point(9973 * time, 10, 10); }
const pointing = (performance.now() - then) / 10;
zoom(99); view.scrollTop = 1e9; drawNow();
const last = view.scrollTop + height;
document.title = JSON.stringify([store.total, runCount, drawing, pointing,
  clusterAt(left + 1, height - 8) > 99000, levels[0].perCell >= 256]);
"""


@needs_chromium
@pytest.mark.slow
def test_a_hundred_thousand_clusters_are_drawn_in_a_fraction_of_a_second(tmp_path: Path) -> None:
    """Two blobs alternate, so that every cluster is a run of its own."""
    path = tmp_path / "large.img"
    with Blobstore.create(path, size="6400MiB", cluster_size=CLUSTER) as store:
        blobs = [store.create_blob(40_000 * CLUSTER, thin=True) for _number in range(2)]
        for index in range(8000):
            blobs[index % 2].write(b"x", index * CLUSTER)
    page = page_of(path)
    total, runs, drawing, pointing, reached, coarse = result_of(show(page, tmp_path, probe=SPEED))
    assert total == 102_400
    assert runs > 8000
    assert max(drawing, pointing) < 500  # milliseconds, on a loaded machine without a graphics card
    assert reached
    assert coarse


def test_the_picture_of_the_page_is_in_the_guide() -> None:
    assert "(map-page.png)" in (CHECKOUT / "docs" / "guide-cli.md").read_text()
    assert (CHECKOUT / "docs" / "map-page.png").read_bytes().startswith(b"\x89PNG")
