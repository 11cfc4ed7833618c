"""`reid`: tell the copy of a volume store from the original."""

import click

from blobstore.cli.interruption import leaving
from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_result, unicode_text
from blobstore.cli.store_kinds import volume_store


@store_command("reid", changes=True)
@click.option("--name", help="The store's new name, of 1 to 63 bytes.")
def command(options: StoreOptions, *, name: str | None) -> None:
    """Give a copied volume store and all its volumes new uuids, and print the store's new uuid.

    The store that was copied keeps its uuids.
    """
    with options.open(read_only=False) as store:
        volumes = volume_store(store)
        with leaving("some uuids are new: reid again"):
            volumes.reid(name=name)
    fields = {"name": unicode_text(volumes.name), "uuid": str(volumes.uuid)}
    print_result(fields, str(volumes.uuid), as_json=options.as_json)
