"""Waiting for a store that is in use: to open it again and again, with growing pauses.

A lock of a file cannot be waited for with a time-out, except by a signal, and other devices have
other locks. So every `BusyError` is answered in the same way. Nothing has been changed when a
device is refused, so each attempt is like the first.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from blobstore.api.arguments import wrong_type
from blobstore.errors import BusyError, InvalidArgumentError

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.25


def check_wait(value: Any) -> None:
    """Refuse what is no number of seconds.

    Raises:
        TypeError: It is no number.
        InvalidArgumentError: It is negative, or not a number (NaN).
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong_type("wait", value, expected="float")
    if math.isnan(value) or value < 0:
        raise InvalidArgumentError(f"wait: expected 0 seconds or more, got {value}")


def pauses(wait: float) -> Iterator[float]:
    """Yield how long to sleep before each next attempt, in seconds; `wait` seconds in all."""
    give_up_at = time.monotonic() + wait
    pause = _FIRST_PAUSE_S
    while (left := give_up_at - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def while_busy(attempt: Callable[[], T], *, wait: float) -> T:
    """Call `attempt`, for up to `wait` seconds again for as long as what it opens is in use.

    Raises:
        BusyError: It is still in use.
    """
    for pause in pauses(wait):
        try:
            return attempt()
        except BusyError:
            time.sleep(pause)
    return attempt()
