"""`delete`: delete a blob."""

from blobstore.cli.asking import confirm, refuse_unasked
from blobstore.cli.blob_lookup import delete_blob, find_blob
from blobstore.cli.options import StoreOptions, blob_argument, store_command, yes_option
from blobstore.cli.output import print_result


@store_command("delete", changes=True, reads_content=True)
@blob_argument
@yes_option
def command(options: StoreOptions, *, which: str, yes: bool) -> None:
    """Delete a blob and all it holds, after asking."""
    refuse_unasked(f"blob {which}: delete it", yes=yes)
    with options.open(read_only=False) as store:
        blob_id = find_blob(store, which)
        confirm(f"blob {blob_id:#x}: delete it", yes=yes)
        delete_blob(store, blob_id)
    print_result({"id": blob_id}, "", as_json=options.as_json)
