"""`info`: what a store is."""

from blobstore.tools.cli.describe import render_store, store_fields
from blobstore.tools.cli.options import StoreOptions, store_command
from blobstore.tools.cli.output import print_result


@store_command("info")
def command(options: StoreOptions) -> None:
    """Describe a store; nothing of it changes."""
    with options.open(read_only=True) as store:
        info = store.info
    print_result(store_fields(info), render_store(info), as_json=options.as_json)
