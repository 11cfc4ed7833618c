"""Ctrl-C: the user's interrupt is held back while the core changes something.

Python raises `KeyboardInterrupt` between any two bytecodes of the main thread. In the middle of
a change it would be unknown what is on the device, and the store would have to refuse all further
changes. So an operation that runs on the main thread holds SIGINT back: for as long as it
takes, the handler is one that only counts. When the operation has ended, `KeyboardInterrupt` is
raised. A long operation is stopped earlier, at its next `Checkpoint`, where its state is
consistent. A second Ctrl-C in the same operation is raised at once, wherever that is: it ends
an operation that hangs, and poisons the store.

Only Python's own handler is replaced. A handler that the program has installed stays, and is
called as usual. Other threads never see a signal in Python, so they hold nothing.

Replacing the handler and putting it back costs less than 1 us. Blocking the signal
(`pthread_sigmask`) costs as much, and holds back the program's own handlers as well. A handler
that is installed for good would cost nothing, but asyncio and others look whether the
handler is Python's own before they install theirs.
"""

import os
import signal
import threading
from importlib import import_module
from types import FrameType, TracebackType
from typing import Any, Final

# The functions below Python's `signal.signal`, which converts numbers to enums and back: 5 us.
_signal: Final[Any] = import_module("_signal")
_set_handler: Final = _signal.signal
_get_handler: Final = _signal.getsignal
_get_ident: Final = threading.get_ident
_SIGINT: Final = int(signal.SIGINT)
_PYTHONS_OWN: Final = signal.default_int_handler
_ENDED_AT_ONCE: Final = (
    "interrupted twice: the operation was ended at once, "
    "and the store takes no more changes until it is opened again"
)


class _Held:
    """What is held back; only the main thread looks at it.

    `is_replaced` tells that the handler of SIGINT was Python's own. `depth` counts operations
    inside each other: reading an external snapshot runs an operation of another store.
    `is_raised` tells that the interrupt is on its way already.
    """

    __slots__ = ("count", "depth", "error", "is_raised", "is_replaced", "main_thread")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Hold nothing; the calling thread's process may be a new one."""
        self.main_thread = threading.main_thread().ident
        self.depth = 0
        self.count = 0
        self.error: KeyboardInterrupt | None = None
        self.is_raised = False
        self.is_replaced = False


_held: Final = _Held()


def hold() -> bool:
    """Hold interrupts back from now on; return whether `release` must be called.

    There is nothing to hold on another thread.
    """
    held = _held
    if _get_ident() != held.main_thread:
        return False
    if held.depth:
        held.depth += 1
        return True
    held.count, held.is_raised, held.error = 0, False, None
    held.is_replaced = _get_handler(_SIGINT) is _PYTHONS_OWN
    if held.is_replaced:
        _set_handler(_SIGINT, _count)  # raises what came before; nothing has begun then
    held.depth = 1
    return True


def release() -> None:
    """Hold interrupts back no longer.

    Raises:
        KeyboardInterrupt: One was held back, and this was the outermost operation.
    """
    held = _held
    if held.depth > 1:
        held.depth -= 1
        return
    held.depth = 0  # from here on the handler does not raise: Python's own is put back
    if held.is_replaced:
        found = _set_handler(_SIGINT, _PYTHONS_OWN)
        if found is not _count:
            _set_handler(_SIGINT, found)  # the program has installed its own meanwhile
    error, held.error = held.error, None
    if error is not None and not held.is_raised:
        raise error


def interrupt(error: KeyboardInterrupt) -> None:
    """Raise an interrupt, now or, while an operation runs, where Ctrl-C would be raised.

    This is for handlers of other signals that end a program, such as SIGTERM.
    """
    held = _held
    if not held.depth:
        raise error
    held.count += 1
    held.error = held.error or error
    if held.count > 1:
        held.is_raised = True
        raise error


def due() -> KeyboardInterrupt | None:
    """Return the interrupt that stops the operation at this checkpoint, if there is one."""
    held = _held
    if held.error is None or held.depth != 1 or held.is_raised or _get_ident() != held.main_thread:
        return None
    held.is_raised = True
    return held.error


def _count(_number: int, _frame: FrameType | None) -> None:
    held = _held
    if held.depth:
        interrupt(KeyboardInterrupt(_ENDED_AT_ONCE) if held.count else KeyboardInterrupt())
    else:  # between `hold` or `release` and the change of the handler
        held.error = KeyboardInterrupt()


class Held:
    """Interrupts are held back inside the `with`, over several operations; it may be nested."""

    __slots__ = ("_is_held",)

    def __enter__(self) -> None:
        self._is_held = hold()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_held:
            release()


def _forget_in_child() -> None:
    """The thread that forked is the child's main thread, and its operation is the parent's."""
    is_held = _held.depth > 0
    _held.reset()
    if is_held and _get_handler(_SIGINT) is _count:
        _set_handler(_SIGINT, _PYTHONS_OWN)


os.register_at_fork(after_in_child=_forget_in_child)
