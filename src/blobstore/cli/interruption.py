"""What ends a command early: signals, and what a command that cannot end leaves.

An error that is on its way carries what is left as notes; the error's line has
them too, so that whoever reads it knows how to go on.
"""

import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from blobstore.errors import (
    BlobstoreError,
    BusyError,
    ExistsError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from blobstore import BlobId
    from blobstore.cli.options import StoreOptions
    from blobstore.cli.store_kinds import AnyStore

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
_HELD_BACK: Final = (signal.SIGINT, *_ENDING)
_STATUS_BASE: Final = 128

INTERRUPTED: Final = _STATUS_BASE + signal.SIGINT
TERMINATED: Final = tuple(_STATUS_BASE + number for number in _ENDING)
"""The exit statuses after the signals that end a process."""

BROKEN_PIPE: Final = _STATUS_BASE + signal.SIGPIPE
"""The exit status if whoever reads the output has left, as of programs that SIGPIPE ends."""

_REFUSALS: Final = (
    BusyError,
    ExistsError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    UnsupportedError,
)

_Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | None


class TerminatedError(KeyboardInterrupt):
    """A signal asks the process to end; everything is left as after an interrupt."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def install_handlers() -> None:
    """Make the signals that ask a process to end interrupt it; one that is ignored stays so.

    From here on a command can have begun something. Before, they end the process at once.
    """
    for number in _HELD_BACK:
        if signal.getsignal(number) is not signal.SIG_IGN:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else _terminate)


def _terminate(number: int, _frame: FrameType | None) -> None:
    """End the command as Ctrl-C does: not in the middle of a change.

    The module that holds interrupts back is not imported here: this can run within its import.
    """
    error = TerminatedError(number)
    interrupt = getattr(sys.modules.get("blobstore.drivers.interrupts"), "interrupt", None)
    if interrupt is None:
        raise error
    interrupt(error)


def wait_for_signal() -> NoReturn:
    """Wait until a signal ends the command.

    `signal.pause` would sleep through a signal that comes just before it.
    """
    while True:
        time.sleep(1)


def status_of(error: KeyboardInterrupt) -> int:
    """Return the exit status that tells which signal it was, as shells do."""
    number = error.number if isinstance(error, TerminatedError) else signal.SIGINT
    return _STATUS_BASE + number


def message_of(error: KeyboardInterrupt) -> str:
    """Say in words what happened, and let nothing else be said.

    A signal can strike when an operation was made and has not begun; Python
    warns of such coroutines when it removes them.
    """
    warnings.simplefilter("ignore", RuntimeWarning)
    return "terminated" if isinstance(error, TerminatedError) else "interrupted"


def with_notes(message: str, error: BaseException) -> str:
    """Return a message and what is left, in one line."""
    return "; ".join([message, *getattr(error, "__notes__", ())])


@contextmanager
def advising(kind: type[BlobstoreError], advice: str) -> Iterator[None]:
    """Let an error of this kind say what to do about it."""
    try:
        yield
    except kind as error:
        error.add_note(advice)
        raise


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back signals while the body makes something and notes how to remove it."""
    came: list[int] = []
    before: dict[int, _Handler] = {}
    try:
        for number in _HELD_BACK:
            before[number] = signal.signal(number, lambda found, _frame: came.append(found))
        yield
    finally:
        for held_back, handler in before.items():
            signal.signal(held_back, handler)
    if came:
        signal.raise_signal(came[0])


def finish(options: "StoreOptions") -> None:
    """Ignore signals from now on: what the command makes is complete, and its result comes next.

    Only in a process that is the command's own, where `install_handlers` was called: a
    shell goes on.
    """
    if options.kept_open is None and signal.getsignal(signal.SIGTERM) is _terminate:
        for number in _HELD_BACK:
            signal.signal(number, signal.SIG_IGN)


@dataclass(slots=True)
class Left:
    """What is left at present, and how to go on; nothing to say if it is empty."""

    what: str = ""


@contextmanager
def leaving(what: str | Left = "") -> Iterator[Left]:
    """Let an error that ends the body say what is left then.

    A refusal at the start leaves nothing. If the body has said what it did, so does a refusal.
    """
    left = what if isinstance(what, Left) else Left(what)
    before = left.what
    try:
        yield left
    except BaseException as error:
        is_begun = left.what != before or not isinstance(error, _REFUSALS)
        if left.what and is_begun:
            error.add_note(left.what)
        raise


@contextmanager
def making_blobs(options: "StoreOptions") -> "Iterator[AnyStore]":
    """Open the store to make a blob; one that the body cannot finish is deleted again.

    An unfinished import is kept if another can go on with it. A blob is known by not having
    been there: an interrupt can strike when it was made, and before anything has its id. It
    is deleted when the store was closed and opened again, as the handle that would have to be
    closed is lost, too.
    """
    unfinished: list[BlobId] = []
    complete: list[BlobId] = []
    try:
        with options.open(read_only=False) as store:
            before = frozenset(store.blob_ids())
            try:
                yield store
                complete = _made_since(store, before)  # interrupted here, they are removed
            except BaseException:
                complete, unfinished = [], _made_since(store, before)
                raise
        finish(options)
    except BaseException as error:
        for blob_id in complete:
            error.add_note(f"blob {blob_id:#x} is complete")
        _delete(options, unfinished, error)
        raise


def _made_since(store: "AnyStore", before: "frozenset[BlobId]") -> "list[BlobId]":
    return [blob_id for blob_id in store.blob_ids() if blob_id not in before]


def _delete(options: "StoreOptions", blob_ids: "list[BlobId]", error: BaseException) -> None:
    if not blob_ids:
        return
    from blobstore.cli.blob_lookup import delete_blob
    from blobstore.cli.importing import HOW_TO_GO_ON, worth_keeping

    kept: set[BlobId] = set()
    for blob_id in blob_ids:
        try:
            with options.open(read_only=False) as store:
                if not isinstance(error, _REFUSALS):
                    kept = kept or worth_keeping(store, blob_ids)
                if blob_id not in kept:
                    delete_blob(store, blob_id)
        except (BlobstoreError, KeyboardInterrupt):
            error.add_note(f"blob {blob_id:#x} is left unfinished: delete it")
    if kept:
        error.add_note(HOW_TO_GO_ON)
