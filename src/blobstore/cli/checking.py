"""What `check` and `repair` share: their exit statuses, their options, a repair.

The statuses are their own, as those of fsck: 0 no problems; 1 problems were
repaired; 4 problems are left; 8 the store could not be checked; 16 invalid usage.
"""

import shlex
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Final

import click

from blobstore import (
    BlobstoreError,
    BusyError,
    CheckReport,
    CorruptError,
    RepairReport,
    Severity,
    repair,
)
from blobstore.cli.group import describe_os_error
from blobstore.cli.interruption import with_notes
from blobstore.cli.options import PathType, StoreCommand, StoreOptions
from blobstore.cli.output import print_error, print_result, printable
from blobstore.cli.report import plan_fields, render_plan, render_repair, repair_fields
from blobstore.cli.rescuing import open_rescue

SOUND: Final = 0
REPAIRED: Final = 1
PROBLEMS_LEFT: Final = 4
FAILED: Final = 8
USAGE: Final = 16

MODES: Final = ("leaks", "safe", "all")

_SUPER_BLOCK: Final = frozenset(range(1, 8))

_LEFT: Final = "if the repair had begun to write, `blobstore undo` restores what it replaced"

dry_run_option: Final = click.option(
    "--dry-run", is_flag=True, help="Say what a repair would do; write nothing."
)
undo_option: Final = click.option(
    "--undo",
    type=PathType(),
    metavar="FILE",
    help="A new file for what the repair replaces; `blobstore undo` restores that. "
    "Default: STORE.undo-1 beside an image.",
)


class CheckUsageError(click.UsageError):
    """The command was not given as it must be."""

    exit_code = USAGE


class CheckCommand(StoreCommand):
    """A command whose errors have the statuses of a check: 1 means that problems were repaired."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the arguments."""
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            raise CheckUsageError(error.format_message(), error.ctx) from error

    def invoke(self, ctx: click.Context) -> int:
        """Run, and report what fails."""
        try:
            status: int = super().invoke(ctx)
            sys.stdout.flush()
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except BlobstoreError as error:
            message, number = with_notes(error.message, error), error.errno
        except OSError as error:
            message, number = describe_os_error(error)
        except Exception:
            traceback.print_exc()
            return FAILED
        else:
            return status
        print_error(message, number, as_json=ctx.params["as_json"])
        return FAILED


def run_repair(options: StoreOptions, mode: str, *, dry_run: bool, undo: str | None) -> int:
    """Repair a store, say what was done, and return the exit status.

    Raises:
        BusyError: The shell has the store open.
        BlobstoreError: As `repair`.
    """
    if options.kept_open is not None:
        raise BusyError(f"{options.address}: not repaired, the shell has it open")
    try:
        report = options.when_free(
            lambda: repair(
                options.address,
                mode,
                dry_run=dry_run,
                undo=undo,
                atomic_write_size=options.atomic_write,
                direct=options.direct,
            )
        )
    except KeyboardInterrupt as error:
        error.add_note(_LEFT)
        raise
    fields, render = (plan_fields, render_plan) if dry_run else (repair_fields, render_repair)
    text = render(report, store=options.address)
    if not options.as_json:
        text = "\n".join([text, *how_to_read(options, report.before if dry_run else report.after)])
    print_result(fields(report), text, as_json=options.as_json)
    return _status(report, dry_run=dry_run)


def how_to_read(options: StoreOptions, report: CheckReport) -> Iterator[str]:
    """Say how to read a store with errors: after a repair less of it may be left."""
    errors = {each.invariant for each in report.findings if each.severity is Severity.ERROR}
    if not errors:
        return
    if not errors.isdisjoint(_SUPER_BLOCK):
        try:
            open_rescue(options).close()
        except CorruptError as error:
            yield printable(f"`blobstore rescue` cannot read it either: {error.message}")
            return
    store = shlex.quote(options.address)
    yield printable(f"before a repair, copy out what can be read: blobstore rescue {store}")


def _status(report: RepairReport, *, dry_run: bool) -> int:
    is_changed = bool(report.repaired) or not report.before.clean
    if dry_run:
        return PROBLEMS_LEFT if is_changed else SOUND
    if not report.after.clean:
        return PROBLEMS_LEFT
    return REPAIRED if is_changed else SOUND
