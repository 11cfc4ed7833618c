"""`receive`: a stream becomes a snapshot."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import click

from blobstore import CorruptError, NotFoundError
from blobstore.backup.any_store import AnyStore
from blobstore.backup.receiving import receive, resume_token, unfinished_receipts
from blobstore.cli import store_kinds
from blobstore.cli.content import opened_input
from blobstore.cli.interruption import finish
from blobstore.cli.options import InputType, StoreOptions, name_argument, store_command
from blobstore.cli.output import print_result
from blobstore.cli.progress import progress
from blobstore.cli.salvaged import salvaged_fields, warn


@store_command("receive", changes=True)
@name_argument
@click.option(
    "--from", "file", metavar="FILE", type=InputType(), help="Default, and `-`: standard input."
)
@click.option(
    "--resume-token",
    "is_token",
    is_flag=True,
    help="Print the TOKEN of `send --resume`, and receive nothing.",
)
def command(options: StoreOptions, *, name: str | None, file: str | None, is_token: bool) -> None:
    """Make the snapshot that a stream of `send` holds, and print its id.

    The snapshot gets the name NAME, or without NAME the name that it has in the
    stream. If the stream holds only the differences from another snapshot (`send
    --from`), STORE must have a copy of that snapshot. The snapshot appears after the
    whole stream has arrived and was verified. If the stream breaks off, STORE keeps
    what has arrived, and `send --resume` sends the rest.
    """
    if is_token:
        if name is not None or file is not None:
            raise click.UsageError("--resume-token receives nothing: leave out NAME and --from")
        with options.open(read_only=True) as store:
            _print_tokens(store, as_json=options.as_json)
        return
    with _opened(options, file) as stream:
        with options.open(read_only=False) as store, progress("receive", None) as advance:
            made = receive(store, stream, name, progress=advance)
            fields, text = store_kinds.made_fields(made), store_kinds.made_text(made)
            salvaged = made.nearest_salvaged
        finish(options)
    if not options.as_json:
        warn(made.id, salvaged)
    fields.update(salvaged_fields(salvaged))
    print_result(fields, text, as_json=options.as_json)


@contextmanager
def _opened(options: StoreOptions, file: str | None) -> Iterator[BinaryIO]:
    if file is None and options.kept_open is not None:
        raise click.UsageError("standard input is the shell's: use --from FILE")
    with opened_input(file or "-") as stream:
        try:
            yield stream
        except CorruptError as error:
            error.at(store=file)
            raise


def _print_tokens(store: AnyStore, *, as_json: bool) -> None:
    """Print a token for every snapshot that came in part.

    Raises:
        NotFoundError: There is none.
    """
    found = list(unfinished_receipts(store))
    if not found:
        raise NotFoundError("nothing was received in part").at(store=store.device_name)
    entries = [
        {"id": info.blob_id, "offset": state.offset, "token": resume_token(state)}
        for info, state in found
    ]
    text = "\n".join(str(entry["token"]) for entry in entries)
    print_result({"unfinished": entries}, text, as_json=as_json)
