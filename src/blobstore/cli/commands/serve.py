"""`serve`: a store's volumes or blobs as NBD exports, until a signal ends it."""

import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from blobstore.cli.condition import warnings_of
from blobstore.cli.interruption import wait_for_signal
from blobstore.cli.options import PathType, StoreOptions, blob, complete_blob, store_command
from blobstore.cli.output import print_result, printable

if TYPE_CHECKING:
    import ssl

    from blobstore import BlobId
    from blobstore.cli.store_kinds import AnyStore
    from blobstore.nbd.exports import Exports
    from blobstore.nbd.metrics import MetricsServer
    from blobstore.nbd.nbd_server import NbdServer
    from blobstore.rpc.server import RpcServer

_LOG: Final = logging.getLogger("blobstore.serve")


@store_command("serve", changes=True, reads_content=True)
@click.option(
    "--nbd",
    "addresses",
    multiple=True,
    required=True,
    metavar="ADDRESS",
    help="Listen here: unix:PATH or HOST:PORT; can be given several times.",
)
@click.option("--export-all", is_flag=True, help="Export all other blobs too, not only BLOB.")
@click.option("--read-only", is_flag=True, help="Let no client change anything.")
@click.option(
    "--tls",
    type=PathType(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Encrypt, and let only clients with a certificate in: DIR has ca-cert.pem, "
    "server-cert.pem and server-key.pem. Required where other machines can connect.",
)
@click.option(
    "--rpc",
    "rpc_path",
    type=PathType(path_type=Path),
    metavar="PATH",
    help="Answer SPDK's JSON-RPC at this Unix socket, on the same open store.",
)
@click.option(
    "--metrics",
    "metrics_address",
    metavar="HOST:PORT",
    help="Answer HTTP requests here with metrics as OpenMetrics text, for Prometheus.",
)
@click.option("--quiet", is_flag=True, help="Log only what goes wrong.")
@click.argument("blobs", nargs=-1, metavar="[BLOB]...", type=blob, shell_complete=complete_blob)
def command(
    options: StoreOptions,
    *,
    addresses: tuple[str, ...],
    export_all: bool,
    read_only: bool,
    tls: Path | None,
    rpc_path: Path | None,
    metrics_address: str | None,
    quiet: bool,
    blobs: tuple[str, ...],
) -> int:
    """Serve volumes or blobs by NBD until SIGINT or SIGTERM, then unload the store clean.

    Without BLOB all are exported: volumes by name, uuid or id, blobs by name or id, snapshots
    read-only. The first BLOB is also the export of clients that give no name.
    """
    from blobstore.nbd.nbd_server import NbdServer

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING if quiet else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    context = None if tls is None else _tls_context(tls)
    with ExitStack() as stack:
        store = stack.enter_context(options.open(read_only=read_only))
        for warning in warnings_of(store, to_change=not read_only):
            _LOG.warning("%s", printable(warning))
        first = _found(store, blobs)
        everything = export_all or not blobs
        rpc = None if rpc_path is None else stack.enter_context(_rpc_server(rpc_path, store))
        exports = _exports(store, rpc, first, export_all=everything, read_only=read_only)
        servers = [
            stack.enter_context(NbdServer(exports, address, tls=context)) for address in addresses
        ]
        if rpc is not None:
            rpc.target.nbd_servers += servers
        metrics = None
        if metrics_address is not None:
            metrics = stack.enter_context(_metrics_server(metrics_address, store, servers))
        shown = [str(server.address) for server in servers]
        fields = {
            "nbd": shown,
            "rpc": None if rpc is None else rpc.path,
            "metrics": None if metrics is None else str(metrics.address),
        }
        text = "\n".join(f"{store.device_name}: served at {address}" for address in shown)
        try:
            print_result(fields, text, as_json=options.as_json)
            wait_for_signal()
        except KeyboardInterrupt:  # SIGTERM too
            return 0


def _found(store: "AnyStore", blobs: tuple[str, ...]) -> "tuple[BlobId, ...]":
    from blobstore.cli.blob_lookup import find_blob

    return tuple(find_blob(store, which) for which in blobs)


def _tls_context(directory: Path) -> "ssl.SSLContext":
    from blobstore.nbd.tls import server_context

    return server_context(directory)


def _rpc_server(path: Path, store: "AnyStore") -> "RpcServer":
    from blobstore import VolumeStore
    from blobstore.rpc.server import RpcServer

    return RpcServer(path, open_store=store if isinstance(store, VolumeStore) else None)


def _metrics_server(address: str, store: "AnyStore", servers: "list[NbdServer]") -> "MetricsServer":
    from blobstore.nbd.metrics import MetricsServer, render

    def text() -> str:
        return render(servers, store.free_clusters * store.cluster_size)

    return MetricsServer(address, text)


def _exports(
    store: "AnyStore",
    rpc: "RpcServer | None",
    first: "tuple[BlobId, ...]",
    *,
    export_all: bool,
    read_only: bool,
) -> "Exports":
    from blobstore.nbd.exports import StoreExports
    from blobstore.rpc.nbd_exports import ServedStoreExports

    if rpc is not None:
        for loaded in rpc.target.stores:
            if loaded.volumes is store:
                return ServedStoreExports(
                    rpc.target, loaded, first, export_all=export_all, read_only=read_only
                )
    return StoreExports(store, first, export_all=export_all, read_only=read_only)
