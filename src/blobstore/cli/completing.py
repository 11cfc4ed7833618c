"""Completion of BLOB, in a terminal's shell and in our own: silent, and read-only."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from blobstore.cli.blob_lookup import id_in
from blobstore.cli.output import printable

if TYPE_CHECKING:
    from blobstore.api.open_store import OpenStore

_SHOWN_MAX: Final = 256
"""A longer list is of no help, and each name costs time."""

_NEEDS_NO_QUOTES: Final = re.compile(r"[\w.,@%+=:/-]+", re.ASCII)


def complete_blob(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the ids and names that begin so; nothing on any error.

    A name is offered as it is where that says which blob it is, otherwise the id.
    """
    found: list[CompletionItem] = []
    with suppress(Exception), _store_of(ctx) as store:
        blobs = list(_named(store))
        counts = Counter(name for _blob_id, name in blobs)
        for blob_id, name in blobs:
            if f"{blob_id:#x}".startswith(incomplete):
                found.append(CompletionItem(f"{blob_id:#x}", help=printable(name) or None))
            elif name.startswith(incomplete):
                is_plain = counts[name] == 1 and _NEEDS_NO_QUOTES.fullmatch(name)
                if is_plain and id_in(name) is None:
                    found.append(CompletionItem(name, help=f"{blob_id:#x}"))
                else:
                    found.append(CompletionItem(f"{blob_id:#x}", help=printable(name)))
    return found


def _store_of(ctx: click.Context) -> "AbstractContextManager[OpenStore]":
    from blobstore import Blobstore

    shell = ctx.find_root().obj
    if shell is not None:
        opened: AbstractContextManager[OpenStore] = shell.open(read_only=True)
        return opened
    return Blobstore.open(os.path.expanduser(ctx.params["store"]), read_only=True)


def _named(store: "OpenStore") -> Iterator[tuple[int, str]]:
    for info in islice(store.list_blobs(), _SHOWN_MAX):
        yield info.blob_id, info.name or ""
