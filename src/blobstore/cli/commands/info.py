"""`info`: what a store is."""

from blobstore.backup.unfinished import unfinished_blobs
from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_result
from blobstore.cli.rendering import render_store, store_fields


@store_command("info")
def command(options: StoreOptions) -> None:
    """Describe a store; nothing of it changes."""
    with options.open(read_only=True) as store:
        info, unfinished = store.info, sum(1 for _ in unfinished_blobs(store))
    fields, text = store_fields(info, store), render_store(info, store)
    if unfinished:
        fields["unfinished"] = unfinished
        text = f"{text}\nunfinished: {unfinished} of the blobs, see `list`"
    print_result(fields, text, as_json=options.as_json)
