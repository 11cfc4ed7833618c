"""`shallow-copy`: a read-only blob's own clusters, on another device."""

import click

from blobstore import Blob, Device
from blobstore.cli.blob_lookup import open_blob
from blobstore.cli.interruption import leaving
from blobstore.cli.options import PathType, StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result
from blobstore.cli.progress import progress
from blobstore.cli.salvaged import salvaged_fields, warn
from blobstore.device.address import open_device


@store_command("shallow-copy")
@blob_argument
@click.argument("device", type=PathType())
def command(options: StoreOptions, *, which: str, device: str) -> None:
    """Write a read-only blob's own clusters to the same places of DEVICE.

    DEVICE is a file or block device that is large enough. What the blob reads
    from its parents is not copied, and DEVICE keeps what it has there.
    """
    with (
        options.open(read_only=True) as store,
        open_blob(store, which) as blob,
        open_device(device, read_only=False, direct=options.direct) as target,
        leaving(f"{device} holds a part of it: copy again"),
    ):
        # A shallow copy reads nothing of the blob's ancestors.
        salvaged = blob.id if blob.info.salvaged else None
        if not options.as_json:
            warn(blob.id, salvaged)
        count = _copy(blob, target, store.cluster_size)
    fields = {"id": blob.id, "clusters": count, **salvaged_fields(salvaged)}
    print_result(fields, f"{count} clusters", as_json=options.as_json)


def _copy(blob: Blob, target: Device, cluster_size: int) -> int:
    """Copy and flush; return how many clusters there were."""
    total = blob.info.allocated_clusters * cluster_size
    with progress("shallow copy", total) as advance:
        count = blob.shallow_copy(target, lambda _done, _all: advance(cluster_size))
    target.flush()
    return count
