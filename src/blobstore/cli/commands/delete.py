"""`delete`: delete a blob."""

import click

from blobstore.cli.asking import confirm, refuse_unasked
from blobstore.cli.blob_lookup import delete_blob, find_blob
from blobstore.cli.options import StoreOptions, blob, complete_blob, store_command, yes_option
from blobstore.cli.output import print_result


@store_command("delete", changes=True, reads_content=True)
@click.argument("which", metavar="[BLOB]", type=blob, required=False, shell_complete=complete_blob)
@click.option(
    "--unfinished", is_flag=True, help="All that interrupted imports, copies and receives left."
)
@yes_option
def command(options: StoreOptions, *, which: str | None, unfinished: bool, yes: bool) -> None:
    """Delete a blob and all it holds, after asking.

    With --unfinished all blobs that are not complete are deleted; `list` shows them.
    """
    if (which is None) != unfinished:
        raise click.UsageError("expected BLOB, or --unfinished alone")
    if which is None:
        _delete_unfinished(options, yes=yes)
        return
    refuse_unasked(f"{options.address}: blob {which}: delete it", yes=yes)
    with options.open(read_only=False) as store:
        blob_id = find_blob(store, which)
        confirm(f"{options.address}: blob {blob_id:#x}: delete it", yes=yes)
        delete_blob(store, blob_id)
    print_result({"id": blob_id}, "", as_json=options.as_json)


def _delete_unfinished(options: StoreOptions, *, yes: bool) -> None:
    from blobstore.backup.unfinished import delete_unfinished, unfinished_blobs

    refuse_unasked(f"{options.address}: unfinished blobs: delete them", yes=yes)
    with options.open(read_only=False) as store:
        found = [info.blob_id for info, _command in unfinished_blobs(store)]
        if found:
            ids = ", ".join(f"{blob_id:#x}" for blob_id in found)
            confirm(f"{options.address}: unfinished blobs: {ids}: delete them", yes=yes)
        deleted = delete_unfinished(store)
    text = "\n".join(f"{blob_id:#x}" for blob_id in deleted)
    print_result({"deleted": deleted}, text, as_json=options.as_json)
