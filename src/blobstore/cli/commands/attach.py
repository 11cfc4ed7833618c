"""`attach`: a blob as a block device of the host."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blobstore.cli.blob_lookup import find_blob
from blobstore.cli.options import PathType, StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result

if TYPE_CHECKING:
    from blobstore.cli.store_kinds import AnyStore


@contextmanager
def _opened(options: StoreOptions, *, read_only: bool, rpc: Path | None) -> "Iterator[AnyStore]":
    """Open the store until the `with` ends, and answer RPC at a socket if one is given.

    Raises:
        WrongTypeError: There is a socket, and it is no volume store.
    """
    with ExitStack() as stack:
        store = stack.enter_context(options.open(read_only=read_only))
        if rpc is not None:
            from blobstore.cli.store_kinds import volume_store
            from blobstore.rpc.server import RpcServer

            stack.enter_context(RpcServer(rpc, open_store=volume_store(store)))
        yield store


@store_command("attach", changes=True, reads_content=True)
@blob_argument
@click.option("--read-only", is_flag=True, help="Refuse writes to the device.")
@click.option(
    "--rpc",
    type=PathType(path_type=Path),
    metavar="PATH",
    help="Answer SPDK's JSON-RPC at this Unix socket, to make snapshots while it is attached.",
)
def command(options: StoreOptions, *, which: str, read_only: bool, rpc: Path | None) -> None:
    """Make a blob a block device, and print the device; `detach` ends that.

    A process in the background serves all attached blobs of a store. A discard
    deallocates clusters, and a flush makes writes durable. Snapshots are read-only.
    """
    from blobstore.attach.attach_protocol import Wanted
    from blobstore.attach.attaching import attach

    wanted = Wanted(which, read_only=read_only, is_first=rpc is not None)
    socket = None if rpc is None else rpc.absolute()  # the process in the background moves to /
    attached = attach(
        options.address,
        wanted,
        lambda: _opened(options, read_only=read_only, rpc=socket),
        find_blob,
    )
    fields = {
        "device": attached.device,
        "id": attached.blob_id,
        "read_only": attached.read_only,
        "pid": attached.pid,
    }
    print_result(fields, attached.device, as_json=options.as_json)
