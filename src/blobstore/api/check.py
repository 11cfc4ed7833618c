"""Checking a store, repairing it, and undoing a repair.

A repair is made on an overlay in memory and checked there. Only then the device
changes (`blobstore.api.undo_log`). Unlike `Blobstore.open` these functions
leave a device that they were given open.
"""

import os
import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from blobstore.api.arguments import check_flags, member_of, optional, path_of
from blobstore.api.source import Source, opened_device, traits_of
from blobstore.api.undo_log import (
    NO_UNDO_ID,
    Changes,
    UnwritableError,
    apply,
    mark_of,
    undo_changes,
)
from blobstore.api.undo_path import (
    Path,
    find_undo_file,
    make_undo_file,
    open_undo_file,
    remove_undo_file,
    shown_name,
    write_undo_file,
)
from blobstore.device.base import Device
from blobstore.device.overlay import OverlayDevice
from blobstore.drivers import interrupts
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import CorruptError
from blobstore.fsck.examine import Examination
from blobstore.fsck.finding import Finding, Severity
from blobstore.fsck.repair import RepairMode
from blobstore.metadata.store_state import DeviceTraits
from blobstore.operations import Core
from blobstore.volumes.lost_type import examine_any_store, repair_any_store

Examine: TypeAlias = Callable[[DeviceTraits], Core[Examination]]
Plan: TypeAlias = Callable[[DeviceTraits], Core[tuple[str, ...]]]
"""What a repair does, on the medium it is run on; returns what that was, in words."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found; `unloaded` tells that the masks were there to be looked at."""

    findings: tuple[Finding, ...]
    unloaded: bool = True

    @property
    def clean(self) -> bool:
        """Whether there is no error and no leak; notes need no repair."""
        return all(finding.severity is Severity.NOTE for finding in self.findings)


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair found, did and left; after a dry run: what it would have done and left.

    `undo` is the path of the undo file, None if there is none.
    """

    before: CheckReport
    after: CheckReport
    repaired: tuple[str, ...]
    undo: str | None


def check(
    source: Source, *, atomic_write_size: int | None = None, direct: bool = False
) -> CheckReport:
    """Look for everything that is wrong with a store, without changing a byte.

    Whatever is on the device, it ends in a report.

    Raises:
        NotFoundError: There is no such file.
        BusyError: It is open for writing, here or in another process.
        DeviceError: It cannot be opened, or not be read.
    """
    with opened_device(
        source, read_only=True, atomic_write_size=atomic_write_size, direct=direct
    ) as device:
        return _examined(device, examine_any_store)


def repair(
    source: Source,
    mode: RepairMode | str = RepairMode.SAFE,
    *,
    dry_run: bool = False,
    undo: Path | None = None,
    atomic_write_size: int | None = None,
    direct: bool = False,
) -> RepairReport:
    """Repair a store: ``leaks`` frees what has no owner, ``safe`` decides nothing, ``all`` does.

    What the repair replaces is written to a new undo file first: `undo`, or for
    a store in a file one beside it, ``disk.img.undo-1``. A memory device gets
    none unless told where. A dry run writes nothing at all. A repair or an undo
    that was cut off is undone first, with its undo file: `undo`, or one beside the image.

    Ctrl-C while the device is written is raised when the repair is complete. A second one
    ends the repair at once, and `undo` brings the store back.

    Durability: on return. After a power failure `undo` brings the store back.

    Raises:
        InvalidArgumentError: No such mode; or no `undo`, where the store is in no directory.
        ExistsError: The undo file exists; nothing was changed.
        BusyError: The store is open, here or in another process.
        DeviceError: The device failed; the message names the undo file where there is one.
    """
    wanted = member_of(RepairMode, mode, argument="mode")
    check_flags(dry_run=dry_run)
    optional(path_of, undo, "undo")
    uuid = uuids.uuid4()
    with opened_device(
        source, read_only=dry_run, atomic_write_size=atomic_write_size, direct=direct
    ) as device:
        return repair_device(
            device,
            lambda traits: repair_any_store(traits, wanted, uuid=uuid),
            examine_any_store,
            undo,
            dry_run=dry_run,
        )


def undo(
    source: Source, path: Path, *, atomic_write_size: int | None = None, direct: bool = False
) -> int:
    """Undo a repair with its undo file; return how many bytes that changed.

    It may be run again, after an interruption as after its end.

    Durability: on return.

    Raises:
        NotFoundError: There is no such file.
        CorruptError: The undo file is damaged or another device's, or the store
            was changed since. Nothing was changed.
    """
    name = path_of(path, "path")
    with opened_device(
        source, read_only=False, atomic_write_size=atomic_write_size, direct=direct
    ) as device:
        return _undo_changes(device, name)


def _undo_changes(device: Device, name: str) -> int:
    with open_undo_file(name) as file, interrupts.Held():
        return undo_changes(device, file, shown_name(device, name))


def _examined(device: Device, look: Examine) -> CheckReport:
    found = BlockingDriver(device).run(look(traits_of(device)))
    is_dirty = found.super_block is not None and not found.super_block.clean
    return CheckReport(tuple(found.findings), unloaded=not is_dirty)


# Repairing


def repair_device(
    device: Device, plan: Plan, look: Examine, undo: Path | None, *, dry_run: bool
) -> RepairReport:
    """Carry out a plan on an overlay, and then, unless that changed nothing, on the device.

    Raises:
        BlobstoreError: As `repair`.
    """
    before = _examined(device, look)
    overlay = OverlayDevice(device)
    begun = _undo_what_was_cut_off(device, overlay, undo, dry_run=dry_run)
    repaired = BlockingDriver(overlay).run(plan(traits_of(device)))
    after = _examined(overlay, look)
    name = None
    if not dry_run:
        overlay.settle()
        changes = Changes.between(device, overlay)
        if changes:
            name = _carry_out(device, changes, undo)
    return RepairReport(before, after, (*begun, *repaired), name)


def _undo_what_was_cut_off(
    device: Device, overlay: OverlayDevice, undo: Path | None, *, dry_run: bool
) -> tuple[str, ...]:
    """Undo a repair that was cut off, if its undo file is there; say so.

    The store is then what it was, and the repair begins again, with an undo file of its own.
    """
    mark = mark_of(device)
    if mark is None:
        return ()
    name = find_undo_file(device, mark.undo_id, undo)
    if name is None:
        return ()
    try:
        _undo_changes(overlay if dry_run else device, name)
    except CorruptError as error:
        message = f"{error.strerror}; without {name} `repair all` mends what is there"
        raise CorruptError(message).at(store=error.filename) from error
    if not dry_run:
        remove_undo_file(name)
    return (f"undone with {name}: the {mark.operation} that was cut off",)


def _carry_out(device: Device, changes: Changes, undo: Path | None) -> str | None:
    """Write the undo file, then make the changes; return the file's name."""
    made = make_undo_file(device, undo)
    if made is None:
        with interrupts.Held():
            apply(device, changes, changes.mark(NO_UNDO_ID, b""), None)
        return None
    name, file = made
    undo_id = os.urandom(len(NO_UNDO_ID))
    write_undo_file(name, file, changes.undo_file(device, undo_id))
    with interrupts.Held():  # between the mark and its end nothing opens the store
        try:
            apply(device, changes, changes.mark(undo_id, shown_name(device, name)), name)
        except UnwritableError:
            remove_undo_file(name)
            raise
    return name
