"""`check`: what is wrong with a store, and its repair."""

from collections.abc import Iterator

import click

from blobstore import BlobstoreError, CheckReport, check, repair
from blobstore.cli.checking import (
    MODES,
    PROBLEMS_LEFT,
    SOUND,
    CheckCommand,
    CheckUsageError,
    dry_run_option,
    how_to_read,
    run_repair,
    undo_option,
)
from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_result
from blobstore.cli.report import Prospect, UnfinishedBlob, check_fields, render_check


@store_command("check", changes=True, opens=False, cls=CheckCommand)
@click.option(
    "--repair",
    "mode",
    type=click.Choice(MODES),
    help="leaks: free what no blob owns; safe: also make repairs that can be proved; "
    "all: also make repairs that can lose data, such as salvaging damaged blobs.",
)
@dry_run_option
@undo_option
def command(options: StoreOptions, *, mode: str | None, dry_run: bool, undo: str | None) -> int:
    """Look for what is wrong with a store; nothing changes unless --repair says so.

    Every finding has its severity, the number of the broken invariant, and its
    place. After the findings, the command says what each --repair would do. A repair
    first writes an undo file: `blobstore undo` restores the store from it. Exit
    status: 0 no problems, 1 repaired, 4 problems left, 8 not checked, 16 invalid usage.
    """
    if mode is not None:
        return run_repair(options, mode, dry_run=dry_run, undo=undo)
    if dry_run or undo is not None:
        raise CheckUsageError("--dry-run and --undo need --repair")
    return _check(options)


def _check(options: StoreOptions) -> int:
    report = options.when_free(
        lambda: check(options.source, atomic_write_size=options.atomic_write, direct=options.direct)
    )
    prospects = list(_prospects(options, report))
    unfinished = _unfinished(options) if report.clean else []
    text = render_check(report, prospects, unfinished, store=options.address)
    if not options.as_json:
        text = "\n".join([text, *how_to_read(options, report)])
    print_result(check_fields(report, prospects, unfinished), text, as_json=options.as_json)
    return SOUND if report.clean else PROBLEMS_LEFT


def _unfinished(options: StoreOptions) -> list[UnfinishedBlob]:
    """Return what interrupted commands left, of a store that can be opened."""
    from blobstore.backup.unfinished import unfinished_blobs

    try:
        with options.open(read_only=True) as store:
            return [(info.blob_id, command) for info, command in unfinished_blobs(store)]
    except BlobstoreError:
        return []


def _prospects(options: StoreOptions, report: CheckReport) -> Iterator[Prospect]:
    """Try each kind of repair without writing, up to the first that leaves no problem."""
    if report.clean:
        return
    for mode in MODES:
        try:
            plan = repair(
                options.source,
                mode,
                dry_run=True,
                atomic_write_size=options.atomic_write,
                direct=options.direct,
            )
        except BlobstoreError as error:
            yield Prospect(mode, refusal=error.message)
            continue
        yield Prospect(mode, plan)
        if plan.after.clean:
            return
