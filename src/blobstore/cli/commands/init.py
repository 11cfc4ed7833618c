"""`init`: make a store."""

import os
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import click

from blobstore import Blobstore, ExistsError, PathNotFoundError, StoreInfo, VolumeStore
from blobstore.cli.asking import confirm
from blobstore.cli.interruption import finish
from blobstore.cli.options import StoreOptions, size, store_command, yes_option
from blobstore.cli.output import print_result
from blobstore.cli.rendering import render_store, store_fields
from blobstore.cli.store_kinds import AnyStore

_NO_ROOM: Final = (
    "warning: the metadata takes all clusters, none is left for data; a larger --size or a "
    "smaller --cluster-size leaves some"
)


@store_command("init", changes=True, opens=False)
@click.option("--size", type=size, help="Make the file, or give it this size.")
@click.option("--max-size", type=size, help="Make room to grow to this size later.")
@click.option("--cluster-size", type=size, help="Default: 1MiB, of a volume store 4MiB.")
@click.option("--block-size", type=click.Choice(["512", "4096"]), help="Default: the device's own.")
@click.option(
    "--md-pages", type=click.IntRange(min=1), help="Metadata pages; default: one per cluster."
)
@click.option("--md-page-size", type=size, help="A power of two, 4096 or more.")
@click.option("--type", "bstype", default="", help="Up to 16 bytes that say what the store is for.")
@click.option("--volumes", metavar="NAME", help="Make a volume store of that name.")
@click.option("--clear", type=click.Choice(["unmap", "zeroes", "none"]), default="unmap")
@yes_option
def command(options: StoreOptions, *, yes: bool, **layout: Any) -> None:
    """Make a store on STORE; with --size the file is made.

    --max-size lets `grow` use a larger device later; `info` shows the limit. The
    content of STORE is lost. If a device does not begin with zeroes, the command
    asks first, unless --yes is given.
    """
    if layout["volumes"] is not None and layout["bstype"]:
        raise click.UsageError("--volumes and --type: the type of a volume store is fixed")
    try:
        store, info = _init(options, layout, overwrite=yes)
    except ExistsError as error:
        refusal = ExistsError(f"{error.message}; --yes overwrites it")
        confirm(f"{options.address}: overwrite what it holds", yes=False, refusal=refusal)
        store, info = _init(options, layout, overwrite=True)
    if not (info.free_clusters or options.as_json):
        click.echo(_NO_ROOM, err=True)
    print_result(store_fields(info, store), render_store(info, store), as_json=options.as_json)


def _init(
    options: StoreOptions, layout: dict[str, Any], *, overwrite: bool
) -> tuple[AnyStore, StoreInfo]:
    """Make the store; return it closed, and what it is then."""
    is_new = not os.path.lexists(options.address)
    try:
        # A signal can come between any two steps, also before there is a `with`.
        with options.when_free(lambda: _create(options, layout, overwrite=overwrite)) as store:
            info = store.info
        finish(options)
    except BaseException as error:
        if isinstance(error, PathNotFoundError) and layout["size"] is None:
            error.add_note("--size SIZE makes a file")
        if is_new:
            with suppress(OSError):
                os.unlink(options.address)
        raise
    return store, replace(info, clean=True)


def _create(options: StoreOptions, layout: dict[str, Any], *, overwrite: bool) -> AnyStore:
    volumes, cluster_size, block_size = (
        layout[name] for name in ("volumes", "cluster_size", "block_size")
    )
    common: dict[str, Any] = {
        "size": layout["size"],
        "max_size": layout["max_size"],
        "block_size": None if block_size is None else int(block_size),
        "md_pages": layout["md_pages"],
        "md_page_size": layout["md_page_size"],
        "clear": layout["clear"],
        "overwrite": overwrite,
        "atomic_write_size": options.atomic_write,
        "direct": options.direct,
    }
    if cluster_size is not None:
        common["cluster_size"] = cluster_size
    if volumes is not None:
        return VolumeStore.create(options.address, name=volumes, **common)
    bstype = layout["bstype"].encode("utf-8", "surrogateescape")
    return Blobstore.create(options.address, bstype=bstype, **common)
