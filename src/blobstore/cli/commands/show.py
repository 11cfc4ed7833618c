"""`show`: one blob in full."""

from blobstore import VolumeStore
from blobstore.cli.blob_lookup import open_blob
from blobstore.cli.options import StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result
from blobstore.cli.rendering import blob_fields, render_blob


@store_command("show")
@blob_argument
def command(options: StoreOptions, *, which: str) -> None:
    """Describe one blob in full; nothing of it changes."""
    with options.open(read_only=True) as store, open_blob(store, which) as blob:
        info = blob.info
        has_salvaged_parent = blob.nearest_salvaged not in (None, blob.id)
    print_result(
        blob_fields(info, long=True, in_volumes=isinstance(store, VolumeStore)),
        render_blob(info, has_salvaged_parent=has_salvaged_parent),
        as_json=options.as_json,
    )
