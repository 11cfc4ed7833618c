"""What a check found, as JSON fields and as text; the names of the fields are fixed."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from blobstore import BlobId, CheckReport, Finding, RepairReport, Severity
from blobstore.cli.output import printable, unicode_text

_REPAIRS_SHOWN_MAX: Final = 3
_LOST_ROOT: Final = 22
_PLURALS: Final = {Severity.ERROR: "errors", Severity.LEAK: "leaks", Severity.NOTE: "notes"}


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a kind of repair would do: its plan, or why it is refused."""

    mode: str
    plan: RepairReport | None = None
    refusal: str = ""


UnfinishedBlob: TypeAlias = tuple[BlobId, str]
"""A blob, and the command that was interrupted while it filled the blob."""


def check_fields(
    report: CheckReport,
    prospects: Sequence[Prospect] = (),
    unfinished: Sequence[UnfinishedBlob] = (),
) -> dict[str, object]:
    """Return the fields of `check`; `repairs` says what each kind of repair would do."""
    return {
        "clean": report.clean,
        "unloaded": report.unloaded,
        "findings": findings_fields(report),
        "repaired": [],
        "repairs": [_prospect_fields(prospect) for prospect in prospects],
        "unfinished": [{"id": blob_id, "command": command} for blob_id, command in unfinished],
    }


def _prospect_fields(prospect: Prospect) -> dict[str, object]:
    if prospect.plan is None:
        return {"mode": prospect.mode, "refused": unicode_text(prospect.refusal)}
    return {
        "mode": prospect.mode,
        "would_repair": _repaired_fields(prospect.plan),
        "would_leave": findings_fields(prospect.plan.after),
    }


def repair_fields(report: RepairReport) -> dict[str, object]:
    """Return the fields of `check --repair`; `findings` are those that are left."""
    return {
        "clean": report.after.clean,
        "findings": findings_fields(report.after),
        "repaired": _repaired_fields(report),
        "before": findings_fields(report.before),
        "undo": None if report.undo is None else unicode_text(report.undo),
    }


def plan_fields(report: RepairReport) -> dict[str, object]:
    """Return the fields of a dry run: how the store is, what would be done and left."""
    return {
        "clean": report.before.clean,
        "findings": findings_fields(report.before),
        "repaired": _repaired_fields(report),
        "before": findings_fields(report.before),
        "undo": None,
        "dry_run": True,
        "left": findings_fields(report.after),
    }


def _repaired_fields(report: RepairReport) -> list[str]:
    return [unicode_text(line) for line in report.repaired]


def findings_fields(report: CheckReport) -> list[dict[str, object]]:
    """Return each finding's fields."""
    return [
        {
            "invariant": finding.invariant,
            "severity": finding.severity.value,
            "message": unicode_text(finding.message),
            "blob": finding.blob,
            "page": finding.page,
            "cluster": finding.cluster,
        }
        for finding in report.findings
    ]


def render_check(
    report: CheckReport,
    prospects: Sequence[Prospect] = (),
    unfinished: Sequence[UnfinishedBlob] = (),
    *,
    store: str,
) -> str:
    """Return a line for each finding and each action of a repair, and a line that sums up."""
    unchanged = "" if report.clean else "; nothing was changed"
    return _lines(
        *map(_render_finding, report.findings),
        *(line for prospect in prospects for line in _render_prospect(prospect)),
        *(
            f"blob {blob_id:#x}: not complete, its {command} was interrupted; "
            "`delete --unfinished` deletes it"
            for blob_id, command in unfinished
        ),
        f"{store}: {_summary(report)}{unchanged}",
    )


def _render_prospect(prospect: Prospect) -> list[str]:
    """Return a line that says what would remain, and one for each of the first actions."""
    start = f"--repair {prospect.mode}"
    if prospect.plan is None:
        return [f"{start} is refused: {prospect.refusal}"]
    if not prospect.plan.repaired:
        return [f"{start} would repair nothing"]
    left = _counted(prospect.plan.after) or "no problem"
    actions = [f"  {action}" for action in prospect.plan.repaired[:_REPAIRS_SHOWN_MAX]]
    more = len(prospect.plan.repaired) - _REPAIRS_SHOWN_MAX
    rest = [f"  and {more} more, see --dry-run"] if more > 0 else []
    return [f"{start} would do this, and {left} would remain:", *actions, *rest]


def render_repair(report: RepairReport, *, store: str) -> str:
    """Return what was found, what was done, and how things are now."""
    undo = f", undo file {report.undo}" if report.undo is not None else ""
    done = f"{_repairs(report)}{undo}" if report.repaired or undo else _nothing(report.after)
    return _lines(
        *(f"found: {_render_finding(finding)}" for finding in report.before.findings),
        *(f"repaired: {line}" for line in report.repaired),
        *(f"left: {_render_finding(finding)}" for finding in report.after.findings),
        f"{store}: {_summary(report.after, now=True)}; {done}",
    )


def render_plan(report: RepairReport, *, store: str) -> str:
    """Return what was found, and what a repair would do and leave."""
    plan = f"{_repairs(report)} to do" if report.repaired else _nothing(report.before)
    return _lines(
        *(f"found: {_render_finding(finding)}" for finding in report.before.findings),
        *(f"would repair: {line}" for line in report.repaired),
        *(f"would leave: {_render_finding(finding)}" for finding in report.after.findings),
        f"{store}: {_summary(report.before)}; {plan}, nothing was changed",
    )


def _summary(report: CheckReport, *, now: bool = False) -> str:
    """Say in a few words how a store is; "clean" would say that it was unloaded."""
    counted = _counted(report)
    if report.clean:
        state = f"no problems{' now' if now else ''}"
        state = f"{state}, {counted}" if counted else state
    else:
        state = f"{counted} left" if now else counted
    if report.unloaded:
        return state
    return f"{state}; not unloaded{_advice(report)}"


def _advice(report: CheckReport) -> str:
    """Say what to do with a store that was not unloaded; first of all what cannot be done later."""
    if not report.clean:
        return ""
    if any(finding.invariant == _LOST_ROOT for finding in report.findings):
        return ": read the note about a lost blob before `blobstore recover` leaves it clean"
    return ": `blobstore recover` leaves it clean"


def _repairs(report: RepairReport) -> str:
    count = len(report.repaired)
    return f"{count} repair" if count == 1 else f"{count} repairs"


def _nothing(report: CheckReport) -> str:
    """Say why nothing is repaired; of a store with problems, never that all is done."""
    return "nothing to do" if report.clean else "this kind of repair repairs none of it"


def _lines(*lines: str) -> str:
    return "\n".join(map(printable, lines))


def _counted(report: CheckReport) -> str:
    """Say how many findings there are of each kind, if any."""
    counts = [
        (severity, sum(finding.severity is severity for finding in report.findings))
        for severity in Severity
    ]
    named = [
        f"{count} {severity if count == 1 else _PLURALS[severity]}"
        for severity, count in counts
        if count
    ]
    return ", ".join(named)


def _render_finding(finding: Finding) -> str:
    """Return severity, number, place and message; a place that the message names is not said twice.

    The number is the one that the documentation of the format's invariants has.
    """
    place = ", ".join(_unnamed(_places(finding), finding.message))
    start = f"{finding.severity} {finding.invariant}"
    return f"{start}: {place}: {finding.message}" if place else f"{start}: {finding.message}"


def _places(finding: Finding) -> Iterable[str]:
    if finding.blob is not None:
        yield f"blob {finding.blob:#x}"
    if finding.page is not None:
        yield f"page {finding.page}"
    if finding.cluster is not None:
        yield f"cluster {finding.cluster}"


def _unnamed(places: Iterable[str], message: str) -> list[str]:
    return [place for place in places if not re.search(rf"\b{re.escape(place)}\b", message)]
