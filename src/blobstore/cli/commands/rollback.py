"""`rollback`: let a blob read as one of its snapshots again."""

import click

from blobstore.cli.asking import confirm
from blobstore.cli.blob_lookup import find_blob, open_to_change
from blobstore.cli.options import (
    StoreOptions,
    blob,
    blob_argument,
    complete_blob,
    store_command,
    yes_option,
)
from blobstore.cli.output import print_result
from blobstore.cli.rendering import parent_fields


@store_command("rollback", changes=True)
@blob_argument
@click.argument("snapshot", type=blob, shell_complete=complete_blob)
@yes_option
def command(options: StoreOptions, *, which: str, snapshot: str, yes: bool) -> None:
    """Let a blob read as SNAPSHOT again: its parent, or any other of its ancestors.

    What was written to the blob since its last snapshot is lost, so this asks
    first. Snapshots that were made after SNAPSHOT stay, as a branch of their own.
    The blob keeps its id and its attributes, and gets the size of SNAPSHOT.
    """
    with options.open(read_only=False) as store, open_to_change(store, which) as opened:
        snapshot_id = find_blob(store, snapshot)
        if opened.info.allocated_clusters:
            change = f"roll it back to {snapshot_id:#x}"
            confirm(f"{options.address}: blob {opened.id:#x}: {change}", yes=yes)
        opened.rollback(snapshot_id)
        info = opened.info
    print_result(parent_fields(info), "", as_json=options.as_json)
