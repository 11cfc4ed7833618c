"""`delete`: delete a blob."""

from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    confirm,
    store_command,
    yes_option,
)
from blobstore.cli.output import print_result


@store_command("delete")
@blob_argument
@yes_option
def command(options: StoreOptions, *, blob_id: int, yes: bool) -> None:
    """Delete a blob and all it holds, after asking."""
    confirm(f"blob {blob_id:#x}: delete it", yes=yes)
    with options.open(read_only=False) as store:
        store.delete_blob(blob_id)
    print_result({"id": blob_id}, "", as_json=options.as_json)
