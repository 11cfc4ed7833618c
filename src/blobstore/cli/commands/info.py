"""`info`: what a store is."""

from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_result
from blobstore.cli.rendering import render_store, store_fields


@store_command("info")
def command(options: StoreOptions) -> None:
    """Describe a store; nothing of it changes."""
    with options.open(read_only=True) as store:
        info = store.info
    print_result(store_fields(info, store), render_store(info, store), as_json=options.as_json)
