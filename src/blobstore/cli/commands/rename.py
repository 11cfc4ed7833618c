"""`rename`: give a blob another name."""

import click

from blobstore.cli.blob_lookup import open_blob
from blobstore.cli.options import StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result, unicode_text
from blobstore.cli.values import name_xattrs


@store_command("rename", changes=True)
@blob_argument
@click.argument("name")
def command(options: StoreOptions, *, which: str, name: str) -> None:
    """Give a blob another name, which is its attribute `name`."""
    with options.open(read_only=False) as store, open_blob(store, which) as blob:
        blob.xattrs.update(name_xattrs(name))
    fields = {"id": blob.id, "name": unicode_text(name)}
    print_result(fields, "", as_json=options.as_json)
