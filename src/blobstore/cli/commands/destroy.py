"""`destroy`: remove a store from its device."""

import click

from blobstore.cli.asking import confirm
from blobstore.cli.options import StoreOptions, store_command, yes_option
from blobstore.cli.output import print_result


@store_command("destroy", changes=True)
@yes_option
def command(options: StoreOptions, *, yes: bool) -> None:
    """Remove the store from STORE, after asking; all blobs are lost.

    The data are not wiped: `rescue` may still read them.
    """
    confirm(f"{options.address}: destroy the store and all its blobs", yes=yes)
    with options.open(read_only=False) as store:
        store.destroy()
    if not options.as_json:
        click.echo("the data are not wiped: `blobstore rescue` may still read them", err=True)
    print_result({"destroyed": True}, "", as_json=options.as_json)
