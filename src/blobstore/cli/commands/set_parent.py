"""`set-parent`: make a blob a clone of another snapshot."""

import click

from blobstore.cli.completing import complete_blob
from blobstore.cli.describe import parent_fields
from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    blob_id,
    external_snapshot_option,
    store_command,
)
from blobstore.cli.output import print_result


@store_command("set-parent")
@blob_argument
@click.argument("parent", type=blob_id, required=False, shell_complete=complete_blob)
@external_snapshot_option
def command(
    options: StoreOptions, *, blob_id: int, parent: int | None, external_parent: bytes | None
) -> None:
    """Make a thin blob a clone of the snapshot PARENT, or of an external one.

    What the blob has not written itself reads as that snapshot from then on.
    An external one must be there: name it with --external, too.
    """
    if (parent is None) == (external_parent is None):
        raise click.UsageError("expected either PARENT or --external-snapshot")
    with options.open(read_only=False) as store, store.open_blob(blob_id) as blob:
        if parent is not None:
            blob.set_parent(parent)
        elif external_parent is not None:
            blob.set_external_parent(external_parent)
        info = blob.info()
    print_result(parent_fields(info), "", as_json=options.as_json)
