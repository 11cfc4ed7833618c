"""What the package makes public, as values to go through."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import blobstore


def public_classes() -> list[type]:
    """Return the public classes."""
    found = [getattr(blobstore, name) for name in blobstore.__all__]
    return [value for value in found if inspect.isclass(value)]


def public_callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield every public function, and every public method that a public class defines itself."""
    for name in blobstore.__all__:
        value = getattr(blobstore, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            yield from methods_of(value)


def methods_of(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public methods of a class and of its bases in this package that are not public."""
    seen: set[str] = set()
    parents = [other for other in public_classes() if other is not kind and issubclass(kind, other)]
    others = {base for parent in parents for base in parent.__mro__}
    for base in kind.__mro__:
        if not base.__module__.startswith("blobstore") or base in others:
            continue
        for name, member in vars(base).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if name.startswith("_") or name in seen or not inspect.isfunction(function):
                continue
            seen.add(name)
            yield f"{kind.__name__}.{name}", function


def properties_of(kind: type) -> Iterator[tuple[str, property]]:
    """Yield the public properties that a class defines itself."""
    for name, member in vars(kind).items():
        if not name.startswith("_") and isinstance(member, property):
            yield f"{kind.__name__}.{name}", member
