"""`check`: what is wrong with a store, and its repair.

Its exit statuses are its own, as those of fsck: 0 clean; 1 problems were
repaired; 4 problems are left; 8 it could not be checked; 16 usage.
"""

import errno
import sys
import traceback
from typing import Any, Final

import click

from blobstore import BlobstoreError, BusyError, RepairReport, check, repair
from blobstore.cli.group import describe_os_error
from blobstore.cli.options import StoreCommand, StoreOptions, store_command
from blobstore.cli.output import print_error, print_result
from blobstore.cli.report import (
    check_fields,
    plan_fields,
    render_check,
    render_plan,
    render_repair,
    repair_fields,
)

_CLEAN: Final = 0
_REPAIRED: Final = 1
_LEFT: Final = 4
_FAILED: Final = 8
_USAGE: Final = 16

_ABORTED: Final = "aborted: if a repair had begun to write, its undo file takes it back"


class CheckUsageError(click.UsageError):
    """The command makes no sense as it was given."""

    exit_code = _USAGE


class CheckCommand(StoreCommand):
    """A command whose errors end with the statuses of a check: 1 would say that all is well."""

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
        except (click.ClickException, click.exceptions.Exit):
            raise
        except BlobstoreError as error:
            message, number = error.message, error.errno
        except OSError as error:
            message, number = describe_os_error(error)
        except KeyboardInterrupt:
            message, number = _ABORTED, errno.ECANCELED
        except Exception:
            traceback.print_exc()
            return _FAILED
        else:
            return status
        print_error(message, number, as_json=ctx.params["as_json"])
        return _FAILED


@store_command("check")
@click.option(
    "--repair",
    "mode",
    type=click.Choice(["leaks", "safe", "all"]),
    help="leaks: free what nobody owns; safe: also put right what is beyond doubt; "
    "all: also give up what cannot be saved.",
)
@click.option("--dry-run", is_flag=True, help="Say what --repair would do; write nothing.")
@click.option(
    "--undo",
    type=click.Path(),
    metavar="FILE",
    help="What takes the repair back; must not exist. Default: STORE.undo-1 beside an image.",
)
def _command(options: StoreOptions, *, mode: str | None, dry_run: bool, undo: str | None) -> int:
    """Look for what is wrong with a store; nothing changes unless --repair says so.

    Every finding has its severity, the number of the broken invariant, and its place.
    A repair writes an undo file first, which `blobstore undo` takes. Exit
    status: 0 clean, 1 repaired, 4 problems left, 8 not checked, 16 usage.
    """
    if mode is not None:
        return _repair(options, mode, dry_run=dry_run, undo=undo)
    if dry_run or undo is not None:
        raise CheckUsageError("--dry-run and --undo belong to --repair")
    return _check(options)


command: Final = CheckCommand(
    _command.name, callback=_command.callback, params=_command.params, help=_command.help
)


def _check(options: StoreOptions) -> int:
    if options.kept_open is not None:
        report = check(options.kept_open.device)
    else:
        report = check(
            options.address, atomic_write_size=options.atomic_write, direct=options.direct
        )
    text = render_check(report, store=options.address)
    print_result(check_fields(report), text, as_json=options.as_json)
    return _CLEAN if report.clean else _LEFT


def _repair(options: StoreOptions, mode: str, *, dry_run: bool, undo: str | None) -> int:
    if options.kept_open is not None:
        raise BusyError(f"{options.address}: not repaired, the shell has it open")
    report = repair(
        options.address,
        mode,
        dry_run=dry_run,
        undo=undo,
        atomic_write_size=options.atomic_write,
        direct=options.direct,
    )
    fields, render = (plan_fields, render_plan) if dry_run else (repair_fields, render_repair)
    print_result(fields(report), render(report, store=options.address), as_json=options.as_json)
    return _status(report, dry_run=dry_run)


def _status(report: RepairReport, *, dry_run: bool) -> int:
    is_changed = bool(report.repaired) or not report.before.clean
    if dry_run:
        return _LEFT if is_changed else _CLEAN
    if not report.after.clean:
        return _LEFT
    return _REPAIRED if is_changed else _CLEAN
