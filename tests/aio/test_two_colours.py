"""The asyncio facade has the names, parameters and words of the blocking one."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

import pytest

import blobstore
from blobstore import (
    AsyncBlob,
    AsyncBlobstore,
    AsyncVolume,
    AsyncVolumeStore,
    Blob,
    Blobstore,
    Volume,
    VolumeStore,
)

PAIRS: Final[list[tuple[type, type]]] = [
    (Blob, AsyncBlob),
    (Volume, AsyncVolume),
    (Blobstore, AsyncBlobstore),
    (VolumeStore, AsyncVolumeStore),
]

ONLY_BLOCKING: Final = {
    "open": "a file object of Python's io blocks; of blobs only, stores have an open of their own",
    "__getitem__": "indexing cannot be awaited: `volume` is the method",
    "__enter__": "__aenter__",
    "__exit__": "__aexit__",
}
"""What has no counterpart under asyncio, and why."""

OTHER_DOCUMENTATION: Final = {
    "xattrs": "a mapping to look at: an item cannot be set by awaiting",
    "volume": "there is no `store[key]` to compare it with",
}
"""What says something else under asyncio, and why."""

ONLY_ASYNCIO: Final = {"__aenter__", "__aexit__"}

WITHOUT_ASYNCIO: Final = {
    "check": "a tool for a store that is not open: asyncio.to_thread",
    "repair": "as check",
    "undo": "as check",
    "dump": "as check",
    "iter_dump": "as check",
    "grow": "as check",
    "Rescue": "as check",
    "RescuedBlob": "as check",
    "BlobFile": "a file object of Python's io blocks",
    "Xattrs": "AsyncBlob.xattrs is a mapping to look at",
}
"""Functions and classes of the blocking facade that asyncio has no colour of, and why."""


def members_of(kind: type) -> dict[str, Any]:
    """Return the public members of a class and what `with` and indexing need."""
    return {
        name: inspect.getattr_static(kind, name)
        for name in dir(kind)
        if not name.startswith("_") or name in {*ONLY_BLOCKING, *ONLY_ASYNCIO}
    }


def missing_of(blocking: type) -> set[str]:
    """Return which members of a class have no counterpart; a store's own `open` has one."""
    is_store = issubclass(blocking, Blobstore | VolumeStore)
    missing = set(ONLY_BLOCKING) - {"open"} if is_store else set(ONLY_BLOCKING)
    return missing & set(members_of(blocking))


def function_of(member: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(member, "__func__", member)
    return found


SHARED: Final = [
    pytest.param(blocking, other, name, id=f"{other.__name__}.{name}")
    for blocking, other in PAIRS
    for name in members_of(blocking)
    if name not in missing_of(blocking)
]


@pytest.mark.parametrize(("blocking", "other"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_colours_have_the_same_names(blocking: type, other: type) -> None:
    expected = set(members_of(blocking)) - missing_of(blocking) | ONLY_ASYNCIO
    assert set(members_of(other)) == expected


@pytest.mark.parametrize(("blocking", "other", "name"), SHARED)
def test_a_member_has_the_same_kind_and_the_same_parameters(
    blocking: type, other: type, name: str
) -> None:
    mine, theirs = members_of(blocking)[name], members_of(other)[name]
    assert isinstance(mine, property) == isinstance(theirs, property)
    if callable(function_of(mine)):
        assert parameters(mine) == parameters(theirs)


def parameters(member: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(function_of(member)).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in found]


@pytest.mark.parametrize(("blocking", "other", "name"), SHARED)
def test_a_member_is_documented_in_the_same_words(blocking: type, other: type, name: str) -> None:
    words = inspect.getdoc(getattr(other, name))
    assert words
    assert (words == inspect.getdoc(getattr(blocking, name))) == (name not in OTHER_DOCUMENTATION)


def test_every_public_name_has_an_asyncio_colour_or_a_reason_why_not() -> None:
    classes = {blocking.__name__ for blocking, _other in PAIRS}
    from_facade = {
        name
        for name in blobstore.__all__
        if getattr(blobstore, name).__module__.startswith("blobstore.api.")
        and not name.startswith("Async")
    }
    values = {"VolumeInfo", "CheckReport", "RepairReport"}  # what calls return
    assert from_facade - classes - values == set(WITHOUT_ASYNCIO)


def test_importing_the_package_or_the_blocking_facade_imports_no_asyncio() -> None:
    script = (
        "import sys, blobstore; blobstore.VolumeStore; assert 'asyncio' not in sys.modules; "
        "blobstore.AsyncVolumeStore; assert 'asyncio' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == 0
