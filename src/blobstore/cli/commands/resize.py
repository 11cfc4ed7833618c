"""`resize`: give a blob another size."""

import click

from blobstore import Blob
from blobstore.cli.asking import confirm
from blobstore.cli.blob_lookup import open_to_change
from blobstore.cli.options import StoreOptions, blob_argument, size, store_command, yes_option
from blobstore.cli.output import print_result
from blobstore.units import ceil_div, exact_size


@store_command("resize", changes=True)
@blob_argument
@click.argument("size_bytes", metavar="SIZE", type=size)
@click.option(
    "--shrink", is_flag=True, help="Shrink without asking; the content beyond SIZE is lost."
)
@yes_option
def command(options: StoreOptions, *, which: str, size_bytes: int, shrink: bool, yes: bool) -> None:
    """Give a blob SIZE, rounded up to whole clusters.

    The content beyond SIZE is lost; the command asks first. A clone that shrinks
    and grows again reads its parent there.
    """
    with options.open(read_only=False) as store, open_to_change(store, which) as blob:
        end = ceil_div(size_bytes, store.cluster_size) * store.cluster_size
        _ask(options.address, blob, end, yes=yes or shrink)
        blob.resize(size_bytes)
        info = blob.info
    fields = {"id": blob.id, "size": info.size, "clusters": info.cluster_count}
    print_result(fields, "", as_json=options.as_json)


def _ask(place: str, blob: Blob, end: int, *, yes: bool) -> None:
    """Ask if the blob or its parent holds anything from `end` on: a disk's user sees both alike."""
    if end < blob.size and blob.next_data(end) is not None:
        what = f"lose what it holds beyond {exact_size(end)}"
        confirm(f"{place}: blob {blob.id:#x}: {what}", yes=yes)
