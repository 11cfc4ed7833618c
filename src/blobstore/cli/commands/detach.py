"""`detach`: end a block device of the host."""

import click

from blobstore.cli.options import PathType, json_option
from blobstore.cli.output import print_result


@click.command("detach")
@click.argument("device", type=PathType())
@json_option
def command(device: str, as_json: bool) -> None:
    """Flush and detach a block device that `attach` has made.

    With the last device of a store, the store is unloaded clean before the command ends.
    """
    from blobstore.attach.attaching import detach

    detach(device)
    print_result({"device": device}, "", as_json=as_json)
