"""`du`: how much space each blob uses, shares, and would free."""

from typing import Final

import click

from blobstore import BlobId, VolumeStore
from blobstore.api.open_store import OpenStore
from blobstore.backup.space_usage import SpaceUsage, space_usage
from blobstore.cli.blob_lookup import find_blob
from blobstore.cli.options import StoreOptions, blob, complete_blob, store_command
from blobstore.cli.output import (
    print_result,
    printable_name,
    render_table,
    unicode_text,
)
from blobstore.cli.rendering import failed_fields
from blobstore.units import format_size

_HEAD: Final = ("ID", "SIZE", "REFER", "OWN", "SHARED", "FREED", "BY SNAPSHOTS", "NAME")


@store_command("du")
@click.argument("which", metavar="[BLOB]", type=blob, required=False, shell_complete=complete_blob)
def command(options: StoreOptions, *, which: str | None) -> None:
    """Show how much space each blob uses, or BLOB alone; nothing of the store changes.

    REFER: the clusters that a reader of the blob sees. OWN: the clusters in its own
    map. SHARED: the part of REFER that other blobs read too. FREED: what becomes free
    if the blob is deleted; `-` if it has several clones, because then it cannot be
    deleted. BY SNAPSHOTS: what becomes free if all snapshots that only this blob needs
    are deleted.
    """
    with options.open(read_only=True) as store:
        wanted = None if which is None else find_blob(store, which)
        usages = [u for u in space_usage(store) if wanted in (None, u.blob_id)]
        names = {info.blob_id: info.name for info in store.list_blobs()}
        failed = _failed(store, wanted)
        itself = store.info.super_blob if isinstance(store, VolumeStore) else None
    entries = [*(_fields(usage, names) for usage in usages), *failed]
    rows = [_HEAD, *(_row(usage, names) for usage in usages if usage.blob_id != itself)]
    print_result({"blobs": entries}, render_table(rows), as_json=options.as_json)


def _failed(store: OpenStore, wanted: BlobId | None) -> list[dict[str, object]]:
    """Return the entries of blobs that cannot be opened."""
    return [
        failed_fields(info.blob_id, info.error)
        for info in store.list_blobs()
        if info.error is not None and wanted in (None, info.blob_id)
    ]


def _fields(usage: SpaceUsage, names: dict[BlobId, str | None]) -> dict[str, object]:
    name = names[usage.blob_id]
    return {
        "id": usage.blob_id,
        "name": None if name is None else unicode_text(name),
        "size": usage.size,
        "refer": usage.refer,
        "own": usage.own,
        "shared": usage.shared,
        "freed": usage.freed,
        "by_snapshots": usage.by_snapshots,
    }


def _row(usage: SpaceUsage, names: dict[BlobId, str | None]) -> list[str]:
    sizes = (usage.size, usage.refer, usage.own, usage.shared, usage.freed, usage.by_snapshots)
    shown = ["-" if size is None else format_size(size) for size in sizes]
    return [f"{usage.blob_id:#x}", *shown, printable_name(names[usage.blob_id] or "-")]
