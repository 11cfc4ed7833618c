"""`rpc`: a server of volume stores that the original's tools can talk to."""

import logging
import sys
from pathlib import Path

import click

from blobstore.cli.interruption import wait_for_signal
from blobstore.cli.options import PathType, UnopenedError, json_option
from blobstore.cli.output import print_json, unicode_text
from blobstore.errors import CorruptError


@click.command("rpc")
@click.option(
    "--socket",
    "socket_path",
    type=PathType(path_type=Path),
    required=True,
    metavar="PATH",
    help="Listen at this Unix socket; it belongs to you alone.",
)
@click.option(
    "--config",
    type=PathType(path_type=Path),
    metavar="FILE",
    help="Make the calls of this JSON configuration first, as SPDK writes it.",
)
@click.option("--wait-for-rpc", is_flag=True, help="Begin in SPDK's start-up state.")
@click.option("--quiet", is_flag=True, help="Log only what goes wrong.")
@json_option
@click.argument("stores", nargs=-1, type=PathType(path_type=Path), metavar="[STORE]...")
def command(
    socket_path: Path,
    config: Path | None,
    wait_for_rpc: bool,
    quiet: bool,
    as_json: bool,
    stores: tuple[Path, ...],
) -> int:
    """Serve volume stores by SPDK's JSON-RPC until SIGINT or SIGTERM, then unload them clean.

    Each STORE becomes an aio block device of the file's name. A file that holds no store yet has
    to begin with zeroes.
    """
    from blobstore.rpc.server import RpcServer

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING if quiet else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        server = RpcServer(
            socket_path, configuration=config, stores=stores, wait_for_rpc=wait_for_rpc
        )
    except CorruptError as error:
        if error.filename is None:
            raise
        raise UnopenedError(error.filename, error) from error
    try:
        click.echo(f"listening at {socket_path}", err=True)
        if as_json:
            print_json({"socket": unicode_text(str(socket_path))})
            sys.stdout.flush()
        wait_for_signal()
    except KeyboardInterrupt:  # SIGTERM too
        return 0
    finally:
        server.close()
