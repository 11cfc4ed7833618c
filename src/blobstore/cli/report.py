"""What a check found, as JSON fields and as text; the names of the fields are fixed."""

import re
from collections.abc import Iterable
from typing import Final

from blobstore import CheckReport, Finding, RepairReport, Severity
from blobstore.cli.output import printable, unicode_text

_PLURALS: Final = {Severity.ERROR: "errors", Severity.LEAK: "leaks", Severity.NOTE: "notes"}


def check_fields(report: CheckReport) -> dict[str, object]:
    """Return the fields of `check`."""
    return {"clean": report.clean, "findings": _findings_fields(report), "repaired": []}


def repair_fields(report: RepairReport) -> dict[str, object]:
    """Return the fields of `check --repair`; `findings` are those that are left."""
    return {
        "clean": report.after.clean,
        "findings": _findings_fields(report.after),
        "repaired": _repaired_fields(report),
        "before": _findings_fields(report.before),
        "undo": None if report.undo is None else unicode_text(report.undo),
    }


def plan_fields(report: RepairReport) -> dict[str, object]:
    """Return the fields of a dry run: how the store is, what would be done and left."""
    return {
        "clean": report.before.clean,
        "findings": _findings_fields(report.before),
        "repaired": _repaired_fields(report),
        "before": _findings_fields(report.before),
        "undo": None,
        "dry_run": True,
        "left": _findings_fields(report.after),
    }


def _repaired_fields(report: RepairReport) -> list[str]:
    return [unicode_text(line) for line in report.repaired]


def _findings_fields(report: CheckReport) -> list[dict[str, object]]:
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


def render_check(report: CheckReport, *, store: str) -> str:
    """Return a line for each finding, and one that sums up."""
    state = "clean" if report.clean else "not clean"
    state += "" if report.unloaded else ", not unloaded"
    return _lines(
        *map(_render_finding, report.findings),
        f"{store}: {state}{_counted(report)}{'' if report.clean else '; nothing was changed'}",
    )


def render_repair(report: RepairReport, *, store: str) -> str:
    """Return what was found, what was done, and how things are now."""
    state = "clean now" if report.after.clean else "still not clean"
    undo = f", undo file {report.undo}" if report.undo is not None else ""
    done = f"{_repairs(report)}{undo}" if report.repaired or undo else _nothing(report.after)
    return _lines(
        *(f"found: {_render_finding(finding)}" for finding in report.before.findings),
        *(f"repaired: {line}" for line in report.repaired),
        *(f"left: {_render_finding(finding)}" for finding in report.after.findings),
        f"{store}: {state}{_counted(report.after)}; {done}",
    )


def render_plan(report: RepairReport, *, store: str) -> str:
    """Return what was found, and what a repair would do and leave."""
    state = "clean" if report.before.clean else "not clean"
    plan = f"{_repairs(report)} to do" if report.repaired else _nothing(report.before)
    return _lines(
        *(f"found: {_render_finding(finding)}" for finding in report.before.findings),
        *(f"would repair: {line}" for line in report.repaired),
        *(f"would leave: {_render_finding(finding)}" for finding in report.after.findings),
        f"{store}: {state}{_counted(report.before)}; {plan}, nothing was changed",
    )


def _repairs(report: RepairReport) -> str:
    count = len(report.repaired)
    return f"{count} repair" if count == 1 else f"{count} repairs"


def _nothing(report: CheckReport) -> str:
    """Say why nothing is repaired; of a store that is not clean, never that all is done."""
    return "nothing to do" if report.clean else "none of it is repaired by this mode"


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
    return f": {', '.join(named)}" if named else ""


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
