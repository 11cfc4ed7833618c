"""`prune`: delete the snapshots of a blob that no rule keeps."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import click

from blobstore.backup.any_store import delete_any
from blobstore.backup.retention import (
    JudgedSnapshot,
    Retention,
    judge_snapshots,
)
from blobstore.cli.asking import confirm
from blobstore.cli.blob_lookup import find_blob
from blobstore.cli.interruption import leaving
from blobstore.cli.options import (
    CommandFunction,
    StoreOptions,
    blob_argument,
    store_command,
    yes_option,
)
from blobstore.cli.output import print_result, printable_name, render_table, unicode_text

_RULES: Final = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_ANY_RULE: Final = ", ".join(f"--keep-{rule} N" for rule in _RULES)
_HEAD: Final = ("ID", "TAKEN", "KEPT BY", "NAME")


def _rule_options(function: CommandFunction) -> CommandFunction:
    for rule in reversed(_RULES):
        kept = (
            "Keep the N that are nearest to BLOB, whatever their times."
            if rule == "last"
            else f"Keep the newest one of each of the last N {_unit_of(rule)} that have one."
        )
        option: Callable[[CommandFunction], CommandFunction] = click.option(
            f"--keep-{rule}", rule, metavar="N", type=click.IntRange(0), default=0, help=kept
        )
        function = option(function)
    return function


def _unit_of(rule: str) -> str:
    return "days" if rule == "daily" else rule.removesuffix("ly") + "s"


@store_command("prune", changes=True)
@blob_argument
@_rule_options
@click.option("--dry-run", is_flag=True, help="Only list what would be kept and deleted.")
@yes_option
def command(options: StoreOptions, *, which: str, dry_run: bool, yes: bool, **numbers: int) -> None:
    """Delete the snapshots of BLOB that no rule keeps; what BLOB reads stays as it is.

    A rule keeps the newest snapshot of each of the last N hours, days, weeks, months
    or years (UTC) that have one. Snapshots whose time is not known, and snapshots
    that another blob needs, are kept. Try --dry-run first.
    """
    if not any(numbers.values()):
        raise click.UsageError(f"expected one of {_ANY_RULE}, with N of 1 or more")
    with options.open(read_only=dry_run) as store:
        blob_id = find_blob(store, which)
        judged = judge_snapshots(store, blob_id, Retention(**numbers))
        doomed = [each for each in judged if not each.reasons]
        if doomed and not dry_run:
            change = f"delete {len(doomed)} of its snapshots"
            confirm(f"{options.address}: blob {blob_id:#x}: {change}", yes=yes)
            with leaving() as left:
                for number, each in enumerate(doomed, 1):
                    delete_any(store, each.blob_id)
                    left.what = f"{number} of {len(doomed)} are deleted: prune again to go on"
    fields = {
        "id": blob_id,
        "dry_run": dry_run,
        "kept": [
            {**_fields(each), "reasons": list(each.reasons)} for each in judged if each.reasons
        ],
        "deleted": [_fields(each) for each in doomed],
    }
    rows = [_HEAD, *map(_row, judged)]
    print_result(fields, render_table(rows) if judged else "", as_json=options.as_json)


def _fields(judged: JudgedSnapshot) -> dict[str, object]:
    name = None if judged.name is None else unicode_text(judged.name)
    return {"id": judged.blob_id, "name": name, "taken_at": judged.taken_at}


def _row(judged: JudgedSnapshot) -> list[str]:
    taken = "-"
    if judged.taken_at is not None:
        taken = datetime.fromtimestamp(judged.taken_at, UTC).strftime("%Y-%m-%d %H:%M")
    kept_by = ", ".join(judged.reasons) or "(deleted)"
    return [f"{judged.blob_id:#x}", taken, kept_by, printable_name(judged.name or "-")]
