"""`snapshot`: keep what a blob holds now."""

from blobstore.cli import store_kinds
from blobstore.cli.blob_lookup import open_to_change, warn_of_name
from blobstore.cli.interruption import making_blobs
from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    name_argument,
    store_command,
)
from blobstore.cli.output import print_result


@store_command("snapshot", changes=True)
@blob_argument
@name_argument
def command(options: StoreOptions, *, which: str, name: str | None) -> None:
    """Make a read-only snapshot of a blob, which goes on as its clone, and print its id.

    No data are copied. NAME becomes the snapshot's attribute `name`. A snapshot of
    a volume needs a NAME that no other volume has.
    """
    with (
        making_blobs(options) as store,
        open_to_change(store, which) as blob,
        store_kinds.snapshot(store, blob, name) as snapshot,
    ):
        fields, text = store_kinds.made_fields(snapshot), store_kinds.made_text(snapshot)
        if not options.as_json:
            warn_of_name(store, name)
    print_result(fields, text, as_json=options.as_json)
