"""`grow`: use all of a device that has grown."""

from blobstore import StoreInfo, grow
from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_result
from blobstore.cli.rendering import render_store, store_fields
from blobstore.cli.store_kinds import AnyStore


@store_command("grow", changes=True)
def command(options: StoreOptions) -> None:
    """Use all of a device or file that has grown since the store was made."""
    store, info = _grow(options)
    print_result(store_fields(info, store), render_store(info, store), as_json=options.as_json)


def _grow(options: StoreOptions) -> tuple[AnyStore, StoreInfo]:
    if options.kept_open is not None:
        return options.kept_open, options.kept_open.grow()
    with options.open_device(read_only=False) as device:
        grow(device)
    with options.open(read_only=True) as store:
        return store, store.info
