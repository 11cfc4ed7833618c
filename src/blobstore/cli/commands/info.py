"""`info`: what a store is."""

from blobstore.backup.unfinished import unfinished_by
from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_result
from blobstore.cli.rendering import render_store, store_fields
from blobstore.store.salvaged_mark import SALVAGED


@store_command("info")
def command(options: StoreOptions) -> None:
    """Describe a store; nothing of it changes."""
    with options.open(read_only=True) as store:
        info = store.info
        counts = {"unfinished": 0, SALVAGED: 0}
        for blob in store.list_blobs():
            counts["unfinished"] += unfinished_by(blob.xattrs) is not None
            counts[SALVAGED] += blob.salvaged
    fields, text = store_fields(info, store), render_store(info, store)
    for what, count in counts.items():
        if count:
            fields[what] = count
            text = f"{text}\n{what}: {count} of the blobs, see `list`"
    print_result(fields, text, as_json=options.as_json)
