"""`create`: make a blob."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import click

from blobstore import ClearMethod, InvalidArgumentError, NoSpaceError
from blobstore.cli import store_kinds
from blobstore.cli.blob_lookup import warn_of_name
from blobstore.cli.interruption import making_blobs
from blobstore.cli.options import (
    StoreOptions,
    external_snapshot_option,
    name_argument,
    size,
    store_command,
    thin_option,
)
from blobstore.cli.output import print_result
from blobstore.cli.values import parse_value
from blobstore.units import exact_size


@store_command("create", changes=True)
@name_argument
@click.option("--size", "size_bytes", type=size, required=True, help="Rounded up to clusters.")
@thin_option
@click.option("--extents", type=click.Choice(["table", "runs"]), default="table", show_default=True)
@click.option(
    "--clear",
    type=click.Choice([method.name.lower() for method in ClearMethod]),
    default="default",
    help="How clusters are cleared when the blob frees them.",
)
@click.option(
    "--xattr",
    "assignments",
    metavar="NAME=VALUE",
    multiple=True,
    help="An attribute; VALUE is text, hex:... or @FILE.",
)
@external_snapshot_option
def command(
    options: StoreOptions,
    *,
    name: str | None,
    size_bytes: int,
    thin: bool,
    extents: str,
    clear: str,
    assignments: tuple[str, ...],
    external_parent: bytes | None,
) -> None:
    """Create a blob, and print its id. NAME is kept as the attribute `name`.

    A volume needs a NAME that no other volume has; the command prints its uuid,
    too. With --external-snapshot the blob is a thin clone, and reading it needs
    --external.
    """
    xattrs = _xattrs_of(name, assignments)
    with (
        making_blobs(options) as store,
        _advising_thin(store, thin=thin),
        store_kinds.create_blob(
            store,
            name,
            size_bytes,
            thin=thin,
            extent_table=extents == "table",
            clear_method=ClearMethod[clear.upper()],
            xattrs=xattrs,
            external_snapshot=external_parent,
        ) as blob,
    ):
        fields, text = store_kinds.made_fields(blob), store_kinds.made_text(blob)
        if not options.as_json:
            warn_of_name(store, name)
    print_result(fields, text, as_json=options.as_json)


@contextmanager
def _advising_thin(store: store_kinds.AnyStore, *, thin: bool) -> Iterator[None]:
    """Let the error that there are too few clusters say how large one is, and what needs fewer."""
    try:
        yield
    except NoSpaceError as error:
        if error.errno == errno.ENOSPC and not thin:
            cluster = exact_size(store.cluster_size)
            error.add_note(f"a cluster has {cluster}; a --thin blob takes clusters when written")
        raise


def _xattrs_of(name: str | None, assignments: tuple[str, ...]) -> dict[str, bytes]:
    xattrs: dict[str, bytes] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InvalidArgumentError(f"xattr {assignment!r}: expected NAME=VALUE")
        if key in xattrs or (key == "name" and name is not None):
            raise InvalidArgumentError(f"xattr {key!r}: given twice")
        xattrs[key] = parse_value(text)
    return xattrs
