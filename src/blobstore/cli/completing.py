"""Completion of blob ids, in a terminal's shell and in our own: silent, and read-only."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from blobstore.cli.output import printable

if TYPE_CHECKING:
    from blobstore import Blobstore

_SHOWN_MAX: Final = 256
"""Looking up a name opens the blob, and nobody reads more."""


def complete_blob(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Return the ids that begin so, and those of blobs whose name does; nothing on any error."""
    found: list[CompletionItem] = []
    with suppress(Exception), _store_of(ctx) as store:
        for blob_id, name in _named(store):
            if f"{blob_id:#x}".startswith(incomplete) or name.startswith(incomplete):
                found.append(CompletionItem(f"{blob_id:#x}", help=name or None))
    return found


def _store_of(ctx: click.Context) -> "AbstractContextManager[Blobstore]":
    from blobstore import Blobstore
    from blobstore.cli.options import StoreOptions

    shell = ctx.find_object(StoreOptions)
    if shell is not None:
        return shell.open(read_only=True)
    return Blobstore.open(os.path.expanduser(ctx.params["store"]), read_only=True)


def _named(store: "Blobstore") -> Iterator[tuple[int, str]]:
    for info in islice(store.list_blobs(), _SHOWN_MAX):
        yield info.blob_id, printable(info.name or "")
