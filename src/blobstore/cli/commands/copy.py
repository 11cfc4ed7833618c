"""`copy`: blobs with their snapshots and clones, into another store."""

import os
from contextlib import ExitStack
from dataclasses import replace

import click

from blobstore import BlobInfo, ExistsError
from blobstore.backup.any_store import AnyStore
from blobstore.backup.tree_copy import copy_blobs, tree_of, whole_store
from blobstore.cli.blob_lookup import find_blob
from blobstore.cli.interruption import advising, finish
from blobstore.cli.options import PathType, StoreOptions, blob, complete_blob, store_command
from blobstore.cli.output import print_result, render_table
from blobstore.cli.progress import progress


@store_command("copy", changes=True)
@click.argument("target", metavar="TARGET", type=PathType())
@click.option(
    "--tree",
    "which",
    metavar="BLOB",
    type=blob,
    shell_complete=complete_blob,
    help="Only what shares an ancestor with BLOB.",
)
@click.option("--prefix", default="", help="What the names of the copies begin with.")
def command(options: StoreOptions, *, target: str, which: str | None, prefix: str) -> None:
    """Copy all blobs of STORE into the store TARGET, and print their old and new ids.

    Snapshots and clones stay what they are, so the copies share clusters as the
    blobs do. The store TARGET must exist; it may be STORE itself if --prefix
    gives the copies other names. Snapshots keep their identities: `send --from`
    works with the copies. A copy that fails leaves nothing.
    """
    with ExitStack() as stack:
        is_same = _is_same(options.address, target)
        store = stack.enter_context(options.open(read_only=not is_same))
        other = store
        if not is_same:
            to_target = replace(options, address=target, kept_open=None)
            other = stack.enter_context(to_target.open(read_only=False))
        infos = _chosen(store, which)
        total = sum(info.allocated_clusters for info in infos) * store.cluster_size
        with (
            advising(ExistsError, "--prefix gives the copies other names"),
            progress("copy", total) as advance,
        ):
            made = copy_blobs(store, other, infos, prefix=prefix, progress=advance)
        finish(options)
    fields = {"blobs": [{"source": old, "id": new} for old, new in made.items()]}
    rows = [("ID", "COPY"), *((f"{old:#x}", f"{new:#x}") for old, new in made.items())]
    print_result(fields, render_table(rows), as_json=options.as_json)


def _is_same(address: str, target: str) -> bool:
    """Tell whether both are one file or device."""
    if address == target:
        return True
    return os.path.exists(address) and os.path.exists(target) and os.path.samefile(address, target)


def _chosen(store: AnyStore, which: str | None) -> list[BlobInfo]:
    return whole_store(store) if which is None else tree_of(store, find_blob(store, which))
