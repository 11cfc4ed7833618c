"""`send`: a snapshot, or a difference between two, as a stream."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

import click

from blobstore import Blob
from blobstore.backup.any_store import AnyStore
from blobstore.backup.receiving import parse_token
from blobstore.backup.sending import DEFAULT_LEVEL, Sent, data_length, send
from blobstore.backup.snapshot_identity import find_snapshot
from blobstore.cli.blob_lookup import find_blob
from blobstore.cli.files import open_to_write
from blobstore.cli.options import (
    PathType,
    StoreOptions,
    blob,
    complete_blob,
    store_command,
    yes_option,
)
from blobstore.cli.output import print_result
from blobstore.cli.progress import progress
from blobstore.cli.salvaged import salvaged_fields, warn
from blobstore.errors import naming
from blobstore.units import BlobId, format_size


@store_command("send", reads_content=True)
@click.argument(
    "which", metavar="[SNAPSHOT]", type=blob, required=False, shell_complete=complete_blob
)
@click.option(
    "--from",
    "base",
    metavar="SNAPSHOT",
    type=blob,
    shell_complete=complete_blob,
    help="Send only what differs from this one.",
)
@click.option(
    "--to",
    "file",
    metavar="FILE",
    type=PathType(),
    help="Default, or `-`: standard output. Asks before it replaces FILE.",
)
@click.option(
    "--resume", "token", metavar="TOKEN", help="Send the rest of a stream that broke off."
)
@click.option(
    "--level",
    type=click.IntRange(0, 19),
    default=DEFAULT_LEVEL,
    show_default=True,
    help="Compression level of zstd; 0: no compression.",
)
@yes_option
def command(
    options: StoreOptions,
    *,
    which: str | None,
    base: str | None,
    file: str | None,
    token: str | None,
    level: int,
    yes: bool,
) -> None:
    """Write SNAPSHOT as a stream for `receive`; nothing of the store changes.

    With --from the stream holds only the clusters that differ between the two
    snapshots, and only these are read. A stream goes through any pipe: to a file, or
    by ssh to another store.
    """
    if (which is None) == (token is None) or (token is not None and base is not None):
        raise click.UsageError("expected SNAPSHOT, or --resume TOKEN alone")
    file = None if file == "-" else file
    with ExitStack() as stack:
        store = stack.enter_context(options.open(read_only=True))
        snapshot_id, base_id, start = _chosen(store, which, base, token)
        snapshot = stack.enter_context(store.open_blob(snapshot_id))
        older = None if base_id is None else stack.enter_context(store.open_blob(base_id))
        salvaged = snapshot.nearest_salvaged
        if not options.as_json or file is None:
            warn(snapshot.id, salvaged)
        with _opened(file, yes=yes) as stream, naming(store=options.address):
            sent = _send(snapshot, older, stream, start, level)
    if file is not None:
        fields = {
            "id": snapshot_id,
            "data": sent.data_length,
            "stream": sent.stream_length,
            **salvaged_fields(salvaged),
        }
        text = f"{format_size(sent.data_length)} of data in {sent.stream_length} bytes"
        print_result(fields, text, as_json=options.as_json)


def _chosen(
    store: AnyStore, which: str | None, base: str | None, token: str | None
) -> tuple[BlobId, BlobId | None, int]:
    """Return the snapshot, the one that it differs from, and the offset to start at."""
    if token is not None:
        state = parse_token(token)
        older = None if state.base is None else find_snapshot(store, state.base)
        return find_snapshot(store, state.snapshot), older, state.offset
    assert which is not None
    return find_blob(store, which), None if base is None else find_blob(store, base), 0


def _send(snapshot: Blob, base: Blob | None, stream: IO[bytes], start: int, level: int) -> Sent:
    with progress("send", data_length(snapshot, base, start=start)) as advance:
        return send(snapshot, stream, base=base, level=level, start=start, progress=advance)


@contextmanager
def _opened(file: str | None, *, yes: bool) -> Iterator[IO[bytes]]:
    """Open what to write to: a file gets its name when the stream is complete."""
    if file is None:
        if sys.stdout.isatty():
            raise click.UsageError("a stream is no text for a terminal: use --to FILE, or a pipe")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with (
        open_to_write(file, overwrite=yes) as descriptor,
        open(descriptor, "wb", closefd=False) as stream,
    ):
        yield stream
