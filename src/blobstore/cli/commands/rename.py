"""`rename`: give a blob another name."""

import click

from blobstore.cli import store_kinds
from blobstore.cli.blob_lookup import open_to_change, warn_of_name
from blobstore.cli.options import StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result, unicode_text


@store_command("rename", changes=True)
@blob_argument
@click.argument("name")
def command(options: StoreOptions, *, which: str, name: str) -> None:
    """Give a blob another name, which is its attribute `name`.

    A volume keeps its uuid. The name of a snapshot cannot be changed.
    """
    with options.open(read_only=False) as store, open_to_change(store, which) as blob:
        store_kinds.rename(store, blob, name)
        if not options.as_json:
            warn_of_name(store, name)
    fields = {**store_kinds.made_fields(blob), "name": unicode_text(name)}
    print_result(fields, "", as_json=options.as_json)
