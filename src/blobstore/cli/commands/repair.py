"""`repair`: what `check --repair safe` does, by its own name."""

import click

from blobstore.cli.checking import MODES, CheckCommand, dry_run_option, run_repair, undo_option
from blobstore.cli.options import StoreOptions, store_command


@store_command("repair", changes=True, opens=False, cls=CheckCommand)
@click.option(
    "--repair",
    "mode",
    type=click.Choice(MODES),
    default="safe",
    show_default=True,
    help="leaks: only free what no blob owns; safe: also make repairs that can be proved; "
    "all: also make repairs that can lose data, such as salvaging damaged blobs.",
)
@dry_run_option
@undo_option
def command(options: StoreOptions, *, mode: str, dry_run: bool, undo: str | None) -> int:
    """Repair a store, as `check --repair safe` does.

    A repair first writes an undo file: `blobstore undo` restores the store from it.
    Exit status: 0 no problems, 1 repaired, 4 problems left, 8 not checked, 16
    invalid usage.
    """
    return run_repair(options, mode, dry_run=dry_run, undo=undo)
