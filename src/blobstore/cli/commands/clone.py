"""`clone`: a writable blob that begins as a snapshot."""

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


@store_command("clone", changes=True)
@blob_argument
@name_argument
def command(options: StoreOptions, *, which: str, name: str | None) -> None:
    """Make a thin, writable clone of a snapshot or read-only blob, and print its id.

    No data are copied. NAME becomes the clone's attribute `name`. A clone of a
    volume needs a NAME that no other volume has.
    """
    with (
        making_blobs(options) as store,
        open_to_change(store, which) as blob,
        store_kinds.clone(store, blob, name) as clone,
    ):
        fields, text = store_kinds.made_fields(clone), store_kinds.made_text(clone)
        if not options.as_json:
            warn_of_name(store, name)
    print_result(fields, text, as_json=options.as_json)
