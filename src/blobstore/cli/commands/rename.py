"""`rename`: give a blob another name."""

import click

from blobstore.cli.options import StoreOptions, blob_argument, name_xattrs, store_command
from blobstore.cli.output import print_result, unicode_text


@store_command("rename")
@blob_argument
@click.argument("name")
def command(options: StoreOptions, *, blob_id: int, name: str) -> None:
    """Give a blob another name, which is its attribute `name`."""
    with options.open(read_only=False) as store, store.open_blob(blob_id) as blob:
        blob.xattrs.update(name_xattrs(name))
    fields = {"id": blob_id, "name": unicode_text(name)}
    print_result(fields, "", as_json=options.as_json)
