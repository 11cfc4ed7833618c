"""`resize`: give a blob another size."""

import click

from blobstore.cli.options import StoreOptions, blob_argument, size, store_command
from blobstore.cli.output import print_result


@store_command("resize")
@blob_argument
@click.argument("size_bytes", metavar="SIZE", type=size)
def command(options: StoreOptions, *, blob_id: int, size_bytes: int) -> None:
    """Give a blob SIZE, rounded up to whole clusters; what it holds beyond is lost.

    A clone that is made smaller and larger again reads its parent there.
    """
    with options.open(read_only=False) as store, store.open_blob(blob_id) as blob:
        blob.resize(size_bytes)
        info = blob.info()
    fields = {"id": blob_id, "size": info.size, "clusters": info.cluster_count}
    print_result(fields, "", as_json=options.as_json)
