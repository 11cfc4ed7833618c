"""`set-parent`: make a blob a clone of another snapshot."""

import click

from blobstore.cli.asking import confirm
from blobstore.cli.blob_lookup import find_blob, open_to_change
from blobstore.cli.options import (
    StoreOptions,
    blob,
    blob_argument,
    complete_blob,
    external_snapshot_option,
    store_command,
    yes_option,
)
from blobstore.cli.output import print_result
from blobstore.cli.rendering import parent_fields


@store_command("set-parent", changes=True, reads_content=True)
@blob_argument
@click.argument("parent", type=blob, required=False, shell_complete=complete_blob)
@external_snapshot_option
@yes_option
def command(
    options: StoreOptions,
    *,
    which: str,
    parent: str | None,
    external_parent: bytes | None,
    yes: bool,
) -> None:
    """Make a thin blob a clone of the snapshot PARENT, or of an external one.

    Where the blob has no cluster of its own, it then reads that snapshot. An external
    snapshot needs --external ID=PATH too. If BLOB is a snapshot, its clones also read
    the new parent: the command asks first. From then on, `send --from` refuses BLOB.
    """
    if (parent is None) == (external_parent is None):
        raise click.UsageError("expected either PARENT or --external-snapshot")
    with options.open(read_only=False) as store, open_to_change(store, which) as opened:
        before = opened.info
        if before.snapshot:
            change = "change what it and its clones read"
            confirm(f"{options.address}: blob {before.blob_id:#x}: {change}", yes=yes)
        if parent is not None:
            opened.set_parent(find_blob(store, parent))
        elif external_parent is not None:
            opened.set_external_parent(external_parent)
        info = opened.info
    print_result(parent_fields(info), "", as_json=options.as_json)
