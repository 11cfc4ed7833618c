"""Makes docs/map.svg and docs/map-page.png: a small store with a bit of everything.

`python docs/make_map.py [FILE.svg | FILE.png]`: SVG by `blobstore map --svg`, PNG by
`blobstore map --html`, looked at with Chromium.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from blobstore import Blob, Blobstore
from blobstore.cli.main import main

CLUSTER: Final = 64 * 1024


def fill(blob: Blob, *indices: int) -> None:
    """Write to some of a blob's clusters."""
    for index in indices:
        blob.write(b"x" * CLUSTER, index * CLUSTER)


def make_store(path: Path) -> None:
    """Make two machines from one installation, a swap, a sparse disk, and a clone from outside."""
    with Blobstore.create(path, size=128 * CLUSTER, cluster_size=CLUSTER, md_pages=48) as store:
        web = store.create_blob(24 * CLUSTER, thin=True, xattrs={"name": b"web"})
        fill(web, *range(14))
        store.create_blob(16 * CLUSTER, xattrs={"name": b"swap"})
        fill(web, *range(14, 18))
        with web.snapshot(xattrs={"name": b"debian 12"}) as installed:
            mail = installed.clone(xattrs={"name": b"mail"})
        photos = store.create_blob(
            12 * CLUSTER, external_snapshot=b"photos", xattrs={"name": b"photos, edited"}
        )
        scratch = store.create_blob(20 * CLUSTER, thin=True, xattrs={"name": b"scratch"})
        fill(web, 2, 3, 4, 18, 19)
        fill(scratch, 0, 1)
        fill(mail, 3, 9, 18, 19, 20)
        web.snapshot(xattrs={"name": b"web, monday"}).close()
        fill(scratch, 8, 9, 10)
        fill(web, 3, 19, 20)
        fill(mail, 21, 22)
        fill(photos, 5)
        fill(scratch, 15)


def photograph(page: Path, target: str) -> None:
    """Save what Chromium shows of a page."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    size = "--window-size=1000,760"
    command = ["chromium", *options, size, f"--screenshot={target}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)


def make(target: str) -> None:
    """Make the picture of the kind that the target's name tells."""
    with tempfile.TemporaryDirectory() as directory:
        image, page = Path(directory, "disk.img"), Path(directory, "map.html")
        make_store(image)
        if target.endswith(".png"):
            main(["map", str(image), "--html", str(page)])
            photograph(page, target)
        else:
            main(["map", str(image), "--svg", target])


if __name__ == "__main__":
    make(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).with_name("map.svg")))
