"""`undo`: restore what a repair replaced."""

import click

from blobstore import undo
from blobstore.cli.options import PathType, StoreOptions, store_command
from blobstore.cli.output import print_result


@store_command("undo", changes=True, opens=False)
@click.argument("file", type=PathType())
def command(options: StoreOptions, *, file: str) -> None:
    """Restore what a repair of STORE replaced; FILE is the undo file that it wrote.

    The command refuses if the store was changed after the repair. An undo that was
    interrupted can be run again.
    """
    restored = options.when_free(
        lambda: undo(
            options.address, file, atomic_write_size=options.atomic_write, direct=options.direct
        )
    )
    text = f"{restored} bytes restored"
    print_result({"restored": restored}, text, as_json=options.as_json)
