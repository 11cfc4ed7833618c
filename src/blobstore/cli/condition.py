"""What is wrong with a store, said by commands that let others use it.

The users of an export or a mounted file see no finding of `check` and no line of `list`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from blobstore.cli.salvaged import warning_of
from blobstore.store.salvaged_mark import readers_of

if TYPE_CHECKING:
    from blobstore import BlobId
    from blobstore.cli.store_kinds import AnyStore


def warnings_of(store: "AnyStore", *, to_change: bool) -> Iterator[str]:
    """Yield a line for each blob that cannot be used, or has lost data.

    `to_change` says that the store was to be opened for changes: the line about a store that
    refuses them comes first.
    """
    name = store.device_name
    if to_change and store.read_only:
        yield f"{name}: nothing can be changed: {store.read_only_reason}"
    parents: dict[BlobId, BlobId] = {}
    salvaged: list[BlobId] = []
    for info in store.list_blobs():
        if info.error is not None:
            yield f"{info.error}; it cannot be used, `blobstore check` says more"
        if info.salvaged:
            salvaged.append(info.blob_id)
        if info.parent is not None:
            parents[info.blob_id] = info.parent
    for blob_id in salvaged:
        readers = ", ".join(map(hex, sorted(readers_of([blob_id], parents))))
        where = f", in its clones too: {readers}" if readers else ""
        yield f"{name}: {warning_of(blob_id, blob_id)}{where}"
