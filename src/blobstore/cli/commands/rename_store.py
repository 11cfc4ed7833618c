"""`rename-store`: give a volume store another name."""

import click

from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_result, unicode_text
from blobstore.cli.store_kinds import volume_store


@store_command("rename-store", changes=True)
@click.argument("name")
def command(options: StoreOptions, *, name: str) -> None:
    """Give a volume store another name of 1 to 63 bytes; durable when done."""
    with options.open(read_only=False) as store:
        volumes = volume_store(store)
        volumes.rename(name)
    fields = {"name": unicode_text(volumes.name), "uuid": str(volumes.uuid)}
    print_result(fields, "", as_json=options.as_json)
