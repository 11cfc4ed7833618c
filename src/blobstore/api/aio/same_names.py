"""The asyncio facade says what it does in the words of the blocking one.

Both facades have the same public names, the same parameters and the same documentation. A
test compares them. So a method of the asyncio facade that has no docstring gets that of its
counterpart, and the text stands in one place.
"""

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K", bound=type)


def documented_as(counterpart: type) -> Callable[[K], K]:
    """Give the public members of a class that have no docstring that of their counterparts."""

    def document(kind: K) -> K:
        for name, member in vars(kind).items():
            function = member.__func__ if isinstance(member, classmethod) else member
            if not name.startswith("_") and callable(function) and not function.__doc__:
                function.__doc__ = getattr(counterpart, name).__doc__
        return kind

    return document
